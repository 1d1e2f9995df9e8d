//! Time off the CPU: how long threads waited and for what.
//!
//! The truth is what the kernel's clocks and its scheduler say inside the program (`tests/programs/waits.c`): time by
//! the clock on the wall less CPU time of the thread, and `/proc/thread-self/schedstat`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Profile, Program, Truth, moonscope, program, root};

/// What a thread waits for, by the function in which it does, and the reason that a sample of it has.
const KINDS: [(&str, &str); 8] = [
    ("by_sleep", "sleep"),
    ("by_pipe", "pipe"),
    ("by_socket", "network"),
    ("by_poll", "poll"),
    ("by_epoll", "idle"),
    ("by_futex", "futex"),
    ("by_child", "child process"),
    ("by_disk", "disk"),
];

const RUN_QUEUE: &str = "run queue";

/// Seconds in which a recording has begun, also on a busy machine.
const BEFORE: &str = "3";

/// Records a program that waits, to its end.
fn record_waits(args: &[&str]) -> Option<(Profile, Truth, String)> {
    record_program(&program("waits")?, BEFORE, args)
}

fn record_program(path: &Path, before: &str, args: &[&str]) -> Option<(Profile, Truth, String)> {
    let program = Program::start(path, &[before]);
    let pid = program.pid_text();
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(&[&["record", "-p", &pid, "-o", json.to_str().unwrap()], args].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost"), "{}", run.stderr);
    Some((Profile::read(&json), program.wait(), run.stderr))
}

/// Seconds of all threads of the program in this function, by reason. Its children, which do not wait, are left out:
/// after vfork they are in the same function.
fn reasons(profile: &Profile, function: &str) -> BTreeMap<String, f64> {
    let mut reasons = BTreeMap::<String, f64>::new();
    let is_ours = |sample: &&common::Sample| sample.comm == "waits" && sample.has(function);
    let main = profile
        .samples
        .iter()
        .filter(is_ours)
        .map(|sample| sample.pid)
        .min();
    let ours = profile.samples.iter().filter(is_ours);
    for sample in ours.filter(|sample| Some(sample.pid) == main) {
        let time: u64 = ["offcpu", "idle"]
            .iter()
            .map(|column| profile.sum(column, |other| std::ptr::eq(other, sample)))
            .sum();
        *reasons.entry(sample.labels["offcpu-reason"].clone()).or_default() += time as f64 / 1e9;
    }
    reasons
}

/// The seconds that a program says of this function, all its threads together.
fn truth_of(truth: &Truth, function: &str) -> f64 {
    let lines = truth.lines.iter().filter_map(|line| line.strip_prefix("truth "));
    let words = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    words
        .filter(|words| words[0] == function)
        .map(|words| words[2].parse::<f64>().unwrap())
        .sum()
}

/// Within a hundredth, or what entering and leaving a few hundred waits takes.
#[track_caller]
fn assert_near(what: &str, found: f64, truth: f64) {
    assert!(
        (found - truth).abs() <= 0.01 * truth + 0.004,
        "{what}: {found:.4} s found, {truth:.4} s in truth"
    );
}

#[test]
fn root_each_wait_has_its_length_and_its_reason() {
    if !root() {
        return;
    }
    let Some((profile, truth, words)) = record_waits(&["-e", "offcpu"]) else {
        return;
    };
    for (function, reason) in KINDS {
        let reasons = reasons(&profile, function);
        let total: f64 = reasons.values().sum();
        assert_near(function, total, truth_of(&truth, function));
        // on a busy machine whoever was woken waits for a CPU too, and a disk may be faster than the clock
        let blocked = total - reasons.get(RUN_QUEUE).unwrap_or(&0.0);
        let expected = reasons.get(reason).unwrap_or(&0.0);
        assert!(
            *expected >= 0.9 * blocked,
            "{function}: {reasons:?} instead of {reason}\n{words}"
        );
    }
}

#[test]
fn root_waiting_for_a_cpu_is_what_the_scheduler_says() {
    if !root() {
        return;
    }
    let Some((profile, truth, _)) = record_waits(&["-e", "offcpu"]) else {
        return;
    };
    let reasons = reasons(&profile, "by_queue");
    assert_near("by_queue", reasons[RUN_QUEUE], truth_of(&truth, "by_queue"));
}

#[test]
fn root_an_event_loop_that_waits_is_idle_and_not_blocked() {
    if !root() {
        return;
    }
    let Some((profile, _, _)) = record_waits(&["-e", "offcpu"]) else {
        return;
    };
    let waits =
        |sample: &common::Sample| sample.has("by_epoll") && sample.labels["offcpu-reason"] != RUN_QUEUE;
    assert_eq!(profile.sum("offcpu", waits), 0);
    // how long, the test above says
    assert!(profile.sum("idle", waits) > 0);
}

#[test]
fn root_on_and_off_the_cpu_are_all_of_the_time_of_each_thread() {
    if !root() {
        return;
    }
    let Some(path) = program("waits") else { return };
    let Some((profile, _, _)) = record_program(&path, "6", &["-e", "wall", "-F", "999", "-d", "1500ms"])
    else {
        return;
    };
    let length = profile.json["meta"]["duration_ns"].as_u64().unwrap() as f64;
    let mut threads = BTreeMap::<u32, u64>::new();
    for sample in &profile.samples {
        *threads.entry(sample.tid).or_default() += sample.values[0];
    }
    assert_eq!(profile.columns[0], "wall");
    // ten that wait, and main: they do nothing yet, and are blocked from before the recording until after it
    assert_eq!(threads.len(), 11);
    for (tid, time) in threads {
        let part = time as f64 / length;
        assert!(
            (0.99..1.01).contains(&part),
            "thread {tid}: {part:.4} of the time"
        );
    }
}

#[test]
fn root_intervals_outside_of_the_limits_are_counted_and_left_out() {
    if !root() {
        return;
    }
    let args = [
        "-e",
        "offcpu",
        "--min-block",
        "5ms",
        "--max-block",
        "1s",
        "--state",
        "sleeping",
    ];
    let Some(path) = program("waits") else { return };
    let Some((profile, truth, words)) = record_program(&path, "6", &args) else {
        return;
    };
    // 40 waits of 10 ms stay; the seconds before, and the short waits of by_queue and of the lock, do not
    assert_near(
        "by_sleep",
        reasons(&profile, "by_sleep").values().sum(),
        truth_of(&truth, "by_sleep"),
    );
    assert_eq!(
        profile.sum("switches", |sample| sample.has("by_sleep")),
        40,
        "{words}"
    );
    assert_eq!(profile.sum("offcpu", |sample| sample.has("by_queue")), 0);
    assert_eq!(
        profile.sum("switches", |sample| sample.has("pthread_barrier_wait")),
        0
    );
    assert!(!words.contains(" 0 filtered"), "{words}");
}

/// Who runs when the recording ends, and sleeps when it is looked at who sleeps, has not slept since the beginning.
#[test]
fn root_no_thread_is_off_the_cpu_for_longer_than_the_recording_lasts() {
    if !root() {
        return;
    }
    let Some(path) = program("dozes") else { return };
    let program = Program::start(&path, &["60"]);
    let pid = program.pid_text();
    let dir = tempfile::tempdir().unwrap();
    // of its threads one runs at nearly every moment, and sleeps a moment later
    for number in 0..6 {
        let json = dir.path().join(format!("{number}.json"));
        let args = ["record", "-p", &pid, "-e", "offcpu", "-d", "200ms", "-o"];
        let run = moonscope(&[&args[..], &[json.to_str().unwrap()]].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        let profile = Profile::read(&json);
        let length = profile.json["meta"]["duration_ns"].as_u64().unwrap();
        let mut threads = BTreeMap::<u32, u64>::new();
        for sample in &profile.samples {
            *threads.entry(sample.tid).or_default() += sample.values[0];
        }
        // and the first one, which waits for the others, is there for all of it
        let first = threads.get(&program.pid()).copied().unwrap_or(0);
        assert!(
            first as f64 >= 0.99 * length as f64,
            "recording {number}: {first} of {length} ns"
        );
        for (tid, time) in threads {
            assert!(
                time as f64 <= 1.01 * length as f64,
                "recording {number}, thread {tid}: {time} of {length} ns"
            );
        }
    }
}

/// How often a process left its CPU, as the kernel says.
fn switches(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let lines = status
        .lines()
        .filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    lines.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
}

#[test]
fn root_cut_stacks_are_counted_by_how_often_they_came_and_not_by_how_long_they_waited() {
    if !root() {
        return;
    }
    let Some(path) = program("naps-nothing") else {
        return;
    };
    let program = Program::start(&path, &["60", "5"]);
    let pid = program.pid_text();
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let before = switches(&pid);
    let run = moonscope(&[
        "record",
        "-p",
        &pid,
        "-e",
        "offcpu",
        "-d",
        "1s",
        "-o",
        json.to_str().unwrap(),
    ]);
    let truth = switches(&pid) - before;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let beginning = format!("stacks cut in {}: ", path.canonicalize().unwrap().display());
    let line = run.stderr.lines().find_map(|line| line.strip_prefix(&beginning));
    let line = line.unwrap_or_else(|| panic!("no {beginning} in\n{}", run.stderr));
    let samples: u64 = line
        .split_once(" sample")
        .unwrap()
        .0
        .replace(',', "")
        .parse()
        .unwrap();
    // what a wake-up cuts in two is two: waiting, and then waiting for a CPU
    assert!(
        (1..=2 * truth).contains(&samples),
        "{truth} switches\n{}",
        run.stderr
    );
    assert!(line.contains("-fasynchronous-unwind-tables"), "{line}");
}
