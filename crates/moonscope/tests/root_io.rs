//! Input and output: bytes, calls, time and failures.
//!
//! The truth is what the program's own calls gave it (`tests/programs/io.c` and `uring.c`), its own clock, and what the
//! kernel counts of it in `/proc/self/io`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Profile, Program, Sample, Truth, moonscope, program, root};

/// Seconds in which a recording has begun, also on a busy machine.
const BEFORE: &str = "3";

const NUMBERS: [&str; 4] = ["io_bytes", "io_ops", "io_errors", "io_again"];

/// Records a program, to its end if `args` do not say otherwise; `None`: it cannot run here.
fn record(name: &str, before: &str, args: &[&str]) -> Option<(Profile, Program, String)> {
    let path = program(name)?;
    let (program, code) = Program::try_spawn(std::process::Command::new(path).arg(before));
    if let Some(code) = code {
        assert_eq!(code, 77, "{name} ended before it was ready");
        eprintln!("SKIPPED: {name} finds nothing to work with on this machine");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let run = moonscope(
        &[
            &["record", "-p", &pid, "-e", "io", "-o", json.to_str().unwrap()],
            args,
        ]
        .concat(),
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    Some((Profile::read(&json), program, run.stderr))
}

fn is_of(sample: &Sample, function: &str, op: &str, kind: &str) -> bool {
    sample.has(function) && sample.labels["io-op"] == op && sample.labels["io-kind"] == kind
}

/// Every line `truth NAME OP KIND BYTES OPS ERRORS AGAIN` is what the profile says.
fn assert_truth(profile: &Profile, truth: &Truth) {
    let lines = truth.lines.iter().filter_map(|line| line.strip_prefix("truth "));
    let mut lines_seen = 0;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [function, op, kind] = [words[0], words[1], words[2]];
        let found = NUMBERS.map(|column| {
            profile
                .sum(column, |sample| is_of(sample, function, op, kind))
                .to_string()
        });
        assert_eq!(found.as_slice(), &words[3..], "{function}: {op} of {kind}");
        lines_seen += 1;
    }
    assert!(lines_seen > 0, "{truth:?}");
}

/// Seconds of calls in a function.
fn time(profile: &Profile, function: &str) -> f64 {
    profile.sum("io_time", |sample| sample.has(function)) as f64 / 1e9
}

/// Within a hundredth, or what a thread that was woken may wait for its CPU before it looks at its clock.
#[track_caller]
fn assert_near(what: &str, found: f64, truth: f64, slack: f64) {
    assert!(
        (found - truth).abs() <= 0.01 * truth + slack,
        "{what}: {found:.4} s found, {truth:.4} s in truth"
    );
}

#[test]
fn root_bytes_calls_and_failures_are_what_the_calls_gave() {
    if !root() {
        return;
    }
    let Some((profile, program, _)) = record("io", BEFORE, &[]) else {
        return;
    };
    let truth = program.wait();
    assert_truth(&profile, &truth);
    assert_near(
        "by_wait",
        time(&profile, "by_wait"),
        truth.numbers("time by_wait")[1],
        0.004,
    );
    // the kernel's own sums: of what is read and written, sent from a file, and copied
    let [rchar, wchar] = truth.numbers("process")[..] else {
        panic!("{truth:?}")
    };
    // what it says at its end comes after the kernel was asked, and what asks is left out
    let counts = |sample: &Sample| {
        let names = ["main", "feed"];
        !sample.has("process_counts")
            && sample
                .user()
                .any(|frame| frame.name().starts_with("by_") || names.contains(&frame.name()))
    };
    let sum = |op: &str| {
        profile.sum("io_bytes", |sample| {
            let [done, kind] = [&sample.labels["io-op"], &sample.labels["io-kind"]];
            let is_message = kind == "tcp" || kind == "udp";
            let is_copy = done == "copy" && (kind == "tcp" || sample.has("by_others"));
            counts(sample) && (done == op && !is_message || is_copy)
        }) as f64
    };
    assert_eq!([sum("read"), sum("write")], [rchar, wchar]);
}

#[test]
fn root_a_call_that_lasts_from_before_the_recording_counts_from_its_beginning_on() {
    if !root() {
        return;
    }
    let Some((profile, program, words)) = record("io", BEFORE, &[]) else {
        return;
    };
    let length = profile.json["meta"]["duration_ns"].as_u64().unwrap() as f64 / 1e9;
    let after = program.wait().numbers("before")[0];
    // the recording ends some time after the program
    assert_near(&words, time(&profile, "by_before"), length - after, 0.3);
    // it was still waiting when the program ended, and was told to try again
    assert_eq!(profile.sum("io_again", |sample| sample.has("by_after")), 1);
}

#[test]
fn root_a_call_that_outlasts_the_recording_has_its_time_and_no_result() {
    if !root() {
        return;
    }
    let Some((profile, _program, _)) = record("io", "8", &["-d", "1500ms"]) else {
        return;
    };
    let length = profile.json["meta"]["duration_ns"].as_u64().unwrap() as f64 / 1e9;
    assert_near("by_before", time(&profile, "by_before"), length, 0.01);
    assert_eq!(profile.sum("io_ops", |sample| sample.has("by_before")), 0);
    // all others wait for a lock
    assert_eq!(profile.sum("io_time", |sample| !sample.has("by_before")), 0);
}

#[test]
fn root_requests_of_io_uring_are_told_of_or_said_to_be_missing() {
    if !root() {
        return;
    }
    let Some((profile, program, words)) = record("uring", BEFORE, &[]) else {
        return;
    };
    let truth = program.wait();
    if words.contains("without io_uring") {
        assert_eq!(profile.sum("io_ops", |sample| sample.has("by_pipe")), 0);
        return;
    }
    assert!(words.contains("io_uring too"), "{words}");
    assert_truth(&profile, &truth);
    assert_near(
        "by_pipe",
        time(&profile, "by_pipe"),
        truth.numbers("time by_pipe")[1],
        0.004,
    );
}
