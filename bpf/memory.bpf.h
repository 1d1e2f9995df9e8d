/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `memory`: where resident memory (RSS) grows and shrinks.
 *
 * The kernel counts the resident pages of each mm by kind and tells of each change
 * (rss_stat), whatever made it: a fault of the program, one inside a system call, a
 * populated mapping, munmap. It does not tell by how much. Up to Linux 6.1 it tells the
 * new count, after 64 faults of a thread; later there is a percpu_counter of each kind,
 * which holds up to a batch of pages apart on each CPU, and what these counters were at
 * the last change on this CPU says how many pages came or went.
 *
 * A stack is taken once in `memory_every` pages, at a random page of each such stretch:
 * every page has the same chance, so that sums are right on average for each stack,
 * and off by one stretch at most for each CPU.
 *
 * Values: bytes that came, bytes that went. Tag: enum ms_memory. Only changes of which
 * a stack is due are counted as having happened.
 */
#ifndef MOONSCOPE_MEMORY_H
#define MOONSCOPE_MEMORY_H

#include "scope.h"
#include "stack.h"

const volatile __u32 memory_event;
const volatile __u32 memory_every = 1;	/* pages; not 0 */
const volatile __u32 memory_batch = 32;	/* percpu_counter_batch (lib/percpu_counter.c) */

/* Measuring has begun, and has not ended. */
__u32 memory_is_on SEC(".bss.memory");

struct percpu_counter {
	__s64 count;
	__s32 *counters;
} __attribute__((preserve_access_index));

struct mm_struct___counters {
	struct percpu_counter rss_stat[MS_MEMORY_KINDS];
} __attribute__((preserve_access_index));

/* Linux 5.5 to 6.1: rss_stat tells the count. */
struct mm_rss_stat {
	__s64 count[MS_MEMORY_KINDS];	/* atomic_long_t */
} __attribute__((preserve_access_index));

struct mm_struct___counts {
	struct mm_rss_stat rss_stat;
} __attribute__((preserve_access_index));

struct bpf_array {
	void *pptrs[1];
} __attribute__((preserve_access_index));

enum {
	BYTES_PER_PAGE = 4096,
};

/* A stretch of `memory_every` pages, and the page in it at which a stack is due. */
struct stretch {
	__u32 at;
	__u32 point;
};

/* Of an mm on one CPU. */
struct resident_here {
	__s32 local[MS_MEMORY_KINDS];	/* what the counters of this CPU were */
	__u32 is_known;			/* is what `local` says true? */
	__u32 has_begun;
	__u32 too_many[2];		/* pages that another CPU's change was taken for: came, went */
	struct stretch stretch[2];	/* of pages that came, that went */
};

/* Of an mm: the count of each kind when it was last seen to change. */
struct resident {
	__s64 count[MS_MEMORY_KINDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct resident_here);
} residents_here SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct resident);
} residents SEC(".maps");

/* What is to be added to a per-CPU pointer on this CPU; 0: not known yet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} this_cpu_offset SEC(".maps");

/* ---- how many pages --------------------------------------------------- */

static __always_inline struct percpu_counter *counter_of(__u64 mm, __u32 kind)
{
	struct mm_struct___counters *m = (void *)mm;

	return (void *)(mm + bpf_core_field_offset(m->rss_stat) +
			kind * bpf_core_type_size(struct percpu_counter));
}

static __always_inline __s64 count_of(__u64 mm, __u32 kind)
{
	struct mm_struct___counts *m = (void *)mm;
	__s64 count = 0;

	if (bpf_core_type_exists(struct mm_rss_stat)) {
		bpf_probe_read_kernel(&count, sizeof(count),
				      (void *)(mm + bpf_core_field_offset(m->rss_stat) + kind * sizeof(count)));
		return count;
	}
	return BPF_CORE_READ(counter_of(mm, kind), count);
}

/*
 * The kernel's own variable for it is in no symbol table without CONFIG_KALLSYMS_ALL.
 * But an element of a per-CPU map has a per-CPU pointer too, and here is where it is.
 */
static __always_inline __u64 offset_of_this_cpu(void)
{
	__u32 zero = 0;
	__u64 *known = bpf_map_lookup_elem(&this_cpu_offset, &zero);
	/* the verifier allows no arithmetic with either; as numbers they have to be read */
	void *volatile map = &this_cpu_offset, *volatile element = known;
	__u64 map_at = 0, element_at = 0, pointer = 0;

	if (!known)
		return 0;
	if (*known)
		return *known;
	bpf_probe_read_kernel(&map_at, sizeof(map_at), (void *)&map);
	bpf_probe_read_kernel(&element_at, sizeof(element_at), (void *)&element);
	bpf_probe_read_kernel(&pointer, sizeof(pointer),
			      (void *)(map_at + bpf_core_field_offset(struct bpf_array, pptrs)));
	*known = element_at - pointer;
	return *known;
}

static __always_inline __s32 local_of(__u64 mm, __u32 kind)
{
	__u64 counters = (__u64)BPF_CORE_READ(counter_of(mm, kind), counters);
	__s32 local = 0;

	bpf_probe_read_kernel(&local, sizeof(local), (void *)(counters + offset_of_this_cpu()));
	return local;
}

/* By how much the count has changed since it was last looked at; false: that is not known. */
static __always_inline bool change_of_count(__u64 mm, __u32 kind, __s64 now, __s64 *change)
{
	struct resident *known = bpf_map_lookup_elem(&residents, &mm);
	struct resident first = {};

	if (known) {
		*change = now - known->count[kind];
		known->count[kind] = now;
		return true;
	}
	/* Linux 5.10 refuses the loop as clang lays it out ("back-edge") */
#pragma unroll
	for (__u32 each = 0; each < MS_MEMORY_KINDS; each++)
		first.count[each] = count_of(mm, each);
	first.count[kind] = now;
	bpf_map_update_elem(&residents, &mm, &first, BPF_ANY);
	return false;
}

/* The first change that is seen of an mm on a CPU: one page, as most are. */
static __always_inline __s64 first_change(__u64 mm, struct resident_here *here, __u32 kind)
{
	bool was_moved, is_told = false;
	__s64 change = 0;

#pragma unroll
	for (__u32 each = 0; each < MS_MEMORY_KINDS; each++)
		here->local[each] = local_of(mm, each);
	here->is_known = 1;
	/* it went to the count, which another CPU may have told of; if none has, it is to be told of from now on */
	was_moved = !here->local[kind];
	if (was_moved || !bpf_map_lookup_elem(&residents, &mm))
		is_told = change_of_count(mm, kind, count_of(mm, kind), &change);
	if (was_moved && is_told)
		return change;
	return here->local[kind] < 0 ? -1 : 1;
}

/*
 * The part of this CPU was moved to the count, perhaps, with what has changed just now.
 * So may have been that of another CPU, whose program comes too late to see it.
 */
static __always_inline __s64 moved_change(__u64 mm, struct resident_here *here, __u32 kind, __s32 was,
					  __s32 is)
{
	bool grows = was > 0;
	__u32 part = grows ? was : -was;
	__s64 moved;

	if (!change_of_count(mm, kind, count_of(mm, kind), &moved))
		return grows ? 1 : -1;
	if (!moved && !is && 2 * part >= memory_batch) {
		here->too_many[!grows] += part + 1;
		return grows ? 1 : -1;
	}
	return moved + is - was;
}

static __always_inline __s64 change_by_parts(__u64 mm, struct resident_here *here, __u32 kind)
{
	__s32 was = here->local[kind];
	__s32 is = local_of(mm, kind);

	here->local[kind] = is;
	/* away from zero: nothing was moved */
	if ((was >= 0 && is > was) || (was <= 0 && is < was))
		return is - was;
	return moved_change(mm, here, kind, was, is);
}

/* The signed number of pages by which `kind` has changed; 0: that is not known. */
static __always_inline __s64 change_of(__u64 mm, struct resident_here *here, __u32 kind, __u64 told)
{
	__s64 change = 0;

	if (bpf_core_type_exists(struct mm_rss_stat))
		return change_of_count(mm, kind, told, &change) ? change : 0;
	if (!here->is_known)
		return first_change(mm, here, kind);
	return change_by_parts(mm, here, kind);
}

/* ---- of which a stack is due ------------------------------------------ */

/* Pages that a stack stands for which is taken now; 0: none is due. */
static __always_inline __u64 due(struct stretch *s, __u64 pages)
{
	__u64 taken = 0;

	if (pages >= memory_every)
		return pages;
	if (s->point >= s->at && s->point < s->at + pages)
		taken = memory_every;
	s->at += pages;
	if (s->at < memory_every)
		return taken;
	s->at -= memory_every;
	s->point = bpf_get_prandom_u32() % memory_every;
	if (s->point < s->at)
		taken += memory_every;
	return taken;
}

/* Not on the stack: on Linux 5.10 that of the walk leaves little (MAX_BPF_STACK is 512 bytes of all calls). */
static const struct resident_here nothing_known;

/* An element that another CPU made is there with nothing in it. */
static __always_inline struct resident_here *resident_here(__u64 mm)
{
	struct resident_here *here = bpf_map_lookup_elem(&residents_here, &mm);

	if (!here) {
		bpf_map_update_elem(&residents_here, &mm, &nothing_known, BPF_ANY);
		here = bpf_map_lookup_elem(&residents_here, &mm);
	}
	if (!here || here->has_begun)
		return here;
	here->has_begun = 1;
	for (int i = 0; i < 2; i++) {
		here->stretch[i].at = bpf_get_prandom_u32() % memory_every;
		here->stretch[i].point = bpf_get_prandom_u32() % memory_every;
	}
	return here;
}

/*
 * Somebody else changes this mm: it is being copied by fork, given up at exit or exec,
 * reclaimed. What is known of it does not hold.
 */
static __always_inline void forget_resident(__u64 mm)
{
	bpf_map_delete_elem(&residents_here, &mm);
	bpf_map_delete_elem(&residents, &mm);
}

enum {
	DUE_WENT = 1 << 0,
	DUE_NO_ROOM = 1 << 1,
	DUE_PAGES_SHIFT = 2,
};

/*
 * Pages that a stack is due for, shifted, and whether they went. Global: it is verified
 * once by itself, and not together with the walk for each way through it.
 */
__attribute__((noinline)) __u64 memory_due(__u64 mm, __u64 kind, __u64 told)
{
	struct resident_here *here;
	__u64 pages, skipped;
	__s64 change;
	__u32 went;

	/* for the verifier: there are no others */
	kind &= MS_MEMORY_KINDS - 1;
	here = resident_here(mm);
	if (!here)
		return DUE_NO_ROOM;
	change = change_of(mm, here, kind, told);
	went = change < 0;
	pages = went ? -change : change;
	skipped = here->too_many[went];
	if (skipped) {
		if (skipped > pages)
			skipped = pages;
		here->too_many[went] -= skipped;
		pages -= skipped;
	}
	return due(&here->stretch[went], pages) << DUE_PAGES_SHIFT | (went ? DUE_WENT : 0);
}

/* rss_stat(mm, kind[, count]) */
static __always_inline int on_resident(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 mm = ctx->args[0], told = 0, taken, bytes;
	__u32 kind = (__u32)ctx->args[1];
	struct scratch *s;

	if ((__u64)BPF_CORE_READ(task, mm) != mm) {
		forget_resident(mm);
		return 0;
	}
	if (kind == MS_MEMORY_SWAP || !current_is_wanted(bpf_get_current_pid_tgid() >> 32))
		return 0;
	if (bpf_core_type_exists(struct mm_rss_stat))
		told = ctx->args[2];
	taken = memory_due(mm, kind, told);
	if (!taken || taken == DUE_WENT || !memory_is_on)
		return 0;
	count(memory_event, MS_COUNT_FIRED);
	if (taken & DUE_NO_ROOM) {
		count(memory_event, MS_COUNT_LOST_MAP);
		return 0;
	}
	s = take_scratch(memory_event, SCRATCH_TASK);
	if (!s)
		return 0;
	take_stack(s, ctx, loop);
	bytes = (taken >> DUE_PAGES_SHIFT) * BYTES_PER_PAGE;
	s->sample.tag = kind;
	s->sample.sum = (struct ms_sum){ .count = 1 };
	s->sample.sum.value[0] = taken & DUE_WENT ? 0 : bytes;
	s->sample.sum.value[1] = taken & DUE_WENT ? bytes : 0;
	sum_sample(s);
	give_back(s);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/rss_stat", memory_change, struct bpf_raw_tracepoint_args, on_resident)

#endif /* MOONSCOPE_MEMORY_H */
