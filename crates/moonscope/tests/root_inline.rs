//! `--inline` and `--lines` show the frames and lines that gdb and addr2line show, wherever the debug information is.
//!
//! `tests/programs/inlined.c` says what is inlined into what, and comments in it say at which lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Frame, Program, Recording, Sample, nm, program, record, repository, root, tool};

/// Inlined functions on the way to the busy loops, which `main; outer` leads to.
const BY_ITSELF: [&str; 2] = ["middle", "inner"];
const BY_A_CALL: [&str; 2] = ["middle", "caller"];

/// A frame as a person reads it: function, last part of the file's path, line, and whether it is inlined.
type Seen = (String, String, u64, bool);

/// The line of the source with this comment.
fn line_of(comment: &str) -> u64 {
    let source = std::fs::read_to_string(repository("tests/programs/inlined.c")).unwrap();
    let wanted = format!("/* line: {comment} */");
    let at = source.lines().position(|line| line.ends_with(&wanted));
    at.unwrap_or_else(|| panic!("no {wanted}")) as u64 + 1
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn seen(frame: &Frame) -> Seen {
    let file = base(frame.file.as_deref().unwrap_or_default()).to_owned();
    (
        frame.name().to_owned(),
        file,
        frame.line.unwrap_or(0),
        frame.inlined,
    )
}

/// The frames from `main` on, as long as they are of the program itself.
fn own(sample: &Sample) -> Vec<Frame> {
    let module = |frame: &&Frame| frame.file_name().starts_with("inlined");
    let own = sample.user().skip_while(|frame| frame.name() != "main");
    own.take_while(module).cloned().collect()
}

fn of_source(name: &str, comment: &str, inlined: bool) -> Seen {
    (name.to_owned(), "inlined.c".to_owned(), line_of(comment), inlined)
}

/// What the source says: the frames above the two busy loops.
fn true_stacks() -> [Vec<Seen>; 2] {
    let above = [
        of_source("main", "main", false),
        of_source("outer", "outer", false),
    ];
    let by_itself = [
        of_source("middle", "middle calls inner", true),
        of_source("inner", "inner", true),
    ];
    let by_a_call = [
        of_source("middle", "middle calls caller", true),
        of_source("caller", "caller", true),
        of_source("inlined_leaf", "inlined_leaf", false),
    ];
    [
        [&above[..], &by_itself].concat(),
        [&above[..], &by_a_call].concat(),
    ]
}

/// Records one of the programs; `None` where that is not possible.
fn record_program(name: &str, args: &[&str]) -> Option<Recording> {
    if !root() {
        return None;
    }
    let program = Program::start(&program(name)?, &["60"]);
    let pid = program.pid_text();
    Some(record(
        &[&["-p", &pid, "-d", "1500ms", "--no-kernel"], args].concat(),
    ))
}

/// Nearly all samples have one of the two true stacks, both of them often, and below them are the busy loops, which
/// come from another file.
#[track_caller]
fn assert_true_stacks(recording: &Recording) {
    let wanted = true_stacks();
    let mut counts = [0; 2];
    recording
        .profile
        .assert_most(0.98, "the stack is one of the source", |sample| {
            let frames: Vec<Seen> = own(sample).iter().map(seen).collect();
            let which = wanted.iter().position(|wanted| frames.starts_with(wanted));
            counts.iter_mut().zip(0..).for_each(|(count, nr)| {
                *count += if which == Some(nr) { sample.count } else { 0 };
            });
            which.is_some_and(|which| {
                let below = &frames[wanted[which].len()..];
                // thread_ns is called there too
                below
                    .iter()
                    .all(|(_, file, line, inlined)| file == "common.h" && *line > 0 && *inlined)
            })
        });
    let total = recording.profile.total();
    assert!(
        counts.iter().all(|count| count * 3 > total),
        "{counts:?} of {total}"
    );
    let busy = |sample: &Sample| {
        let names: Vec<String> = own(sample).iter().map(|frame| frame.name().to_owned()).collect();
        names.ends_with(&["work_until".to_owned(), "work".to_owned()])
    };
    recording.profile.assert_most(0.95, "it works in work()", busy);
}

#[test]
fn root_inlined_frames_and_their_lines_are_those_of_the_source() {
    let Some(recording) = record_program("inlined", &["--inline", "--lines"]) else {
        return;
    };
    assert_true_stacks(&recording);
    // and so they read in the text of a graph
    let path = repository("tests/programs").canonicalize().unwrap();
    let place = |name: &str, comment: &str, annotation: &str| {
        format!(
            "{name} ({}/inlined.c:{}){annotation}",
            path.display(),
            line_of(comment)
        )
    };
    let wanted = [
        place("main", "main", ""),
        place("outer", "outer", ""),
        place("middle", "middle calls caller", "_[i]"),
        place("caller", "caller", "_[i]"),
        place("inlined_leaf", "inlined_leaf", ""),
    ];
    let found = recording.folded.iter().filter(|(stack, _)| {
        let main = stack.iter().position(|frame| frame.starts_with("main "));
        main.is_some_and(|main| stack[main..].starts_with(&wanted))
    });
    let count: u64 = found.map(|(_, count)| count).sum();
    assert!(
        count * 3 > recording.profile.total(),
        "{count}: {:?}",
        recording.folded.first()
    );
}

#[test]
fn root_inlined_frames_come_from_a_debug_file_beside_the_program() {
    let Some(recording) = record_program("inlined-debuglink", &["--inline", "--lines"]) else {
        return;
    };
    assert_true_stacks(&recording);
}

#[test]
fn root_inlined_frames_come_from_a_debug_file_under_the_build_id() {
    let Some(path) = root().then(|| program("inlined-buildid")).flatten() else {
        return;
    };
    let dir = path.with_file_name("buildid");
    let args = ["--inline", "--lines", "--debug-dir", dir.to_str().unwrap()];
    let Some(recording) = record_program("inlined-buildid", &args) else {
        return;
    };
    assert_true_stacks(&recording);
    // without that directory nothing of it is known, and nothing is made up
    let recording = record_program("inlined-buildid", &["--inline", "--lines"]).unwrap();
    recording.profile.assert_all("the file is stripped", |sample| {
        let own = |frame: &&Frame| frame.file_name() == "inlined-buildid";
        sample
            .user()
            .filter(own)
            .all(|frame| frame.function.is_none() && !frame.inlined && frame.line.is_none())
    });
}

#[test]
fn root_without_the_options_there_are_no_inlined_frames_and_no_lines() {
    let Some(recording) = record_program("inlined", &[]) else {
        return;
    };
    recording
        .profile
        .assert_all("nothing is inlined, nothing has a line", |sample| {
            sample
                .user()
                .all(|frame| !frame.inlined && frame.file.is_none() && frame.line.is_none())
        });
    recording
        .profile
        .assert_most(0.98, "functions are shown", |sample| {
            let names: Vec<String> = own(sample).iter().map(|frame| frame.name().to_owned()).collect();
            names == ["main", "outer"] || names == ["main", "outer", "inlined_leaf"]
        });
    let text = std::fs::read_to_string(recording.file("x.folded")).unwrap();
    assert!(!text.contains("_[i]") && !text.contains("inlined.c:"), "{text}");
}

#[test]
fn root_inline_alone_shows_no_lines() {
    let Some(recording) = record_program("inlined", &["--inline"]) else {
        return;
    };
    recording.profile.assert_all("nothing has a line", |sample| {
        sample
            .user()
            .all(|frame| frame.file.is_none() && frame.line.is_none())
    });
    let (mut by_itself, mut by_a_call) = (0, 0);
    for sample in &recording.profile.samples {
        let inlined: Vec<String> = own(sample)
            .iter()
            .filter(|frame| frame.inlined)
            .map(|frame| frame.name().to_owned())
            .collect();
        by_itself += if inlined.starts_with(&BY_ITSELF.map(str::to_owned)) {
            sample.count
        } else {
            0
        };
        by_a_call += if inlined.starts_with(&BY_A_CALL.map(str::to_owned)) {
            sample.count
        } else {
            0
        };
    }
    let total = recording.profile.total();
    assert!(
        by_itself * 3 > total && by_a_call * 3 > total,
        "{by_itself} and {by_a_call} of {total}"
    );
}

#[test]
fn root_lines_alone_show_the_line_of_each_function_itself() {
    let Some(recording) = record_program("inlined", &["--lines"]) else {
        return;
    };
    let main = of_source("main", "main", false);
    let outer = of_source("outer", "outer", false);
    let leaf = of_source("inlined_leaf", "inlined_leaf", false);
    recording
        .profile
        .assert_most(0.98, "the line of a function is that of its own call", |sample| {
            let frames: Vec<Seen> = own(sample).iter().map(seen).collect();
            frames == [main.clone(), outer.clone()] || frames == [main.clone(), outer.clone(), leaf.clone()]
        });
}

/// The addresses of a recording with lines are those that were sampled, not those where the functions start.
#[test]
fn root_with_lines_addresses_are_those_of_the_lines() {
    let Some(addr2line) = tool("addr2line") else {
        return;
    };
    let Some(recording) = record_program("inlined", &["--lines"]) else {
        return;
    };
    let path = program("inlined").unwrap();
    let starts: BTreeSet<u64> = nm(&path).into_values().collect();
    let own = recording.profile.samples.iter().flat_map(own);
    let places: BTreeSet<(u64, u64)> = own
        .filter_map(|frame| Some((frame.offset?, frame.line?)))
        .collect();
    assert!(places.len() > 3, "{places:?}");
    for &(address, line) in &places {
        let output = Command::new(&addr2line)
            .arg("-e")
            .arg(&path)
            .args(["-i", &format!("{address:#x}")])
            .output()
            .unwrap();
        // with what is inlined there, innermost first: the last one is the line of the function itself
        let said = String::from_utf8(output.stdout).unwrap();
        let said = said
            .lines()
            .last()
            .and_then(|place| place.split(':').nth(1))
            .unwrap()
            .to_owned();
        let said = said.split(' ').next().unwrap().to_owned();
        assert_eq!(said, line.to_string(), "{address:#x}");
    }
    assert!(places.iter().any(|(address, _)| !starts.contains(address)));
}

/// For each instruction of `outer` and `inlined_leaf` what `addr2line -i` says: function and line, outermost first.
fn by_addr2line(addr2line: &Path, path: &Path) -> BTreeMap<String, BTreeSet<Vec<(String, u64)>>> {
    let symbols = nm(path);
    let mut all: BTreeMap<String, BTreeSet<Vec<(String, u64)>>> = BTreeMap::new();
    for function in ["outer", "inlined_leaf"] {
        let start = symbols[function];
        let end = symbols
            .values()
            .copied()
            .filter(|&other| other > start)
            .min()
            .unwrap();
        let addrs: Vec<String> = (start..end).map(|addr| format!("{addr:#x}")).collect();
        let mut command = Command::new(addr2line);
        let output = command
            .args(["-a", "-i", "-f", "-e"])
            .arg(path)
            .args(&addrs)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for block in text.split("0x").filter(|block| !block.is_empty()) {
            let lines: Vec<&str> = block.lines().skip(1).collect();
            let mut frames: Vec<(String, u64)> = lines
                .chunks_exact(2)
                .map(|pair| {
                    let place = pair[1].split(" (").next().unwrap();
                    let line = place.rsplit_once(':').unwrap().1;
                    (pair[0].to_owned(), line.parse().unwrap_or(0))
                })
                .collect();
            frames.reverse();
            all.entry(function.to_owned()).or_default().insert(frames);
        }
    }
    all
}

#[test]
fn root_every_recorded_chain_of_inlined_frames_is_one_that_addr2line_knows() {
    let Some(addr2line) = root().then(|| tool("addr2line")).flatten() else {
        return;
    };
    let Some(path) = program("inlined") else { return };
    let known = by_addr2line(&addr2line, &path);
    let recording = record_program("inlined", &["--inline", "--lines"]).unwrap();
    let mut compared = 0;
    for sample in &recording.profile.samples {
        let frames = own(sample);
        // each function that was really called begins a chain
        let begins: Vec<usize> = (0..frames.len()).filter(|&at| !frames[at].inlined).collect();
        for (nr, &begin) in begins.iter().enumerate() {
            let end = begins.get(nr + 1).copied().unwrap_or(frames.len());
            let Some(known) = known.get(frames[begin].name()) else {
                continue;
            };
            let chain: Vec<(String, u64)> = frames[begin..end]
                .iter()
                .map(|frame| (frame.name().to_owned(), frame.line.unwrap_or(0)))
                .collect();
            assert!(
                known.contains(&chain),
                "addr2line does not know {chain:?}, but {known:#?}"
            );
            compared += sample.count;
        }
    }
    assert!(compared > recording.profile.total(), "{compared} chains");
}

/// The frames of a thread as gdb shows them, root first, from `main` on: function, file, line.
fn by_gdb(gdb: &Path, pid: &str) -> Vec<(String, String, u64)> {
    let mut command = Command::new(gdb);
    let attach = format!("attach {pid}");
    command.args(["-nx", "-batch", "-ex", "set width 0", "-ex", &attach, "-ex", "bt"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // #3  0x0000557d09a6a1f5 in outer () at inlined.c:45
    let frame = |line: &str| {
        let rest = line
            .strip_prefix('#')?
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start();
        let rest = rest.split_once(" in ").map_or(rest, |(_, rest)| rest);
        let name = rest.split(" (").next()?.to_owned();
        let (file, line) = rest.rsplit_once(" at ")?.1.rsplit_once(':')?;
        Some((name, base(file).to_owned(), line.parse().ok()?))
    };
    let mut frames: Vec<_> = text.lines().filter_map(frame).collect();
    frames.reverse();
    let main = frames.iter().position(|(name, ..)| name == "main");
    frames.split_off(main.unwrap_or_else(|| panic!("no main in {text}")))
}

#[test]
fn root_gdb_sees_the_same_inlined_frames_and_lines() {
    let Some(gdb) = root().then(|| tool("gdb")).flatten() else {
        return;
    };
    let Some(path) = program("inlined") else { return };
    let program = Program::start(&path, &["60"]);
    let recording = record(&["-p", &program.pid_text(), "-d", "1500ms", "--inline", "--lines"]);
    // up to the busy loop: in it the line differs from instruction to instruction, and now and then it asks for the time
    let up_to_the_loop = |mut frames: Vec<(String, String, u64)>| {
        if let Some(at) = frames.iter().position(|(name, ..)| name == "work_until") {
            frames[at].2 = 0;
            frames.truncate(at + 1);
        }
        frames
    };
    let recorded: BTreeSet<Vec<(String, String, u64)>> = recording
        .profile
        .samples
        .iter()
        .map(|sample| {
            own(sample)
                .iter()
                .map(seen)
                .map(|(name, file, line, _)| (name, file, line))
                .collect()
        })
        .map(up_to_the_loop)
        .collect();
    for _ in 0..3 {
        let seen = up_to_the_loop(by_gdb(&gdb, &program.pid_text()));
        assert!(seen.len() >= 5, "gdb sees {seen:?}");
        assert!(
            recorded.contains(&seen),
            "gdb sees {seen:?}, recorded are {recorded:#?}"
        );
    }
}
