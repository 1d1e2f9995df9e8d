/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `lua-loop`: turns of an event loop that take too long. A turn is from
 * the return of epoll_wait to the next call of it, by the thread that makes both.
 *
 * What runs in a turn is looked at by a timer, some times in the shortest turn that is
 * asked for; when the thread leaves its CPU, as others may have it at every tick; and, as a
 * thread that waits has no ticks, at the end of each system call that takes a while. A look
 * takes the time since the one before, and that until the thread is back on a CPU; a system
 * call only its own, and what was before it goes to the look before. So all looks together are the
 * turn, and the last one has what is left. Looks are kept until the turn is long enough;
 * most turns are not, and theirs are dropped here.
 *
 * Values: nanoseconds, turns. Tag: MS_LOOP_*.
 */
#ifndef MOONSCOPE_LUA_LOOP_H
#define MOONSCOPE_LUA_LOOP_H

#include "offcpu.bpf.h"	/* how_it_leaves */
#include "scope.h"
#include "stack.h"
#include "system_call.h"

const volatile __u32 loop_event;
const volatile __u64 loop_threshold = 20000000;
const volatile __u64 loop_a_while = 1250000;	/* so much of a turn is worth a look */

/* 0: measuring has not begun, or has ended. */
__u32 loop_is_on SEC(".bss.loop");

/* There are four in the shortest turn that is asked for, and some by system calls. */
#define LOOP_LOOKS 16

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_EPOLL_WAIT 232
#define NR_EPOLL_PWAIT 281
#define NR_EPOLL_PWAIT2 441

struct loop_look {
	struct ms_stack_id stack;
	__u64 ns;
	__u32 tag;
	__u32 unused;
};

struct loop_turn {
	__u64 began;		/* 0: the thread waits in epoll_wait */
	__u64 told;		/* looks have the time up to here */
	__u64 called;		/* a system call began; 0: in none */
	__u32 is_long;		/* it was counted, and so are its looks from now on */
	__u32 looks;		/* kept until it is long, or what was the last look of one that is */
	__u32 busy;		/* a program of this thread works here: no tick may */
	__u32 left;		/* the last look was when it left its CPU */
	struct loop_look look[LOOP_LOOKS];
};

/* Threads that have an event loop. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct loop_turn);
} loop_threads SEC(".maps");

/* What a thread begins with; too large for the stack. */
const struct loop_turn loop_no_turn = {};

static __always_inline bool waits_for_events(__u64 number)
{
	return number == NR_EPOLL_WAIT || number == NR_EPOLL_PWAIT || number == NR_EPOLL_PWAIT2;
}

static __always_inline struct loop_turn *turn_of_current(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&loop_threads, &tid);
}

static __always_inline void count_look(enum ms_count what)
{
	count(loop_event, MS_COUNT_FIRED);
	count(loop_event, what);
}

/* ---- what a turn took -------------------------------------------------- */

/* Of a turn that is long. The time behind the last look is no look. */
static __always_inline void add_look(const struct loop_look *look, __u64 ns, __u64 looks, __u64 turns)
{
	struct ms_sum_key key = { .stack = look->stack, .event = loop_event, .tag = look->tag };
	struct ms_sum sum = { .count = looks, .value = { ns, turns } };
	bool fits = add_values(&key, &sum);

	if (!fits)
		count_look(MS_COUNT_LOST_MAP);
	else if (looks)
		count_look(MS_COUNT_SUMMED);
}

/* The turn is long enough: what was kept of it counts, and the last look stands for the turn. */
static __always_inline void tell_turn(struct loop_turn *turn)
{
	__u32 looks = turn->looks;

	for (__u32 i = 0; i < LOOP_LOOKS; i++) {
		if (i >= looks)
			break;
		add_look(&turn->look[i], turn->look[i].ns, 1, i + 1 == looks);
	}
	if (looks)
		turn->look[0] = turn->look[(looks - 1) & (LOOP_LOOKS - 1)];
	turn->looks = 1;	/* look[0] is the last one */
	turn->is_long = 1;
}

static __always_inline void drop_turn(struct loop_turn *turn)
{
	for (__u32 i = 0; i < LOOP_LOOKS; i++) {
		if (i >= turn->looks)
			break;
		count_look(MS_COUNT_UNWANTED);
	}
}

/* What the next look has no part in belongs to the one before, if there is one. */
static __always_inline void tell_until(struct loop_turn *turn, __u64 until)
{
	struct loop_look *last = &turn->look[(turn->looks - 1) & (LOOP_LOOKS - 1)];

	if (!turn->looks || until <= turn->told)
		return;
	if (turn->is_long)
		add_look(last, until - turn->told, 0, 0);
	else
		last->ns += until - turn->told;
	turn->told = until;
}

/* The stack that is in the scratch has the time since the last look. */
static __always_inline void keep_look(struct scratch *s, struct loop_turn *turn, __u64 now, __u32 tag)
{
	__u32 place = turn->is_long ? 0 : turn->looks;
	struct loop_look *look;

	if (place >= LOOP_LOOKS) {
		/* the next one has its time too */
		count_look(MS_COUNT_UNWANTED);
		return;
	}
	if (!ship_stack_once(s)) {
		count_look(MS_COUNT_LOST_RING);
		return;
	}
	look = &turn->look[place];
	look->stack = s->hash;
	look->ns = now - turn->told;
	look->tag = tag;
	turn->told = now;
	if (turn->is_long) {
		add_look(look, look->ns, 1, 0);
		return;
	}
	turn->looks = place + 1;
	if (now - turn->began >= loop_threshold)
		tell_turn(turn);
}

/* ---- looks -------------------------------------------------------------- */

static __always_inline int on_loop_tick(struct bpf_perf_event_data *ctx, enum walk_loop loop)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct loop_turn *turn;
	struct scratch *s;

	if (!pid) {
		count_look(MS_COUNT_IDLE);
		return 0;
	}
	turn = turn_of_current();
	if (!turn) {
		count_look(MS_COUNT_FILTERED);
		return 0;
	}
	if (!loop_is_on || !turn->began || turn->busy) {
		count_look(MS_COUNT_UNWANTED);
		return 0;
	}
	s = take_scratch(loop_event, SCRATCH_TICK);
	if (!s) {
		count(loop_event, MS_COUNT_FIRED);
		return 0;
	}
	take_stack_at(s, ctx, &ctx->regs, loop);
	keep_look(s, turn, s->sample.time, MS_LOOP_RUNNING);
	give_back(s);
	return 0;
}

WALKING_PROGRAM("perf_event", loop_tick, struct bpf_perf_event_data, on_loop_tick)

/* The time that it was away belongs to the stack with which it left. */
static __always_inline void loop_returns(struct task_struct *task)
{
	__u32 tid = BPF_CORE_READ(task, pid);
	struct loop_turn *turn = bpf_map_lookup_elem(&loop_threads, &tid);

	if (!turn || !turn->left)
		return;
	turn->left = 0;
	tell_until(turn, bpf_ktime_get_ns());
}

/* sched_switch(preempt, prev, next): prev is still current. */
static __always_inline int on_loop_switch(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct loop_turn *turn;
	struct scratch *s;
	__u32 how;

	if (!loop_is_on)
		return 0;
	loop_returns((void *)ctx->args[2]);
	turn = turn_of_current();
	if (!turn || !turn->began || turn->busy || bpf_ktime_get_ns() - turn->told < loop_a_while)
		return 0;
	s = take_scratch(loop_event, SCRATCH_TASK);
	if (!s) {
		count(loop_event, MS_COUNT_FIRED);
		return 0;
	}
	turn->busy = 1;
	take_stack(s, ctx, loop);
	how = how_it_leaves((void *)ctx->args[1], ctx->args[0]);
	keep_look(s, turn, s->sample.time, how == MS_OFFCPU_RUNNABLE ? MS_LOOP_RUNNING : MS_LOOP_CALL);
	turn->left = turn->told == s->sample.time;
	turn->busy = 0;
	give_back(s);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sched_switch", loop_switch, struct bpf_raw_tracepoint_args, on_loop_switch)

/* In sys_enter and sys_exit, whose kernel part is the same for all system calls. */
static __always_inline void look_at_call(void *ctx, const struct pt_regs *regs, struct loop_turn *turn,
					 __u32 tag, enum walk_loop loop)
{
	struct scratch *s = take_scratch(loop_event, SCRATCH_TASK);

	if (!s) {
		count(loop_event, MS_COUNT_FIRED);
		return;
	}
	bpf_probe_read_kernel(&s->regs, sizeof(s->regs), regs);
	fill_sample(s, ctx, MS_SAMPLE_USER_MODE, loop);
	keep_look(s, turn, s->sample.time, tag);
	give_back(s);
}

/* ---- the beginning and the end ------------------------------------------ */

static __always_inline void begin_turn(struct loop_turn *turn)
{
	__u64 now = bpf_ktime_get_ns();

	turn->busy = 1;
	turn->told = now;
	turn->called = 0;
	turn->looks = 0;
	turn->is_long = 0;
	turn->left = 0;
	turn->began = now;
	turn->busy = 0;
}

/* The first return of epoll_wait that is seen of this thread. */
static __always_inline void remember_loop(void)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)pid_tgid;
	struct loop_turn *turn;

	if (!current_is_wanted(pid_tgid >> 32) || is_of_32_bits())
		return;
	if (bpf_map_update_elem(&loop_threads, &tid, &loop_no_turn, BPF_NOEXIST)) {
		count_look(MS_COUNT_LOST_MAP);
		return;
	}
	turn = bpf_map_lookup_elem(&loop_threads, &tid);
	if (turn)
		begin_turn(turn);
}

/* sys_exit(regs, result) */
static __always_inline int on_loop_exit(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	const struct pt_regs *regs = (void *)ctx->args[0];
	struct loop_turn *turn;
	__u64 number = ~0ULL;

	if (!loop_is_on)
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number), &regs->orig_ax);
	turn = turn_of_current();
	if (waits_for_events(number)) {
		if (turn)
			begin_turn(turn);
		else
			remember_loop();
		return 0;
	}
	if (!turn || !turn->began || !turn->called || bpf_ktime_get_ns() - turn->called < loop_a_while)
		return 0;
	turn->busy = 1;
	tell_until(turn, turn->called);
	turn->called = 0;
	look_at_call(ctx, regs, turn, MS_LOOP_CALL, loop);
	turn->busy = 0;
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sys_exit", loop_exit, struct bpf_raw_tracepoint_args, on_loop_exit)

/* What is left of a turn that was looked at; false: it is long enough, and no look is there. */
static __always_inline bool end_turn(struct loop_turn *turn, __u64 now)
{
	__u64 rest = now - turn->told;

	if (turn->is_long) {
		tell_until(turn, now);
	} else if (now - turn->began < loop_threshold) {
		drop_turn(turn);
	} else if (turn->looks) {
		turn->look[(turn->looks - 1) & (LOOP_LOOKS - 1)].ns += rest;
		tell_turn(turn);
	} else {
		return false;
	}
	return true;
}

/* sys_enter(regs, number) */
static __always_inline int on_loop_enter(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct loop_turn *turn;

	if (!loop_is_on)
		return 0;
	turn = turn_of_current();
	if (!turn || !turn->began)
		return 0;
	if (!waits_for_events(ctx->args[1])) {
		turn->called = bpf_ktime_get_ns();
		return 0;
	}
	turn->busy = 1;
	if (!end_turn(turn, bpf_ktime_get_ns()))
		look_at_call(ctx, (void *)ctx->args[0], turn, MS_LOOP_END, loop);
	turn->looks = 0;
	turn->began = 0;
	turn->busy = 0;
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sys_enter", loop_enter, struct bpf_raw_tracepoint_args, on_loop_enter)

/* sched_process_exit(task): of each thread, by itself. Its number may be another's soon. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exit", loop_thread_ends)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct loop_turn *turn = bpf_map_lookup_elem(&loop_threads, &tid);

	if (!turn)
		return 0;
	turn->busy = 1;
	if (turn->began && loop_is_on)
		end_turn(turn, bpf_ktime_get_ns());
	bpf_map_delete_elem(&loop_threads, &tid);
	return 0;
}

#endif /* MOONSCOPE_LUA_LOOP_H */
