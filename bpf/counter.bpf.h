/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector of counters: events of the processor (cycles, cache misses, ...) and
 * of the kernel (page faults, context switches, ...), each time so many have happened.
 * Values: the period, as it was for this very sample.
 */
#ifndef MOONSCOPE_COUNTER_H
#define MOONSCOPE_COUNTER_H

#include "scope.h"
#include "stack.h"

/* Kernels before 5.15 do not tell of which event a program runs: there is one only. */
const volatile __u64 counter_cookie;

static __always_inline __u64 cookie_of(struct bpf_perf_event_data *ctx)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_get_attach_cookie___probe))
		return bpf_get_attach_cookie(ctx);
	return counter_cookie;
}

static __always_inline int on_counter(struct bpf_perf_event_data *ctx, enum walk_loop loop)
{
	__u64 cookie = cookie_of(ctx);
	__u32 event = cookie & (MS_MAX_EVENTS - 1);
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct scratch *s;

	count(event, MS_COUNT_FIRED);
	if (!pid) {
		count(event, MS_COUNT_IDLE);
		return 0;
	}
	if (!current_is_wanted(pid)) {
		count(event, MS_COUNT_FILTERED);
		return 0;
	}
	/* the kernel's own events happen in a task, and a tick may come meanwhile */
	s = take_scratch(event, cookie & MS_COUNTER_OF_KERNEL ? SCRATCH_TASK : SCRATCH_TICK);
	if (!s)
		return 0;
	take_stack_at(s, ctx, &ctx->regs, loop);
	s->sample.tag = 0;
	s->sample.sum = (struct ms_sum){ .count = 1, .value = { ctx->sample_period } };
	sum_sample(s);
	give_back(s);
	return 0;
}

WALKING_PROGRAM("perf_event", counter, struct bpf_perf_event_data, on_counter)

#endif /* MOONSCOPE_COUNTER_H */
