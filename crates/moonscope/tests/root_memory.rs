//! Where resident memory comes from and where it goes.
//!
//! The truth is what the kernel counts of the program (RssAnon, RssFile, RssShmem of `/proc/self/status`), read by the
//! program itself before and after each function (`tests/programs/grows.c`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Profile, moonscope, program, root};

/// The label of each kind, in the order of the program.
const KINDS: [&str; 3] = ["anonymous", "file", "shared"];

const MIB: f64 = (1 << 20) as f64;

/// What the program says of one function and one kind of memory.
struct Growth {
    function: String,
    kind: &'static str,
    bytes: f64,
}

/// Records the program from its first instruction to its end.
fn record_growth(event: &str) -> Option<(Profile, Vec<Growth>)> {
    let grows = program("grows")?;
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let (json, grows) = (json.to_str().unwrap(), grows.to_str().unwrap());
    let run = moonscope(&["record", "-e", event, "-o", json, "--", grows, "0"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    let lines = run.stdout.lines().filter_map(|line| line.strip_prefix("truth "));
    let growth = lines.map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        Growth {
            function: words[0].to_owned(),
            kind: KINDS[words[1].parse::<usize>().unwrap()],
            bytes: words[2].parse().unwrap(),
        }
    });
    Some((Profile::read(Path::new(json)), growth.collect()))
}

/// Bytes that came and that went in this function.
fn found(profile: &Profile, function: &str, kind: &str) -> (f64, f64) {
    // the threads that it starts are not below it
    let is_there = |sample: &common::Sample| {
        let is_in = sample.has(function) || function == "by_threads" && sample.has("enter_thread");
        is_in && sample.labels["memory-kind"] == kind
    };
    (
        profile.sum("memory", is_there) as f64,
        profile.sum("memory_freed", is_there) as f64,
    )
}

/// Within this share of the truth, or of the slack where that is more.
fn assert_growth(profile: &Profile, growth: &[Growth], share: f64, slack: f64) {
    assert_eq!(profile.columns, ["memory", "memory_freed"]);
    assert!(growth.len() > 60, "the program did not come to its end");
    for Growth {
        function,
        kind,
        bytes,
    } in growth
    {
        let (came, went) = found(profile, function, kind);
        let near = (bytes.abs() * share).max(slack);
        assert!(
            (came - went - bytes).abs() <= near,
            "{function}, {kind}: {bytes} bytes in truth, {came} - {went} found"
        );
        // none of them does both
        assert!(
            came.min(went) <= slack,
            "{function}, {kind}: {came} bytes came and {went} went"
        );
    }
}

#[test]
fn root_resident_memory_grows_and_shrinks_by_what_the_kernel_counts() {
    if !root() {
        return;
    }
    let Some((profile, growth)) = record_growth("memory:1") else {
        return;
    };
    // code that is run for the first time is resident memory too, wherever that happens
    assert_growth(&profile, &growth, 0.005, 0.5 * MIB);
    let three = found(&profile, "by_three", "anonymous").0;
    assert!((three - 48.0 * MIB).abs() <= 0.25 * MIB, "{three}");
}

#[test]
fn root_with_a_stack_for_each_256_kib_the_sums_stay_the_same() {
    if !root() {
        return;
    }
    let Some((profile, growth)) = record_growth("memory") else {
        return;
    };
    // one stretch too many or too few on each CPU that the function was on
    assert_growth(&profile, &growth, 0.02, 1.0 * MIB);
}

#[test]
fn root_functions_that_take_turns_have_their_shares_of_sampled_memory() {
    if !root() {
        return;
    }
    let Some((profile, _)) = record_growth("memory") else {
        return;
    };
    let three = found(&profile, "by_three", "anonymous").0;
    let one = found(&profile, "by_one", "anonymous").0;
    let share = three / (three + one);
    // 256 stretches: four standard deviations of a binomial distribution; in step it would be 0 or 1
    assert!(
        (share - 0.75).abs() <= 0.11,
        "{share} of it in by_three: {three} bytes, {one} in by_one"
    );
}
