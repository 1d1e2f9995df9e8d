/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs of uprobes have to run on the stack of the thread that comes by.
 *
 * Since Linux 6.13 a program of tracing that needs 64 bytes of stack or more has one of its own on each CPU
 * (bpf_enable_priv_stack, kernel/bpf/verifier.c): it does not run on a CPU where it is running already, the kernel says. But
 * of uprobes nobody sees to that (bpf_prog_run_array_uprobe, include/linux/bpf.h; uprobe_prog_run, kernel/trace/bpf_trace.c),
 * and their programs may be preempted: then two threads run on one stack, one has the pointers of the other, and what it
 * writes goes anywhere. On Debian's 7.3.4 the kernel wrote to an address of the program and ended the thread (page fault in
 * bpf_prog_..._probe_call_bpf_loop).
 *
 * A program with a tail call has no such stack. This one never makes its tail call: the verifier finds out and takes it away,
 * long after it has looked whether there is one (check_subprogs). A map of programs takes those of one attach type only
 * (bpf_prog_map_compatible, kernel/bpf/core.c): a collector has one of its own.
 */
#ifndef MOONSCOPE_THREAD_STACK_H
#define MOONSCOPE_THREAD_STACK_H

#include "kernel.h"

const volatile bool ms_never;

/* A map in which there is no program. */
#define NO_PROGRAMS(name)				\
	struct {					\
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);	\
		__uint(max_entries, 1);			\
		__uint(key_size, sizeof(__u32));	\
		__uint(value_size, sizeof(__u32));	\
	} name SEC(".maps")

/* In each program of a uprobe, and not in a function of its own. */
#define RUN_ON_THREAD_STACK(ctx, no_programs)		\
	do {						\
		if (ms_never)				\
			bpf_tail_call(ctx, &(no_programs), 0); \
	} while (0)

#endif /* MOONSCOPE_THREAD_STACK_H */
