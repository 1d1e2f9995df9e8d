/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Uprobes of whatever tool, seen through by the walk.
 *
 * While a return of a function is probed (uretprobe), its return address on the user
 * stack is that of a trampoline, the first byte of the page [uprobes]; the kernel keeps
 * the true one in current->utask->return_instances, newest first, with the address of
 * the place on the stack that it was taken from (prepare_uretprobe,
 * kernel/events/uprobes.c). The thread itself may be in that page too: in the
 * trampoline, or in the copy of an instruction that has a breakpoint in its place.
 * Or the kernel has been told of the breakpoint and not yet of what it is for.
 *
 * Only the running task changes its list, so it holds still, but for what the tick
 * interrupts: a place whose owner is not in the list yet ends the walk (MS_END_UPROBE).
 *
 * Layouts by CO-RE, the same from 5.10 to 7.1 but for their order.
 */
#ifndef MOONSCOPE_UPROBES_H
#define MOONSCOPE_UPROBES_H

#include "scratch.h"

struct return_instance {
	unsigned long stack;		/* where the return address was */
	unsigned long orig_ret_vaddr;
	struct return_instance *next;
} __attribute__((preserve_access_index));

struct uprobe_task {
	struct return_instance *return_instances;
	void *active_uprobe;		/* its instruction runs in a copy */
	unsigned long vaddr;		/* of the instruction */
	unsigned long xol_vaddr;	/* of the copy */
} __attribute__((preserve_access_index));

struct xol_area {
	unsigned long vaddr;
} __attribute__((preserve_access_index));

struct uprobes_state {
	struct xol_area *xol_area;
} __attribute__((preserve_access_index));

struct mm_struct___uprobes {
	struct uprobes_state uprobes_state;
} __attribute__((preserve_access_index));

struct task_struct___uprobes {
	struct mm_struct___uprobes *mm;
	struct uprobe_task *utask;
} __attribute__((preserve_access_index));

enum {
	/* MAX_URETPROBE_DEPTH, include/linux/uprobes.h */
	UPROBE_RETURNS = 64,
	BREAKPOINT = 0xcc,
	LONGEST_INSTRUCTION = 15,
	/*
	 * The trampoline of x86 since 6.11 (uretprobe_trampoline_entry, arch/x86/kernel/uprobes.c) pushes
	 * rax, rcx and r11, makes a system call, and pops the last two; in place of rax is the true return
	 * address then. Offsets of its instructions:
	 */
	TRAMPOLINE_PUSHED_RAX = 1,
	TRAMPOLINE_PUSHED_RCX = 2,
	TRAMPOLINE_PUSHED_R11 = 4,
	TRAMPOLINE_CALLED = 13,
	TRAMPOLINE_POPPED_R11 = 15,
	TRAMPOLINE_POPPED_RCX = 16,
	/* bytes that it has pushed when it makes its call */
	TRAMPOLINE_PUSHED = 24,
};

/*
 * Words of the walk's window that the functions below use, in place of a stack: Linux 5.10 has 512 bytes of it for all
 * calls together.
 */
enum { SEEN_POINTER, SEEN_PLACE, SEEN_WORD };

/* The address of the page [uprobes]; 0: there is none. */
static __always_inline __u64 uprobe_page(__u64 *seen)
{
	struct task_struct___uprobes *task = (void *)bpf_get_current_task();

	if (!bpf_core_field_exists(task->utask))
		return 0;
	if (bpf_core_read(&seen[SEEN_POINTER], 8, &task->mm) || !seen[SEEN_POINTER])
		return 0;
	if (bpf_core_read(&seen[SEEN_POINTER], 8,
			  &((struct mm_struct___uprobes *)seen[SEEN_POINTER])->uprobes_state.xol_area) ||
	    !seen[SEEN_POINTER])
		return 0;
	if (bpf_core_read(&seen[SEEN_POINTER], 8, &((struct xol_area *)seen[SEEN_POINTER])->vaddr))
		return 0;
	return seen[SEEN_POINTER];
}

/* What the kernel knows of the probes of the running task; 0: nothing. */
static __always_inline __u64 uprobe_task(__u64 *seen)
{
	struct task_struct___uprobes *task = (void *)bpf_get_current_task();

	if (!bpf_core_field_exists(task->utask) || bpf_core_read(&seen[SEEN_POINTER], 8, &task->utask))
		return 0;
	return seen[SEEN_POINTER];
}

static __always_inline __u64 newest_return(__u64 utask, __u64 *seen)
{
	if (bpf_core_read(&seen[SEEN_POINTER], 8, &((struct uprobe_task *)utask)->return_instances))
		return 0;
	return seen[SEEN_POINTER];
}

/*
 * w->ret was read at w->ret_place: if it is the trampoline, puts the true return address in its place. 0, or -1 if
 * that is not known. The walk goes the way of the list, from the newest on, so each is looked at once.
 */
__noinline int true_return_of_scratch(__u32 index)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
	struct walk *w;
	__u64 *seen;
	__u64 at;

	if (!s)
		return -1;
	w = &s->walk;
	seen = w->window;
	at = uprobe_page(seen);
	if (!at || w->ret != at)
		return 0;
	at = w->next_return;
	if (!w->has_returns) {
		w->has_returns = 1;
		at = uprobe_task(seen);
		if (at)
			at = newest_return(at, seen);
	}
	for (int i = 0; i < UPROBE_RETURNS && at; i++) {
		struct return_instance *ri = (void *)at;

		if (bpf_core_read(&seen[SEEN_PLACE], 8, &ri->stack) ||
		    bpf_core_read(&seen[SEEN_WORD], 8, &ri->orig_ret_vaddr) ||
		    bpf_core_read(&seen[SEEN_POINTER], 8, &ri->next))
			break;
		at = seen[SEEN_POINTER];
		if (seen[SEEN_PLACE] != w->ret_place)
			continue;
		w->ret = seen[SEEN_WORD];
		w->next_return = at;
		return 0;
	}
	return -1;
}

/* The hook of walk.h. */
static __always_inline int ms_true_return(struct walk *w)
{
	return true_return_of_scratch(container_of(w, struct scratch, walk)->index);
}

/* The thread has run `offset` bytes of the trampoline: where it will return to, and with which stack pointer. */
static __always_inline int leave_trampoline(struct walk *w, __u64 offset, __u64 utask)
{
	__u64 *seen = w->window;
	__u64 at = newest_return(utask, seen), back;

	w->valid &= ~(1U << MS_REG_RAX | 1U << MS_REG_RCX | 1U << MS_REG_R11);
	if (at) {
		struct return_instance *ri = (void *)at;

		if (bpf_core_read(&seen[SEEN_PLACE], 8, &ri->stack) ||
		    bpf_core_read(&seen[SEEN_WORD], 8, &ri->orig_ret_vaddr))
			return -1;
		/* what it has pushed, or nothing */
		back = seen[SEEN_PLACE] + 8 - w->reg[MS_REG_RSP];
		if (!back || (back == 8 && offset == TRAMPOLINE_PUSHED_RAX) ||
		    (back == 16 && offset == TRAMPOLINE_PUSHED_RCX) ||
		    (back == 24 && offset >= TRAMPOLINE_PUSHED_R11 && offset <= TRAMPOLINE_CALLED)) {
			w->reg[MS_REG_RIP] = seen[SEEN_WORD];
			w->reg[MS_REG_RSP] = seen[SEEN_PLACE] + 8;
			return 0;
		}
	}
	/* the kernel has done its part */
	if (offset != TRAMPOLINE_CALLED && offset != TRAMPOLINE_POPPED_R11 && offset != TRAMPOLINE_POPPED_RCX)
		return -1;
	back = offset == TRAMPOLINE_CALLED ? 16 : offset == TRAMPOLINE_POPPED_R11 ? 8 : 0;
	back += w->reg[MS_REG_RSP];
	if (bpf_probe_read_user(&seen[SEEN_WORD], 8, (void *)back))
		return -1;
	w->reg[MS_REG_RIP] = seen[SEEN_WORD];
	w->reg[MS_REG_RSP] = back + 8;
	return 0;
}

/*
 * If the thread itself is in the page [uprobes], makes the registers of the walk those that it would have without
 * probes. 0, or -1 if they are not known.
 */
__noinline int true_leaf_of_scratch(__u32 index)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
	__u64 page, offset, utask;
	struct walk *w;
	__u64 *seen;

	if (!s)
		return -1;
	w = &s->walk;
	seen = w->window;
	page = uprobe_page(seen);
	offset = w->reg[MS_REG_RIP] - page;
	if (!page || offset >= MS_UPROBE_PAGE)
		return 0;
	utask = uprobe_task(seen);
	if (!utask || bpf_core_read(&seen[SEEN_WORD], 8, &((struct uprobe_task *)utask)->active_uprobe))
		return -1;
	if (bpf_core_read(&seen[SEEN_PLACE], 8, &((struct uprobe_task *)utask)->xol_vaddr))
		return -1;
	/* the kernel sets it when the thread is at the copy already (pre_ssout) */
	if (!seen[SEEN_WORD] && w->reg[MS_REG_RIP] - seen[SEEN_PLACE] > LONGEST_INSTRUCTION)
		return leave_trampoline(w, offset, utask);
	if (bpf_core_read(&seen[SEEN_WORD], 8, &((struct uprobe_task *)utask)->vaddr))
		return -1;
	w->reg[MS_REG_RIP] += seen[SEEN_WORD] - seen[SEEN_PLACE];
	return 0;
}

/* The hook of walk.h. */
static __always_inline int ms_true_leaf(struct walk *w)
{
	return true_leaf_of_scratch(container_of(w, struct scratch, walk)->index);
}

/*
 * The last breakpoint of ours that a thread came by where a function begins, and its stack pointer then; by thread id.
 * Nothing else tells whether the kernel has done the push already that a function often begins with: the instruction
 * pointer is behind it before and after, and the stack pointer may be either.
 */
struct probe_hit {
	__u64 tid;
	__u64 ip;
	__u64 sp;
};

enum { MS_PROBE_HITS = 1 << 12 };
struct probe_hit ms_probe_hits[MS_PROBE_HITS] SEC(".bss.uprobe");

static __always_inline struct probe_hit *hit_of_this_thread(void)
{
	return &ms_probe_hits[bpf_get_current_pid_tgid() & (MS_PROBE_HITS - 1)];
}

/* To be called by the program of a uprobe that may be at a push. */
static __always_inline void note_hit(struct pt_regs *ctx)
{
	struct probe_hit *hit = hit_of_this_thread();

	hit->tid = (__u32)bpf_get_current_pid_tgid();
	hit->ip = ctx->ip;
	hit->sp = ctx->sp;
}

/*
 * Has the kernel moved the stack pointer for a push at `ip`? An older hit at the same place does no harm: functions are
 * called with stack pointers that differ by multiples of 16 (psABI 3.2.2).
 */
static __always_inline bool has_pushed(__u64 ip, __u64 sp)
{
	struct probe_hit *hit = hit_of_this_thread();

	return hit->tid == (__u32)bpf_get_current_pid_tgid() && hit->ip == ip && hit->sp == sp + 8;
}

/*
 * A thread that the kernel was told of by a breakpoint, and has not yet looked what it is for: it stands behind the
 * breakpoint, whose instruction it has not run. Interrupts that waited, and a preemption, come right then
 * (exit_to_user_mode_loop). Makes its registers those at the instruction.
 */
static __always_inline void leave_breakpoint(struct scratch *s)
{
	__u64 *seen = s->walk.window;

	/* in no system call; a breakpoint is no interrupt either, but that is not told */
	if ((long)s->regs.orig_ax >= 0)
		return;
	seen[SEEN_WORD] = 0;
	if (bpf_probe_read_user(&seen[SEEN_WORD], 2, (void *)(s->regs.ip - 1)))
		return;
	if ((seen[SEEN_WORD] >> 8 & 0xff) == BREAKPOINT) {
		/* set back to it; of a push the stack pointer is moved first (push_emulate_op, arch/x86/kernel/uprobes.c) */
		if (has_pushed(s->regs.ip, s->regs.sp))
			s->regs.sp += 8;
		return;
	}
	if ((seen[SEEN_WORD] & 0xff) == BREAKPOINT && uprobe_task(seen) &&
	    !has_pushed(s->regs.ip - 1, s->regs.sp))
		s->regs.ip--;
}

/*
 * sys_uretprobe (arch/x86/kernel/uprobes.c, Linux 6.11) takes what the trampoline has pushed, r11, rcx and rax, from the
 * stack pointer, looks for the true return address, and puts both back one after the other: in between the stack pointer
 * is that of the trampoline and the instruction pointer that of the caller. Then what was pushed is what it points at.
 */
static __always_inline void leave_uretprobe_call(struct scratch *s)
{
	__u64 *seen = s->walk.window;
	__u64 page;

	/* of that call the number is gone */
	if ((long)s->regs.orig_ax >= 0)
		return;
	page = uprobe_page(seen);
	if (!page || s->regs.ip - page < MS_UPROBE_PAGE || !uprobe_task(seen))
		return;
	if (bpf_probe_read_user(seen, TRAMPOLINE_PUSHED, (void *)s->regs.sp))
		return;
	if (seen[0] == s->regs.r11 && seen[1] == s->regs.cx && seen[2] == s->regs.ax)
		s->regs.sp += TRAMPOLINE_PUSHED;
}

/*
 * Puts true return addresses into the copy of the stack at the end of a sample, for a walk in user space. Of two with
 * one place the newer is true, and after it there is no trampoline at this place.
 */
__noinline int mend_copy_of_scratch(__u32 index)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
	__u64 page, at, place, first;
	__u64 *seen;

	if (!s)
		return -1;
	seen = s->walk.window;
	page = uprobe_page(seen);
	if (!page)
		return 0;
	at = uprobe_task(seen);
	if (at)
		at = newest_return(at, seen);
	first = s->next - (s->sample.stack_len + 7) / 8;
	for (int i = 0; i < UPROBE_RETURNS && at; i++) {
		struct return_instance *ri = (void *)at;

		if (bpf_core_read(&seen[SEEN_PLACE], 8, &ri->stack) ||
		    bpf_core_read(&seen[SEEN_WORD], 8, &ri->orig_ret_vaddr) ||
		    bpf_core_read(&seen[SEEN_POINTER], 8, &ri->next))
			return -1;
		at = seen[SEEN_POINTER];
		place = seen[SEEN_PLACE] - s->sample.stack_start;
		if (place & 7 || place + 8 > s->sample.stack_len)
			continue;
		place = first + place / 8;
		/* the compiler must not compute the address before the check */
		asm volatile("" : "+r"(place));
		if (place < MS_SAMPLE_WORDS && s->words[place] == page)
			s->words[place] = seen[SEEN_WORD];
	}
	return 0;
}

#endif /* MOONSCOPE_UPROBES_H */
