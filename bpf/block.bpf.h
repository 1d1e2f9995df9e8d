/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `block`: requests to block devices. One begins when it is made, where the
 * stack of whoever submits it is taken (block_io_start, Linux 6.5; before, where it is first
 * queued or issued), and ends when the device has completed all of it.
 *
 * Completions come in interrupts. A program of a classic tracepoint is skipped there while one
 * of a tick or of a probe runs on that CPU (bpf_prog_active, kernel/trace/bpf_trace.c); one of a
 * raw tracepoint only while it runs itself (bpf_prog->active, Linux 6.1). Should that happen, or
 * should the kernel run no program at all where the interrupt comes, the request is counted as
 * lost when its place is used again: the kernel has a fixed number of them for each device.
 *
 * Values: MS_BLOCK_BYTES and so on. Tag: enum ms_block_op and the number of the device.
 */
#ifndef MOONSCOPE_BLOCK_H
#define MOONSCOPE_BLOCK_H

#include "scope.h"
#include "stack.h"

const volatile __u32 block_event;
/* Which argument of block_rq_insert, block_rq_issue and block_rq_merge is the request (1 before Linux 5.11). */
const volatile __u32 block_argument;
/* A request that was merged into another is told of (block_rq_merge). */
const volatile bool block_tells_merges;

/* Measuring has begun, and has not ended. */
__u32 block_is_on SEC(".bss.block");

struct gendisk {
	int major;
	int first_minor;
} __attribute__((preserve_access_index));

struct request_queue {
	struct gendisk *disk;	/* 5.17 */
} __attribute__((preserve_access_index));

struct request {
	struct request_queue *q;
	__u32 cmd_flags;
	__u32 rq_flags;
	__u32 __data_len;	/* bytes that are not complete */
	__u64 start_time_ns;	/* when it was made; a request that is queued again keeps it */
} __attribute__((preserve_access_index));

struct request___disk {
	struct gendisk *rq_disk;	/* before 5.17 */
} __attribute__((preserve_access_index));

/* Since Linux 6.11; before, RQF_FLUSH_SEQ was bit 4 (include/linux/blk-mq.h). */
enum rqf_flags___probe {
	__RQF_FLUSH_SEQ___probe = 1,
};

/* enum req_op (include/linux/blk_types.h) */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_SECURE_ERASE 5

struct block_request {
	__u64 since;
	__u64 made;			/* request.start_time_ns */
	__u64 issued;			/* to the device; 0: not yet */
	struct ms_stack_id stack;
	__u32 bytes;			/* known when it is issued: no more is merged into it then */
	__u32 tag;
	__u32 has_failed;
	__u32 unused;
};

/* Requests that are not complete, by their address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct block_request);
} block_requests SEC(".maps");

/* A flush is a write of nothing until it is issued (blkdev_issue_flush, block/blk-flush.c). */
static __always_inline __u32 op_of_block(const struct request *request)
{
	switch (BPF_CORE_READ(request, cmd_flags) & REQ_OP_MASK) {
	case REQ_OP_READ:
		return MS_BLOCK_READ;
	case REQ_OP_WRITE:
		return BPF_CORE_READ(request, __data_len) ? MS_BLOCK_WRITE : MS_BLOCK_FLUSH;
	case REQ_OP_FLUSH:
		return MS_BLOCK_FLUSH;
	case REQ_OP_DISCARD:
	case REQ_OP_SECURE_ERASE:
		return MS_BLOCK_DISCARD;
	default:
		return MS_BLOCK_OTHER;
	}
}

static __always_inline __u32 tag_of_block(const struct request *request)
{
	const struct request___disk *old = (const void *)request;
	struct gendisk *disk;
	__u32 major, minor;

	if (bpf_core_field_exists(old->rq_disk))
		disk = BPF_CORE_READ(old, rq_disk);
	else
		disk = BPF_CORE_READ(request, q, disk);
	major = BPF_CORE_READ(disk, major);
	minor = BPF_CORE_READ(disk, first_minor);
	return op_of_block(request) | (minor & MS_BLOCK_MINOR_MASK) << MS_BLOCK_MINOR_SHIFT |
	       major << MS_BLOCK_MAJOR_SHIFT;
}

static __always_inline void block_lost(enum ms_count why)
{
	count(block_event, MS_COUNT_FIRED);
	count(block_event, why);
}

/* The end of what was known under this address was not seen; or it was merged into another request. */
static __always_inline void end_unseen(void)
{
	block_lost(block_tells_merges ? MS_COUNT_LOST_END : MS_COUNT_UNWANTED);
}

/* Takes the stack of whoever submits it, and remembers the request. */
static __always_inline int begin_request(void *ctx, __u64 key, __u64 issued, enum walk_loop loop)
{
	struct request *request = (void *)key;
	struct block_request begun = {};
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct scratch *s;

	/* the idle task submits nothing: whoever it was has been interrupted or has left */
	if (!block_is_on || !pid || !current_is_wanted(pid))
		return 0;
	s = take_scratch(block_event, SCRATCH_TASK);
	if (!s) {
		count(block_event, MS_COUNT_FIRED);
		return 0;
	}
	take_stack(s, ctx, loop);
	/* one that was not queued begins when it is issued, which was before its stack was taken */
	begun.since = issued ?: s->sample.time;
	begun.made = BPF_CORE_READ(request, start_time_ns);
	begun.issued = issued;
	begun.tag = tag_of_block(request);
	if (issued)
		begun.bytes = BPF_CORE_READ(request, __data_len);
	if (!ship_stack_once(s)) {
		block_lost(MS_COUNT_LOST_RING);
	} else {
		begun.stack = s->hash;
		if (bpf_map_update_elem(&block_requests, &key, &begun, BPF_ANY))
			block_lost(MS_COUNT_LOST_MAP);
	}
	give_back(s);
	return 0;
}

/* block_io_start(request) */
static __always_inline int on_block_start(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	__u64 key = ctx->args[0];

	if (bpf_map_lookup_elem(&block_requests, &key)) {
		bpf_map_delete_elem(&block_requests, &key);
		end_unseen();
	}
	return begin_request(ctx, key, 0, loop);
}

WALKING_TRACEPOINT("raw_tracepoint/block_io_start", block_start, struct bpf_raw_tracepoint_args, on_block_start)

static __always_inline __u64 told_request(const struct bpf_raw_tracepoint_args *ctx)
{
	return block_argument ? ctx->args[1] : ctx->args[0];
}

/* Only the first time: a request that the device had no room for is issued again. */
static __always_inline void note_issue(struct block_request *known, __u64 key)
{
	if (known->issued)
		return;
	known->bytes = BPF_CORE_READ((struct request *)key, __data_len);
	known->issued = bpf_ktime_get_ns();
}

/* block_rq_issue(request) */
TRACEPOINT_PROGRAM("raw_tracepoint/block_rq_issue", block_issue)
{
	__u64 key = told_request(ctx);
	struct block_request *known = bpf_map_lookup_elem(&block_requests, &key);

	if (known)
		note_issue(known, key);
	return 0;
}

/* block_rq_merge(request): it goes away, and what it has to do is part of another one. */
TRACEPOINT_PROGRAM("raw_tracepoint/block_rq_merge", block_merge)
{
	__u64 key = told_request(ctx);

	if (!bpf_map_delete_elem(&block_requests, &key))
		block_lost(MS_COUNT_UNWANTED);
	return 0;
}

/* ---- before Linux 6.5 ------------------------------------------------- */

/* What is known of a request; not of an earlier one that had this address. */
static __always_inline struct block_request *known_request(__u64 key)
{
	struct block_request *known = bpf_map_lookup_elem(&block_requests, &key);

	if (!known || known->made == BPF_CORE_READ((struct request *)key, start_time_ns))
		return known;
	bpf_map_delete_elem(&block_requests, &key);
	end_unseen();
	return NULL;
}

/* block_rq_insert(request) */
static __always_inline int on_block_insert(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	__u64 key = told_request(ctx);

	return known_request(key) ? 0 : begin_request(ctx, key, 0, loop);
}

WALKING_TRACEPOINT("raw_tracepoint/block_rq_insert", block_insert, struct bpf_raw_tracepoint_args, on_block_insert)

/* block_rq_issue(request) of one that was not queued before */
static __always_inline int on_block_first_issue(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	__u64 key = told_request(ctx);
	struct block_request *known = known_request(key);

	if (!known)
		return begin_request(ctx, key, bpf_ktime_get_ns(), loop);
	note_issue(known, key);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/block_rq_issue", block_first_issue, struct bpf_raw_tracepoint_args, on_block_first_issue)

/* ---- the end ---------------------------------------------------------- */

/*
 * Is this the end of the data of a request that needs the device's cache to be flushed before
 * or after them? Its own end is told of when all is done (blk_flush_complete_seq, block/blk-flush.c).
 * The request that does the flush has the same flag.
 */
static __always_inline bool is_in_flush(const struct request *request)
{
	__u32 flag = 1 << 4;

	if ((BPF_CORE_READ(request, cmd_flags) & REQ_OP_MASK) == REQ_OP_FLUSH)
		return false;
	if (bpf_core_enum_value_exists(enum rqf_flags___probe, __RQF_FLUSH_SEQ___probe))
		flag = 1 << bpf_core_enum_value(enum rqf_flags___probe, __RQF_FLUSH_SEQ___probe);
	return BPF_CORE_READ(request, rq_flags) & flag;
}

/* Time and bytes of a request that is complete. */
static __always_inline void value_request(const struct block_request *done, __u64 now, struct ms_sum *sum)
{
	__u64 issued = done->issued ?: done->since;
	__u32 op = done->tag & MS_BLOCK_OP_MASK;

	sum->count = 1;
	sum->value[MS_BLOCK_TIME] = now - issued;
	sum->value[MS_BLOCK_QUEUED] = issued - done->since;
	if (done->has_failed)
		sum->value[MS_BLOCK_ERRORS] = 1;
	else if (op == MS_BLOCK_READ || op == MS_BLOCK_WRITE)
		sum->value[MS_BLOCK_BYTES] = done->bytes;
}

/* block_rq_complete(request, error, bytes): of a part of it, perhaps */
TRACEPOINT_PROGRAM("raw_tracepoint/block_rq_complete", block_complete)
{
	struct request *request = (void *)ctx->args[0];
	__u64 key = ctx->args[0];
	struct block_request *known = bpf_map_lookup_elem(&block_requests, &key);
	struct ms_sum_key sum_key = { .event = block_event };
	struct block_request done;
	struct ms_sum sum = {};

	if (!known)
		return 0;
	/* an int before Linux 5.16, a blk_status_t since */
	if (ctx->args[1])
		known->has_failed = 1;
	if ((__u32)ctx->args[2] < BPF_CORE_READ(request, __data_len) || is_in_flush(request))
		return 0;
	done = *known;
	if (bpf_map_delete_elem(&block_requests, &key) || !block_is_on)
		return 0;
	value_request(&done, bpf_ktime_get_ns(), &sum);
	sum_key.stack = done.stack;
	sum_key.tag = done.tag;
	count(block_event, MS_COUNT_FIRED);
	count(block_event, add_values(&sum_key, &sum) ? MS_COUNT_SUMMED : MS_COUNT_LOST_MAP);
	return 0;
}


#endif /* MOONSCOPE_BLOCK_H */
