//! A real nginx under load: all of it is found, its stacks are complete, and lead to nginx's own functions.
//!
//! The truth: which processes the master has, and what the source of nginx calls in which order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use common::load::Nginx;
use common::{record, root};

#[test]
fn root_nginx_under_load_is_complete() {
    if !root() {
        return;
    }
    let Some(nginx) = Nginx::start() else { return };
    let recording = record(&[&format!("--nginx={}", nginx.pid_file()), "-d", "3s"]);
    recording.assert_complete(0.99);
    let pids: BTreeSet<u32> = recording
        .profile
        .samples
        .iter()
        .map(|sample| sample.pid)
        .collect();
    let workers: BTreeSet<u32> = nginx.pids()[1..].iter().copied().collect();
    assert_eq!(workers.len(), 2);
    assert!(
        pids.is_subset(&nginx.pids().into_iter().collect()),
        "{pids:?} of {:?}",
        nginx.pids()
    );
    assert!(!pids.is_disjoint(&workers));
    // Debian's nginx is stripped, but zlib and libc are named, and the kernel's side of a request
    recording
        .profile
        .assert_most(0.99, "begins at _start of nginx", |sample| {
            let frames: Vec<_> = sample.user().collect();
            frames.iter().any(|frame| frame.file_name().starts_with("nginx"))
                && frames
                    .iter()
                    .any(|frame| frame.name() == "__libc_start_main" || frame.name().contains("libc_start"))
        });
    let below = |name: &str| {
        recording
            .profile
            .count(|s| s.stack.iter().any(|frame| frame.name() == name))
    };
    assert!(below("deflate") > 100, "no zlib: {}", below("deflate"));
    assert!(recording.profile.count(|sample| sample.kernel().count() > 2) > 100);
}

#[test]
fn root_the_same_by_pid_of_a_worker_with_the_plain_loop() {
    if !root() {
        return;
    }
    let Some(nginx) = Nginx::start() else { return };
    let worker = nginx.pids()[1];
    let recording = record(&["-p", &worker.to_string(), "-d", "2s", "--walk-loop", "plain-loop"]);
    recording.assert_complete(0.99);
    recording
        .profile
        .assert_all("is of this worker", |sample| sample.pid == worker);
    assert!(
        recording.run.stderr.contains("walked in the kernel (plain loop"),
        "{}",
        recording.run.stderr
    );
}
