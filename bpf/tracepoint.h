/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs of tracepoints keep their CPU.
 *
 * Since Linux 7.0 tracepoints are guarded by SRCU and no longer by disabled preemption (__DO_TRACE_CALL,
 * include/linux/tracepoint.h). A CPU runs each program once at a time (bpf_prog_get_recursion_context,
 * include/linux/filter.h): of a program that is left halfway everything is missed that the threads after it do
 * there, for milliseconds. And they would all need the one scratch of this CPU.
 */
#ifndef MOONSCOPE_TRACEPOINT_H
#define MOONSCOPE_TRACEPOINT_H

#include "kernel.h"

/* since Linux 6.10 */
extern void bpf_preempt_disable(void) __weak __ksym;
extern void bpf_preempt_enable(void) __weak __ksym;

/* False: what is below is no code, and needs nothing of the kernel. */
const volatile bool ms_tracepoints_are_preempted;

static __always_inline void keep_cpu(void)
{
	if (ms_tracepoints_are_preempted)
		bpf_preempt_disable();
}

static __always_inline void release_cpu(void)
{
	if (ms_tracepoints_are_preempted)
		bpf_preempt_enable();
}

/* A program of a raw tracepoint; its body follows, and has `ctx`. */
#define TRACEPOINT_PROGRAM(section, name)						\
	static __always_inline int name##_body(struct bpf_raw_tracepoint_args *ctx);	\
	SEC(section) int name(struct bpf_raw_tracepoint_args *ctx)			\
	{										\
		int result;								\
											\
		keep_cpu();								\
		result = name##_body(ctx);						\
		release_cpu();								\
		return result;								\
	}										\
	static __always_inline int name##_body(struct bpf_raw_tracepoint_args *ctx)

#endif /* MOONSCOPE_TRACEPOINT_H */
