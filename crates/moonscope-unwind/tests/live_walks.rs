//! Stacks of running programs, stopped at random: the user-space walker against gdb, and the kernel's walker
//! against the user-space one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moonscope_unwind::walk_host::host_walk;
use moonscope_unwind::{Walk, WalkEnd, walk};

#[path = "common/programs.rs"]
mod programs;
#[path = "common/target.rs"]
mod target;

use target::{Files, Process, Snapshot, Target, compile, try_compile};

const DEPTH: usize = 256;

/// How many times each program is stopped.
const STOPS: usize = 60;

/// Of these, how many are shown to gdb, which takes a second each.
const GDB_STOPS: usize = 2;

/// Some milliseconds, never the same number in a row.
fn pause(round: usize) {
    let jitter = (round as u64).wrapping_mul(2_654_435_761) >> 7;
    std::thread::sleep(Duration::from_micros(500 + jitter % 7000));
}

fn describe(process: &Process, walk: &Walk) -> String {
    let names = walk
        .frames
        .iter()
        .map(|frame| format!("  {:#x} {}\n", frame.addr, process.name(frame.addr)));
    format!("{:?}\n{}", walk.end, names.collect::<String>())
}

/// Walks a snapshot as the kernel would.
fn kernel_walk(files: &Files, process: &Process, snapshot: &Snapshot) -> Walk {
    let stack = snapshot.stack_copy();
    let memory = |address: u64, into: &mut [u8]| {
        let at = address
            .checked_sub(stack.sp)
            .and_then(|at| stack.bytes.get(at as usize..));
        match at.and_then(|bytes| bytes.get(..into.len())) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return moonscope_unwind::Modules::code(process, address, into),
        }
        true
    };
    host_walk(
        &process.maps(),
        &files.rules,
        &snapshot.registers,
        DEPTH as u32,
        memory,
    )
}

/// Walks a snapshot both ways and requires that they agree, or that the kernel's walk stops early because the
/// row format cannot say where a register was saved; returns the walk of user space, and whether it was so.
fn both_ways(files: &mut Files, snapshot: &Snapshot) -> (Process, Walk, bool) {
    let process = files.resolve(snapshot);
    let stack = snapshot.stack_copy();
    let user = walk(&process, snapshot.registers, &stack, DEPTH);
    let kernel = kernel_walk(files, &process, snapshot);
    let lost = kernel.end == WalkEnd::LostRegister && user.frames.starts_with(&kernel.frames);
    assert!(
        user == kernel || lost,
        "the walkers disagree\nuser space: {}kernel: {}",
        describe(&process, &user),
        describe(&process, &kernel)
    );
    (process, user, lost)
}

/// Return addresses as gdb sees them; `None` for the frame of a signal trampoline.
fn gdb(pid: i32, tid: i32) -> Option<Vec<Option<u64>>> {
    let output = Command::new("gdb")
        // separate debug information would add inlined frames
        .args([
            "-nx",
            "-batch",
            "-ex",
            "set debug-file-directory /nonexistent",
            "-ex",
        ])
        .arg(format!("attach {pid}"))
        .args([
            "-ex",
            "set backtrace past-main on",
            "-ex",
            "set print frame-info location-and-address",
        ])
        .args(["-ex", "set width 0", "-ex", "thread apply all bt 250"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // sections start with "Thread 2 (Thread 0x7f… (LWP 123) "name"):"; a single thread may have no header
    let mut frames = Vec::new();
    let mut wanted = true;
    for line in text.lines() {
        if line.starts_with("Thread ") && line.ends_with(':') {
            wanted = line.contains(&format!("LWP {tid})")) || line.contains(&format!("(process {tid} "));
        } else if let Some(rest) = line.strip_prefix('#').filter(|_| wanted) {
            let mut words = rest.split_whitespace();
            let number: usize = words.next()?.parse().ok()?;
            assert_eq!(number, frames.len(), "{text}");
            let address = words
                .next()
                .and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
            assert!(
                address.is_some() || rest.contains("<signal handler called>"),
                "{line}"
            );
            frames.push(address);
        }
    }
    assert!(
        !frames.is_empty(),
        "gdb said:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(frames)
}

fn agrees_with_gdb(target: &Target, tid: i32, process: &Process, walk: &Walk) {
    let Some(expected) = gdb(target.pid(), tid) else {
        eprintln!("skipped: no gdb");
        return;
    };
    let same = expected.len() == walk.frames.len()
        && expected
            .iter()
            .zip(&walk.frames)
            .all(|(gdb, frame)| gdb.is_none_or(|address| address == frame.addr));
    assert!(same, "gdb: {expected:x?}\nours: {}", describe(process, walk));
}

/// Stops `target` again and again; every stack must be complete, with at most `excused` exceptions. Returns
/// how often the kernel's walker lost a register.
fn follow(target: &Target, threads: &[i32], excused: usize) -> usize {
    let mut files = Files::default();
    let mut incomplete = Vec::new();
    let (mut deepest, mut losses) = (0, 0);
    for round in 0..STOPS {
        let tid = threads[round % threads.len()];
        pause(round);
        let Ok(snapshot) = target.stop(tid) else { break };
        let (process, walk, lost) = both_ways(&mut files, &snapshot);
        deepest = deepest.max(walk.frames.len());
        losses += usize::from(lost);
        if !walk.end.is_complete() {
            incomplete.push(describe(&process, &walk));
        } else if round < GDB_STOPS {
            agrees_with_gdb(target, tid, &process, &walk);
        }
        target.resume();
    }
    assert!(deepest > 3, "nothing was walked");
    assert!(
        incomplete.len() <= excused,
        "{} incomplete:\n{}",
        incomplete.len(),
        incomplete.join("\n")
    );
    losses
}

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

/// gcc saves the registers of a function that realigns its stack relative to the realigned rbp, and with these
/// flags the CFA of nearly every caller is found by its own rbp.
#[test]
fn with_realigned_stacks() {
    let lost = follow_c_program(programs::MAIN, &["-O2", "-mavx2", "-mstackrealign"])
        + follow_c_program(
            programs::MAIN,
            &["-O0", "-mavx2", "-mstackrealign", "-fno-omit-frame-pointer"],
        );
    // only between the first instructions of such a function is a register where no rule can say
    assert!(lost <= 2, "{lost} of {} stacks", 2 * STOPS);
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

/// The function table of a stripped Go program is not DWARF, so only the kernel's walker follows it.
#[test]
fn a_stripped_go_program() {
    let program = Path::new("/usr/bin/gcloud-crc32c");
    if !program.exists() {
        eprintln!("skipped: no {}", program.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    std::fs::File::create(&input).unwrap().set_len(1 << 36).unwrap();
    let target = Target::start(program, &[input.to_str().unwrap()], false);
    let mut files = Files::default();
    let mut depths = Vec::new();
    for round in 0..STOPS {
        pause(round);
        let tids = target.threads();
        let snapshot = target.stop(tids[round % tids.len()]).unwrap();
        let process = files.resolve(&snapshot);
        let walk = kernel_walk(&files, &process, &snapshot);
        assert!(walk.end.is_complete(), "{}", describe(&process, &walk));
        assert!(walk.frames.iter().all(|frame| !frame.fp));
        depths.push(walk.frames.len());
        target.resume();
    }
    assert!(depths.iter().any(|&depth| depth > 4), "{depths:?}");
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
