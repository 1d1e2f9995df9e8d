//! The collector of `docs/adding-a-collector.md` is complete: with nothing but its two files and the lines that register
//! them it builds, and the kernel takes its programs.
//!
//! Where a block of code belongs stands behind its language: a whole file, or lines to be put before another one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the crate that holds collectors is built from.
const NEEDED: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "bpf",
    "crates/moonscope-luajit",
    "crates/moonscope-probe",
    "crates/moonscope-process",
    "crates/moonscope-unwind",
];

/// How cargo builds here. It joins the settings of all folders above, and flags that are there twice are other flags.
const CONFIGURATION: &str = ".cargo/config.toml";

/// A block of code of the page.
#[derive(Debug)]
struct Block {
    file: String,
    /// It goes before the line that begins so; `None`: it is the whole file.
    before: Option<String>,
    text: String,
}

/// The blocks that say where they belong.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mut words = info.splitn(3, ' ').skip(1);
                if let Some(file) = words.next() {
                    let before = words.next().and_then(|place| place.strip_prefix("before:"));
                    open = Some(Block {
                        file: file.to_owned(),
                        before: before.map(str::to_owned),
                        text: String::new(),
                    });
                }
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap()
}

/// All files below a path.
fn files(path: &Path, all: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), all);
        }
    } else {
        all.push(path.to_owned());
    }
}

/// What the copy is to hold, as a path in the repository and its text.
fn with_the_example() -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = Vec::new();
    for needed in NEEDED {
        files(&repository().join(needed), &mut paths);
    }
    let mut all: Vec<(PathBuf, Vec<u8>)> = paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(repository()).unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    for block in blocks(&page()) {
        let name = PathBuf::from(&block.file);
        let known = all.iter_mut().find(|(path, _)| *path == name);
        match (&block.before, known) {
            (None, None) => all.push((name, block.text.into_bytes())),
            (None, Some(_)) => panic!("{} is there already", block.file),
            (Some(before), Some((_, text))) => *text = insert(text, before, &block),
            (Some(_), None) => panic!("there is no {}", block.file),
        }
    }
    // another version, because what cargo builds is named after it: it shall not take the place of the original
    let (_, manifest) = all
        .iter_mut()
        .find(|(path, _)| path == Path::new("Cargo.toml"))
        .unwrap();
    *manifest = with_version(manifest, "0.0.0");
    all
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/adding-a-collector.md")).unwrap()
}

/// A manifest in which the first line with a version says another one.
fn with_version(manifest: &[u8], version: &str) -> Vec<u8> {
    let manifest = String::from_utf8(manifest.to_vec()).unwrap();
    let old = manifest
        .lines()
        .find(|line| line.starts_with("version = "))
        .unwrap();
    manifest
        .replacen(old, &format!("version = {version:?}"), 1)
        .into_bytes()
}

fn insert(text: &[u8], before: &str, block: &Block) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let at = match text.starts_with(before) {
        true => 0,
        false => {
            text.find(&format!("\n{before}"))
                .unwrap_or_else(|| panic!("no line of {} begins with {before}", block.file))
                + 1
        }
    };
    format!("{}{}{}", &text[..at], block.text, &text[at..]).into_bytes()
}

/// Writes what is not there yet and removes what does not belong there: what was built from the rest stays fresh.
fn write(copy: &Path, all: &[(PathBuf, Vec<u8>)]) {
    let wanted: BTreeSet<PathBuf> = all.iter().map(|(name, _)| copy.join(name)).collect();
    let mut there = Vec::new();
    if copy.exists() {
        files(copy, &mut there);
    }
    for path in there.iter().filter(|path| !wanted.contains(*path)) {
        fs::remove_file(path).unwrap();
    }
    for (name, text) in all {
        let path = copy.join(name);
        if fs::read(&path).ok().as_ref() != Some(text) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
    }
}

/// The folder of this very build, so that no dependency is built again.
fn target_dir() -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // cargo marks it so, and the folder of each processor in it
    let marked = temporary
        .ancestors()
        .filter(|dir| dir.join("CACHEDIR.TAG").exists());
    marked.last().or(temporary.parent()).unwrap().to_owned()
}

#[test]
fn the_example_of_the_page_is_all_that_a_collector_needs() {
    let mut all = with_the_example();
    let whole = blocks(&page())
        .iter()
        .filter(|block| block.before.is_none())
        .count();
    assert_eq!(whole, 2, "files of a collector");

    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adding-a-collector");
    if !copy.starts_with(repository()) {
        let text = fs::read(repository().join(CONFIGURATION)).unwrap();
        all.push((CONFIGURATION.into(), text));
    }
    write(&copy, &all);
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--release", "-p", "moonscope-probe"])
        .args(["--test", "root_verifier_budget", "--", "--nocapture"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", target_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{words}");
    assert!(!words.contains("warning:"), "{words}");
    if rustix::process::geteuid().is_root() {
        for variant in ["signal_generated_bpf_loop", "signal_generated_plain_loop"] {
            assert!(said.contains(variant), "{variant}: {said}");
        }
    }
}
