/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the running task's system call is, for programs of sys_enter and sys_exit. */
#ifndef MOONSCOPE_SYSTEM_CALL_H
#define MOONSCOPE_SYSTEM_CALL_H

#include "kernel.h"

/* arch/x86/include/asm/thread_info.h: a call by the table of 32-bit programs */
#define TS_COMPAT 0x0002

struct thread_info {
	__u32 status;
} __attribute__((preserve_access_index));

struct task_struct___call {
	struct thread_info thread_info;
	__u64 start_time;	/* CLOCK_MONOTONIC, nanoseconds */
} __attribute__((preserve_access_index));

static __always_inline bool is_of_32_bits(void)
{
	struct task_struct___call *task;

	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_get_current_task_btf___probe)) {
		task = (void *)bpf_get_current_task_btf();
		return task->thread_info.status & TS_COMPAT;
	}
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

#endif /* MOONSCOPE_SYSTEM_CALL_H */
