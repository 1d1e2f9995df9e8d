//! Readahead: how much is read before it is asked for, how much of it is used, and what becomes of the rest.
//!
//! The truth is the program's own arithmetic, and what mincore(2) says of its files (`tests/programs/ahead.c`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::Command;

use common::{Profile, Program, moonscope, program, root, skip};

/// Seconds in which a recording has begun, also on a busy machine.
const BEFORE: &str = "5";

/// What a recording says of one function and of its file.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    read: u64,
    used: u64,
    evicted: u64,
    waiting: u64,
}

fn found(profile: &Profile, function: &str) -> Found {
    let sum = |column| {
        profile.sum(column, |sample| {
            sample.has(function) && sample.labels["readahead-file"].ends_with(&format!("/{function}"))
        })
    };
    Found {
        read: sum("readahead"),
        used: sum("readahead_used"),
        evicted: sum("readahead_evicted"),
        waiting: sum("readahead_waiting"),
    }
}

#[test]
fn root_pages_are_used_evicted_or_waiting_as_the_program_has_it() {
    if !root() {
        return;
    }
    let Some(path) = program("ahead") else { return };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (program, code) = Program::try_spawn(Command::new(path).arg(BEFORE).arg(dir.path()));
    if let Some(code) = code {
        assert_eq!(code, 77, "ahead ended before it was ready");
        skip("the file system of /var/tmp has no readahead");
        return;
    }
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let run = moonscope(&[
        "record",
        "-p",
        &pid,
        "-e",
        "readahead",
        "-o",
        json.to_str().unwrap(),
    ]);
    if run.code == 3 {
        assert!(run.stderr.contains("Linux 6.18"), "{}", run.stderr);
        eprintln!("SKIPPED: {}", run.stderr);
        return;
    }
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    let profile = Profile::read(&json);
    let truth = program.wait();
    let of = |function: &str| {
        let numbers = truth.numbers(&format!("file {function} "));
        let [size, asked, cached] = numbers[..] else {
            panic!("{truth:?}")
        };
        (
            found(&profile, function),
            size as u64,
            asked as u64,
            cached as u64,
        )
    };
    for function in ["by_all", "by_sendfile", "by_once"] {
        let (found, size, asked, _) = of(function);
        assert_eq!(asked, size, "{function}");
        let expected = Found {
            read: size,
            used: size,
            evicted: 0,
            waiting: 0,
        };
        assert_eq!(found, expected, "{function}: all of it is read");
    }
    let (found, size, asked, cached) = of("by_stride");
    assert_eq!(asked, size / 64);
    assert_eq!((found.read, found.used), (size, asked), "by_stride: {found:?}");
    // what cannot be evicted stays
    assert!(found.waiting <= cached, "by_stride: {found:?}, {cached} cached");
    assert_eq!(
        found.evicted + found.waiting,
        size - asked,
        "by_stride: {found:?}"
    );
    assert!(found.evicted > size / 2, "by_stride: {found:?}");

    let (found, size, asked, cached) = of("by_waiting");
    assert_eq!((found.read, found.used), (size, asked), "by_waiting: {found:?}");
    assert_eq!(
        found.evicted + found.waiting,
        size - asked,
        "by_waiting: {found:?}"
    );
    // pages that somebody else throws out now are evicted
    assert!(
        found.waiting + asked >= cached,
        "by_waiting: {found:?}, {cached} cached"
    );

    // the kernel maps up to 16 pages around a fault, which counts as using them
    let (found, _, asked, _) = of("by_map");
    assert!(
        found.used >= asked && found.used <= 16 * asked,
        "by_map: {found:?}"
    );
    assert_eq!(
        found.read,
        found.used + found.evicted + found.waiting,
        "by_map: {found:?}"
    );
    assert!(
        found.evicted + found.waiting >= found.read / 2,
        "by_map: {found:?}"
    );

    let (found, _, asked, _) = of("by_write");
    let expected = Found {
        read: asked,
        used: asked,
        evicted: 0,
        waiting: 0,
    };
    assert_eq!(found, expected, "by_write: what is written is not read ahead");
}
