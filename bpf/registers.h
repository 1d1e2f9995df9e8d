/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The user registers of the running task, wherever the tick hit it (x86-64). */
#ifndef MOONSCOPE_REGISTERS_H
#define MOONSCOPE_REGISTERS_H

#include "maps.h"
#include "user_registers.h"

/* arch/x86/include/asm/segment.h: 32-bit user code runs with this selector */
#define MS_USER32_CS 0x23

/* What is read of the running task for each stack. Typed pointers are read without the call of a helper (5.11). */
struct current_task {
	__u32 flags;
	__u64 mm;		/* 0: it has no memory of its own */
	__u64 exec_vm;		/* pages of it that may be executed */
};

static __always_inline void look_at_current_task(struct current_task *to)
{
	struct task_struct *task;
	struct mm_struct *mm;

	to->exec_vm = 0;
	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_get_current_task_btf___probe)) {
		task = (void *)bpf_get_current_task_btf();
		mm = task->mm;
		to->flags = task->flags;
		to->mm = (__u64)mm;
		if (mm)
			to->exec_vm = mm->exec_vm;
		return;
	}
	task = (void *)bpf_get_current_task();
	to->flags = BPF_CORE_READ(task, flags);
	to->mm = (__u64)BPF_CORE_READ(task, mm);
	to->exec_vm = BPF_CORE_READ(task, mm, exec_vm);
}

static __always_inline bool is_of_the_kernel(__u32 task_flags)
{
	return task_flags & (PF_KTHREAD | PF_IO_WORKER);
}

static __always_inline int is_user_mode(const struct pt_regs *regs)
{
	return (regs->cs & 3) == 3;
}

/*
 * A tick in kernel code: the user registers were saved at the top of the kernel
 * stack when the kernel was entered.
 */
static __always_inline const struct pt_regs *where_user_regs_are(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_task_pt_regs___probe))
		return user_regs_of((struct task_struct *)bpf_get_current_task_btf());
	return user_regs_of((void *)bpf_get_current_task());
}

static __always_inline int saved_user_regs(struct pt_regs *to)
{
	return bpf_probe_read_kernel(to, sizeof(*to), where_user_regs_are());
}

/* The number of the system call that the task is in; negative: in none (arch/x86/entry stores -1). */
static __always_inline int saved_call(long *call)
{
	return bpf_probe_read_kernel(call, sizeof(*call), &where_user_regs_are()->orig_ax);
}

static __always_inline void walk_from_regs(struct walk *w, const struct pt_regs *regs)
{
	w->reg[MS_REG_RAX] = regs->ax;
	w->reg[MS_REG_RDX] = regs->dx;
	w->reg[MS_REG_RCX] = regs->cx;
	w->reg[MS_REG_RBX] = regs->bx;
	w->reg[MS_REG_RSI] = regs->si;
	w->reg[MS_REG_RDI] = regs->di;
	w->reg[MS_REG_RBP] = regs->bp;
	w->reg[MS_REG_RSP] = regs->sp;
	w->reg[MS_REG_R8] = regs->r8;
	w->reg[MS_REG_R9] = regs->r9;
	w->reg[MS_REG_R10] = regs->r10;
	w->reg[MS_REG_R11] = regs->r11;
	w->reg[MS_REG_R12] = regs->r12;
	w->reg[MS_REG_R13] = regs->r13;
	w->reg[MS_REG_R14] = regs->r14;
	w->reg[MS_REG_R15] = regs->r15;
	w->reg[MS_REG_RIP] = regs->ip;
	w->valid = (1U << MS_NR_REGS) - 1;
	w->depth = 0;
	w->exact = 1;
	w->by_fp = 0;
	/* what ends the loop before any step does */
	w->end = MS_END_DEPTH;
	w->stuck = 0;
	w->max_depth = ms_max_depth;
	w->here.start = 0;
	w->here.end = 0;
	w->has_left_uprobe = 0;
	w->has_returns = 0;
	w->next_return = 0;
	w->chunk_len = 0;
	w->lua.in_segment = 0;
	w->lua.l = 0;
	w->lua.next_cframe = 0;
	w->lua.helper = 0;
	w->lua.leaving = 0;
	w->lua.parents = 0;
	/* what stands there now may be another one */
	w->lua.proto = 0;
	w->lua.chunkname = 0;
	w->lua.slots_at = 0;
	w->lua.here = MS_LUA_NOT_HERE;
}

#endif /* MOONSCOPE_REGISTERS_H */
