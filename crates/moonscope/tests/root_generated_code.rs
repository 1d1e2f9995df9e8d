//! Generated code has the names of the perf map, also when the process, its file system and the map are gone before the
//! recording ends.
//!
//! `tests/programs/jit.c` makes its code itself; the truth is its CPU clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::Command;

use common::{Recording, Truth, assert_share, program, record, root, skip};

/// Each function has its name, its share, and the whole stack above it.
#[track_caller]
fn assert_named(recording: &Recording) {
    let profile = &recording.profile;
    let truth = Truth::read(&recording.run.stdout);
    let names = ["jit:seventy", "jit:thirty"];
    let total = names.map(|name| profile.with(name)).iter().sum();
    for name in names {
        assert_share(name, profile.with(name), total, truth.shares[name]);
    }
    for sample in profile.samples.iter().filter(|sample| sample.has("main")) {
        let user: Vec<&str> = sample.user().map(|frame| frame.name()).collect();
        assert!(!user.contains(&"[anon]"), "{sample}");
        let at = user.iter().position(|name| name.starts_with("jit:"));
        if let Some(at) = at.filter(|_| !sample.is_truncated()) {
            assert_eq!(user[at - 2..at], ["main", "run"], "{sample}");
        }
    }
    assert!(total > 100, "{total}: {}", recording.run.stderr);
}

#[test]
fn root_generated_code_has_names_when_its_map_was_removed() {
    let Some(path) = root().then(|| program("jit")).flatten() else {
        return;
    };
    assert_named(&record(&["--", path.to_str().unwrap(), "2"]));
}

#[test]
fn root_generated_code_has_names_of_a_map_that_was_written_last() {
    let Some(path) = root().then(|| program("jit")).flatten() else {
        return;
    };
    let recording = record(&["--", path.to_str().unwrap(), "2", "late"]);
    let pid = recording.profile.samples.first().map(|sample| sample.pid);
    std::fs::remove_file(format!("/tmp/perf-{}.map", pid.unwrap())).unwrap();
    assert_named(&recording);
}

/// With the last process of the namespaces goes what was mounted there, and `/tmp` was.
#[test]
fn root_generated_code_has_names_when_its_mount_namespace_is_gone() {
    let Some(path) = root().then(|| program("jit")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let copy = dir.path().join("jit");
    std::fs::copy(path, &copy).unwrap();
    for late in ["", "late"] {
        let inside = format!("mount -t tmpfs tmpfs /tmp && KEEP=1 {} 2 {late}", copy.display());
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"];
        let can = Command::new("unshare").args(&unshare[1..]).arg("true").status();
        if !can.is_ok_and(|status| status.success()) {
            skip("unshare cannot make namespaces here");
            return;
        }
        let command = [&["--"], &unshare[..], &["sh", "-c", &inside]].concat();
        assert_named(&record(&command));
    }
}
