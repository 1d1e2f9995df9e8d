/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes that begin, change and end. Raw tracepoints: they need no tracefs.
 * The arguments: include/trace/events/sched.h.
 */
#ifndef MOONSCOPE_LIFECYCLE_H
#define MOONSCOPE_LIFECYCLE_H

#include "scope.h"

static __always_inline void send_event(__u32 kind, __u32 pid, __u32 child, __u32 wanted)
{
	struct ms_event event = {
		.kind = kind,
		.pid = pid,
		.child = child,
		.wanted = wanted,
		.time = bpf_ktime_get_ns(),
	};

	/* a lost event is no lost sample: the next one of that process asks again */
	bpf_ringbuf_output(&events, &event, sizeof(event),
			   kind == MS_EVENT_EXEC ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* sched_process_fork(parent, child): children of targets are targets. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_fork", process_fork)
{
	struct task_struct *parent = (void *)ctx->args[0];
	struct task_struct *child = (void *)ctx->args[1];
	__u32 pid = BPF_CORE_READ(parent, tgid);
	__u32 child_pid = BPF_CORE_READ(child, tgid);
	__u64 since = bpf_ktime_get_ns();
	bool target, wanted;

	if (pid == child_pid)
		return 0;	/* a thread */
	/* the number may have belonged to a process whose end was not seen */
	bpf_map_delete_elem(&processes, &child_pid);
	bpf_map_delete_elem(&lua_processes, &child_pid);
	bpf_map_delete_elem(&targets, &child_pid);
	target = is_target(pid);
	wanted = target ? ms_follow_forks : current_is_wanted(pid);
	if (target && wanted)
		bpf_map_update_elem(&targets, &child_pid, &since, BPF_ANY);
	else if (!bpf_map_lookup_elem(&processes, &pid))
		return 0;	/* nothing is known that the child could inherit */
	/* who woke a target is known too, and not wanted */
	send_event(MS_EVENT_FORK, pid, child_pid, wanted);
	return 0;
}

/* sched_process_exec(task, old_pid, bprm): the old mappings are gone. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exec", process_exec)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 pid = BPF_CORE_READ(task, tgid);
	bool known = bpf_map_delete_elem(&processes, &pid) == 0;
	bool wanted;

	begin_command(pid);
	wanted = current_is_wanted(pid);
	bpf_map_delete_elem(&lua_processes, &pid);
	if (known || wanted || ms_report_all_execs)
		send_event(MS_EVENT_EXEC, pid, 0, wanted);
	return 0;
}

/* sched_process_exit(task, ...): the number may be used again. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exit", process_exit)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 pid = BPF_CORE_READ(task, tgid);
	bool known;

	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		return 0;	/* other threads live on */
	/* user space may know of it, or be about to, though nothing is known here */
	known = current_is_wanted(pid);
	known |= bpf_map_delete_elem(&processes, &pid) == 0;
	known |= bpf_map_delete_elem(&targets, &pid) == 0;
	bpf_map_delete_elem(&lua_processes, &pid);
	if (known)
		send_event(MS_EVENT_EXIT, pid, 0, 0);
	return 0;
}

#endif /* MOONSCOPE_LIFECYCLE_H */
