//! `record -e io --paths`: which files calls read and write.
//!
//! The truth is what the program wrote to which name (`tests/programs/paths.c`), and where `/proc` says that its
//! directory is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::{Profile, Program, moonscope, program, root};

/// Seconds in which a recording has begun, also on a busy machine.
const BEFORE: &str = "5";

/// Records the program in a directory of its own: bytes by path, below that directory where it is there.
fn record(args: &[&str]) -> Option<(BTreeMap<String, u64>, tempfile::TempDir)> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let program = Program::spawn(Command::new(program("paths")?).arg(BEFORE).arg(&work));
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
    program.wait();
    let profile = Profile::read(&json);
    let place = profile
        .columns
        .iter()
        .position(|column| column == "io_bytes")
        .unwrap();
    let mut bytes = BTreeMap::new();
    for sample in profile
        .samples
        .iter()
        .filter(|sample| sample.labels["io-op"] == "write")
    {
        let path = sample.labels.get("io-path").cloned().unwrap_or_default();
        let below = path.strip_prefix(work.to_str().unwrap()).map(str::to_owned);
        if sample.user().any(|frame| frame.name().starts_with("by_")) {
            *bytes.entry(below.unwrap_or(path)).or_default() += sample.values[place];
        }
    }
    Some((bytes, dir))
}

#[test]
fn root_each_write_has_the_path_that_its_file_had_then() {
    if !root() {
        return;
    }
    let Some((mut bytes, dir)) = record(&["--paths"]) else {
        return;
    };
    let mut expected: BTreeMap<String, u64> = (0..40).map(|k| (format!("/short-{k}"), k + 1)).collect();
    expected.extend(
        [
            ("/plain", 5000),
            ("/gone (deleted)", 300),
            ("/a\\nb\\x1b[31m\\xff", 77),
            ("/old", 10),
            ("/new", 20),
            ("[unix]", 11),
            ("[pipe]", 12),
            ("/dev/null", 13),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes)),
    );
    // the kernel's side keeps the last kibibyte of a path
    let (deep, of_deep) = bytes
        .iter()
        .find(|(path, _)| path.ends_with("/leaf"))
        .map(|(path, bytes)| (path.clone(), *bytes))
        .unwrap();
    bytes.remove(&deep);
    assert!(deep.starts_with("…/ddd") && deep.len() > 1000, "{deep}");
    assert_eq!(of_deep, 55);
    assert_eq!(bytes, expected);
    assert!(Path::new(dir.path()).is_dir());
}

#[test]
fn root_without_the_option_there_are_no_paths() {
    if !root() {
        return;
    }
    let Some((bytes, _dir)) = record(&[]) else {
        return;
    };
    assert_eq!(bytes.keys().collect::<Vec<_>>(), [""]);
}
