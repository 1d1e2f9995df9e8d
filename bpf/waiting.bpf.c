// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The user registers of the threads of a process, for those that wait: an object of its own, which
 * is loaded where a stack cannot be walked without them. /proc tells but two.
 *
 * A task iterator (Linux 5.8) runs in the context of whoever reads it, and stops nobody. A thread
 * that runs has other registers by now: how often it was switched out tells (nvcsw, nivcsw).
 */
#include "user_registers.h"

/* include/linux/bpf.h: struct bpf_iter_meta; kernel/bpf/task_iter.c: struct bpf_iter__task */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} __attribute__((preserve_access_index));

struct task_struct___switches {
	unsigned long nvcsw;
	unsigned long nivcsw;
} __attribute__((preserve_access_index));

/* Whose threads; set before each reading. */
__u32 ms_process;

/* What is written for each. */
struct ms_waiting {
	__u64 tid;
	__u64 switches;		/* how often it was switched out; as in /proc/PID/status, both kinds */
	struct pt_regs regs;
};

SEC("iter/task") int waiting_threads(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	const struct task_struct___switches *t = (const void *)task;
	struct ms_waiting waiting = {};

	/* after the last one there is none */
	if (!task || (__u32)task->tgid != ms_process)
		return 0;
	waiting.tid = task->pid;
	waiting.switches = t->nvcsw + t->nivcsw;
	if (bpf_probe_read_kernel(&waiting.regs, sizeof(waiting.regs), user_regs_of(task)))
		return 0;
	bpf_seq_write(ctx->meta->seq, &waiting, sizeof(waiting));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
