//! A file for each part of the time, with nothing missing between two and nothing in both.
//!
//! The truth is what the program counts by getrusage(2), by its clocks, and by what its calls gave it
//! (`tests/programs/rounds.c`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::background::Background;
use common::{Profile, Program, Sample, moonscope, program, root};

/// Files of a folder in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

fn profiles(dir: &Path) -> Vec<Profile> {
    files(dir).iter().map(|file| Profile::read(file)).collect()
}

/// The sum over all files.
fn sum(profiles: &[Profile], column: &str, is_wanted: impl Fn(&Sample) -> bool) -> u64 {
    profiles
        .iter()
        .map(|profile| profile.sum(column, &is_wanted))
        .sum()
}

fn number(profile: &Profile, key: &str) -> u64 {
    profile.json["meta"][key].as_u64().unwrap()
}

#[test]
fn root_intervals_add_up_to_all_that_the_program_did() {
    if !root() {
        return;
    }
    let Some(path) = program("rounds") else { return };
    let mut program = Program::start(&path, &["400"]);
    let dir = tempfile::tempdir().unwrap();
    let pattern = dir.path().join("x-%N.json");
    let mut recording = Background::start(&[
        "record",
        "-p",
        &program.pid_text(),
        "-e",
        "page-faults",
        "-e",
        "io",
        "-e",
        "offcpu",
        "--interval",
        "200ms",
        "-o",
        pattern.to_str().unwrap(),
    ]);
    recording.wait_for_interval();
    program.go();
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    let truth = program.wait();
    let truth = |name: &str| truth.numbers(&format!("truth {name}"))[1];
    let profiles = profiles(dir.path());
    let in_function = |function: &'static str| move |sample: &Sample| sample.has(function);
    assert_eq!(
        sum(&profiles, "page-faults", in_function("touch")),
        truth("touch") as u64
    );
    assert_eq!(
        sum(&profiles, "io_bytes", in_function("pass")),
        truth("pass") as u64
    );
    assert_eq!(sum(&profiles, "io_ops", in_function("pass")), 800);
    let rested = sum(&profiles, "offcpu", in_function("rest")) as f64 / 1e9;
    assert!(
        (rested - truth("rest")).abs() < 0.01 * truth("rest"),
        "{rested} s, {} s in truth",
        truth("rest")
    );

    // the rounds take 1.6 s at least: not all in one file
    let with_touch = profiles
        .iter()
        .filter(|profile| profile.with("touch") > 0)
        .count();
    assert!(
        with_touch >= 4,
        "{with_touch} of {} files\n{}",
        profiles.len(),
        run.stderr
    );
    for pair in profiles.windows(2) {
        let end = number(&pair[0], "start_unix_ns") + number(&pair[0], "duration_ns");
        assert!(
            number(&pair[1], "start_unix_ns") >= end,
            "two files have the same time"
        );
    }
    let accounted = profiles.iter().map(|profile| &profile.json["accounting"]);
    for accounting in accounted {
        assert_eq!(accounting["lost"].as_object().unwrap().len(), 0, "{accounting}");
    }
}

#[test]
fn root_files_have_the_time_in_their_names_and_the_oldest_go() {
    if !root() {
        return;
    }
    let Some(path) = program("shares") else { return };
    let program = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("x.svg");
    let mut recording = Background::start(&[
        "record",
        "-p",
        &program.pid_text(),
        "--interval",
        "300ms",
        "--keep",
        "2",
        "-o",
        svg.to_str().unwrap(),
    ]);
    for _ in 0..4 {
        recording.wait_for("wrote ");
    }
    recording.signal(rustix::process::Signal::INT);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let files = files(dir.path());
    assert_eq!(files.len(), 2, "{files:?}\n{}", run.stderr);
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        // x-20260131-120000.250.svg
        let time = name.strip_prefix("x-").unwrap().strip_suffix(".svg").unwrap();
        assert!(
            time.len() == 19 && time.starts_with("20") && time.contains('-'),
            "{name}"
        );
        assert!(run.stderr.contains(name), "{}", run.stderr);
        assert!(std::fs::read_to_string(file).unwrap().contains("one_round"));
    }
}

#[test]
fn root_a_file_that_cannot_be_written_does_not_end_the_recording() {
    if !root() {
        return;
    }
    let Some(path) = program("shares") else { return };
    let program = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x-000002.json"), "mine").unwrap();
    let pattern = dir.path().join("x-%N.json");
    let run = moonscope(&[
        "record",
        "-p",
        &program.pid_text(),
        "--interval",
        "200ms",
        "-d",
        "900ms",
        "-o",
        pattern.to_str().unwrap(),
    ]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(
        run.stderr.contains("x-000002.json: exists already"),
        "{}",
        run.stderr
    );
    assert_eq!(
        std::fs::read_to_string(dir.path().join("x-000002.json")).unwrap(),
        "mine"
    );
    assert!(dir.path().join("x-000001.json").exists() && dir.path().join("x-000003.json").exists());
}

/// A hundred times as fast as `--interval 5s`: what would grow in a day grows in a quarter of an hour, and shows in seconds.
#[test]
fn root_memory_stays_flat_while_processes_come_and_go() {
    if !root() {
        return;
    }
    let Some(path) = program("short") else { return };
    let named = tempfile::tempdir().unwrap();
    // copies are files of their own only if their contents differ
    let script = "echo ready; n=0; while :; do n=$((n + 1)); cp \"$0\" \"$1/p$n\"; echo $n >>\"$1/p$n\"; \
                  \"$1/p$n\" --child; rm \"$1/p$n\"; done";
    let mut shell = std::process::Command::new("sh");
    let program = Program::spawn(shell.args([
        "-c",
        script,
        path.to_str().unwrap(),
        named.path().to_str().unwrap(),
    ]));
    let dir = tempfile::tempdir().unwrap();
    let pattern = dir.path().join("x-%N.json");
    let mut recording = Background::start(&[
        "record",
        "-p",
        &program.pid_text(),
        "-e",
        "wall",
        "-e",
        "io",
        "-F",
        "999",
        "--interval",
        "50ms",
        "--keep",
        "1",
        "-o",
        pattern.to_str().unwrap(),
    ]);
    let mut memory = Vec::new();
    for part in 0..7 {
        for _ in 0..15 {
            recording.wait_for("wrote ");
        }
        if part >= 3 {
            memory.push(recording.memory() >> 10);
        }
    }
    recording.signal(rustix::process::Signal::INT);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let (early, late) = memory.split_at(memory.len() / 2);
    let (early, late) = (early.iter().min().unwrap(), late.iter().min().unwrap());
    assert!(*late < early + 3072, "RssAnon in KiB: {memory:?}");
}
