//! Stacks of running Go programs without any symbols or DWARF: both walkers follow the runtime's function table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use moonscope_unwind::{RuleSet, Table, WalkEnd};
use object::{Object, ObjectSection};

#[path = "common/follow.rs"]
#[allow(dead_code)]
mod follow;
#[path = "common/target.rs"]
#[allow(dead_code)]
mod target;

use follow::{STOPS, both_ways, describe, pause};
use target::{Files, Target};

/// Sorts and formats below a recursion, with the garbage collector in other threads.
const GO: &str = r#"package main

import (
	"fmt"
	"sort"
	"strings"
)

type node struct {
	next *node
	n    int
}

//go:noinline
func depth(n int, words []string) int {
	if n > 0 {
		return depth(n-1, words) + len(words[n%len(words)])
	}
	sort.Slice(words, func(i, j int) bool { return strings.Repeat(words[i], 3) < strings.Repeat(words[j], 3) })
	return len(fmt.Sprint(words, n))
}

func main() {
	fmt.Println("ready")
	total := 0
	for i := 0; ; i++ {
		words := make([]string, 200)
		for k := range words {
			words[k] = fmt.Sprint(i * k * 7919 % 1000)
		}
		total += depth(12, words)
	}
}
"#;

/// Builds the Go program stripped; `None` if there is no Go compiler.
fn build(dir: &Path, build_mode: &str, link_mode: &str) -> Option<PathBuf> {
    let (source, binary) = (dir.join("main.go"), dir.join(format!("{build_mode}-{link_mode}")));
    std::fs::write(&source, GO).unwrap();
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
    let mut in_handlers = 0;
    for round in 0..STOPS {
        pause(round);
        let tids = target.threads();
        let snapshot = target.stop(tids[round % tids.len()]).unwrap();
        let (process, walk, lost) = both_ways(&mut files, &snapshot);
        if walk.end == WalkEnd::Unreadable {
            // Go's runtime interrupts its threads by signals and handles them on another stack, of which
            // there is no copy
            in_handlers += 1;
            target.resume();
            continue;
        }
        assert!(walk.end.is_complete() && !lost, "{}", describe(&process, &walk));
        assert!(
            walk.frames.iter().all(|frame| !frame.fp),
            "{}",
            describe(&process, &walk)
        );
        depths.push(walk.frames.len());
        target.resume();
    }
    assert!(
        in_handlers <= STOPS / 10,
        "{in_handlers} stops in signal handlers"
    );
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

/// Makes of a program what Go 1.26 would have linked: the function table says nothing of where the code starts,
/// and `moduledata`, which does, has a section of its own.
fn like_go_1_26(program: &[u8]) -> Vec<u8> {
    let file = object::File::parse(program).unwrap();
    let section = |name: &str| file.section_by_name(name).unwrap();
    let table = section(".gopclntab");
    let mut patched = program.to_vec();
    let text = table.file_range().unwrap().0 as usize + 24;
    patched[text..text + 8].fill(0);
    let data = section(".noptrdata");
    let module = memchr::memmem::find(data.data().unwrap(), &table.address().to_le_bytes()).unwrap() as u64;
    // the note with the build id gives its section header and its name
    let old_name = b".note.go.buildid\0";
    let name = memchr::memmem::rfind(program, old_name).unwrap();
    patched[name..][..11].copy_from_slice(b".go.module\0");
    let headers = u64::from_le_bytes(program[40..48].try_into().unwrap()) as usize;
    let header = headers + 64 * section(".note.go.buildid").index().0;
    let place = [
        data.address() + module,
        data.file_range().unwrap().0 + module,
        600,
    ];
    for (n, word) in place.into_iter().enumerate() {
        patched[header + 16 + 8 * n..][..8].copy_from_slice(&word.to_le_bytes());
    }
    patched[header + 4..][..4].copy_from_slice(&object::elf::SHT_PROGBITS.0.to_le_bytes());
    patched
}

#[test]
fn a_table_that_does_not_say_where_the_code_starts() {
    let dir = tempfile::tempdir().unwrap();
    let Some(binary) = build(dir.path(), "exe", "internal") else {
        eprintln!("skipped: no go");
        return;
    };
    let program = std::fs::read(binary).unwrap();
    let table = |program: &[u8]| Table::build(program, &mut RuleSet::new()).unwrap().unwrap();
    let original = table(&program);
    assert!(original.stats.go_functions > 1000);
    let patched = like_go_1_26(&program);
    assert_ne!(program, patched);
    assert_eq!(original, table(&patched));
}
