/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where programs of uprobes take stacks. They may be preempted (bpf_prog_run_array_uprobe,
 * include/linux/bpf.h), and another thread's runs on the same CPU then: each takes the first
 * scratch that is free.
 */
#ifndef MOONSCOPE_PROBE_SCRATCH_H
#define MOONSCOPE_PROBE_SCRATCH_H

#include "maps.h"

/* Of each CPU; they lie behind those of all levels. */
enum { PROBE_SCRATCHES = 4 };

static __always_inline bool seize(struct scratch *s)
{
	/* of two that come by here at the same moment neither gets it */
	__sync_fetch_and_add(&s->busy, 1);
	if (*(volatile __u32 *)&s->busy == 1)
		return true;
	__sync_fetch_and_add(&s->busy, -1);
	return false;
}

/* NULL is counted, as having happened too. */
static __always_inline struct scratch *take_probe_scratch(__u32 event)
{
	__u32 first = (ms_cpus_mask + 1) * SCRATCH_LEVELS + bpf_get_smp_processor_id() * PROBE_SCRATCHES;
	struct scratch *s;

	for (__u32 i = 0; i < PROBE_SCRATCHES; i++) {
		__u32 index = first + i;

		s = bpf_map_lookup_elem(&scratches, &index);
		if (!s) {
			count(event, MS_COUNT_FIRED);
			count(event, MS_COUNT_LOST_CPU);
			return NULL;
		}
		if (!seize(s))
			continue;
		s->index = index;
		s->sample.event = event;
		return s;
	}
	count(event, MS_COUNT_FIRED);
	count(event, MS_COUNT_LOST_BUSY);
	return NULL;
}

#endif /* MOONSCOPE_PROBE_SCRATCH_H */
