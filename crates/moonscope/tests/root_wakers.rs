//! Who woke a thread: the stack of the waker stands on the one of the thread that it woke.
//!
//! The truth is the program's own: which of its functions wakes which (`tests/programs/wakes.c`), and its clocks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::background::Background;
use common::{Profile, Program, Sample, Truth, program, root};

/// Records the program to its end, in intervals.
fn record() -> Option<(Vec<Profile>, Truth)> {
    let mut program = Program::start(&program("wakes")?, &[]);
    let dir = tempfile::tempdir().unwrap();
    let pattern = dir.path().join("x-%N.json");
    let mut recording = Background::start(&[
        "record",
        "-p",
        &program.pid_text(),
        "-e",
        "offcpu",
        "--waker",
        "--interval",
        "150ms",
        "-o",
        pattern.to_str().unwrap(),
    ]);
    recording.wait_for_interval();
    program.go();
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    let files = std::fs::read_dir(dir.path()).unwrap();
    let profiles = files.map(|file| Profile::read(&file.unwrap().path())).collect();
    Some((profiles, program.wait()))
}

/// Names of the waker's frames, from the one that is next to the mark.
fn waker(sample: &Sample) -> Option<Vec<&str>> {
    let mark = sample
        .stack
        .iter()
        .position(|frame| frame.name() == "[woken by]")?;
    Some(
        sample.stack[mark + 1..]
            .iter()
            .map(|frame| frame.name())
            .collect(),
    )
}

/// Seconds of samples with this function before the mark, and of those of them whose waker is like that.
fn seconds(profiles: &[Profile], function: &str, is_so: impl Fn(&[&str]) -> bool) -> (f64, f64) {
    let sum = |is_wanted: &dyn Fn(&Sample) -> bool| {
        let in_function = |sample: &Sample| {
            sample.has(function) && sample.labels["offcpu-reason"] != "run queue" && is_wanted(sample)
        };
        let sums = profiles.iter().map(|profile| profile.sum("offcpu", in_function));
        sums.sum::<u64>() as f64 / 1e9
    };
    let right = sum(&|sample| waker(sample).is_some_and(|names| is_so(&names)));
    (sum(&|_| true), right)
}

#[test]
fn root_the_waker_is_the_function_that_wakes() {
    let Some((profiles, truth)) = root().then(record).flatten() else {
        return;
    };
    for (function, wakes, thread) in [
        ("by_post", "post_it", "[poster]"),
        ("by_write", "write_it", "[writer]"),
    ] {
        let (all, right) = seconds(&profiles, function, |names| {
            // leaf first, and the thread at its end
            names.contains(&wakes) && names.last() == Some(&thread)
        });
        let expected = truth.numbers(&format!("truth {function}"))[1];
        // less what it waited for a CPU, which is much on a busy machine
        assert!(
            all > 0.1 && all < 1.01 * expected + 0.01,
            "{function}: {all} s, {expected} s in truth"
        );
        assert!(right > 0.9 * all, "{function}: {right} s of {all} s by {wakes}");
    }
}

#[test]
fn root_a_timer_wakes_in_an_interrupt_and_nobody_is_blamed() {
    let Some((profiles, _)) = root().then(record).flatten() else {
        return;
    };
    let (all, right) = seconds(&profiles, "by_timer", |names| {
        names.last() == Some(&"[interrupt]")
    });
    assert!(right > 0.9 * all, "{right} s of {all} s");
    // the reason of a wait is that of who waits
    let of_timer = |sample: &Sample| sample.has("by_timer") && waker(sample).is_some();
    for sample in profiles
        .iter()
        .flat_map(|profile| &profile.samples)
        .filter(|sample| of_timer(sample))
    {
        assert_eq!(sample.labels["offcpu-reason"], "sleep", "{sample}");
    }
}

#[test]
fn root_who_woke_a_target_is_none_and_neither_are_its_children() {
    if !root() {
        return;
    }
    let mut target = Command::new("sh")
        .args(["-c", "read first; read second"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // it is known once it has woken the target; then it has a child that lives on, and waits as that does
    let mut waker = Command::new("sh")
        .args([
            "-c",
            "read word; echo; sleep 0.3; sleep 20 & sleep 0.3; echo; exec sleep 20",
        ])
        .stdin(Stdio::piped())
        .stdout(target.stdin.take().unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pattern = dir.path().join("x-%N.json");
    let pid = target.id().to_string();
    let mut recording = Background::start(&[
        "record",
        "-p",
        &pid,
        "-e",
        "offcpu",
        "--waker",
        "--interval",
        "150ms",
        "-o",
        pattern.to_str().unwrap(),
    ]);
    recording.wait_for_interval();
    waker.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(target.wait().unwrap().success());
    let run = recording.wait();
    let group = rustix::process::Pid::from_raw(waker.id().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    waker.wait().unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        for sample in Profile::read(&file.unwrap().path()).samples {
            assert_eq!(sample.labels["pid"], pid, "{sample}");
        }
    }
}
