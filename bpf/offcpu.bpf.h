/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `offcpu`: time between the moment at which a thread leaves its CPU
 * and the one at which it is back.
 *
 * The interval begins in sched_switch. Where the kernel tells of the end of a switch
 * (sched_exit_tp, Linux 6.16), it ends there: the thread is current again, and its
 * stack is taken only if the interval is one that was asked for. Elsewhere the stack
 * must be taken when the thread leaves, as its memory cannot be read later.
 *
 * Values: nanoseconds. Tag: MS_OFFCPU_*. An interval that was ended by a wake-up is
 * two: blocked, and then waiting for a CPU.
 */
#ifndef MOONSCOPE_OFFCPU_H
#define MOONSCOPE_OFFCPU_H

#include "offcpu_waker.h"
#include "scope.h"
#include "stack.h"

const volatile __u32 offcpu_event;
const volatile __u64 offcpu_min_ns;
const volatile __u64 offcpu_max_ns = ~0ULL;
const volatile __u32 offcpu_how = ~0U;	/* bit n: enum ms_offcpu_how n is wanted */

/* When measuring began (CLOCK_MONOTONIC, nanoseconds); 0: it has not. */
__u64 offcpu_since SEC(".bss.offcpu");
/*
 * It has ended: nothing is counted, and whoever is away since then is kept as it was. Who
 * leaves later is remembered still, as it did not wait since measuring began.
 */
__u32 offcpu_has_ended SEC(".bss.offcpu");
/* Intervals were lost: one without a beginning need not be as old as the recording. */
__u32 offcpu_was_full SEC(".bss.offcpu");

struct blocked {
	__u64 since;
	__u64 woken;			/* 0: it was not, or is not yet */
	struct ms_stack_id stack;	/* taken when the thread left; 0: not taken */
	__u32 tag;
	__u32 pid;
};

/* Threads that are not on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct blocked);
} blocked_threads SEC(".maps");

/* include/linux/sched.h; the values of those that matter never changed */
#define TASK_INTERRUPTIBLE 0x1
#define TASK_UNINTERRUPTIBLE 0x2
#define TASK_DEAD 0x80

struct task_struct___sleep {
	long state;		/* before 5.14 */
	unsigned int __state;
	unsigned int in_iowait : 1;
	__u64 start_time;	/* CLOCK_MONOTONIC, nanoseconds */
} __attribute__((preserve_access_index));

static __always_inline __u32 how_it_leaves(const struct task_struct *task, bool preempted)
{
	const struct task_struct___sleep *t = (const void *)task;
	__u64 state = bpf_core_field_exists(t->__state) ? BPF_CORE_READ(t, __state)
							 : (__u64)BPF_CORE_READ(t, state);

	if (preempted || !(state & 0xff))
		return MS_OFFCPU_RUNNABLE;
	if (state & TASK_DEAD)
		return MS_OFFCPU_DEAD;
	if (state & TASK_INTERRUPTIBLE)
		return MS_OFFCPU_INTERRUPTIBLE;
	if (state & TASK_UNINTERRUPTIBLE)
		return MS_OFFCPU_UNINTERRUPTIBLE;
	return MS_OFFCPU_STOPPED;
}

/* What the running thread was doing when it left: the system call, or a fault. */
static __always_inline __u32 tag_of_current(struct task_struct *task, __u32 how)
{
	const struct task_struct___sleep *t = (const void *)task;
	__u32 tag = how << MS_OFFCPU_HOW_SHIFT;
	long call;

	if (BPF_CORE_READ_BITFIELD_PROBED(t, in_iowait))
		tag |= MS_OFFCPU_IOWAIT;
	/* not all registers: Linux 5.10 has 512 bytes of stack for all calls together */
	if (saved_call(&call))
		return tag;
	if (call < 0)
		return tag | MS_OFFCPU_NO_CALL;
	return tag | ((__u32)(call + 1) & MS_OFFCPU_CALL_MASK);
}

/* Of `s` or of what it was called: only times and the tag remain to be told. */
static __always_inline void add_interval(const struct ms_stack_id *stack, __u32 tag, __u64 ns)
{
	struct ms_sum_key key = { .stack = *stack, .event = offcpu_event, .tag = tag };
	struct ms_sum sum = { .count = 1, .value = { ns } };

	count(offcpu_event, add_values(&key, &sum) ? MS_COUNT_SUMMED : MS_COUNT_LOST_MAP);
}

static __always_inline bool is_asked_for(__u32 tag, __u64 ns)
{
	__u32 how = (tag & MS_OFFCPU_HOW_MASK) >> MS_OFFCPU_HOW_SHIFT;

	return ns >= offcpu_min_ns && ns <= offcpu_max_ns && offcpu_how >> how & 1;
}

/* The part after the wake-up: ready to run, and no CPU to run on. */
static __always_inline __u32 waiting_tag(__u32 tag)
{
	return (tag & ~MS_OFFCPU_HOW_MASK) | MS_OFFCPU_RUNNABLE << MS_OFFCPU_HOW_SHIFT | MS_OFFCPU_WOKEN;
}

/* Two intervals fired, or one. Of who woke the thread only the first one tells. */
static __always_inline void end_interval(__u32 tid, const struct blocked *b, const struct ms_stack_id *stack,
					 __u32 tag, __u64 now)
{
	__u64 woken = b->woken > b->since && b->woken < now ? b->woken : now;
	const struct ms_stack_id *blocked = stack;
	struct waker *waker;

	if (offcpu_want_waker && b->woken && join_waker(tid, stack->a, stack->b)) {
		waker = bpf_map_lookup_elem(&wakers, &tid);
		if (waker)
			blocked = &waker->joined;
	}
	add_interval(blocked, tag, woken - b->since);
	if (woken < now) {
		count(offcpu_event, MS_COUNT_FIRED);
		add_interval(stack, waiting_tag(tag), now - woken);
	}
}

/* ---- the beginning ---------------------------------------------------- */

/* Fills *b for the running thread, which is wanted and leaves; false: forget it. */
static __always_inline bool begin_interval(struct task_struct *task, bool preempted, struct blocked *b)
{
	__u32 how;

	if (!offcpu_since)
		return false;
	how = how_it_leaves(task, preempted);
	if (how == MS_OFFCPU_DEAD)
		return false;
	b->since = bpf_ktime_get_ns();
	b->tag = how << MS_OFFCPU_HOW_SHIFT;
	b->pid = BPF_CORE_READ(task, tgid);
	return true;
}

static __always_inline void remember(__u32 tid, const struct blocked *b)
{
	bool has_ended = offcpu_has_ended;
	/* not a long: before 6.4 the program calls the map's own function, which returns an int */
	int err = bpf_map_update_elem(&blocked_threads, &tid, b, has_ended ? BPF_NOEXIST : BPF_ANY);

	if (!err || err == -EEXIST)
		return;
	offcpu_was_full = 1;
	if (has_ended)
		return;
	count(offcpu_event, MS_COUNT_FIRED);
	count(offcpu_event, MS_COUNT_LOST_MAP);
}

/* sched_switch(preempt, prev, next): prev is still current. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_switch", offcpu_leave)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct blocked b = {};

	if (!pid_tgid || !current_is_wanted(pid_tgid >> 32))
		return 0;
	if (begin_interval((void *)ctx->args[1], ctx->args[0], &b))
		remember((__u32)pid_tgid, &b);
	return 0;
}

/* sched_waking(task), wherever whoever wakes it runs. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_waking", offcpu_wake)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 tid = BPF_CORE_READ(task, pid);
	struct blocked *b = bpf_map_lookup_elem(&blocked_threads, &tid);

	if (b && !b->woken)
		b->woken = bpf_ktime_get_ns();
	return 0;
}

/* The same with the stack of whoever wakes it. */
static __always_inline int on_wake(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 tid = BPF_CORE_READ(task, pid);
	struct blocked *b = bpf_map_lookup_elem(&blocked_threads, &tid);
	struct waker waker = {};

	if (!b || b->woken || offcpu_has_ended)
		return 0;
	b->woken = bpf_ktime_get_ns();
	/* an interval without is told as one that nobody knows who ended */
	take_waker(offcpu_event, ctx, &waker.stack, loop);
	bpf_map_update_elem(&wakers, &tid, &waker, BPF_ANY);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sched_waking", offcpu_waker, struct bpf_raw_tracepoint_args, on_wake)

/* ---- the end, where the kernel tells of it ---------------------------- */

/*
 * A thread that is back and was not seen to leave was away when measuring began, or is
 * new: then it waited for its first CPU.
 */
static __always_inline bool left_before(struct task_struct *task, __u32 pid, struct blocked *b)
{
	const struct task_struct___sleep *t = (const void *)task;
	__u64 *target_since = bpf_map_lookup_elem(&targets, &pid);
	__u64 born = BPF_CORE_READ(t, start_time);

	/* nothing tells when a process came into a cgroup */
	if (offcpu_was_full || (!target_since && ms_scope != MS_SCOPE_ALL))
		return false;
	b->since = offcpu_since;
	if (target_since && *target_since > b->since)
		b->since = *target_since;
	if (born > b->since) {
		b->since = born;
		b->tag = MS_OFFCPU_RUNNABLE << MS_OFFCPU_HOW_SHIFT;
	} else {
		b->tag = MS_OFFCPU_INTERRUPTIBLE << MS_OFFCPU_HOW_SHIFT;
	}
	return true;
}

/* Measuring has ended: of one that was away all the time it is not known any more as soon as it leaves again. */
static __always_inline void come_back_late(struct task_struct *task, __u64 pid_tgid)
{
	struct blocked b = {};

	if (current_is_wanted(pid_tgid >> 32) && left_before(task, pid_tgid >> 32, &b))
		remember((__u32)pid_tgid, &b);
}

static __always_inline int on_return(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = (__u32)pid_tgid;
	struct blocked *known, b = {};
	struct scratch *s;
	__u64 now;

	/* sched_exit(is_switch): schedule() may find that there is nothing else to run */
	if (!ctx->args[0] || !pid_tgid || !offcpu_since)
		return 0;
	if (offcpu_has_ended) {
		come_back_late(task, pid_tgid);
		return 0;
	}
	known = bpf_map_lookup_elem(&blocked_threads, &tid);
	if (known) {
		b = *known;
		bpf_map_delete_elem(&blocked_threads, &tid);
	} else if (!current_is_wanted(pid_tgid >> 32) || !left_before(task, pid_tgid >> 32, &b)) {
		return 0;
	}
	now = bpf_ktime_get_ns();
	count(offcpu_event, MS_COUNT_FIRED);
	if (now < b.since || !is_asked_for(b.tag, now - b.since)) {
		count(offcpu_event, MS_COUNT_UNWANTED);
		goto out;
	}
	s = take_scratch(offcpu_event, SCRATCH_TASK);
	if (!s)
		goto out;
	take_stack(s, ctx, loop);
	b.tag = tag_of_current(task, (b.tag & MS_OFFCPU_HOW_MASK) >> MS_OFFCPU_HOW_SHIFT);
	s->sample.tag = b.tag;
	s->sample.sum = (struct ms_sum){ .count = 1, .value = { now - b.since } };
	if (s->sample.flags & MS_SAMPLE_STACK)
		send_sample(s);
	else if (ship_stack_once(s))
		end_interval(tid, &b, &s->hash, b.tag, now);
	else
		count(offcpu_event, MS_COUNT_LOST_RING);
	give_back(s);
out:
	forget_waker(tid);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sched_exit_tp", offcpu_return, struct bpf_raw_tracepoint_args, on_return)

/* ---- the end, elsewhere ----------------------------------------------- */

static __always_inline void leave_with_stack(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct task_struct *task = (void *)ctx->args[1];
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct blocked b = {};
	struct scratch *s;

	if (!pid_tgid || !current_is_wanted(pid_tgid >> 32))
		return;
	if (!begin_interval(task, ctx->args[0], &b))
		return;
	if (offcpu_has_ended) {
		remember((__u32)pid_tgid, &b);
		return;
	}
	s = take_scratch(offcpu_event, SCRATCH_TASK);
	if (!s) {
		count(offcpu_event, MS_COUNT_FIRED);
		return;
	}
	take_stack(s, ctx, loop);
	b.tag = tag_of_current(task, (b.tag & MS_OFFCPU_HOW_MASK) >> MS_OFFCPU_HOW_SHIFT);
	if (ship_stack_once(s)) {
		b.stack = s->hash;
		remember((__u32)pid_tgid, &b);
	} else {
		count(offcpu_event, MS_COUNT_FIRED);
		count(offcpu_event, MS_COUNT_LOST_RING);
	}
	give_back(s);
}

static __always_inline void come_back(struct task_struct *task)
{
	__u32 tid = BPF_CORE_READ(task, pid);
	struct blocked *known, b;
	__u64 now;

	known = bpf_map_lookup_elem(&blocked_threads, &tid);
	if (!known || offcpu_has_ended)
		return;
	b = *known;
	bpf_map_delete_elem(&blocked_threads, &tid);
	now = bpf_ktime_get_ns();
	count(offcpu_event, MS_COUNT_FIRED);
	if (now < b.since || !is_asked_for(b.tag, now - b.since))
		count(offcpu_event, MS_COUNT_UNWANTED);
	else
		end_interval(tid, &b, &b.stack, b.tag, now);
	forget_waker(tid);
}

static __always_inline int on_switch(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	leave_with_stack(ctx, loop);
	come_back((void *)ctx->args[2]);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sched_switch", offcpu_switch, struct bpf_raw_tracepoint_args, on_switch)

#endif /* MOONSCOPE_OFFCPU_H */
