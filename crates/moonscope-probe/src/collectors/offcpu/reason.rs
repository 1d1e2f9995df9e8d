//! Why a thread was not on a CPU: from how it left, its system call, and the kernel's functions that it waits in.

use moonscope_unwind::abi;

/// Functions of the kernel (the beginnings of their names, Linux 5.10 to 7.2) and what a thread that waits in one of
/// them waits for. The first that is on the stack counts, whatever its place there.
const FUNCTIONS: [(&str, &str); 51] = [
    ("do_signal_stop", "stopped"),
    ("ptrace_stop", "stopped"),
    ("do_freezer_trap", "stopped"),
    // taken before what the fault waits for
    ("exc_page_fault", "page fault"),
    ("do_user_addr_fault", "page fault"),
    ("handle_mm_fault", "page fault"),
    ("ep_poll", "idle"),
    ("do_epoll_wait", "idle"),
    ("futex_", "futex"),
    ("__futex_", "futex"),
    ("do_futex", "futex"),
    ("rt_mutex_slowlock", "futex"),
    ("do_nanosleep", "sleep"),
    ("hrtimer_nanosleep", "sleep"),
    ("common_nsleep", "sleep"),
    ("pipe_", "pipe"),
    ("anon_pipe_", "pipe"),
    ("fifo_open", "pipe"),
    ("unix_stream_", "network"),
    ("unix_dgram_", "network"),
    ("unix_accept", "network"),
    ("unix_wait_for_peer", "network"),
    ("tcp_", "network"),
    ("udp_", "network"),
    ("inet_", "network"),
    ("sk_wait_data", "network"),
    ("sk_stream_wait", "network"),
    ("__skb_wait_for_more_packets", "network"),
    ("skb_recv_", "network"),
    ("netlink_", "network"),
    ("vsock_", "network"),
    ("io_schedule", "disk"),
    ("folio_wait_", "disk"),
    ("wait_on_page_bit", "disk"),
    ("wait_for_stable_page", "disk"),
    ("bit_wait_io", "disk"),
    ("submit_bio_wait", "disk"),
    ("jbd2_", "disk"),
    ("blk_", "disk"),
    ("do_sys_poll", "poll"),
    ("do_select", "poll"),
    ("core_sys_select", "poll"),
    ("io_cqring_wait", "io_uring"),
    ("do_wait", "child process"),
    ("wait_for_vfork_done", "child process"),
    ("kernel_wait4", "child process"),
    ("do_sigtimedwait", "signal"),
    ("sigsuspend", "signal"),
    ("mutex_lock", "kernel lock"),
    ("__mutex_lock", "kernel lock"),
    ("rwsem_", "kernel lock"),
];

/// System calls of x86-64 that wait (arch/x86/entry/syscalls/syscall_64.tbl): for kernels that hide their functions.
const CALLS: [(u32, &str); 39] = [
    (7, "poll"),
    (23, "poll"),
    (26, "disk"),
    (34, "signal"),
    (35, "sleep"),
    (42, "network"),
    (43, "network"),
    (44, "network"),
    (45, "network"),
    (46, "network"),
    (47, "network"),
    (58, "child process"),
    (61, "child process"),
    (65, "semaphore"),
    (70, "message queue"),
    (72, "file lock"),
    (73, "file lock"),
    (74, "disk"),
    (75, "disk"),
    (128, "signal"),
    (130, "signal"),
    (162, "disk"),
    (202, "futex"),
    (230, "sleep"),
    (232, "idle"),
    (247, "child process"),
    (270, "poll"),
    (271, "poll"),
    (277, "disk"),
    (281, "idle"),
    (288, "network"),
    (299, "network"),
    (306, "disk"),
    (307, "network"),
    (426, "io_uring"),
    (441, "idle"),
    (449, "futex"),
    (455, "futex"),
    (456, "futex"),
];

/// epoll_wait, epoll_pwait, epoll_pwait2
const EPOLL: [u32; 3] = [232, 281, 441];

fn how(tag: u32) -> u32 {
    (tag & abi::MS_OFFCPU_HOW_MASK) >> abi::MS_OFFCPU_HOW_SHIFT
}

/// The system call in which the thread was.
fn call(tag: u32) -> Option<u32> {
    (tag & abi::MS_OFFCPU_CALL_MASK).checked_sub(1)
}

/// Did an event loop wait for something to do?
pub fn is_idle(tag: u32) -> bool {
    how(tag) != abi::MS_OFFCPU_RUNNABLE && call(tag).is_some_and(|call| EPOLL.contains(&call))
}

/// What the thread waited for. `kernel` are the names of the kernel's functions, if it tells them.
pub fn reason(tag: u32, kernel: &[&str]) -> &'static str {
    if how(tag) == abi::MS_OFFCPU_RUNNABLE {
        return "run queue";
    }
    if is_idle(tag) {
        return "idle";
    }
    let on_stack = |beginning: &str| kernel.iter().any(|name| name.starts_with(beginning));
    let by_function = FUNCTIONS.iter().find(|(beginning, _)| on_stack(beginning));
    if let Some((_, reason)) = by_function {
        return reason;
    }
    if how(tag) == abi::MS_OFFCPU_STOPPED {
        return "stopped";
    }
    if tag & abi::MS_OFFCPU_NO_CALL != 0 {
        return "page fault";
    }
    if tag & abi::MS_OFFCPU_IOWAIT != 0 {
        return "disk";
    }
    let by_call = CALLS.iter().find(|(number, _)| Some(*number) == call(tag));
    by_call.map_or("other", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(how: u32, call: u32) -> u32 {
        how << abi::MS_OFFCPU_HOW_SHIFT | (call + 1)
    }

    #[test]
    fn a_thread_that_could_run_waits_for_a_cpu_whatever_it_was_doing() {
        let woken = tag(abi::MS_OFFCPU_RUNNABLE, 232);
        assert_eq!(reason(woken, &["schedule", "ep_poll"]), "run queue");
        assert!(!is_idle(woken));
    }

    #[test]
    fn an_event_loop_without_events_is_idle() {
        for call in EPOLL {
            let waits = tag(abi::MS_OFFCPU_INTERRUPTIBLE, call);
            assert!(is_idle(waits));
            assert_eq!(reason(waits, &[]), "idle");
        }
    }

    #[test]
    fn functions_of_the_kernel_say_more_than_the_system_call() {
        let read = tag(abi::MS_OFFCPU_INTERRUPTIBLE, 0);
        assert_eq!(reason(read, &["schedule", "anon_pipe_read", "vfs_read"]), "pipe");
        assert_eq!(
            reason(read, &["schedule_timeout", "sk_wait_data", "tcp_recvmsg"]),
            "network"
        );
        assert_eq!(
            reason(read, &["io_schedule", "folio_wait_bit_common", "filemap_read"]),
            "disk"
        );
        assert_eq!(
            reason(
                abi::MS_OFFCPU_NO_CALL | abi::MS_OFFCPU_UNINTERRUPTIBLE << abi::MS_OFFCPU_HOW_SHIFT,
                &[
                    "io_schedule",
                    "filemap_fault",
                    "handle_mm_fault",
                    "exc_page_fault"
                ]
            ),
            "page fault"
        );
    }

    #[test]
    fn without_names_of_functions_the_system_call_says_it() {
        assert_eq!(reason(tag(abi::MS_OFFCPU_INTERRUPTIBLE, 202), &[]), "futex");
        assert_eq!(reason(tag(abi::MS_OFFCPU_INTERRUPTIBLE, 230), &[]), "sleep");
        assert_eq!(reason(tag(abi::MS_OFFCPU_INTERRUPTIBLE, 999), &[]), "other");
        let fault = abi::MS_OFFCPU_UNINTERRUPTIBLE << abi::MS_OFFCPU_HOW_SHIFT | abi::MS_OFFCPU_NO_CALL;
        assert_eq!(reason(fault, &[]), "page fault");
    }
}
