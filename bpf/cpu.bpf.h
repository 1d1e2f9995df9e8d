/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `cpu`: a timer or a cycle counter ticks on each CPU.
 * Values: none, the count says it.
 */
#ifndef MOONSCOPE_CPU_H
#define MOONSCOPE_CPU_H

#include "scope.h"
#include "stack.h"

const volatile __u32 cpu_event;

static __always_inline int on_cpu_tick(struct bpf_perf_event_data *ctx, enum walk_loop loop)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct scratch *s;

	count(cpu_event, MS_COUNT_FIRED);
	if (!pid) {
		count(cpu_event, MS_COUNT_IDLE);
		return 0;
	}
	if (!current_is_wanted(pid)) {
		count(cpu_event, MS_COUNT_FILTERED);
		return 0;
	}
	s = take_scratch(cpu_event, SCRATCH_TICK);
	if (!s)
		return 0;
	take_stack_at(s, ctx, &ctx->regs, loop);
	s->sample.tag = 0;
	s->sample.sum = (struct ms_sum){ .count = 1 };
	send_sample(s);
	give_back(s);
	return 0;
}

WALKING_PROGRAM("perf_event", cpu_tick, struct bpf_perf_event_data, on_cpu_tick)

#endif /* MOONSCOPE_CPU_H */
