/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `io`: system calls that read, write, send, receive, copy and sync.
 * A call begins in sys_enter, where its file is looked at, and ends in sys_exit, where
 * its result is known and its stack is taken: the user part only, as the kernel's part
 * is the same for all system calls there.
 *
 * Values: MS_IO_BYTES and so on. Tag: enum ms_io_op, enum ms_io_kind, and the number of the file if paths are wanted.
 */
#ifndef MOONSCOPE_IO_H
#define MOONSCOPE_IO_H

#include "io_file.h"
#include "scope.h"
#include "stack.h"
#include "system_call.h"

const volatile __u32 io_event;

/* When measuring began (CLOCK_MONOTONIC, nanoseconds); 0: it has not, or has ended. */
__u64 io_since SEC(".bss.io");
/* Not all threads are remembered: one without a beginning need not be as old as the recording. */
__u32 io_was_full SEC(".bss.io");

#define CALL(op, fd) (MS_IO_##op | (fd) << MS_IO_FD_SHIFT)

/* arch/x86/entry/syscalls/syscall_64.tbl; of two files the one that is written to */
const volatile __u8 io_calls[MS_IO_CALLS] = {
	[0] = CALL(READ, 0),	/* read */
	[1] = CALL(WRITE, 0),	/* write */
	[17] = CALL(READ, 0),	/* pread64 */
	[18] = CALL(WRITE, 0),	/* pwrite64 */
	[19] = CALL(READ, 0),	/* readv */
	[20] = CALL(WRITE, 0),	/* writev */
	[26] = MS_IO_SYNC | MS_IO_NO_FD,	/* msync */
	[40] = CALL(COPY, 0),	/* sendfile */
	[44] = CALL(WRITE, 0),	/* sendto */
	[45] = CALL(READ, 0),	/* recvfrom */
	[46] = CALL(WRITE, 0),	/* sendmsg */
	[47] = CALL(READ, 0),	/* recvmsg */
	[74] = CALL(SYNC, 0),	/* fsync */
	[75] = CALL(SYNC, 0),	/* fdatasync */
	[162] = MS_IO_SYNC | MS_IO_NO_FD,	/* sync */
	[275] = CALL(COPY, 2),	/* splice */
	[276] = CALL(COPY, 1),	/* tee */
	[277] = CALL(SYNC, 0),	/* sync_file_range */
	[278] = CALL(COPY, 0),	/* vmsplice */
	[295] = CALL(READ, 0),	/* preadv */
	[296] = CALL(WRITE, 0),	/* pwritev */
	[299] = CALL(READ, 0) | MS_IO_MESSAGES,	/* recvmmsg */
	[306] = CALL(SYNC, 0),	/* syncfs */
	[307] = CALL(WRITE, 0) | MS_IO_MESSAGES,	/* sendmmsg */
	[326] = CALL(COPY, 2),	/* copy_file_range */
	[327] = CALL(READ, 0),	/* preadv2 */
	[328] = CALL(WRITE, 0),	/* pwritev2 */
};

/* include/linux/errno.h: the call is made again when a signal was handled */
#define ERESTARTSYS 512
#define ERESTART_RESTARTBLOCK 516
#define EINTR 4
#define EAGAIN 11

/* struct mmsghdr of x86-64 (include/linux/socket.h): its size, and where msg_len stands */
#define MESSAGE_SIZE 64
#define MESSAGE_LEN 56
/* sendmmsg and recvmmsg take no more (UIO_MAXIOV, include/uapi/linux/uio.h) */
#define MAX_MESSAGES 1024

struct io_call {
	__u64 since;		/* 0: in no call of ours */
	__u64 messages;		/* address of the first struct mmsghdr */
	__u32 number;
	__u32 tag;
};

/* Threads that made such a call. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct io_call);
} io_threads SEC(".maps");

/* dx, si and di of struct pt_regs, which follow each other: arguments 3, 2 and 1 */
struct arguments {
	__u64 third, second, first;
};

/* What is called; 0: nothing of ours. The number comes first, as it costs next to nothing. */
static __always_inline __u8 call_of(__u64 number)
{
	return number < MS_IO_CALLS && io_since ? io_calls[number] : 0;
}

static __always_inline bool caller_is_wanted(void)
{
	return current_is_wanted(bpf_get_current_pid_tgid() >> 32) && !is_of_32_bits();
}

static __always_inline void describe_call(const struct pt_regs *regs, __u32 number, __u8 call,
					  enum with_number with, struct io_call *to)
{
	struct arguments args = {};
	__u32 file = MS_IO_FILE << MS_IO_KIND_SHIFT;
	__u32 fd;

	bpf_probe_read_kernel(&args, sizeof(args), &regs->dx);
	if ((call & MS_IO_FD_MASK) != MS_IO_NO_FD) {
		fd = args.first;
		if ((call & MS_IO_FD_MASK) == 1 << MS_IO_FD_SHIFT)
			fd = args.second;
		else if ((call & MS_IO_FD_MASK) == 2 << MS_IO_FD_SHIFT)
			fd = args.third;
		file = tag_of_fd(fd, with);
	}
	to->messages = args.second;
	to->number = number;
	to->tag = (call & MS_IO_OP_MASK) | file;
}

/* False: counted as lost. */
static __always_inline bool remember_thread(__u32 tid, const struct io_call *call)
{
	if (!bpf_map_update_elem(&io_threads, &tid, call, BPF_ANY))
		return true;
	io_was_full = 1;
	count(io_event, MS_COUNT_FIRED);
	count(io_event, MS_COUNT_LOST_MAP);
	return false;
}

/* sys_enter(regs, number) */
TRACEPOINT_PROGRAM("raw_tracepoint/sys_enter", io_enter)
{
	__u64 number = ctx->args[1];
	__u8 call = call_of(number);
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct io_call *known, begun = {};

	if (!call || !caller_is_wanted())
		return 0;
	describe_call((void *)ctx->args[0], number, call, WITH_NUMBER, &begun);
	begun.since = bpf_ktime_get_ns();
	/* only this thread writes there */
	known = bpf_map_lookup_elem(&io_threads, &tid);
	if (known)
		*known = begun;
	else
		remember_thread(tid, &begun);
	return 0;
}

/*
 * When a call began whose beginning was not seen, of a thread of which no other was
 * seen: before measuring began, or seccomp(2) gave its result and there was none
 * (syscall_trace_enter, kernel/entry/common.c).
 */
static __always_inline __u64 began_before(__u32 pid, long result, __u64 now)
{
	struct task_struct___call *task = (void *)bpf_get_current_task();
	__u64 *target_since = bpf_map_lookup_elem(&targets, &pid);
	__u64 since = io_since;

	/* nothing tells when a process came into a cgroup */
	if (!target_since && ms_scope != MS_SCOPE_ALL)
		return now;
	if (target_since && *target_since > since)
		since = *target_since;
	return result < 0 || BPF_CORE_READ(task, start_time) > since ? now : since;
}

/* Fills *ended, since when and what, and says that the thread is in no call; false: not wanted, or it is counted. */
static __always_inline bool end_call(const struct pt_regs *regs, __u32 number, __u8 call, long result,
				     __u64 now, struct io_call *ended)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)pid_tgid;
	struct io_call *known = bpf_map_lookup_elem(&io_threads, &tid);

	if (known && known->since && known->number == number) {
		*ended = *known;
		known->since = 0;
		return true;
	}
	if (!caller_is_wanted())
		return false;
	/* it began when there was no room, and was counted then */
	if (!known && io_was_full)
		return false;
	/* Linux 5.10 has too little stack for a path beside a walk (MAX_BPF_STACK is 512 bytes of all calls) */
	describe_call(regs, number, call, WITHOUT_NUMBER, ended);
	if (known) {
		known->since = 0;
		ended->since = now;
		return true;
	}
	if (!remember_thread(tid, ended))
		return false;
	ended->since = began_before(pid_tgid >> 32, result, now);
	return true;
}

/* Global: it is verified once by itself, and what follows not once for each number of messages. */
__noinline __u64 bytes_of_messages(__u64 messages, __u32 number)
{
	__u64 bytes = 0;

	for (__u32 i = 0; i < MAX_MESSAGES; i++) {
		__u32 len = 0;

		if (i >= number)
			break;
		bpf_probe_read_user(&len, sizeof(len), (void *)(messages + i * MESSAGE_SIZE + MESSAGE_LEN));
		bytes += len;
	}
	return bytes;
}

static __always_inline bool nothing_happened(long result)
{
	return result == -EAGAIN || result == -EINTR ||
	       (result <= -ERESTARTSYS && result >= -ERESTART_RESTARTBLOCK);
}

/* What a result means, except for the bytes of messages. */
static __always_inline void value_result(__u32 tag, long result, struct ms_sum *sum)
{
	sum->count = 1;
	if (nothing_happened(result))
		sum->value[MS_IO_AGAIN] = 1;
	else if (result < 0)
		sum->value[MS_IO_ERRORS] = 1;
	else if ((tag & MS_IO_OP_MASK) != MS_IO_SYNC)
		sum->value[MS_IO_BYTES] = result;
}

/* sys_exit(regs, result) */
static __always_inline int on_io_exit(struct bpf_raw_tracepoint_args *ctx, enum walk_loop loop)
{
	const struct pt_regs *regs = (void *)ctx->args[0];
	long result = ctx->args[1];
	struct io_call ended = {};
	struct scratch *s;
	__u64 number = ~0ULL;
	__u64 now;
	__u8 call;

	bpf_probe_read_kernel(&number, sizeof(number), &regs->orig_ax);
	call = call_of(number);
	if (!call)
		return 0;
	now = bpf_ktime_get_ns();
	if (!end_call(regs, number, call, result, now, &ended))
		return 0;
	count(io_event, MS_COUNT_FIRED);
	s = take_scratch(io_event, SCRATCH_TASK);
	if (!s)
		return 0;
	bpf_probe_read_kernel(&s->regs, sizeof(s->regs), regs);
	fill_sample_at(s, ctx, MS_SAMPLE_USER_MODE, now, loop);
	s->sample.tag = ended.tag;
	/* after the walk, which would be verified again for each result; and not on the stack, for the same reason */
	s->sample.sum = (struct ms_sum){};
	value_result(ended.tag, result, &s->sample.sum);
	s->sample.sum.value[MS_IO_TIME] = now - ended.since;
	if (call & MS_IO_MESSAGES && result > 0)
		s->sample.sum.value[MS_IO_BYTES] = bytes_of_messages(ended.messages, result);
	sum_sample(s);
	give_back(s);
	return 0;
}

WALKING_TRACEPOINT("raw_tracepoint/sys_exit", io_exit, struct bpf_raw_tracepoint_args, on_io_exit)

/* sched_process_exit(task): of each thread, by itself. Its number may be another's soon. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exit", io_thread_ends)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&io_threads, &tid);
	return 0;
}

#endif /* MOONSCOPE_IO_H */
