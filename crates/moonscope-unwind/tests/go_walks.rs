//! Stacks of running Go programs without any symbols or DWARF: both walkers follow the runtime's function table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "common/follow.rs"]
#[allow(dead_code)]
mod follow;
#[path = "common/programs.rs"]
#[allow(dead_code)]
mod programs;
#[path = "common/target.rs"]
#[allow(dead_code)]
mod target;

use follow::{STOPS, both_ways, describe, pause};
use target::{Files, Target};

/// Builds the Go program stripped; `None` if there is no Go compiler.
fn build(dir: &Path, build_mode: &str, link_mode: &str) -> Option<PathBuf> {
    let (source, binary) = (dir.join("main.go"), dir.join(format!("{build_mode}-{link_mode}")));
    std::fs::write(&source, programs::GO).unwrap();
    // compiling the standard library again takes a minute, so its cache outlives the test
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache");
    let output = Command::new("go")
        .arg("build")
        .arg(format!("-buildmode={build_mode}"))
        .arg(format!("-ldflags=-s -w -linkmode={link_mode}"))
        .args([Path::new("-o"), &binary, &source])
        .env("GOCACHE", cache)
        .env("GO111MODULE", "off")
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(binary)
}

/// Every stack is complete and found without a frame pointer.
fn follow(target: &Target) {
    let mut files = Files::default();
    let mut depths = Vec::new();
    for round in 0..STOPS {
        pause(round);
        let tids = target.threads();
        let snapshot = target.stop(tids[round % tids.len()]).unwrap();
        let (process, walk, lost) = both_ways(&mut files, &snapshot);
        assert!(walk.end.is_complete() && !lost, "{}", describe(&process, &walk));
        assert!(
            walk.frames.iter().all(|frame| !frame.fp),
            "{}",
            describe(&process, &walk)
        );
        depths.push(walk.frames.len());
        target.resume();
    }
    assert!(depths.iter().any(|&depth| depth > 4), "{depths:?}");
}

fn follow_built(build_mode: &str, link_mode: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some(binary) = build(dir.path(), build_mode, link_mode) else {
        eprintln!("skipped: no go");
        return;
    };
    follow(&Target::start(&binary, &[], true));
}

#[test]
fn linked_at_a_fixed_address() {
    follow_built("exe", "internal");
}

#[test]
fn linked_at_a_fixed_address_by_the_systems_linker() {
    follow_built("exe", "external");
}

#[test]
fn position_independent() {
    follow_built("pie", "internal");
}

/// The function table is a part of `.data.rel.ro`, and the Go code does not start where `.text` does.
#[test]
fn position_independent_by_the_systems_linker() {
    follow_built("pie", "external");
}

#[test]
fn of_another_vendor() {
    let program = Path::new("/usr/bin/gcloud-crc32c");
    if !program.exists() {
        eprintln!("skipped: no {}", program.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    std::fs::File::create(&input).unwrap().set_len(1 << 36).unwrap();
    follow(&Target::start(program, &[input.to_str().unwrap()], false));
}
