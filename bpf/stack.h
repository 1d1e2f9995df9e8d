/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The stack of the running task in one record: kernel frames, user frames, and
 * where the walk could not be done here, what user space needs to do it.
 * Collectors call take_stack() and send_sample().
 */
#ifndef MOONSCOPE_STACK_H
#define MOONSCOPE_STACK_H

#include "registers.h"
#include "walk_bpf.h"

enum walk_loop {
	WALK_BPF_LOOP,
	WALK_PLAIN_LOOP,
};

/* Appends the registers and the user stack, page by page until one is not there. */
static __always_inline void append_stack_copy(struct scratch *s, const __u64 *reg)
{
	__u64 start = reg[MS_REG_RSP];
	__u64 at = s->next;
	__u32 copied = 0;
	char *to;

	if (at > MS_SAMPLE_FRAMES)
		return;
	/* field by field would need no copy, but the walk has moved its registers on */
	for (int i = 0; i < MS_NR_REGS; i++)
		s->words[at + i] = reg[i];
	at += MS_NR_REGS;
	to = (char *)&s->words[at];
	/* the red zone too, unless it lies on a page that may not be there */
	if ((start & (MS_STACK_PAGE - 1)) >= MS_RED_ZONE)
		start -= MS_RED_ZONE;
	for (int i = 0; i < MS_STACK_PAGES; i++) {
		/* never across a page border: behind the last page lies nothing */
		__u32 part = MS_STACK_PAGE - ((start + copied) & (MS_STACK_PAGE - 1));

		if (copied > MS_STACK_BYTES - MS_STACK_PAGE || part > MS_STACK_PAGE)
			break;
		if (bpf_probe_read_user(to + copied, part, (const void *)(start + copied)))
			break;
		copied += part;
	}
	s->sample.stack_start = start;
	s->sample.stack_len = copied;
	s->sample.flags |= MS_SAMPLE_STACK;
	s->next = at + (copied + 7) / 8;
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

static __always_inline void walk_user(struct scratch *s, struct task_struct *task, __u32 pid,
				      enum walk_loop loop)
{
	struct walk *w = &s->walk;
	struct ms_process *process = bpf_map_lookup_elem(&processes, &pid);

	if (!process || process->state != MS_PROCESS_READY) {
		w->end = MS_END_NEW_PROCESS;
		return;
	}
	s->sample.generation = process->generation;
	w->first = process->first;
	w->count = process->count;
	s->sample.exec_vm = BPF_CORE_READ(task, mm, exec_vm);
	if (s->sample.exec_vm != process->exec_vm)
		s->sample.flags |= MS_SAMPLE_MAPS_CHANGED;
	w->end = MS_END_DEPTH;
	if (loop == WALK_BPF_LOOP)
		walk_with_bpf_loop(s);
	else
		walk_with_plain_loop(s->sample.cpu);
}

static __always_inline void take_user_stack(struct scratch *s, struct task_struct *task,
					    enum walk_loop loop)
{
	/* kernel threads, and a task that already gave up its memory */
	if (BPF_CORE_READ(task, flags) & (PF_KTHREAD | PF_IO_WORKER) || !BPF_CORE_READ(task, mm)) {
		s->walk.end = MS_END_NONE;
		return;
	}
	s->walk.pid = s->sample.pid;
	if (!(s->sample.flags & MS_SAMPLE_USER_MODE) && saved_user_regs(task, &s->regs)) {
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
	walk_from_regs(&s->walk, &s->regs);
	walk_user(s, task, s->sample.pid, loop);
}

/* Fills s->sample and s->words. `regs` are those at the tick. */
static __always_inline void take_stack(struct scratch *s, void *ctx, const struct pt_regs *regs,
				       enum walk_loop loop)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct ms_sample *sample = &s->sample;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	long bytes = 0;

	sample->kind = MS_EVENT_SAMPLE;
	sample->flags = 0;
	sample->time = bpf_ktime_get_ns();
	sample->generation = 0;
	sample->pid = pid_tgid >> 32;
	sample->tid = (__u32)pid_tgid;
	sample->cpu = bpf_get_smp_processor_id();
	sample->stack_len = 0;
	sample->exec_vm = 0;
	bpf_get_current_comm(sample->comm, sizeof(sample->comm));

	if (is_user_mode(regs)) {
		sample->flags = MS_SAMPLE_USER_MODE;
		s->regs = *regs;
	} else if (ms_want_kernel) {
		bytes = bpf_get_stack(ctx, s->words, MS_MAX_KERNEL * 8, 0);
	}
	sample->nr_kernel = bytes > 0 ? (bytes / 8) & 127 : 0;
	s->next = sample->nr_kernel;
	s->walk.end = MS_END_NONE;
	s->walk.lua.here = MS_LUA_NOT_HERE;
	s->has_new_function = 0;
	if (ms_want_user)
		take_user_stack(s, task, loop);
	sample->end = s->walk.end;
	sample->lua = s->walk.lua.here;
	sample->lua_vmstate = s->walk.lua.vmstate;
	sample->nr_user = s->next - sample->nr_kernel;
	if (ms_always_copy || must_walk_later(sample->end, sample->flags)) {
		walk_from_regs(&s->walk, &s->regs);
		append_stack_copy(s, s->walk.reg);
	}
}

static __always_inline void send_sample(struct scratch *s)
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
	if (bpf_ringbuf_output(&events, &s->sample, len, flags))
		count(MS_COUNT_LOST_RING);
	else
		count(MS_COUNT_SENT);
}

#endif /* MOONSCOPE_STACK_H */
