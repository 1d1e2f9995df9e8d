/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The stack of the running task in one record: kernel frames, user frames, and
 * where the walk could not be done here, what user space needs to do it.
 *
 * A collector calls take_scratch(), then take_stack_at() or take_stack(), sets
 * sample.tag and sample.sum, and then send_sample() where events are few, or
 * sum_sample() where they are many: that ships equal stacks once.
 */
#ifndef MOONSCOPE_STACK_H
#define MOONSCOPE_STACK_H

#include "registers.h"
#include "tracepoint.h"
#include "walk_bpf.h"

enum walk_loop {
	WALK_BPF_LOOP,
	WALK_PLAIN_LOOP,
};

/* Two programs of one body: the loader takes the one whose loop this kernel can do. */
#define WALKING_PROGRAM(section, name, type, body)	\
	SEC(section) int name##_bpf_loop(type *ctx)	\
	{						\
		return body(ctx, WALK_BPF_LOOP);	\
	}						\
	SEC(section) int name##_plain_loop(type *ctx)	\
	{						\
		return body(ctx, WALK_PLAIN_LOOP);	\
	}

/* The same of a tracepoint. */
#define WALKING_TRACEPOINT(section, name, type, body)				\
	static __always_inline int name##_kept(type *ctx, enum walk_loop loop)	\
	{									\
		int result;							\
										\
		keep_cpu();							\
		result = body(ctx, loop);					\
		release_cpu();							\
		return result;							\
	}									\
	WALKING_PROGRAM(section, name, type, name##_kept)

/*
 * How much of a stack there is room to copy. The fuller the ring buffer, the less, and nothing into its last quarter: that
 * is for samples without a copy, which take a hundredth of the room. They are cut; what finds no room is lost.
 */
static __always_inline __u32 room_for_copy(void)
{
	__u64 eighth = bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / 8;
	__u64 used = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	if (used < 4 * eighth)
		return MS_STACK_BYTES;
	if (used < 5 * eighth)
		return MS_STACK_BYTES / 4;
	return used < 6 * eighth ? MS_STACK_PAGE / 2 : 0;
}

/*
 * Appends the registers of the walk and the user stack, page by page up to the last one that is there. A global function:
 * it is verified once by itself, and not in each program.
 *
 * A page in the middle of a variable that nobody has written to is not there yet, and its zeros are what a failing read
 * leaves. The stack of the first thread goes on behind it; behind those of others, whose ends nothing tells, there may be
 * another one.
 */
__noinline int append_copy_to_scratch(__u32 index)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 at, start, end, room, copied = 0, there = 0;
	bool is_first_thread;
	char *to;

	if (!s)
		return -1;
	at = s->next;
	if (at > MS_SAMPLE_FRAMES)
		return -1;
	/* above what the first thread began with are arguments and environment; it may look at its first words */
	end = BPF_CORE_READ(task, mm, start_stack) + MS_STACK_BEGINNING;
	is_first_thread = BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid);
	start = s->walk.reg[MS_REG_RSP];
	room = room_for_copy();
	for (int i = 0; i < MS_NR_REGS; i++)
		s->words[at + i] = s->walk.reg[i];
	at += MS_NR_REGS;
	to = (char *)&s->words[at];
	/* the red zone too, unless it lies on a page that is not there */
	start -= MS_RED_ZONE;
	if ((start & (MS_STACK_PAGE - 1)) + MS_RED_ZONE >= MS_STACK_PAGE &&
	    bpf_probe_read_user(to, 8, (const void *)start))
		start += MS_RED_ZONE;
	if (room < MS_STACK_BYTES)
		s->sample.flags |= MS_SAMPLE_NO_ROOM;
	if (end - start < room)
		room = end - start;
	for (int i = 0; i < MS_STACK_PAGES; i++) {
		/* never across a page border: behind the last page lies nothing */
		__u64 part = MS_STACK_PAGE - ((start + copied) & (MS_STACK_PAGE - 1));

		if (copied > MS_STACK_BYTES - MS_STACK_PAGE || copied >= room)
			break;
		if (part > room - copied)
			part = room - copied;
		/* the compiler must not compute the address before the check */
		asm volatile("" : "+r"(part));
		if (part > MS_STACK_PAGE)
			break;
		if (!bpf_probe_read_user(to + copied, part, (const void *)(start + copied)))
			there = copied + part;
		else if (!is_first_thread)
			break;
		copied += part;
	}
	s->sample.stack_start = start;
	s->sample.stack_len = there;
	s->sample.flags |= MS_SAMPLE_STACK;
	s->next = at + (there + 7) / 8;
	return 0;
}

/*
 * Must user space walk, with fresh mappings and tables? After mm->exec_vm changed
 * also a walk that found its end may have used what is no longer mapped.
 */
static __always_inline bool must_walk_later(__u32 end, __u32 flags)
{
	if (flags & MS_SAMPLE_MAPS_CHANGED)
		return true;
	/* writable code is not in exec_vm, and mprotect tells nobody of it */
	return end == MS_END_NEW_PROCESS || end == MS_END_NO_TABLE || end == MS_END_NO_MAPPING;
}

static __always_inline void walk_user(struct scratch *s, const struct current_task *task, enum walk_loop loop)
{
	struct walk *w = &s->walk;
	struct ms_process *process = bpf_map_lookup_elem(&processes, &w->pid);

	if (!process || process->state != MS_PROCESS_READY) {
		w->end = MS_END_NEW_PROCESS;
		return;
	}
	s->sample.generation = process->generation;
	w->first = process->first;
	w->count = process->count;
	s->sample.exec_vm = task->exec_vm;
	if (s->sample.exec_vm != process->exec_vm)
		s->sample.flags |= MS_SAMPLE_MAPS_CHANGED;
	w->end = MS_END_DEPTH;
	if (loop == WALK_BPF_LOOP)
		walk_with_bpf_loop(s);
	else
		walk_with_plain_loop(s->index);
}

/* The function that was called just now is a frame, and the walk goes on at its caller: that needs no rule. */
static __always_inline int return_from_call(struct scratch *s)
{
	struct walk *w = &s->walk;
	__u64 at = w->reg[MS_REG_RSP] + 8 * (__u64)s->sample.called;

	if (ms_emit_native(w))
		return 1;
	if (ms_read_user(w, &w->reg[MS_REG_RIP], 8, at))
		return ms_stop(w, MS_END_UNREADABLE);
	w->reg[MS_REG_RSP] = at + 8;
	w->exact = 0;
	return 0;
}

static __always_inline void take_user_stack(struct scratch *s, enum walk_loop loop)
{
	struct current_task task;

	look_at_current_task(&task);
	/* kernel threads, and a task that already gave up its memory */
	if (is_of_the_kernel(task.flags) || !task.mm) {
		s->walk.end = MS_END_NONE;
		return;
	}
	s->walk.pid = s->sample.pid;
	if (!(s->sample.flags & MS_SAMPLE_USER_MODE) && saved_user_regs(&s->regs)) {
		s->walk.end = MS_END_NO_REGISTERS;
		return;
	}
	if (!is_user_mode(&s->regs)) {
		s->walk.end = MS_END_NO_REGISTERS;
		return;
	}
	if (s->regs.cs == MS_USER32_CS) {
		s->walk.end = MS_END_COMPAT;
		return;
	}
	if (!(s->sample.flags & MS_SAMPLE_USER_MODE)) {
		leave_breakpoint(s);
		leave_uretprobe_call(s);
	}
	walk_from_regs(&s->walk, &s->regs);
	if (s->sample.flags & MS_SAMPLE_CALLED && return_from_call(s))
		return;
	walk_user(s, &task, loop);
}

static __always_inline void take_kernel_stack(struct scratch *s, void *ctx)
{
	long bytes = bpf_get_stack(ctx, s->words, MS_MAX_KERNEL * 8, 0);

	s->sample.nr_kernel = bytes > 0 ? (bytes / 8) & 127 : 0;
	for (int i = 0; i < MS_MAX_KERNEL; i++) {
		if (i >= s->sample.nr_kernel)
			break;
		mix(&s->hash, s->words[i]);
	}
}

/*
 * Fills s->sample and s->words; s->regs are those of user mode if the sample says so.
 * `time` is now (CLOCK_MONOTONIC, nanoseconds): whoever has read the clock need not do it twice.
 */
static __always_inline void fill_sample_at(struct scratch *s, void *ctx, __u32 flags, __u64 time,
					   enum walk_loop loop)
{
	struct ms_sample *sample = &s->sample;
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	sample->kind = MS_EVENT_SAMPLE;
	sample->flags = flags;
	sample->time = time;
	sample->generation = 0;
	sample->pid = pid_tgid >> 32;
	sample->tid = (__u32)pid_tgid;
	sample->cpu = bpf_get_smp_processor_id();
	sample->nr_kernel = 0;
	sample->stack_len = 0;
	sample->exec_vm = 0;
	sample->stack.a = 0;
	sample->stack.b = 0;
	bpf_get_current_comm(sample->comm, sizeof(sample->comm));

	s->hash.a = ms_hash_seed[0];
	s->hash.b = ms_hash_seed[1];
	if (!(flags & MS_SAMPLE_USER_MODE) && ms_want_kernel)
		take_kernel_stack(s, ctx);
	s->next = sample->nr_kernel;
	s->walk.end = MS_END_NONE;
	s->walk.lua.here = MS_LUA_NOT_HERE;
	s->has_new_function = 0;
	if (ms_want_user)
		take_user_stack(s, loop);
	sample->end = s->walk.end;
	sample->lua = s->walk.lua.here;
	sample->lua_vmstate = s->walk.lua.vmstate;
	sample->nr_user = s->next - sample->nr_kernel;
	if (ms_always_copy || must_walk_later(sample->end, sample->flags)) {
		walk_from_regs(&s->walk, &s->regs);
		true_leaf_of_scratch(s->index);
		if (!append_copy_to_scratch(s->index))
			mend_copy_of_scratch(s->index);
	}
}

static __always_inline void fill_sample(struct scratch *s, void *ctx, __u32 flags,
					enum walk_loop loop)
{
	fill_sample_at(s, ctx, flags, bpf_ktime_get_ns(), loop);
}

/* Of a tick: `regs` are those that it interrupted. */
static __always_inline void take_stack_at(struct scratch *s, void *ctx, const struct pt_regs *regs,
					  enum walk_loop loop)
{
	__u32 flags = 0;

	if (is_user_mode(regs)) {
		flags = MS_SAMPLE_USER_MODE;
		s->regs = *regs;
	}
	fill_sample(s, ctx, flags, loop);
}

/* Of a task that has just called a function, with `words` on top of its return address. */
static __always_inline void take_stack_of_call(struct scratch *s, struct pt_regs *ctx, __u32 words,
					       enum walk_loop loop)
{
	s->sample.called = words;
	bpf_probe_read_kernel(&s->regs, sizeof(s->regs), ctx);
	fill_sample(s, ctx, MS_SAMPLE_USER_MODE | MS_SAMPLE_CALLED, loop);
}

/* Of a task in the kernel, from a tracepoint in its context. */
static __always_inline void take_stack(struct scratch *s, void *ctx, enum walk_loop loop)
{
	fill_sample(s, ctx, MS_SAMPLE_TRACEPOINT, loop);
}

/*
 * The same without the kernel's part, which takes longer than all else where the kernel
 * is deep; of a task that has no user part, the kernel's.
 */
static __always_inline void take_user_stack_only(struct scratch *s, void *ctx, enum walk_loop loop)
{
	struct current_task task;
	__u32 flags = MS_SAMPLE_TRACEPOINT;

	look_at_current_task(&task);
	if (!is_of_the_kernel(task.flags) && !saved_user_regs(&s->regs) && is_user_mode(&s->regs))
		flags = MS_SAMPLE_USER_MODE;
	fill_sample(s, ctx, flags, loop);
}

/* Into the ring buffer; true if there was room. */
static __always_inline bool ship(struct scratch *s)
{
	__u64 len = sizeof(s->sample) + s->next * 8;
	__u64 flags = BPF_RB_NO_WAKEUP;

	/* someone new: its mappings must be read before it can end */
	if (s->sample.flags & MS_SAMPLE_STACK && s->sample.end != MS_END_NO_MAPPING)
		flags = BPF_RB_FORCE_WAKEUP;
	/* it must be named before it can be collected */
	if (s->has_new_function)
		flags = BPF_RB_FORCE_WAKEUP;
	if (len > sizeof(s->sample) + sizeof(s->words))
		len = sizeof(s->sample) + sizeof(s->words);
	return bpf_ringbuf_output(&events, &s->sample, len, flags) == 0;
}

/* Ships a sample with its values. */
static __always_inline void send_sample(struct scratch *s)
{
	count(s->sample.event, ship(s) ? MS_COUNT_SENT : MS_COUNT_LOST_RING);
}

/* What else tells stacks apart. A stack that is walked in user space is like no other. */
static __always_inline void finish_hash(struct scratch *s)
{
	mix(&s->hash, (__u64)s->sample.pid << 32 | s->sample.tid);
	mix(&s->hash, (__u64)s->sample.end << 32 | s->sample.nr_kernel);
	mix(&s->hash, s->sample.generation);
	mix(&s->hash, (__u32)s->sample.lua_vmstate);
	mix(&s->hash, ms_stacks_epoch);
	if (s->sample.flags & MS_SAMPLE_STACK)
		mix(&s->hash, s->sample.time);
}

/*
 * Sees to it that user space has this stack, under s->hash; false: there was no room
 * for it. What Lua words stand for changes when code is loaded anew: such stacks are
 * shipped again after a while.
 */
static __always_inline bool ship_stack_once(struct scratch *s)
{
	__u64 now = s->sample.time;
	__u64 *shipped;

	finish_hash(s);
	shipped = bpf_map_lookup_elem(&shipped_stacks, &s->hash);
	if (shipped && (s->sample.lua == MS_LUA_NOT_HERE || now - *shipped < MS_LUA_FRESH_NS))
		return true;
	s->sample.stack = s->hash;
	if (!ship(s))
		return false;
	bpf_map_update_elem(&shipped_stacks, &s->hash, &now, BPF_ANY);
	return true;
}

static __always_inline bool add_to(void *map, const struct ms_sum_key *key, const struct ms_sum *sum)
{
	struct ms_sum *old = bpf_map_lookup_elem(map, key);

	if (!old) {
		if (!bpf_map_update_elem(map, key, sum, BPF_NOEXIST))
			return true;
		/* another CPU may have been faster; else it is full */
		old = bpf_map_lookup_elem(map, key);
		if (!old)
			return false;
	}
	__sync_fetch_and_add(&old->count, sum->count);
	for (int i = 0; i < MS_VALUES; i++)
		if (sum->value[i])
			__sync_fetch_and_add(&old->value[i], sum->value[i]);
	return true;
}

/* Adds values to a stack that was shipped; false: there was no room. */
static __always_inline bool add_values(const struct ms_sum_key *key, const struct ms_sum *sum)
{
	if (ms_sums_turn & 1)
		return add_to(&sums_odd, key, sum);
	return add_to(&sums_even, key, sum);
}

/* Ships the stack of a sample once, and adds its values up here. */
static __always_inline void sum_sample(struct scratch *s)
{
	struct ms_sum_key key = { .event = s->sample.event, .tag = s->sample.tag };

	/* it is walked in user space, and that is needed this once only */
	if (s->sample.flags & MS_SAMPLE_STACK) {
		send_sample(s);
		return;
	}
	if (!ship_stack_once(s)) {
		count(s->sample.event, MS_COUNT_LOST_RING);
		return;
	}
	key.stack = s->hash;
	if (add_values(&key, &s->sample.sum)) {
		count(s->sample.event, MS_COUNT_SUMMED);
		return;
	}
	s->sample.stack.a = 0;
	s->sample.stack.b = 0;
	send_sample(s);
}

#endif /* MOONSCOPE_STACK_H */
