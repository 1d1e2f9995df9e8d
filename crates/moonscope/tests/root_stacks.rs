//! Stacks of known shape come out in that shape, frame by frame.
//!
//! The truth is the source of each program (`tests/programs`), which says at its top what its stacks are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Frame, Program, Recording, Sample, assert_share, nm, program, record, root};

/// Records a busy program for a second and a half.
fn record_for_a_while(name: &str, args: &[&str], more: &[&str]) -> Option<Recording> {
    if !root() {
        return None;
    }
    let program = Program::start(&program(name)?, &[&["60"], args].concat());
    let pid = program.pid_text();
    Some(record(&[&["-p", &pid, "-d", "1500ms"], more].concat()))
}

/// What a chain of this depth looks like from `main` to the leaf.
fn chain_of(depth: usize) -> Vec<String> {
    let links = (1..=depth).rev().map(|link| format!("chain_{link:02}"));
    std::iter::once("main".to_owned())
        .chain(links)
        .chain(["chain_leaf".to_owned()])
        .collect()
}

/// The chain is whole in every sample; the leaf reads the clock now and then.
#[track_caller]
fn assert_chain(recording: &Recording, depth: usize) {
    let chain = chain_of(depth);
    // at -O0 the helpers of common.h are functions of their own
    let of_the_leaf = |name: &str| ["thread_ns", "clock_ns", "wall_ns", "work", "running"].contains(&name);
    recording
        .profile
        .assert_most(0.999, "is main, the chain and its leaf", |sample| {
            let names = sample.below_main().unwrap_or_default();
            let below = names.get(chain.len());
            let known = below
                .is_none_or(|name| of_the_leaf(name) || name.contains("clock_gettime") || name.is_empty());
            names.len() >= chain.len() && known && names.iter().zip(&chain).all(|(name, link)| name == link)
        });
    recording.profile.assert_most(0.9, "is in the leaf", |sample| {
        sample
            .names()
            .last()
            .is_some_and(|name| *name == "chain_leaf" || of_the_leaf(name))
    });
}

fn chain_is_whole(flavour: &str) {
    let Some(recording) = record_for_a_while(flavour, &["40"], &[]) else {
        return;
    };
    recording.assert_complete(0.99);
    assert_chain(&recording, 40);
}

#[test]
fn root_chain_without_frame_pointers() {
    chain_is_whole("chain-O2");
}

#[test]
fn root_chain_not_optimized() {
    chain_is_whole("chain-O0");
}

#[test]
fn root_chain_at_o3() {
    chain_is_whole("chain-O3");
}

#[test]
fn root_chain_in_a_static_program() {
    chain_is_whole("chain-static");
}

#[test]
fn root_chain_in_a_static_position_independent_program() {
    chain_is_whole("chain-static-pie");
}

#[test]
fn root_chain_in_a_program_that_is_not_position_independent() {
    chain_is_whole("chain-nopie");
}

#[test]
fn root_chain_by_clang() {
    chain_is_whole("chain-clang");
}

#[test]
fn root_chain_by_frame_pointers_alone() {
    chain_is_whole("chain-fp-only");
}

#[test]
fn root_chain_by_debug_frame_alone() {
    chain_is_whole("chain-debug-frame");
}

/// Names from `.gnu_debugdata`, and from a file that `.gnu_debuglink` names.
#[test]
fn root_chain_named_by_a_minimal_debug_file_inside() {
    chain_is_whole("chain-minidebug");
}

#[test]
fn root_chain_named_by_a_debug_file_beside() {
    chain_is_whole("chain-debuglink");
}

/// Neither unwind tables nor frame pointers: the leaf is certain, and nothing above it may be made up.
#[test]
fn root_chain_without_any_means_is_cut() {
    let Some(recording) = record_for_a_while("chain-nothing", &["8"], &[]) else {
        return;
    };
    let cut: u64 = recording.accounting.truncated.values().sum();
    assert!(
        cut as f64 > 0.95 * recording.accounting.kept() as f64,
        "{:?}",
        recording.accounting
    );
    let chain = chain_of(8);
    recording
        .profile
        .assert_all("is a piece of the chain that ends in its leaf", |sample| {
            let names: Vec<&str> = sample
                .names()
                .into_iter()
                .filter(|name| chain.iter().any(|link| link == name))
                .collect();
            chain.ends_with(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        });
}

/// In a stripped file the links are told apart by where they start, which `nm` shows before stripping.
#[test]
fn root_chain_in_a_stripped_program() {
    let Some(recording) = record_for_a_while("chain-O2-stripped", &["12"], &[]) else {
        return;
    };
    recording.assert_complete(0.99);
    let starts = nm(&program("chain-O2").unwrap());
    let chain: Vec<u64> = chain_of(12).iter().map(|name| starts[name]).collect();
    recording
        .profile
        .assert_most(0.999, "is the chain by its addresses", |sample| {
            let ours: Vec<u64> = sample
                .user()
                .filter(|frame| frame.file_name() == "chain-O2-stripped" && frame.function.is_none())
                .filter_map(|frame| frame.offset)
                .collect();
            // _start stands above main, the clock's PLT entry below the leaf
            ours.windows(chain.len()).any(|part| part == chain)
        });
}

fn descents(sample: &Sample) -> usize {
    sample.user().filter(|frame| frame.name() == "descend").count()
}

#[test]
fn root_a_stack_of_900_frames_is_whole() {
    let Some(recording) = record_for_a_while("deep", &[], &["--max-depth", "1024"]) else {
        return;
    };
    recording.assert_complete(0.99);
    recording
        .profile
        .assert_most(0.99, "has main, 900 frames and the leaf", |sample| {
            let names = sample.below_main().unwrap_or_default();
            descents(sample) == 900 && names.get(901) == Some(&"deep_leaf")
        });
}

#[test]
fn root_a_stack_beyond_the_depth_limit_is_cut_and_counted() {
    let Some(recording) = record_for_a_while("deep", &[], &["--max-depth", "127"]) else {
        return;
    };
    assert_eq!(recording.accounting.complete, 0);
    assert_eq!(
        recording.accounting.truncated.keys().collect::<Vec<_>>(),
        ["depth limit reached"]
    );
    recording
        .profile
        .assert_all("is cut, and has 127 frames", |sample| {
            sample.is_truncated() && sample.user().count() == 1 + 127 && sample.names()[0] == "[truncated]"
        });
    assert!(
        recording
            .folded
            .iter()
            .all(|(stack, _)| stack[1] == "[truncated]")
    );
}

/// The same by the loop that kernels before 5.17 get.
#[test]
fn root_the_plain_loop_walks_as_deep() {
    let arguments = ["--max-depth", "1024", "--walk-loop", "plain-loop"];
    let Some(recording) = record_for_a_while("deep", &[], &arguments) else {
        return;
    };
    recording.assert_complete(0.99);
    recording
        .profile
        .assert_most(0.99, "has 900 frames", |sample| descents(sample) == 900);
}

/// The frame pointer of a caller further up is not followed, and a 0 where it would be does not end a stack.
#[test]
fn root_callers_without_frame_pointers_are_missing_only_where_it_is_said() {
    let Some(recording) = record_for_a_while("skips", &[], &[]) else {
        return;
    };
    assert!(recording.profile.with("leaf") > 100);
    recording
        .profile
        .assert_all("is cut, or has all callers of leaf", |sample| {
            !sample.has("leaf") || sample.is_truncated() || (sample.has("middle") && sample.has("inner"))
        });
}

/// Functions that are almost only prologue and epilogue: a half-built frame must not cost or invent a caller.
#[test]
fn root_samples_in_prologues_and_epilogues_have_their_callers() {
    let Some(recording) = record_for_a_while("leaf", &[], &[]) else {
        return;
    };
    recording.assert_complete(0.999);
    recording
        .profile
        .assert_most(0.9995, "is leaf_parent, or a leaf called by it", |sample| {
            let names = sample.below_main().unwrap_or_default();
            match names[..] {
                ["main", "leaf_parent"] => true,
                ["main", "leaf_parent", leaf, ..] => {
                    leaf.starts_with("leaf_") || leaf.contains("clock_gettime")
                }
                _ => false,
            }
        });
    for leaf in ["leaf_pushes", "leaf_big_frame", "leaf_both", "leaf_variable"] {
        assert!(recording.profile.with(leaf) > 20, "{leaf}");
    }
}

fn calls_through_the_plt(flavour: &str) {
    let Some(recording) = record_for_a_while(flavour, &[], &[]) else {
        return;
    };
    recording.assert_complete(0.999);
    recording.profile.assert_most(
        0.9995,
        "is plt_caller, a stub or a callee called by it",
        |sample| {
            let names = sample.below_main().unwrap_or_default();
            match names[..] {
                ["main", "plt_caller"] => true,
                ["main", "plt_caller", clock, ..] if clock.contains("clock_gettime") => true,
                ["main", "plt_caller", callee] => {
                    ["callee_one", "callee_two"].contains(&callee) || callee.contains("plt")
                }
                _ => false,
            }
        },
    );
    let in_stub = |sample: &Sample| sample.names().last().is_some_and(|name| name.contains("@plt"));
    assert!(recording.profile.count(in_stub) > 3, "hardly a sample in a stub");
}

#[test]
fn root_lazy_plt_stubs_have_their_callers() {
    calls_through_the_plt("plt");
}

#[test]
fn root_bound_plt_stubs_have_their_callers() {
    calls_through_the_plt("plt-now");
}

#[test]
fn root_two_part_plt_stubs_have_their_callers() {
    calls_through_the_plt("plt-cet");
}

#[test]
fn root_the_vdso_has_its_callers_and_names() {
    let Some(recording) = record_for_a_while("vdso", &[], &[]) else {
        return;
    };
    recording.assert_complete(0.999);
    recording
        .profile
        .assert_most(0.999, "is vdso_loop, libc and the vDSO", |sample| {
            sample
                .below_main()
                .is_some_and(|names| names.starts_with(&["main", "vdso_loop"]))
        });
    recording
        .profile
        .assert_most(0.5, "is in a named function of the vDSO, below libc", |sample| {
            let frames: Vec<&Frame> = sample.user().collect();
            let at = frames.iter().position(|frame| frame.file_name() == "[vdso]");
            at.is_some_and(|at| {
                !frames[at].name().is_empty() && frames[at - 1].name().contains("clock_gettime")
            })
        });
}

#[test]
fn root_realigned_and_variable_frames_are_walked() {
    let Some(recording) = record_for_a_while("realign", &[], &[]) else {
        return;
    };
    recording.assert_complete(0.99);
    recording
        .profile
        .assert_most(0.999, "is the chain of the source", |sample| {
            let chain = ["main", "vla_frame", "drap_frame", "avx_frame", "realign_leaf"];
            sample.below_main().is_some_and(|names| names.starts_with(&chain))
        });
}

/// A third each of long reads, short system calls and page faults; the shares are measured by the kernel's CPU clock.
#[test]
fn root_kernel_frames_stand_above_the_function_that_called() {
    if !root() {
        return;
    }
    let Some(path) = program("syscalls") else { return };
    let program = Program::start(&path, &["3"]);
    let recording = record(&["-p", &program.pid_text()]);
    let truth = program.wait();
    recording.assert_complete(0.99);
    let total: u64 = truth.shares.keys().map(|part| recording.profile.with(part)).sum();
    for (part, share) in &truth.shares {
        // a share of a third that drifts with what the machine does beside
        let count = recording.profile.with(part);
        assert!(
            (count as f64 / total as f64 - share).abs() < 0.1,
            "{part}: {count} of {total}, {share}"
        );
        let in_kernel = recording
            .profile
            .count(|sample| sample.has(part) && sample.kernel().count() > 0);
        assert!(
            in_kernel as f64 > 0.5 * count as f64,
            "{part}: {in_kernel} of {count} in the kernel"
        );
    }
    let is_kernel = |callers: &[&str], sample: &Sample| {
        let mut names = sample.below_main().unwrap_or_default();
        // glibc 2.41 makes system calls that are points of cancellation in functions of their own (`__syscall_cancel`)
        while names.last().is_some_and(|name| name.contains("syscall_cancel")) {
            names.pop();
        }
        sample.kernel().count() > 0 && names.ends_with(callers)
    };
    let reads = recording
        .profile
        .count(|sample| is_kernel(&["one_round", "read_zero", "read"], sample));
    let calls = recording
        .profile
        .count(|sample| is_kernel(&["one_round", "short_calls", "syscall"], sample));
    let faults = recording.profile.count(|sample| {
        is_kernel(&["one_round", "touch_pages"], sample)
            && sample.kernel().any(|frame| frame.name().contains("page_fault"))
    });
    for (what, count) in [("read", reads), ("syscall", calls), ("page fault", faults)] {
        assert!(count > 50, "{count} samples in the kernel below {what}");
    }
    // kernel frames are the inner part of a stack, never below user frames
    recording
        .profile
        .assert_all("has its kernel frames innermost", |sample| {
            sample
                .stack
                .iter()
                .skip_while(|frame| !frame.is_kernel())
                .all(|frame| frame.is_kernel())
        });
    // without them the same stacks end in user code
    let program = Program::start(&path, &["60"]);
    let recording = record(&["-p", &program.pid_text(), "-d", "500ms", "--no-kernel"]);
    recording
        .profile
        .assert_all("has no kernel frame", |sample| sample.kernel().count() == 0);
    recording.assert_complete(0.99);
}

fn handler_stands_in_the_middle(stack: &[&str]) {
    let Some(path) = root().then(|| program("signals")).flatten() else {
        return;
    };
    let program = Program::start(&path, &[&["3"], stack].concat());
    let recording = record(&["-p", &program.pid_text()]);
    let truth = program.wait();
    recording.assert_complete(0.99);
    let total = recording.profile.total();
    let handler = recording.profile.with("handler_work");
    assert_share("handler_work", handler, total, truth.shares["handler_work"]);
    // The signal is delivered anywhere in what work_outer calls: its clock reads too.
    recording.profile.assert_most(
        0.995,
        "is main, work_outer, and below it the handler or not",
        |sample| {
            let names = sample.below_main().unwrap_or_default();
            let at = names.iter().position(|name| *name == "on_timer");
            names.starts_with(&["main", "work_outer"])
                && at.is_none_or(|at| {
                    at > 2 && names.get(at + 1).is_none_or(|name| !name.starts_with("work_"))
                })
        },
    );
    let through = |sample: &Sample, what: &str| {
        let names = sample.below_main().unwrap_or_default();
        let at = names.iter().position(|name| *name == what);
        at.is_some_and(|at| names[at..].contains(&"handler_work"))
    };
    // the function that was interrupted is in the stack, also when it was in its prologue
    let interrupted = recording.profile.count(|sample| through(sample, "work_inner"));
    assert!(
        interrupted as f64 > 0.9 * handler as f64,
        "{interrupted} of {handler}"
    );
    assert!(recording.profile.count(|sample| through(sample, "tiny_call")) > 5);
}

/// With frame pointers too, which lead on into the stack of who made the coroutine.
#[test]
fn root_a_coroutine_of_the_c_library_is_the_end_of_its_stack() {
    for name in ["contexts", "contexts-fp"] {
        let Some(path) = root().then(|| program(name)).flatten() else {
            return;
        };
        let program = Program::start(&path, &["60"]);
        let recording = record(&["-p", &program.pid_text(), "-d", "2"]);
        recording.assert_complete(0.99);
        let all = recording.profile.total();
        let inside = recording.profile.with("coroutine");
        assert_share("coroutine", inside, all, 0.5);
        let mixed = recording
            .profile
            .count(|sample| sample.has("coroutine") && (sample.has("main") || sample.has("_start")));
        assert_eq!(mixed, 0, "{name}: of {inside}");
    }
}

/// The kernel is past the last instruction of the trampoline then, where its unwind information ends.
#[test]
fn root_the_way_back_from_a_signal_handler_is_whole() {
    let Some(path) = root().then(|| program("raises")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let recording = record(&["-p", &program.pid_text(), "-d", "2"]);
    recording.assert_complete(0.99);
    let comes_back = |sample: &Sample| sample.kernel().any(|frame| frame.name().contains("rt_sigreturn"));
    let all = recording.profile.count(comes_back);
    let whole = recording
        .profile
        .count(|sample| comes_back(sample) && sample.has("send") && sample.has("main"));
    assert!(all >= 10, "{all} samples in rt_sigreturn");
    assert!(whole * 100 >= all * 99, "{whole} of {all}");
}

#[test]
fn root_a_signal_handler_stands_above_what_it_interrupted() {
    handler_stands_in_the_middle(&[]);
}

#[test]
fn root_a_signal_handler_on_its_own_stack_stands_there_too() {
    handler_stands_in_the_middle(&["altstack"]);
}
