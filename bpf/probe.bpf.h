/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `probe`: calls of functions of a program or of the kernel, and how long
 * they take; tracepoints and USDT probes are counted.
 *
 * A call begins at the first instruction of a function, where its stack is taken, and
 * ends at a `ret` of it, or (kretprobe, uretprobe) when it has returned. Of each thread the calls that have not returned are kept, the
 * innermost last. Which of them returns is told by where its return address was: what
 * was called later than that and has not returned never will (longjmp, an exception).
 *
 * Values: nanoseconds, less those of calls inside it that have a value of their own, so
 * that they add up. Tag: MS_PROBE_*.
 */
#ifndef MOONSCOPE_PROBE_H
#define MOONSCOPE_PROBE_H

#include "scope.h"
#include "stack.h"
#include "thread_stack.h"

const volatile __u32 probe_event;
const volatile __u64 probe_slower_ns;	/* shorter calls are not wanted */
/* Kernels before 5.15 (raw tracepoints: 6.10) do not tell of what a program runs: there is one only. */
const volatile __u64 probe_cookie;

/* Measuring has begun, and has not ended. */
__u32 probe_is_on SEC(".bss.probe");

enum {
	/* of one thread; of uretprobes the kernel has no more either (MAX_URETPROBE_DEPTH) */
	PROBE_DEPTH = 64,
};

/* A call that has not returned. */
struct probe_call {
	__u64 place;			/* of its return address */
	__u64 since;
	__u64 inner;			/* nanoseconds of calls inside that have a value of their own */
	struct ms_stack_id stack;
	__u64 spec;
};

struct probe_thread {
	__u32 depth;
	__u32 wanted;			/* a depth that was looked for: as a variable it would be as many to the verifier */
	struct probe_call call[PROBE_DEPTH];
};

/* Threads that have called something. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct probe_thread);
} probe_threads SEC(".maps");

static const struct probe_thread no_calls;

NO_PROGRAMS(no_programs_of_probe);

struct bpf_raw_tp_link___probe {
	__u64 cookie;			/* since 6.10 */
} __attribute__((preserve_access_index));

/* ---- what all share --------------------------------------------------- */

static __always_inline void probe_count(enum ms_count what)
{
	count(probe_event, what);
}

static __always_inline __u64 cookie_of_probe(void *ctx)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_get_attach_cookie___probe))
		return bpf_get_attach_cookie(ctx);
	return probe_cookie;
}

static __always_inline __u64 cookie_of_raw_tracepoint(void *ctx)
{
	struct bpf_raw_tp_link___probe *link = NULL;

	if (bpf_core_field_exists(link->cookie))
		return bpf_get_attach_cookie(ctx);
	return probe_cookie;
}

/* False: not wanted, and counted. */
static __always_inline bool probe_is_wanted(__u64 pid_tgid)
{
	if (!probe_is_on)
		return false;
	if (pid_tgid && current_is_wanted(pid_tgid >> 32))
		return true;
	probe_count(MS_COUNT_FIRED);
	probe_count(pid_tgid ? MS_COUNT_FILTERED : MS_COUNT_IDLE);
	return false;
}

/*
 * A call, to a stack that was shipped; counted. This and others below are global functions: each is verified once by
 * itself, and not for each way to each of its calls.
 */
__noinline int probe_add(__u64 stack_a, __u64 stack_b, __u32 tag, __u64 ns)
{
	struct ms_sum_key key = { .stack = { stack_a, stack_b }, .event = probe_event, .tag = tag };
	struct ms_sum sum = { .count = 1, .value = { ns } };

	probe_count(MS_COUNT_FIRED);
	probe_count(add_values(&key, &sum) ? MS_COUNT_SUMMED : MS_COUNT_LOST_MAP);
	return 0;
}

/* Ships the stack that was taken, and counts it where it is lost. */
static __always_inline bool ship_probe_stack(struct scratch *s)
{
	if (ship_stack_once(s))
		return true;
	probe_count(MS_COUNT_FIRED);
	probe_count(MS_COUNT_LOST_RING);
	return false;
}

/* ---- calls that have not returned ------------------------------------- */

/* User addresses are below all of the kernel's. */
static __always_inline bool is_kernel_place(__u64 place)
{
	return place >> 63;
}

static __always_inline struct probe_thread *calls_of(__u32 tid)
{
	struct probe_thread *thread = bpf_map_lookup_elem(&probe_threads, &tid);

	if (thread)
		return thread;
	bpf_map_update_elem(&probe_threads, &tid, &no_calls, BPF_NOEXIST);
	thread = bpf_map_lookup_elem(&probe_threads, &tid);
	if (!thread) {
		probe_count(MS_COUNT_FIRED);
		probe_count(MS_COUNT_LOST_MAP);
	}
	return thread;
}

/*
 * Did a call that has not returned and will return to the same place jump here, as its last act? Then the kernel has
 * taken its return address already.
 */
static __always_inline bool is_tail_call(struct scratch *s, __u64 place)
{
	__u64 page = uprobe_page(s->walk.window), ret = 0;

	return page && !bpf_probe_read_user(&ret, sizeof(ret), (void *)place) && ret == page;
}

/*
 * Has this call been left without a return, as another one begins? The kernel's stack is not looked at: interrupts
 * have one of their own, and nothing leaves a function of the kernel but its return.
 */
static __always_inline bool was_left(const struct probe_call *call, __u64 place, bool is_tail)
{
	if (is_kernel_place(call->place) || is_kernel_place(place))
		return false;
	return call->place < place || (call->place == place && !is_tail);
}

/* Forgets the innermost calls, which will not return, down to thread->wanted. */
static __always_inline void leave_probe_calls(struct probe_thread *thread)
{
	for (int i = 0; i < PROBE_DEPTH && thread->depth > thread->wanted; i++) {
		struct probe_call *call = &thread->call[(thread->depth - 1) & (PROBE_DEPTH - 1)];

		thread->depth--;
		probe_add(call->stack.a, call->stack.b, (__u32)call->spec | MS_PROBE_LEFT, 0);
	}
}

/* A call begins: those that were left are forgotten. */
static __always_inline void leave_probe_calls_until(struct probe_thread *thread, __u64 place, bool is_tail)
{
	thread->wanted = thread->depth;
	for (int i = 0; i < PROBE_DEPTH && thread->wanted; i++) {
		if (!was_left(&thread->call[(thread->wanted - 1) & (PROBE_DEPTH - 1)], place, is_tail))
			break;
		thread->wanted--;
	}
	leave_probe_calls(thread);
}

/* thread->wanted becomes the depth of the innermost call that returns to this place; 0: there is none. */
static __always_inline void find_probe_call(struct probe_thread *thread, __u64 place)
{
	thread->wanted = thread->depth;
	for (int i = 0; i < PROBE_DEPTH && thread->wanted; i++) {
		if (thread->call[(thread->wanted - 1) & (PROBE_DEPTH - 1)].place == place)
			break;
		thread->wanted--;
	}
}

/* The place of the highest bit of a number that is not 0. */
static __always_inline __u32 highest_bit(__u64 n)
{
	__u32 bit = 0;

	bit |= (n >> 32 ? 1 : 0) << 5;
	bit |= (n >> bit >> 16 ? 1 : 0) << 4;
	bit |= (n >> bit >> 8 ? 1 : 0) << 3;
	bit |= (n >> bit >> 4 ? 1 : 0) << 2;
	bit |= (n >> bit >> 2 ? 1 : 0) << 1;
	bit |= n >> bit >> 1 ? 1 : 0;
	return bit;
}

/* ---- the programs ----------------------------------------------------- */

/* What comes before a stack is taken: the number of a scratch for a call, plus 1; 0: it is counted. */
__noinline __u32 probe_before_stack(__u64 cookie, __u64 place)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct probe_thread *thread;
	struct scratch *s;

	if (!probe_is_wanted(pid_tgid))
		return 0;
	s = take_probe_scratch(probe_event);
	if (!s)
		return 0;
	if (!(cookie & MS_PROBE_TIMED))
		return s->index + 1;
	thread = calls_of((__u32)pid_tgid);
	if (!thread) {
		give_back(s);
		return 0;
	}
	if (thread->depth)
		leave_probe_calls_until(thread, place, is_tail_call(s, place));
	return s->index + 1;
}

/* A call of which only the number matters, or of which the return cannot be awaited. */
static __always_inline void count_probe_call(struct scratch *s, __u32 tag)
{
	if (ship_probe_stack(s))
		probe_add(s->hash.a, s->hash.b, tag, 0);
}

/* The stack is taken; the last thing is to look at the clock. */
static __always_inline void begin_probe_call(struct scratch *s, struct probe_thread *thread, __u64 spec, __u64 place)
{
	struct probe_call *call;

	if (thread->depth >= PROBE_DEPTH) {
		count_probe_call(s, (__u32)spec | MS_PROBE_TOO_DEEP);
		return;
	}
	if (!ship_probe_stack(s))
		return;
	call = &thread->call[thread->depth & (PROBE_DEPTH - 1)];
	call->place = place;
	call->inner = 0;
	call->stack = s->hash;
	call->spec = spec;
	thread->depth++;
	call->since = bpf_ktime_get_ns();
}

/* What comes after it; gives the scratch back. */
__noinline int probe_after_stack(__u32 index, __u64 cookie, __u64 place)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 spec = cookie & MS_PROBE_SPEC_MASK;
	struct probe_thread *thread = NULL;

	if (!s)
		return -1;
	if (cookie & MS_PROBE_TIMED)
		thread = bpf_map_lookup_elem(&probe_threads, &tid);
	if (thread)
		begin_probe_call(s, thread, spec, place);
	else
		count_probe_call(s, spec);
	give_back(s);
	return 0;
}

/* The first instruction of a function, or a USDT probe. */
static __always_inline int on_probe_call(struct pt_regs *ctx, enum walk_loop loop)
{
	__u64 cookie = cookie_of_probe(ctx);
	__u64 place = ctx->sp;
	__u32 index = probe_before_stack(cookie, place) - 1;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
	__u32 flags = 0;

	RUN_ON_THREAD_STACK(ctx, no_programs_of_probe);
	if (!s)
		return 0;
	if (is_user_mode(ctx)) {
		note_hit(ctx);
		bpf_probe_read_kernel(&s->regs, sizeof(s->regs), ctx);
		flags = MS_SAMPLE_USER_MODE;
	}
	fill_sample(s, ctx, flags, loop);
	probe_after_stack(index, cookie, place);
	return 0;
}

WALKING_PROGRAM("kprobe", probe_call, struct pt_regs, on_probe_call)

/* A call ends whose return address is, or was, at this place. */
static __always_inline void end_probe_call(__u64 place)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct probe_thread *thread = bpf_map_lookup_elem(&probe_threads, &tid);
	struct probe_call *call;
	__u64 ns, own;

	/* one that began before measuring did, or has ended, or by whoever is not wanted */
	if (!thread || !probe_is_on)
		return;
	find_probe_call(thread, place);
	if (!thread->wanted)
		return;
	leave_probe_calls(thread);
	thread->depth--;
	call = &thread->call[thread->depth & (PROBE_DEPTH - 1)];
	ns = now - call->since;
	if (ns < probe_slower_ns) {
		probe_count(MS_COUNT_FIRED);
		probe_count(MS_COUNT_UNWANTED);
		return;
	}
	own = ns > call->inner ? ns - call->inner : 0;
	if (thread->depth)
		thread->call[(thread->depth - 1) & (PROBE_DEPTH - 1)].inner += ns;
	probe_add(call->stack.a, call->stack.b,
		  (__u32)call->spec | (highest_bit(ns | 1) + 1) << MS_PROBE_TIME_SHIFT, own);
}

/* A function has returned: the stack pointer is just above where its return address was. */
SEC("kprobe")
int probe_return(struct pt_regs *ctx)
{
	RUN_ON_THREAD_STACK(ctx, no_programs_of_probe);
	end_probe_call(ctx->sp - 8);
	return 0;
}

/*
 * At a `ret`, or a jump that may be the function's last act: it is, if the stack pointer is what it was at the
 * function's first instruction.
 */
SEC("kprobe")
int probe_exit(struct pt_regs *ctx)
{
	RUN_ON_THREAD_STACK(ctx, no_programs_of_probe);
	end_probe_call(ctx->sp);
	return 0;
}

static __always_inline void count_tracepoint(void *ctx, __u64 cookie, enum walk_loop loop)
{
	__u32 index = probe_before_stack(cookie, 0) - 1;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);

	if (!s)
		return;
	take_stack(s, ctx, loop);
	probe_after_stack(index, cookie, 0);
}

static __always_inline int on_probe_raw(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	count_tracepoint(ctx, cookie_of_raw_tracepoint(ctx), loop);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint", probe_raw, struct bpf_raw_tracepoint_args, on_probe_raw)

static __always_inline int on_probe_tracepoint(void *ctx, enum walk_loop loop)
{
	count_tracepoint(ctx, cookie_of_probe(ctx), loop);
	return 0;
}

WALKING_TRACEPOINT("tracepoint", probe_tracepoint, void, on_probe_tracepoint)

/* What has not returned never will. */
static __always_inline void end_probe_calls(__u32 tid)
{
	struct probe_thread *thread = bpf_map_lookup_elem(&probe_threads, &tid);

	if (!thread)
		return;
	if (probe_is_on) {
		thread->wanted = 0;
		leave_probe_calls(thread);
	}
	bpf_map_delete_elem(&probe_threads, &tid);
}

/* sched_process_exit(task): of each thread, by itself. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exit", probe_thread_ends)
{
	end_probe_calls((__u32)bpf_get_current_pid_tgid());
	return 0;
}

/* sched_process_exec(task, old_pid, bprm): the thread has the number of its process now. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exec", probe_program_ends)
{
	end_probe_calls((__u32)ctx->args[1]);
	return 0;
}

#endif /* MOONSCOPE_PROBE_H */
