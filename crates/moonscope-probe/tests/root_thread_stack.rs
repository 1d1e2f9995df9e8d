//! Programs of uprobes must run on the stack of the thread that comes by, and not on one of their own for each CPU: they may be
//! preempted for each other there, which the kernel does not keep them from (`bpf/thread_stack.h`).
//!
//! The truth is the machine code that the kernel made.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use moonscope_probe::{WalkLoop, have_own_stacks};

/// How the names of programs of uprobes begin.
const OF_UPROBES: [&str; 7] = [
    "probe_call",
    "probe_return",
    "probe_exit",
    "alloc_call",
    "alloc_exit",
    "alloc_free",
    "lua_wait_",
];

#[test]
fn root_programs_of_uprobes_have_no_stack_of_their_own() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("MOONSCOPE_NO_SKIP").is_none(),
            "this test needs root"
        );
        eprintln!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let programs = have_own_stacks(WalkLoop::BpfLoop).unwrap();
    let is_of_uprobe = |name: &str| OF_UPROBES.iter().any(|start| name.starts_with(start));
    let (of_uprobes, others): (Vec<_>, Vec<_>) = programs.iter().partition(|(name, _)| is_of_uprobe(name));
    assert!(of_uprobes.len() >= 8, "{programs:?}");
    let with_own: Vec<_> = of_uprobes.iter().filter(|(_, has_one)| *has_one).collect();
    assert!(with_own.is_empty(), "{with_own:?}");
    // on a kernel that gives none to anybody there is nothing to see
    if !others.iter().any(|(_, has_one)| *has_one) {
        eprintln!("this kernel gives no program a stack of its own, or shows no machine code");
    }
}
