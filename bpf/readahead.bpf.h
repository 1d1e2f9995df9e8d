/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `readahead`: pages of files that the kernel reads before anybody asks for
 * them, and what becomes of them.
 *
 * A window begins where the kernel decides to read (page_cache_ra_unbounded and
 * page_cache_ra_order, Linux 6.18): there the stack is taken. Every page that the thread then
 * adds to the page cache is remembered, until a read or a fault asks for it (used) or it leaves
 * the cache (evicted). What is left at the end is still in the cache, and waits.
 *
 * Values: MS_READAHEAD_BYTES and so on. The count is that of windows. Tag: number of the file.
 */
#ifndef MOONSCOPE_READAHEAD_H
#define MOONSCOPE_READAHEAD_H

#include "io_file.h"
#include "scope.h"
#include "stack.h"

const volatile __u32 readahead_event;

/* Measuring has begun, and has not ended. */
__u32 readahead_is_on SEC(".bss.readahead");
/* 0, and the verifier does not know: it follows a loop once for each value that it knows of a sum. */
__u64 readahead_zero SEC(".bss.readahead");

enum {
	RA_PAGE_BYTES = 4096,
	RA_PAGE_SHIFT = 12,
	/* arch/x86/entry/syscalls/syscall_64.tbl: those that say where they read */
	RA_READ = 0,
	RA_PREAD = 17,
	/* Most pages that one part can have: 31 folios of 2 MiB (PAGEVEC_SIZE, include/linux/folio_batch.h). */
	RA_MOST = 16384,
	/* Order of the largest folio in the page cache: 2 MiB. */
	RA_MAX_ORDER = 9,
};

struct rw_semaphore {
	struct {
		__s64 counter;
	} count;
} __attribute__((preserve_access_index));

struct address_space {
	struct inode *host;
	struct rw_semaphore invalidate_lock;
} __attribute__((preserve_access_index));

struct inode___mapping {
	struct address_space *i_mapping;
} __attribute__((preserve_access_index));

struct folio {
	struct address_space *mapping;
	unsigned long index;
	unsigned long _flags_1;
} __attribute__((preserve_access_index));

struct file___read {
	struct address_space *f_mapping;
	__u64 f_pos;
} __attribute__((preserve_access_index));

struct file_ra_state {
	__u32 size;		/* pages */
} __attribute__((preserve_access_index));

enum pageflags___probe {
	PG_head___probe = 6,
};

/* What a thread is reading. */
struct ra_thread {
	/* the window that it reads ahead */
	__u64 mapping;
	__u64 first;
	__u64 end;
	struct ms_stack_id stack;
	__u32 tag;
	__u32 unused;
	/* what it reads, and up to where that was looked at */
	__u64 read_mapping;
	__u64 read_index;
	__u64 read_last;
	__u64 looked_to;
};

static const struct ra_thread no_thread;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ra_thread);
} readahead_threads SEC(".maps");

struct ra_page_key {
	__u64 mapping;
	__u64 index;
};

struct ra_page {
	struct ms_stack_id stack;
	__u32 tag;
	__u32 unused;
};

/* Pages that were read ahead and that nobody asked for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct ra_page_key);
	__type(value, struct ra_page);
} readahead_pages SEC(".maps");

/* How many of them the files have whose mappings fall on a place: most reads find none, and look no further. */
#define RA_PLACES (1 << 14)
__u32 readahead_places[RA_PLACES] SEC(".bss.places");

static __always_inline __u32 *place_of(__u64 mapping)
{
	return &readahead_places[mapping * 0x9e3779b97f4a7c15ULL >> 50];
}

/* A window, where otherwise a place of a value is told. */
#define RA_WINDOW MS_VALUES

/*
 * Adds to the values of a stack: so many pages, or a window; 0: there was no room, and that is
 * counted. Global: it is verified once by itself, and not for each way to it.
 */
__attribute__((noinline)) int readahead_sum(__u64 a, __u64 b, __u64 tag, __u64 what, __u64 pages)
{
	struct ms_sum_key key = { .stack = { .a = a, .b = b }, .event = readahead_event, .tag = tag };
	struct ms_sum sum = {};

	if (what == RA_WINDOW)
		sum.count = 1;
	else
		sum.value[what & (MS_VALUES - 1)] = pages * RA_PAGE_BYTES;
	if (add_values(&key, &sum))
		return 1;
	count(readahead_event, MS_COUNT_FIRED);
	count(readahead_event, MS_COUNT_LOST_MAP);
	return 0;
}

/* ---- a window --------------------------------------------------------- */

/* What the running thread adds to these pages from now on is read ahead. */
static __always_inline int begin_window(const struct inode *inode, __u64 first, __u64 pages)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)pid_tgid;
	struct ra_thread *known, thread = {};

	if (!readahead_is_on || !current_is_wanted(pid_tgid >> 32))
		return 0;
	thread.mapping = (__u64)BPF_CORE_READ((const struct inode___mapping *)inode, i_mapping);
	thread.first = first;
	thread.end = first + pages;
	/* only this thread writes there; what it reads has to be looked at anew */
	known = bpf_map_lookup_elem(&readahead_threads, &tid);
	if (known) {
		thread.read_mapping = known->read_mapping;
		thread.looked_to = known->looked_to;
		*known = thread;
	} else {
		bpf_map_update_elem(&readahead_threads, &tid, &thread, BPF_ANY);
	}
	return 0;
}

/* page_cache_ra_unbounded(inode, index, pages, lookahead) */
TRACEPOINT_PROGRAM("raw_tracepoint/page_cache_ra_unbounded", readahead_window)
{
	return begin_window((void *)ctx->args[0], ctx->args[1], ctx->args[2]);
}

/* page_cache_ra_order(inode, index, state); where there are no large folios, the former follows */
TRACEPOINT_PROGRAM("raw_tracepoint/page_cache_ra_order", readahead_large)
{
	const struct file_ra_state *state = (void *)ctx->args[2];

	return begin_window((void *)ctx->args[0], ctx->args[1], BPF_CORE_READ(state, size));
}

/* ---- its pages -------------------------------------------------------- */

/* folio_order(): the flags come first in every kernel, the order is in the second page. */
static __always_inline __u32 pages_of(const struct folio *folio)
{
	unsigned long flags = 0;
	__u32 order;

	bpf_probe_read_kernel(&flags, sizeof(flags), folio);
	if (!(flags >> bpf_core_enum_value(enum pageflags___probe, PG_head___probe) & 1))
		return 1;
	order = BPF_CORE_READ(folio, _flags_1) & 0xff;
	return 1U << (order > RA_MAX_ORDER ? RA_MAX_ORDER : order);
}

/*
 * Is the running thread reading ahead there? The kernel holds this lock while it does
 * (mm/readahead.c), and not while a write adds a page.
 */
static __always_inline bool is_in_window(const struct ra_thread *thread, struct address_space *mapping, __u64 index)
{
	__s64 readers;

	if (thread->mapping != (__u64)mapping || index < thread->first || index >= thread->end)
		return false;
	/* RWSEM_READER_BIAS (kernel/locking/rwsem.c) */
	readers = BPF_CORE_READ(mapping, invalidate_lock.count.counter) >> 8;
	return readers > 0;
}

/* The stack of a window, when its first page is added; false: it is lost, and that is counted. */
static __always_inline bool take_window(void *ctx, struct ra_thread *thread, struct inode *inode, enum walk_loop loop)
{
	struct scratch *s;
	bool is_shipped;

	/* it needs the scratch too */
	thread->tag = file_number((__u64)inode, (__u64)alias_of(inode), 0);
	s = take_scratch(readahead_event, SCRATCH_TASK);
	if (!s) {
		count(readahead_event, MS_COUNT_FIRED);
		thread->end = 0;
		return false;
	}
	take_stack(s, ctx, loop);
	is_shipped = ship_stack_once(s);
	thread->stack = s->hash;
	give_back(s);
	if (!is_shipped) {
		count(readahead_event, MS_COUNT_FIRED);
		count(readahead_event, MS_COUNT_LOST_RING);
		thread->end = 0;
	} else if (readahead_sum(thread->stack.a, thread->stack.b, thread->tag, RA_WINDOW, 0)) {
		count(readahead_event, MS_COUNT_FIRED);
		count(readahead_event, MS_COUNT_SUMMED);
	}
	return is_shipped;
}

/* Pages that are remembered one after the other. */
struct ra_adding {
	struct ra_page_key key;
	struct ra_page page;
	__u64 remembered;
};

static long remember_page(__u32 i, struct ra_adding *adding)
{
	if (!bpf_map_update_elem(&readahead_pages, &adding->key, &adding->page, BPF_ANY)) {
		adding->remembered++;
	} else {
		count(readahead_event, MS_COUNT_FIRED);
		count(readahead_event, MS_COUNT_LOST_MAP);
	}
	adding->key.index++;
	return 0;
}

/* Remembers pages of the running thread's window, which nobody has asked for yet. Global, as above. */
__attribute__((noinline)) int readahead_remember(__u64 mapping, __u64 index, __u32 pages)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct ra_thread *thread = bpf_map_lookup_elem(&readahead_threads, &tid);
	struct ra_adding adding = {
		.key = { .mapping = mapping, .index = index },
		.remembered = readahead_zero,
	};

	if (!thread)
		return 0;
	adding.page.stack = thread->stack;
	adding.page.tag = thread->tag;
	bpf_loop(pages, remember_page, &adding, 0);
	__sync_fetch_and_add(place_of(mapping), adding.remembered);
	if (adding.remembered)
		readahead_sum(adding.page.stack.a, adding.page.stack.b, adding.page.tag, MS_READAHEAD_READ,
			      adding.remembered);
	return 0;
}

/* mm_filemap_add_to_page_cache(folio) */
static __always_inline int on_ra_add(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct folio *folio = (void *)ctx->args[0];
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct ra_thread *thread = bpf_map_lookup_elem(&readahead_threads, &tid);
	struct address_space *mapping;
	__u64 index;

	if (!thread || !readahead_is_on)
		return 0;
	mapping = BPF_CORE_READ(folio, mapping);
	index = BPF_CORE_READ(folio, index);
	if (!is_in_window(thread, mapping, index))
		return 0;
	if (!thread->stack.a && !thread->stack.b && !take_window(ctx, thread, BPF_CORE_READ(mapping, host), loop))
		return 0;
	readahead_remember((__u64)mapping, index, pages_of(folio));
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/mm_filemap_add_to_page_cache", readahead_add, struct bpf_raw_tracepoint_args, on_ra_add)

/* ---- what becomes of them --------------------------------------------- */

/* Pages of a file that are gone through in order; those with one stack are added up. */
struct ra_search {
	struct ra_page_key key;
	__u64 end;
	__u64 found;
	struct ra_page page;
	__u32 what;
	__u32 unused;
};

static __always_inline void add_found(struct ra_search *search)
{
	if (search->found)
		readahead_sum(search->page.stack.a, search->page.stack.b, search->page.tag, search->what, search->found);
	search->found = readahead_zero;
}

static __always_inline void look_at_page(struct ra_search *search)
{
	struct ra_page *known = bpf_map_lookup_elem(&readahead_pages, &search->key);
	struct ra_page page;

	if (!known)
		return;
	page = *known;
	/* another thread may ask for it at the same time */
	if (bpf_map_delete_elem(&readahead_pages, &search->key))
		return;
	__sync_fetch_and_add(place_of(search->key.mapping), -1);
	if (page.stack.a != search->page.stack.a || page.stack.b != search->page.stack.b ||
	    page.tag != search->page.tag)
		add_found(search);
	search->page = page;
	search->found++;
}

static long look_at_pages(__u32 i, struct ra_search *search)
{
	if (search->key.index >= search->end)
		return 1;
	look_at_page(search);
	search->key.index++;
	return 0;
}

/* Up to RA_MOST pages from `first` on, of which `what` has happened. */
static __always_inline void end_pages(__u64 mapping, __u64 first, __u64 pages, __u32 what)
{
	struct ra_search search = {
		.key = { .mapping = mapping, .index = first },
		.end = first + pages,
		.found = readahead_zero,
		.what = what,
	};

	if (pages == 1)
		look_at_page(&search);
	else
		bpf_loop(RA_MOST, look_at_pages, &search, 0);
	add_found(&search);
}

/* False: of this file there is nothing that nobody asked for. */
static __always_inline bool may_have_pages(__u64 mapping)
{
	return readahead_is_on && *place_of(mapping) != 0;
}

/*
 * Where a read began of which a part is told of: the kernel does not tell of those parts that
 * had come from disk when a later page had not (filemap_get_pages, mm/filemap.c). Where that
 * cannot be known (sendfile, readv), whatever lies between what the thread read last and this
 * counts as read too.
 */
static __always_inline __u64 start_of_read(__u64 mapping, __u64 first, const struct ra_thread *thread)
{
	struct file___read *file;
	struct pt_regs regs;
	__u64 start;

	if (saved_user_regs(&regs))
		return first;
	if (regs.orig_ax == RA_READ || regs.orig_ax == RA_PREAD) {
		file = (void *)file_of_fd(regs.di);
		if ((__u64)BPF_CORE_READ(file, f_mapping) != mapping)
			return first;
		/* the position of the file moves when the call has ended */
		start = (regs.orig_ax == RA_PREAD ? regs.r10 : BPF_CORE_READ(file, f_pos)) >> RA_PAGE_SHIFT;
	} else if (thread && thread->read_mapping == mapping) {
		start = thread->looked_to;
	} else if (thread && thread->mapping == mapping) {
		start = thread->first;
	} else {
		return first;
	}
	return start < first && first - start < RA_MOST ? start : first;
}

/*
 * The first page of a read that was not looked at. A long read is told of again for each part
 * of it, always to its end: it is looked at once.
 */
static __always_inline __u64 not_looked_at(__u64 mapping, __u64 first, __u64 last)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct ra_thread *known = bpf_map_lookup_elem(&readahead_threads, &tid);
	__u64 from;

	if (!known) {
		bpf_map_update_elem(&readahead_threads, &tid, &no_thread, BPF_ANY);
		known = bpf_map_lookup_elem(&readahead_threads, &tid);
	}
	if (known && known->read_mapping == mapping && known->read_last == last && first > known->read_index &&
	    first <= known->looked_to)
		from = known->looked_to;
	else
		from = start_of_read(mapping, first, known);
	if (!known)
		return from;
	known->read_mapping = mapping;
	known->read_index = first;
	known->read_last = last;
	known->looked_to = last - from < RA_MOST ? last + 1 : from + RA_MOST;
	return from;
}

/* mm_filemap_get_pages(mapping, index, last): of a read, a sendfile, a splice */
TRACEPOINT_PROGRAM("raw_tracepoint/mm_filemap_get_pages", readahead_read)
{
	__u64 mapping = ctx->args[0], first = ctx->args[1], last = ctx->args[2];

	if (!may_have_pages(mapping) || last < first)
		return 0;
	first = not_looked_at(mapping, first, last);
	if (first <= last)
		end_pages(mapping, first, last - first + 1, MS_READAHEAD_USED);
	return 0;
}

/* mm_filemap_map_pages(mapping, first, last): what lies around a fault is mapped with it */
TRACEPOINT_PROGRAM("raw_tracepoint/mm_filemap_map_pages", readahead_map)
{
	__u64 mapping = ctx->args[0], first = ctx->args[1], last = ctx->args[2];

	if (may_have_pages(mapping) && last >= first)
		end_pages(mapping, first, last - first + 1, MS_READAHEAD_USED);
	return 0;
}

/* mm_filemap_fault(mapping, index) */
TRACEPOINT_PROGRAM("raw_tracepoint/mm_filemap_fault", readahead_fault)
{
	__u64 mapping = ctx->args[0];

	if (may_have_pages(mapping))
		end_pages(mapping, ctx->args[1], 1, MS_READAHEAD_USED);
	return 0;
}

/* mm_filemap_delete_from_page_cache(folio) */
TRACEPOINT_PROGRAM("raw_tracepoint/mm_filemap_delete_from_page_cache", readahead_delete)
{
	const struct folio *folio = (void *)ctx->args[0];
	__u64 mapping = (__u64)BPF_CORE_READ(folio, mapping);

	if (may_have_pages(mapping))
		end_pages(mapping, BPF_CORE_READ(folio, index), pages_of(folio), MS_READAHEAD_EVICTED);
	return 0;
}

#endif /* MOONSCOPE_READAHEAD_H */
