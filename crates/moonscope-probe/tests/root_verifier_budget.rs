//! How much work each program is for the verifier, so that growth is seen before an old kernel refuses it.
//! The kernel allows one million instructions (BPF_COMPLEXITY_LIMIT_INSNS, include/linux/bpf_verifier.h).

use moonscope_probe::{WalkLoop, verifier_costs};

/// What it took on Linux 6.18, times about two: kernels count differently, and a change that doubles it is
/// worth a look. `cargo test -p moonscope-probe --test root_verifier_budget -- --nocapture` prints the
/// numbers of this kernel. A name here is that of a program, or its ending.
const BUDGET: [(&str, u32); 20] = [
    ("process_fork", 300),
    ("process_exec", 300),
    ("process_exit", 300),
    ("offcpu_leave", 1_000),
    ("offcpu_wake", 300),
    ("waiting_threads", 300),
    ("io_enter", 4_000),
    ("io_thread_ends", 300),
    ("io_complete", 5_000),
    ("probe_return", 8_000),
    ("probe_exit", 8_000),
    ("probe_thread_ends", 4_000),
    ("probe_program_ends", 4_000),
    ("loop_thread_ends", 25_000),
    ("lua_alloc_first", 30_000),
    ("lua_wait_resume", 2_000),
    ("alloc_exit", 4_000),
    // whatever takes stacks; a kernel verifies a million
    ("bpf_loop", 160_000),
    ("plain_loop", 250_000),
    // whatever else a collector has
    ("", 2_000),
];

#[test]
fn root_every_program_stays_within_its_verifier_budget() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("MOONSCOPE_NO_SKIP").is_none(),
            "this test needs root"
        );
        eprintln!("SKIPPED: loading BPF programs needs root");
        return;
    }
    println!(
        "{:<24}{:>12}{:>14}{:>10}",
        "program", "verified", "instructions", "budget"
    );
    for walk_loop in [WalkLoop::BpfLoop, WalkLoop::PlainLoop] {
        for cost in verifier_costs(walk_loop).unwrap() {
            let (_, budget) = BUDGET
                .iter()
                .find(|(name, _)| cost.program.ends_with(name))
                .expect("a program without budget");
            println!(
                "{:<24}{:>12}{:>14}{:>10}",
                cost.program, cost.verified, cost.instructions, budget
            );
            assert!(
                cost.verified <= *budget,
                "{}: {} instructions, budget {budget}",
                cost.program,
                cost.verified
            );
        }
    }
}
