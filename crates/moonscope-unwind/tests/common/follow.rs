//! Follows a running program: stops it again and again, and compares what each walker and gdb say of its stack.

use std::process::Command;
use std::time::Duration;

use moonscope_unwind::walk_host::host_walk;
use moonscope_unwind::{Walk, WalkEnd, walk};

use crate::target::{Files, Process, Snapshot, Target};

const DEPTH: usize = 256;

/// How many times each program is stopped.
pub const STOPS: usize = 60;

/// Of these, how many are shown to gdb, which takes a second each.
const GDB_STOPS: usize = 2;

/// Some milliseconds, never the same number in a row.
pub fn pause(round: usize) {
    let jitter = (round as u64).wrapping_mul(2_654_435_761) >> 7;
    std::thread::sleep(Duration::from_micros(500 + jitter % 7000));
}

pub fn describe(process: &Process, walk: &Walk) -> String {
    let names = walk
        .frames
        .iter()
        .map(|frame| format!("  {:#x} {}\n", frame.addr, process.name(frame.addr)));
    format!("{:?}\n{}", walk.end, names.collect::<String>())
}

/// Walks a snapshot as the kernel would.
pub fn kernel_walk(files: &Files, process: &Process, snapshot: &Snapshot) -> Walk {
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
pub fn both_ways(files: &mut Files, snapshot: &Snapshot) -> (Process, Walk, bool) {
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
pub fn follow(target: &Target, threads: &[i32], excused: usize) -> usize {
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
