//! Events that the kernel or the processor counts.
//!
//! The truth is the kernel's own count, which the program reads by getrusage(2) (`tests/programs/faults.c`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Profile, Program, Sample, moonscope, program, root};

/// Records the program to its end; its counts are the third words of its `truth` lines.
fn record_faults(args: &[&str]) -> Option<(Profile, impl Fn(&str) -> u64)> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let pages = dir.path().join("pages");
    std::fs::write(&pages, vec![1; 200 * 4096]).unwrap();
    let program = Program::start(&program("faults")?, &["3", pages.to_str().unwrap()]);
    let pid = program.pid_text();
    let json = dir.path().join("x.json");
    let run = moonscope(&[&["record", "-p", &pid, "-o", json.to_str().unwrap()], args].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    let truth = program.wait();
    let count = move |name: &str| truth.numbers(&format!("truth {name}"))[1] as u64;
    Some((Profile::read(&json), count))
}

fn is_in(function: &str) -> impl Fn(&Sample) -> bool {
    move |sample| sample.has(function)
}

#[test]
fn root_each_counter_of_the_kernel_says_what_the_kernel_says() {
    if !root() {
        return;
    }
    let counters = [
        ("page-faults", "touch"),
        ("context-switches", "yield"),
        ("minor-faults", "touch"),
        ("major-faults", "fetch"),
        ("cpu-migrations", "move"),
    ];
    let mut args: Vec<&str> = counters.iter().flat_map(|(event, _)| ["-e", event]).collect();
    args.extend(["-e", "cpu"]);
    let Some((profile, truth)) = record_faults(&args) else {
        return;
    };
    for (event, function) in counters {
        assert_eq!(profile.sum(event, is_in(function)), truth(function), "{event}");
    }
    let columns = counters.map(|(event, _)| event);
    assert_eq!(profile.columns, [&columns[..], &["samples", "cpu"]].concat());
}

#[test]
fn root_with_a_period_the_sum_stays_the_same() {
    if !root() {
        return;
    }
    let Some((profile, truth)) = record_faults(&["-e", "page-faults:100"]) else {
        return;
    };
    // the counter of each CPU may stand anywhere in its period when the function begins and ends
    let off = profile
        .sum("page-faults", is_in("touch"))
        .abs_diff(truth("touch"));
    assert!(off <= 400, "{off} page faults too many or too few");
}

#[test]
fn root_a_machine_without_performance_counters_says_so() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(&[
        "record",
        "-a",
        "-e",
        "cache-misses",
        "-d",
        "1",
        "-o",
        json.to_str().unwrap(),
    ]);
    // where there are counters it works
    if run.code != 0 {
        assert_eq!(run.code, 3, "{}", run.stderr);
        assert!(
            run.stderr.contains("this machine cannot count `cache-misses`"),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains("-e page-faults"), "{}", run.stderr);
        assert!(!json.exists());
    }
}
