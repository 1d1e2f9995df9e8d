/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The collector `cpu`: a timer or a cycle counter ticks on each CPU. */
#ifndef MOONSCOPE_CPU_H
#define MOONSCOPE_CPU_H

#include "scope.h"
#include "stack.h"

static __always_inline int on_tick(struct bpf_perf_event_data *ctx, enum walk_loop loop)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct scratch *s;

	count(MS_COUNT_FIRED);
	if (!pid) {
		count(MS_COUNT_IDLE);
		return 0;
	}
	if (!current_is_wanted(pid)) {
		count(MS_COUNT_FILTERED);
		return 0;
	}
	s = scratch_of_this_cpu();
	if (!s) {
		count(MS_COUNT_LOST_CPU);
		return 0;
	}
	take_stack(s, ctx, &ctx->regs, loop);
	send_sample(s);
	return 0;
}

SEC("perf_event")
int cpu_tick_bpf_loop(struct bpf_perf_event_data *ctx)
{
	return on_tick(ctx, WALK_BPF_LOOP);
}

SEC("perf_event")
int cpu_tick_plain_loop(struct bpf_perf_event_data *ctx)
{
	return on_tick(ctx, WALK_PLAIN_LOOP);
}

#endif /* MOONSCOPE_CPU_H */
