//! Stacks of running programs, stopped at random: the user-space walker against gdb, and the kernel's walker
//! against the user-space one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use moonscope_unwind::WalkEnd;

#[path = "common/follow.rs"]
mod follow;
#[path = "common/programs.rs"]
mod programs;
#[path = "common/target.rs"]
mod target;

use follow::{STOPS, both_ways, follow, pause};
use target::{Files, Target, compile, try_compile};

fn follow_c_program(source: &str, flags: &[&str]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}{source}", programs::SHAPES);
    let binary = compile(dir.path(), &source, flags);
    let target = Target::start(&binary, &[], true);
    follow(&target, &[target.pid()], 0)
}

#[test]
fn without_optimisation() {
    follow_c_program(programs::MAIN, &["-O0"]);
}

#[test]
fn without_optimisation_and_frame_pointers() {
    follow_c_program(programs::MAIN, &["-O0", "-fomit-frame-pointer"]);
}

#[test]
fn optimised() {
    follow_c_program(programs::MAIN, &["-O2"]);
}

#[test]
fn optimised_more_and_stripped() {
    follow_c_program(programs::MAIN, &["-O3", "-s", "-fomit-frame-pointer"]);
}

#[test]
fn linked_at_a_fixed_address() {
    follow_c_program(programs::MAIN, &["-O2", "-no-pie", "-fno-pie"]);
}

#[test]
fn static_and_position_independent() {
    follow_c_program(programs::MAIN, &["-O2", "-static-pie"]);
}

#[test]
fn with_debug_frame_only() {
    let flags = [
        "-O2",
        "-g",
        "-gz=zlib",
        "-fno-asynchronous-unwind-tables",
        "-fno-exceptions",
    ];
    follow_c_program(programs::MAIN, &flags);
}

/// The first function of a coroutine of Boost.Context returns to assembler without unwind information.
#[test]
fn the_stack_of_a_coroutine_ends_where_its_first_function_returns_to() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [&["-O2"][..], &["-O2", "-s"], &["-O2", "-static"]] {
        let source = format!("{}{}", programs::SHAPES, programs::COROUTINE);
        let binary = compile(dir.path(), &source, flags);
        let target = Target::start(&binary, &[], true);
        let mut files = Files::default();
        for round in 0..STOPS / 4 {
            pause(round);
            let snapshot = target.stop(target.pid()).unwrap();
            let (process, walk, _) = both_ways(&mut files, &snapshot);
            assert_eq!(walk.end, WalkEnd::Root, "{}", follow::describe(&process, &walk));
            // at the least the coroutine's own function, and what it returns to
            assert!(walk.frames.len() >= 2, "{}", follow::describe(&process, &walk));
            target.resume();
        }
    }
}

/// gcc saves the registers of a function that realigns its stack relative to the realigned rbp, by which every
/// caller here finds its own CFA.
#[test]
fn with_realigned_stacks() {
    for flags in [
        &["-O2", "-mavx2", "-mstackrealign"][..],
        &["-O3", "-mavx2", "-fomit-frame-pointer"],
        &["-O0", "-mavx2", "-mstackrealign"],
    ] {
        let lost = follow_c_program(programs::REALIGNED, flags) + follow_c_program(programs::MAIN, flags);
        // only between the first instructions of such a function is a register where no rule can say
        assert!(lost <= 2, "{lost} of {} stacks with {flags:?}", 2 * STOPS);
    }
}

#[test]
fn in_signal_handlers() {
    follow_c_program(programs::SIGNALS, &["-O2"]);
}

#[test]
fn threads_end_where_clone_started_them() {
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}{}", programs::SHAPES, programs::THREADS);
    let binary = compile(dir.path(), &source, &["-O2"]);
    let target = Target::start(&binary, &[], true);
    let threads = target.threads();
    assert_eq!(threads.len(), 4);
    follow(&target, &threads, 0);
}

#[test]
fn openssl() {
    if !Path::new("/usr/bin/openssl").exists() {
        eprintln!("skipped: no openssl");
        return;
    }
    for algorithm in [
        &["rsa2048"][..],
        &["sha256"],
        &["-evp", "aes-256-gcm"],
        &["ecdsap256"],
    ] {
        let arguments = [&["speed", "-seconds", "20"], algorithm].concat();
        let target = Target::start(Path::new("/usr/bin/openssl"), &arguments, false);
        std::thread::sleep(Duration::from_millis(300));
        follow(&target, &[target.pid()], 1);
    }
}

#[test]
fn a_rust_program_and_a_cpp_program() {
    let dir = tempfile::tempdir().unwrap();
    // while libgcc installs the frame of a catch block, its own saved registers already belong to that frame
    // (uw_install_context in unwind-dw2.c), and no unwinder gets through
    const THROWING: usize = 3;
    let rust = |flags| ("rustc", "rs", programs::RUST, flags, 0);
    for (compiler, ending, source, flags, excused) in [
        rust(&["-Copt-level=3", "-Cstrip=symbols"][..]),
        rust(&["-Copt-level=0", "-Cpanic=abort", "-Cstrip=symbols"]),
        ("g++", "cpp", programs::CPP, &["-O2"], THROWING),
    ] {
        let Some(binary) = try_compile(compiler, dir.path(), ending, source, flags) else {
            eprintln!("skipped: no {compiler}");
            continue;
        };
        let target = Target::start(&binary, &[], true);
        follow(&target, &target.threads(), excused);
    }
}

#[test]
fn gzip() {
    if !Path::new("/usr/bin/gzip").exists() {
        eprintln!("skipped: no gzip");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    let noise: Vec<u8> = (0..64u32 << 20)
        .map(|n| (n.wrapping_mul(n >> 3) >> 13) as u8)
        .collect();
    std::fs::write(&input, noise).unwrap();
    let target = Target::start(
        Path::new("/usr/bin/gzip"),
        &["-9c", input.to_str().unwrap()],
        false,
    );
    std::thread::sleep(Duration::from_millis(100));
    follow(&target, &[target.pid()], 0);
}

#[test]
fn a_cut_stack_copy_ends_the_walk_as_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}{}", programs::SHAPES, programs::MAIN);
    let binary = compile(dir.path(), &source, &["-O2"]);
    let target = Target::start(&binary, &[], true);
    let mut files = Files::default();
    pause(3);
    let mut snapshot = target.stop(target.pid()).unwrap();
    let (_, whole, _) = both_ways(&mut files, &snapshot);
    assert_eq!(whole.end, WalkEnd::Root);
    let mut lengths = Vec::new();
    while !snapshot.stack.is_empty() {
        let (_, cut, _) = both_ways(&mut files, &snapshot);
        assert_eq!(cut.frames, whole.frames[..cut.frames.len()]);
        assert!(cut == whole || cut.end == WalkEnd::Unreadable);
        lengths.push(cut.frames.len());
        let half = snapshot.stack.len() / 2;
        snapshot.stack.truncate(half);
    }
    assert!(
        lengths.is_sorted_by(|a, b| a >= b) && lengths.last() == Some(&1),
        "{lengths:?}"
    );
}
