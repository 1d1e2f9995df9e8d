/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a stack is taken: too large for the stack of a program, and not a per-CPU map, whose elements may not exceed
 * 32 KiB.
 *
 * A program that runs may be left for another one on the same CPU: by a tick or a wake-up, each of which has a place of its
 * own. And for one of the same kind, where the kernel preempts programs: those of uprobes (bpf_prog_run_array_uprobe,
 * include/linux/bpf.h), for which each CPU has spare ones. No program goes to another CPU.
 */
#ifndef MOONSCOPE_SCRATCH_H
#define MOONSCOPE_SCRATCH_H

#include "maps.h"

enum scratch_level {
	SCRATCH_TICK,
	SCRATCH_TASK,
	SCRATCH_WAKER,	/* sched_waking, which may interrupt both */
	SCRATCH_LEVELS,
};

/* Of each CPU; they lie behind those of all levels. */
enum { SPARE_SCRATCHES = 4 };

/*
 * Rules that walks on this CPU have found, by the address in the process: callers are
 * mostly the same, and a search reads ten cache lines that were used a tick ago. The
 * mappings of a generation never change, nor do the tables of their files.
 */
enum { MS_FOUND_RULES = 1024 };

struct found_rule {
	__u64 pc;
	__u64 generation;		/* 0: empty */
	struct ms_rule rule;
};

/* Frames, registers and the copy of a stack. */
#define MS_SAMPLE_WORDS (MS_SAMPLE_FRAMES + MS_NR_REGS + MS_STACK_BYTES / 8)

struct scratch {
	struct walk walk;
	struct pt_regs regs;
	__u32 index;			/* of this scratch */
	__u32 busy;
	struct ms_stack_id hash;	/* of the words so far */
	__u64 next;			/* the free end of `words` */
	__u32 has_new_function;		/* ms_lua_seen has not seen it */
	struct ms_sample sample;
	__u64 words[MS_SAMPLE_WORDS];
	struct found_rule found[MS_FOUND_RULES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* ---- taken, and given back -------------------------------------------- */

/* False: somebody has it. Of two that come by here at the same moment neither gets it. */
static __always_inline bool seize(struct scratch *s)
{
	__sync_fetch_and_add(&s->busy, 1);
	if (*(volatile __u32 *)&s->busy == 1)
		return true;
	__sync_fetch_and_add(&s->busy, -1);
	return false;
}

/* What is taken must be given back. */
static __always_inline void give_back(struct scratch *s)
{
	__sync_fetch_and_add(&s->busy, -1);
}

/* Takes a spare one of this CPU: its number plus 1; 0: there is none. Global: it is verified once by itself. */
__noinline __u32 seize_spare(void)
{
	__u32 first = (ms_cpus_mask + 1) * SCRATCH_LEVELS + bpf_get_smp_processor_id() * SPARE_SCRATCHES;

	for (__u32 i = 0; i < SPARE_SCRATCHES; i++) {
		__u32 index = first + i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &index);

		if (s && seize(s)) {
			s->index = index;
			return index + 1;
		}
	}
	return 0;
}

static __always_inline struct scratch *spare_scratch(void)
{
	__u32 index = seize_spare() - 1;

	return bpf_map_lookup_elem(&scratches, &index);
}

/* NULL is not counted: for what an event can do without. */
static __always_inline struct scratch *try_scratch(enum scratch_level level)
{
	__u32 index = bpf_get_smp_processor_id() * SCRATCH_LEVELS + level;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);

	if (!s || !seize(s))
		return NULL;
	s->index = index;
	return s;
}

/* NULL is counted. */
static __always_inline struct scratch *take_scratch(__u32 event, enum scratch_level level)
{
	__u32 index = bpf_get_smp_processor_id() * SCRATCH_LEVELS + level;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);

	if (!s) {
		count(event, MS_COUNT_LOST_CPU);
		return NULL;
	}
	if (!seize(s)) {
		count(event, MS_COUNT_LOST_BUSY);
		return NULL;
	}
	s->index = index;
	s->sample.event = event;
	return s;
}

/* For programs of uprobes. NULL is counted, as having happened too. */
static __always_inline struct scratch *take_probe_scratch(__u32 event)
{
	struct scratch *s = spare_scratch();

	if (!s) {
		count(event, MS_COUNT_FIRED);
		count(event, MS_COUNT_LOST_BUSY);
		return NULL;
	}
	s->sample.event = event;
	return s;
}

#endif /* MOONSCOPE_SCRATCH_H */
