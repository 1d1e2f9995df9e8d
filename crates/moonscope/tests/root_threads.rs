//! Threads that are there, begin and end while their process is recorded: each has its own stacks and its own name.
//!
//! The truth is what each program of `tests/programs` says that its threads ran, and for how long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use common::{Program, Recording, Sample, Truth, assert_share, program, record, root};

/// The threads `first..` have their shares, their own names, and their start function under the C library's.
#[track_caller]
fn assert_threads(recording: &Recording, truth: &Truth, first: usize) {
    recording.assert_complete(0.99);
    let function = |k| format!("thread_{k}");
    let total = (first..8).map(|k| recording.profile.with(&function(k))).sum();
    let used: f64 = (first..8).map(|k| truth.shares[&function(k)]).sum();
    for k in first..8 {
        let name = function(k);
        assert_share(
            &name,
            recording.profile.with(&name),
            total,
            truth.shares[&name] / used,
        );
        let mut tids = BTreeSet::new();
        for sample in recording
            .profile
            .samples
            .iter()
            .filter(|sample| sample.has(&name))
        {
            assert_eq!(sample.thread, format!("worker-{k}"), "{sample}");
            assert_eq!(sample.comm, "threads", "{sample}");
            assert!(
                sample.below("enter_thread").is_some_and(|names| names[1] == name),
                "{sample}"
            );
            tids.insert(sample.tid);
        }
        assert_eq!(tids.len(), 1, "{name}");
    }
    recording.profile.assert_most(
        0.98,
        "is main's or the loader's, or begins with a thread's start",
        |sample| {
            let is_thread = sample.has("enter_thread");
            !is_thread || (sample.names()[0].contains("clone") && !sample.has("main"))
        },
    );
}

#[test]
fn root_each_thread_of_a_command_has_its_own_stacks() {
    let Some(path) = root().then(|| program("threads")).flatten() else {
        return;
    };
    let recording = record(&["--", path.to_str().unwrap(), "4"]);
    let truth = Truth::read(&recording.run.stdout);
    assert_threads(&recording, &truth, 0);
}

/// The fifth thread starts a second after `ready`, when the recording has begun.
#[test]
fn root_threads_born_during_the_recording_are_in_it() {
    let Some(path) = root().then(|| program("threads")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["4"]);
    let recording = record(&["-p", &program.pid_text()]);
    assert_threads(&recording, &program.wait(), 4);
}

/// Births of threads are told of in a ring of perf's, whether we want it or not. Whoever is woken for each of them
/// costs the thread's parent an interrupt (`irq_work`): 27 % of these samples, once.
#[test]
fn root_births_of_threads_do_not_wake_us() {
    let Some(path) = root().then(|| program("births")).flatten() else {
        return;
    };
    let recording = record(&["--", path.to_str().unwrap(), "3"]);
    let births = Truth::read(&recording.run.stdout).numbers("births")[0];
    assert!(births > 1_000.0, "{births}");
    let below = |function: &str| {
        let is_below = |sample: &Sample| sample.kernel().any(|frame| frame.name().contains(function));
        recording.profile.count(is_below)
    };
    // the kernel's stacks are there, and named
    assert!(below("clone") > recording.profile.total() / 20);
    // others may record at the same time, and be woken until they see what goes on
    assert!(
        below("irq_work") <= recording.profile.total() / 10,
        "{} of {} samples are wake-ups",
        below("irq_work"),
        recording.profile.total()
    );
}

/// The first thread has ended, and with it what /proc shows of the process under its own number.
#[test]
fn root_a_process_whose_first_thread_has_ended_is_recorded() {
    let Some(path) = root().then(|| program("leaderless")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let recording = record(&["-p", &program.pid_text(), "-d", "1s"]);
    recording.assert_complete(0.99);
    recording.profile.assert_most(0.95, "is in the thread", |sample| {
        sample
            .below("enter_thread")
            .is_some_and(|names| names[1] == "busy")
    });
    let by_name = record(&["--comm", "leaderless", "-d", "500ms"]);
    assert!(by_name.profile.with("busy") > 0);
}
