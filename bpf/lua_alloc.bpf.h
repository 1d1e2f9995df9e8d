/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `lua-alloc`: what Lua allocates, and what its garbage collector costs, by
 * the VM's own counters (lua_heap.h), which timers look at.
 *
 * Two timers tick on each CPU, the second one shortly after the first. What was allocated
 * between a pair of ticks was allocated by the stack of the second one, as long as functions
 * run for longer than that; between two pairs anything may have run. So pairs tell who
 * allocates, and all ticks of a VM together how much: user space scales the former by the
 * latter.
 *
 * Values: MS_LUA_ALLOC_*. Tag: the VM, and the state of its collector.
 */
#ifndef MOONSCOPE_LUA_ALLOC_H
#define MOONSCOPE_LUA_ALLOC_H

#include "lua_heap.h"
#include "scope.h"
#include "stack.h"

const volatile __u32 lua_alloc_event;
const volatile __u64 lua_alloc_period = 1000000;	/* of each timer, nanoseconds */

/* The VM that runs, and its counters. */
struct lua_alloc_look {
	struct lua_heap heap;
	__u64 g;		/* 0: none */
	__u64 time;
	__u32 tid;
	__s32 vmstate;
};

/* Of each CPU: the looks of a pair of ticks, and where they are made. */
struct lua_alloc_cpu {
	struct walk walk;
	struct pt_regs regs;
	struct lua_alloc_look first;
	struct lua_alloc_look now;
	__u64 bytes;		/* here and not in a register: the verifier would try what each means for the walk */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lua_alloc_cpu);
} lua_alloc_cpus SEC(".maps");

struct lua_alloc_key {
	__u64 g;
	__u32 pid;
	__u32 unused;
};

/* VMs that were seen to run. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct lua_alloc_key);
	__type(value, struct ms_lua_heap_sum);
} lua_alloc_vms SEC(".maps");

/* Fills cpu->now; no VM runs if this is not 0. A function of its own: the stack has 512 bytes in all. */
static __noinline int look_at_heap(struct lua_alloc_cpu *cpu, const struct pt_regs *regs)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = pid_tgid >> 32;
	struct walk *w = &cpu->walk;
	const struct ms_lua_layout *layout;
	/* not on the stack: Linux 5.10 lets nobody read what may not have been written there */
	struct lua_state *state = &w->found;

	cpu->now.g = 0;
	cpu->now.tid = (__u32)pid_tgid;
	if (!bpf_map_lookup_elem(&lua_processes, &pid))
		return -1;
	if (is_user_mode(regs))
		cpu->regs = *regs;
	else if (saved_user_regs(&cpu->regs) || !is_user_mode(&cpu->regs))
		return -1;
	walk_from_regs(w, &cpu->regs);
	w->pid = pid;
	if (lua_find_live(w, state))
		return -1;
	layout = ms_lua_layout(state->layout);
	if (lua_read_heap(w, layout, state->g, &cpu->now.heap) ||
	    ms_read_user(w, &cpu->now.vmstate, 4, state->g + layout->vmstate))
		return -1;
	cpu->now.g = state->g;
	return 0;
}

static __always_inline struct lua_alloc_cpu *this_cpu(void)
{
	__u32 index = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&lua_alloc_cpus, &index);
}

/* The first tick of a pair. What it sees is told by the second one. */
SEC("perf_event")
int lua_alloc_first(struct bpf_perf_event_data *ctx)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct lua_alloc_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->first.g = 0;
	if (!pid || !current_is_wanted(pid) || look_at_heap(cpu, &ctx->regs))
		return 0;
	cpu->first = cpu->now;
	/* the thread does not run while we do */
	cpu->first.time = bpf_ktime_get_ns();
	return 0;
}

/* So that user space can tell VMs apart: that two have one number does next to no harm. */
static __always_inline __u32 number_of_vm(const struct lua_alloc_key *key)
{
	struct ms_stack_id hash = { .a = ms_hash_seed[0], .b = ms_hash_seed[1] };

	mix(&hash, key->g);
	mix(&hash, key->pid);
	mix(&hash, 0);
	return hash.a & MS_LUA_ALLOC_VM_MASK;
}

/* What is known of all ticks of the VM; NULL is counted. */
static __noinline struct ms_lua_heap_sum *sum_of_vm(struct lua_alloc_look *now)
{
	struct lua_alloc_key key = { .g = now->g, .pid = bpf_get_current_pid_tgid() >> 32 };
	struct ms_lua_heap_sum *sum = bpf_map_lookup_elem(&lua_alloc_vms, &key), begun = {};

	if (sum)
		return sum;
	begun.number = number_of_vm(&key);
	begun.total = now->heap.total;
	begun.estimate = now->heap.estimate;
	begun.white = now->heap.white;
	if (!bpf_map_update_elem(&lua_alloc_vms, &key, &begun, BPF_NOEXIST))
		sum = bpf_map_lookup_elem(&lua_alloc_vms, &key);
	if (!sum)
		count(lua_alloc_event, MS_COUNT_LOST_MAP);
	return sum;
}

/* From one tick of the VM to the next, whatever ran between them. */
static __always_inline void add_tick(struct ms_lua_heap_sum *sum, const struct lua_heap *heap)
{
	struct lua_heap before = {
		.total = sum->total,
		.estimate = sum->estimate,
		.white = sum->white,
	};

	sum->ticks++;
	sum->turns += lua_heap_has_turned(&before, heap);
	sum->bytes += lua_heap_growth(&before, heap);
	sum->total = heap->total;
	sum->estimate = heap->estimate;
	sum->white = heap->white;
}

/*
 * Bytes that are allocated in a period, by this pair; 0 if it is none, or if more was given
 * back.
 */
static __noinline __u64 growth_of_pair(const struct lua_alloc_cpu *cpu, struct ms_lua_heap_sum *sum)
{
	__u64 apart = cpu->now.time - cpu->first.time;
	__s64 bytes;

	if (cpu->first.g != cpu->now.g || cpu->first.tid != cpu->now.tid || !apart ||
	    apart > lua_alloc_period / 2)
		return 0;
	bytes = lua_heap_growth(&cpu->first.heap, &cpu->now.heap);
	if (bytes <= 0)
		return 0;
	bytes = (__u64)bytes * lua_alloc_period / apart;
	sum->by_pairs += bytes;
	return bytes;
}

static __always_inline int on_second(struct bpf_perf_event_data *ctx, enum walk_loop loop)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct lua_alloc_cpu *cpu = this_cpu();
	struct ms_lua_heap_sum *sum;
	struct scratch *s;
	bool in_gc;

	count(lua_alloc_event, MS_COUNT_FIRED);
	if (!cpu) {
		count(lua_alloc_event, MS_COUNT_LOST_CPU);
		return 0;
	}
	if (!pid) {
		count(lua_alloc_event, MS_COUNT_IDLE);
		return 0;
	}
	if (!current_is_wanted(pid)) {
		count(lua_alloc_event, MS_COUNT_FILTERED);
		return 0;
	}
	cpu->now.time = bpf_ktime_get_ns();
	if (look_at_heap(cpu, &ctx->regs)) {
		count(lua_alloc_event, MS_COUNT_UNWANTED);
		return 0;
	}
	sum = sum_of_vm(&cpu->now);
	if (!sum)
		return 0;
	add_tick(sum, &cpu->now.heap);
	cpu->bytes = growth_of_pair(cpu, sum);
	if (!cpu->bytes && cpu->now.vmstate != ~LUA_VMSTATE_GC) {
		count(lua_alloc_event, MS_COUNT_UNWANTED);
		return 0;
	}
	s = take_scratch(lua_alloc_event, SCRATCH_TICK);
	if (!s)
		return 0;
	take_stack_at(s, ctx, &ctx->regs, loop);
	s->sample.tag = sum->number;
	in_gc = cpu->now.vmstate == ~LUA_VMSTATE_GC;
	if (in_gc)
		s->sample.tag |= (cpu->now.heap.state + 1) << MS_LUA_ALLOC_STATE_SHIFT;
	s->sample.sum = (struct ms_sum){ .count = 1 };
	s->sample.sum.value[MS_LUA_ALLOC_BYTES] = cpu->bytes;
	s->sample.sum.value[MS_LUA_ALLOC_GC] = in_gc ? lua_alloc_period : 0;
	sum_sample(s);
	give_back(s);
	return 0;
}

WALKING_PROGRAM("perf_event", lua_alloc_second, struct bpf_perf_event_data, on_second)

#endif /* MOONSCOPE_LUA_ALLOC_H */
