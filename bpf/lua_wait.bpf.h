/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `lua-wait`: how long coroutines wait that C resumes, as a request of nginx
 * does: from the yield that gives control back to C to the next lua_resume.
 *
 * Probes at the entries of lua_resume and lua_yield, and in LuaJIT's own coroutine.yield
 * behind its last check (moonscope-luajit finds them). A coroutine that Lua resumes never
 * comes to lua_resume, so what it yields is nothing here. There is no probe at a return.
 *
 * A wait that ends counts; one whose coroutine was given up does not: the next one at its
 * address is new, and not in the middle of a yield, when it is resumed.
 *
 * Values: nanoseconds. Tag: none.
 */
#ifndef MOONSCOPE_LUA_WAIT_H
#define MOONSCOPE_LUA_WAIT_H

#include "scope.h"
#include "stack.h"
#include "thread_stack.h"

const volatile __u32 lua_wait_event;

/* 0: measuring has not begun, or has ended. */
__u32 lua_wait_is_on SEC(".bss.lua_wait");

/* Coroutines that C has resumed; those that have ended make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct ms_coroutine);
	__type(value, __u32);
} lua_resumed SEC(".maps");

/* Those that wait. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct ms_coroutine);
	__type(value, struct ms_lua_wait);
} lua_waits SEC(".maps");

NO_PROGRAMS(no_programs_of_lua_wait);

static __always_inline void count_wait(enum ms_count what)
{
	count(lua_wait_event, MS_COUNT_FIRED);
	count(lua_wait_event, what);
}

/* enum ms_lua_layout_state of the process, all of whose builds of LuaJIT have one object model. */
static __always_inline __u32 lua_mode_of(__u32 pid)
{
	const struct ms_lua_process *process = bpf_map_lookup_elem(&lua_processes, &pid);

	if (!process || !process->count)
		return MS_LUA_NO_LAYOUT;
	return ms_lua_layout(process->vm[0].layout)->state;
}

/* Is a coroutine that is about to be resumed in the middle of a yield? */
static __always_inline bool has_yielded(__u64 l, __u32 mode)
{
	__u8 status = LUA_YIELD;

	bpf_probe_read_user(&status, sizeof(status),
			    (void *)(l + (mode == MS_LUA_GC32 ? LUA_STATUS_32 : LUA_STATUS_64)));
	return status == LUA_YIELD;
}

/* lua_resume(L, nargs) */
SEC("uprobe")
int lua_wait_resume(struct pt_regs *ctx)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32, yes = 1;
	struct ms_coroutine key = { .l = ctx->di, .pid = pid };
	struct ms_sum_key sum_key = { .event = lua_wait_event };
	struct ms_sum sum = { .count = 1 };
	struct ms_lua_wait *known, wait;

	RUN_ON_THREAD_STACK(ctx, no_programs_of_lua_wait);
	if (!lua_wait_is_on || !current_is_wanted(pid))
		return 0;
	bpf_map_update_elem(&lua_resumed, &key, &yes, BPF_ANY);
	known = bpf_map_lookup_elem(&lua_waits, &key);
	if (!known)
		return 0;
	wait = *known;
	bpf_map_delete_elem(&lua_waits, &key);
	if (!has_yielded(key.l, wait.mode)) {
		count_wait(MS_COUNT_UNWANTED);
		return 0;
	}
	sum_key.stack = wait.stack;
	sum.value[0] = bpf_ktime_get_ns() - wait.since;
	count_wait(add_values(&sum_key, &sum) ? MS_COUNT_SUMMED : MS_COUNT_LOST_MAP);
	return 0;
}

static __always_inline int on_yield(struct pt_regs *ctx, __u64 l, enum walk_loop loop)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct ms_coroutine key = { .l = l, .pid = pid };
	struct ms_lua_wait wait = {};
	struct scratch *s;

	RUN_ON_THREAD_STACK(ctx, no_programs_of_lua_wait);
	if (!lua_wait_is_on)
		return 0;
	if (!current_is_wanted(pid)) {
		count_wait(MS_COUNT_FILTERED);
		return 0;
	}
	if (!bpf_map_lookup_elem(&lua_resumed, &key)) {
		count_wait(MS_COUNT_UNWANTED);
		return 0;
	}
	s = take_probe_scratch(lua_wait_event);
	if (!s)
		return 0;
	s->regs = *ctx;
	fill_sample(s, ctx, MS_SAMPLE_USER_MODE | MS_SAMPLE_COROUTINE, loop);
	if (ship_stack_once(s)) {
		wait.since = s->sample.time;
		wait.stack = s->hash;
		wait.mode = lua_mode_of(pid);
		if (bpf_map_update_elem(&lua_waits, &key, &wait, BPF_ANY))
			count_wait(MS_COUNT_LOST_MAP);
	} else {
		count_wait(MS_COUNT_LOST_RING);
	}
	give_back(s);
	return 0;
}

/* lua_yield(L, nresults) */
static __always_inline int on_c_yield(struct pt_regs *ctx, enum walk_loop loop)
{
	return on_yield(ctx, ctx->di, loop);
}

WALKING_PROGRAM("uprobe", lua_wait_yield, struct pt_regs, on_c_yield)

/* coroutine.yield in the VM, which has the lua_State in RB (vm_x64.dasc, vm_x86.dasc) */
static __always_inline int on_builtin_yield(struct pt_regs *ctx, enum walk_loop loop)
{
	__u64 l = ctx->bp;
	__u32 pid = bpf_get_current_pid_tgid() >> 32;

	return on_yield(ctx, lua_mode_of(pid) == MS_LUA_GC32 ? (__u32)l : l, loop);
}

WALKING_PROGRAM("uprobe", lua_wait_builtin, struct pt_regs, on_builtin_yield)

#endif /* MOONSCOPE_LUA_WAIT_H */
