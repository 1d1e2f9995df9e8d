/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the kernel keeps the user registers of a task, as they were when the kernel was entered (x86-64). */
#ifndef MOONSCOPE_USER_REGISTERS_H
#define MOONSCOPE_USER_REGISTERS_H

#include "kernel.h"

const volatile __u32 ms_kernel_stack_size = 16384; /* THREAD_SIZE, for kernels before 5.15 */

/* At the top of its kernel stack. `task`: a pointer that the verifier knows, where there is bpf_task_pt_regs(). */
static __always_inline const struct pt_regs *user_regs_of(struct task_struct *task)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_task_pt_regs___probe))
		return (void *)bpf_task_pt_regs(task);
	/* task_pt_regs() of kernels before 5.15; no padding on x86-64 there */
	return (void *)(BPF_CORE_READ(task, stack) + ms_kernel_stack_size - sizeof(struct pt_regs));
}

#endif /* MOONSCOPE_USER_REGISTERS_H */
