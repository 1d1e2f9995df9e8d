/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who woke a thread: the stack of whoever runs in sched_waking, joined to the stack
 * of the thread that it wakes. Both are shipped once, and a pair of them too.
 *
 * sched_waking comes with interrupts off: no tick interrupts it, but it may itself
 * have interrupted a program that takes a stack, so it has a scratch of its own.
 * In an interrupt the running task is whoever was interrupted; user space sees that
 * by the kernel's functions, and leaves that task out.
 */
#ifndef MOONSCOPE_OFFCPU_WAKER_H
#define MOONSCOPE_OFFCPU_WAKER_H

#include "stack.h"

const volatile bool offcpu_want_waker;

struct waker {
	struct ms_stack_id stack;	/* of whoever woke it; 0: it could not be taken */
	struct ms_stack_id joined;	/* of both */
};

/* Threads that were blocked and are woken. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct waker);
} wakers SEC(".maps");

/* The stack of the running task; false: there is none to be had. */
static __always_inline bool take_waker(__u32 event, void *ctx, struct ms_stack_id *stack, enum walk_loop loop)
{
	struct scratch *s = try_scratch(SCRATCH_WAKER);
	bool shipped;

	if (!s)
		return false;
	s->sample.event = event;
	s->sample.tag = 0;
	s->sample.sum = (struct ms_sum){};
	take_stack(s, ctx, loop);
	shipped = ship_stack_once(s);
	if (shipped)
		*stack = s->hash;
	give_back(s);
	return shipped;
}

/* Tells user space once what is joined. */
static __always_inline bool ship_pair(const struct ms_stack_id *joined, __u64 a, __u64 b,
				      const struct ms_stack_id *waker)
{
	struct ms_pair *pair;
	__u64 now;

	if (bpf_map_lookup_elem(&shipped_stacks, joined))
		return true;
	pair = bpf_ringbuf_reserve(&events, sizeof(*pair), 0);
	if (!pair)
		return false;
	now = bpf_ktime_get_ns();
	pair->kind = MS_EVENT_PAIR;
	pair->unused = 0;
	pair->time = now;
	pair->joined = *joined;
	pair->stack.a = a;
	pair->stack.b = b;
	pair->waker = *waker;
	bpf_ringbuf_submit(pair, BPF_RB_NO_WAKEUP);
	bpf_map_update_elem(&shipped_stacks, joined, &now, BPF_ANY);
	return true;
}

/*
 * Joins the stack (a, b) of a thread with that of who woke it, into wakers[tid].joined; 0 if
 * nothing was joined. A function of its own: its stack is not added to that of the walk.
 */
__noinline int join_waker(__u32 tid, __u64 a, __u64 b)
{
	struct waker *w = bpf_map_lookup_elem(&wakers, &tid);
	struct ms_stack_id joined;

	if (!w)
		return 0;
	joined.a = a;
	joined.b = b;
	mix(&joined, w->stack.a);
	mix(&joined, w->stack.b);
	if (!ship_pair(&joined, a, b, &w->stack))
		return 0;
	w->joined = joined;
	return 1;
}

static __always_inline void forget_waker(__u32 tid)
{
	if (offcpu_want_waker)
		bpf_map_delete_elem(&wakers, &tid);
}

#endif /* MOONSCOPE_OFFCPU_WAKER_H */
