/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `io`, requests of io_uring. One begins when its thread (or the kernel
 * thread that polls for it) submits it, and ends when it is complete, wherever that is
 * noticed. Its stack is the one of the submission.
 */
#ifndef MOONSCOPE_IO_URING_H
#define MOONSCOPE_IO_URING_H

#include "io.bpf.h"

struct io_cqe {
	__s32 res;
} __attribute__((preserve_access_index));

struct io_kiocb {
	struct file *file;
	__u8 opcode;
	struct io_cqe cqe;	/* 5.19 */
} __attribute__((preserve_access_index));

struct io_request {
	__u64 since;
	struct ms_stack_id stack;
	__u32 op;
	__u32 unused;
};

/* Requests that are not complete. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct io_request);
} io_requests SEC(".maps");

/* enum io_uring_op (include/uapi/linux/io_uring.h) */
static __always_inline __u32 op_of_request(__u8 opcode)
{
	switch (opcode) {
	case 1:		/* READV */
	case 4:		/* READ_FIXED */
	case 10:	/* RECVMSG */
	case 22:	/* READ */
	case 27:	/* RECV */
	case 60:	/* READV_FIXED */
		return MS_IO_READ;
	case 2:		/* WRITEV */
	case 5:		/* WRITE_FIXED */
	case 9:		/* SENDMSG */
	case 23:	/* WRITE */
	case 26:	/* SEND */
	case 47:	/* SEND_ZC */
	case 48:	/* SENDMSG_ZC */
	case 61:	/* WRITEV_FIXED */
		return MS_IO_WRITE;
	case 3:		/* FSYNC */
	case 8:		/* SYNC_FILE_RANGE */
		return MS_IO_SYNC;
	case 30:	/* SPLICE */
	case 33:	/* TEE */
		return MS_IO_COPY;
	default:
		return MS_IO_NO_OP;
	}
}

/* io_uring_submit_req(request), Linux 6.3 */
static __always_inline int on_io_submit(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	struct io_kiocb *request = (void *)ctx->args[0];
	struct io_request begun = {};
	__u64 key = ctx->args[0];
	struct scratch *s;

	if (!io_since || !current_is_wanted(bpf_get_current_pid_tgid() >> 32))
		return 0;
	begun.op = op_of_request(BPF_CORE_READ(request, opcode));
	if (begun.op == MS_IO_NO_OP)
		return 0;
	begun.since = bpf_ktime_get_ns();
	s = take_scratch(io_event, SCRATCH_TASK);
	if (!s) {
		count(io_event, MS_COUNT_FIRED);
		return 0;
	}
	take_user_stack_only(s, ctx, loop);
	if (!ship_stack_once(s)) {
		count(io_event, MS_COUNT_FIRED);
		count(io_event, MS_COUNT_LOST_RING);
	} else {
		begun.stack = s->hash;
		if (bpf_map_update_elem(&io_requests, &key, &begun, BPF_ANY)) {
			count(io_event, MS_COUNT_FIRED);
			count(io_event, MS_COUNT_LOST_MAP);
		}
	}
	give_back(s);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/io_uring_submit_req", io_submit, struct bpf_raw_tracepoint_args, on_io_submit)

/* io_uring_complete(context, request, ...); of what has no request of its own it is NULL */
TRACEPOINT_PROGRAM("raw_tracepoint/io_uring_complete", io_complete)
{
	struct io_kiocb *request = (void *)ctx->args[1];
	__u64 key = ctx->args[1];
	struct io_request *known = bpf_map_lookup_elem(&io_requests, &key);
	struct ms_sum_key sum_key = { .event = io_event };
	struct io_request begun;
	struct ms_sum sum = {};

	if (!known)
		return 0;
	begun = *known;
	bpf_map_delete_elem(&io_requests, &key);
	if (!io_since)
		return 0;
	count(io_event, MS_COUNT_FIRED);
	value_result(begun.op, BPF_CORE_READ(request, cqe.res), &sum);
	sum.value[MS_IO_TIME] = bpf_ktime_get_ns() - begun.since;
	sum_key.stack = begun.stack;
	sum_key.tag = begun.op | tag_of_file(BPF_CORE_READ(request, file), WITH_NUMBER);
	count(io_event, add_values(&sum_key, &sum) ? MS_COUNT_SUMMED : MS_COUNT_LOST_MAP);
	return 0;
}

#endif /* MOONSCOPE_IO_URING_H */
