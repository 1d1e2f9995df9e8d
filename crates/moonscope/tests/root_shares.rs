//! Functions whose shares of the CPU time are known get these shares, whatever they were compiled with.
//!
//! The truth is the program's own: the kernel's CPU clock of its thread, printed at its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Frame, Program, Recording, Sample, Truth, assert_share, nm, program, record, root};

/// What each of these programs is written to use.
const DESIGN: [(&str, f64); 11] = [
    ("share_50", 0.5),
    ("share_30", 0.3),
    ("share_20", 0.2),
    ("main.share50", 0.5),
    ("main.share30", 0.3),
    ("main.share20", 0.2),
    ("by_virtual", 0.4),
    ("by_lambda", 0.3),
    ("by_sort", 0.2),
    ("by_exception", 0.1),
    ("generic", 0.4),
];

/// A virtual machine that stands still for 100 ms sees its CPU clock jump and not a single tick: then the clock is
/// not the truth about samples. It shows in shares that are far from what the program was written for.
const STANDSTILL: f64 = 0.02;

/// Records a program from its `ready` to its end, again if the machine stood still meanwhile.
fn record_whole_run(path: &Path) -> (Recording, Truth) {
    for _ in 0..4 {
        let (recording, truth) = record_once(path);
        let far = |(part, share): &(&str, f64)| {
            truth
                .shares
                .get(*part)
                .is_some_and(|found| (found - share).abs() > STANDSTILL)
        };
        if !DESIGN.iter().any(far) {
            return (recording, truth);
        }
        eprintln!("the machine stood still: {:?}", truth.shares);
    }
    record_once(path)
}

fn record_once(path: &Path) -> (Recording, Truth) {
    let program = Program::start(path, &["3"]);
    let recording = record(&["-p", &program.pid_text()]);
    (recording, program.wait())
}

/// Each part has its share of the samples in any of the parts; `is_in` says whether a sample is in a part.
#[track_caller]
fn assert_shares(recording: &Recording, truth: &Truth, is_in: impl Fn(&Sample, &str) -> bool) {
    let counts: BTreeMap<&str, u64> = truth
        .shares
        .keys()
        .map(|part| {
            (
                part.as_str(),
                recording.profile.count(|sample| is_in(sample, part)),
            )
        })
        .collect();
    let total = counts.values().sum();
    for (part, count) in counts {
        assert_share(part, count, total, truth.shares[part]);
    }
    // what is in none of them is what the program does between: a few clock reads
    recording
        .profile
        .assert_most(0.95, "is in one of the functions", |sample| {
            truth.shares.keys().any(|part| is_in(sample, part))
        });
}

/// Three functions called by `one_round` of `main`.
fn shares_of_c(flavour: &str) {
    let Some(path) = root().then(|| program(flavour)).flatten() else {
        return;
    };
    let recording = assert_shares_of_c(&path);
    recording.assert_complete(0.99);
}

#[track_caller]
fn assert_shares_of_c(path: &Path) -> Recording {
    let (recording, truth) = record_whole_run(path);
    assert_eq!(truth.shares.len(), 3);
    assert_shares(&recording, &truth, |sample, part| {
        sample
            .below_main()
            .is_some_and(|names| names.starts_with(&["main", "one_round", part]))
    });
    recording
}

#[test]
fn root_shares_of_c_without_frame_pointers() {
    shares_of_c("shares");
}

#[test]
fn root_shares_of_c_with_frame_pointers() {
    shares_of_c("shares-fp");
}

#[test]
fn root_shares_of_c_not_optimized() {
    shares_of_c("shares-O0");
}

#[test]
fn root_shares_of_c_at_o3() {
    shares_of_c("shares-O3");
}

#[test]
fn root_shares_of_c_that_is_not_position_independent() {
    shares_of_c("shares-nopie");
}

#[test]
fn root_shares_of_static_c() {
    shares_of_c("shares-static");
}

#[test]
fn root_shares_of_static_position_independent_c() {
    shares_of_c("shares-static-pie");
}

#[test]
fn root_shares_of_c_by_clang() {
    shares_of_c("shares-clang");
}

/// musl is compiled without unwind information: what calls `main` is not known, and the stack says so.
#[test]
fn root_shares_of_c_with_musl() {
    let Some(path) = root().then(|| program("shares-musl")).flatten() else {
        return;
    };
    let recording = assert_shares_of_c(&path);
    assert_eq!(
        recording.accounting.truncated.keys().collect::<Vec<_>>(),
        ["no unwind row"]
    );
    recording
        .profile
        .assert_all("is cut above main, if it is cut", |sample| {
            !sample.is_truncated() || ["", "[truncated]"].contains(&sample.names()[0])
        });
}

/// In a stripped file functions have no names, but each is told by the address where it starts, which `nm` of
/// the same file before it was stripped gives.
#[track_caller]
fn assert_stripped_shares(stripped: &Path, twin: &Path, functions: &[(&str, &str)]) {
    let (recording, truth) = record_whole_run(stripped);
    recording.assert_complete(0.99);
    let starts = nm(twin);
    let start = |part: &str| {
        let symbol = functions.iter().find(|(name, _)| *name == part).unwrap().1;
        *starts
            .get(symbol)
            .unwrap_or_else(|| panic!("nm shows no {symbol}"))
    };
    let file = stripped.file_name().unwrap().to_str().unwrap();
    assert_shares(&recording, &truth, |sample, part| {
        sample.user().any(|frame| {
            frame.function.is_none() && frame.file_name() == file && frame.offset == Some(start(part))
        })
    });
    // and that is how they read
    for (part, _) in functions {
        let text = format!("[{file}+{:#x}]", start(part));
        assert!(
            recording.folded.iter().any(|(stack, _)| stack.contains(&text)),
            "no {text}"
        );
    }
}

#[test]
fn root_shares_of_stripped_c() {
    if !root() {
        return;
    }
    let (Some(stripped), Some(twin)) = (program("shares-stripped"), program("shares")) else {
        return;
    };
    let functions = [
        ("share_50", "share_50"),
        ("share_30", "share_30"),
        ("share_20", "share_20"),
    ];
    assert_stripped_shares(&stripped, &twin, &functions);
}

#[test]
fn root_shares_of_stripped_cpp() {
    if !root() {
        return;
    }
    let (Some(stripped), Some(twin)) = (program("shares_cpp-stripped"), program("shares_cpp")) else {
        return;
    };
    let functions = [
        ("by_virtual", "_Z10by_virtualm"),
        ("by_lambda", "_Z9by_lambdam"),
        ("by_sort", "_Z7by_sortm"),
        ("by_exception", "_Z12by_exceptionm"),
    ];
    assert_stripped_shares(&stripped, &twin, &functions);
}

fn shares_of_cpp(flavour: &str) {
    let Some(path) = root().then(|| program(flavour)).flatten() else {
        return;
    };
    let (recording, truth) = record_whole_run(&path);
    recording.assert_complete(0.99);
    assert_shares(&recording, &truth, |sample, part| {
        let function = format!("{part}(unsigned long)");
        sample
            .below_main()
            .is_some_and(|names| names.starts_with(&["main", "one_round()", &function]))
    });
    // a template, a closure, and a comparison called by the standard library carry their full names
    let below = |caller: &str, callee: &str| {
        let with = recording
            .profile
            .count(|s| s.has(caller) && s.names().iter().any(|name| name.contains(callee)));
        let all = recording.profile.with(caller);
        assert!(
            with as f64 > 0.9 * all as f64,
            "{callee} in {with} of {all} samples of {caller}"
        );
    };
    below(
        "by_virtual(unsigned long)",
        "Disc<double>::area(unsigned long) const",
    );
    below(
        "by_lambda(unsigned long)",
        "by_lambda(unsigned long)::{lambda(unsigned long)#1}",
    );
    below(
        "by_sort(unsigned long)",
        "less_by_work(unsigned int, unsigned int)",
    );
    below("by_exception(unsigned long)", "thrower<int>(int)");
}

#[test]
fn root_shares_of_cpp() {
    shares_of_cpp("shares_cpp");
}

#[test]
fn root_shares_of_cpp_not_optimized() {
    shares_of_cpp("shares_cpp-O0");
}

fn shares_of_rust(flavour: &str) {
    let Some(path) = root().then(|| program(flavour)).flatten() else {
        return;
    };
    let (recording, truth) = record_whole_run(&path);
    recording.assert_complete(0.99);
    let is = |name: &str, part: &str| match part {
        "generic" => name.starts_with("shares_rs::generic"),
        "call_closure" => name.starts_with("shares_rs::call_closure"),
        "area" => name == "<shares_rs::Circle as shares_rs::Shape>::area",
        part => name == format!("shares_rs::{part}"),
    };
    assert_shares(&recording, &truth, |sample, part| {
        let below_main = sample.below("shares_rs::main");
        below_main.is_some_and(|names| names.iter().any(|name| is(name, part)))
    });
}

#[test]
fn root_shares_of_rust() {
    shares_of_rust("shares_rs");
}

#[test]
fn root_shares_of_rust_with_frame_pointers() {
    shares_of_rust("shares_rs-fp");
}

#[test]
fn root_shares_of_rust_not_optimized() {
    shares_of_rust("shares_rs-debug");
}

/// The goroutine beside the main one is left out of the shares.
#[track_caller]
fn assert_shares_of_go(path: &Path, is_frame: impl Fn(&Frame, &str) -> bool) {
    let (recording, truth) = record_whole_run(path);
    recording.assert_complete(0.99);
    let count = |part: &str| {
        let chain = ["runtime.main", "main.main", "main.oneRound", part];
        recording.profile.count(|sample| {
            let below: Vec<&Frame> = sample
                .user()
                .skip_while(|frame| !is_frame(frame, chain[0]))
                .collect();
            below.len() >= 4 && below.iter().zip(chain).all(|(frame, name)| is_frame(frame, name))
        })
    };
    let counts: BTreeMap<&str, u64> = truth
        .shares
        .keys()
        .map(|part| (part.as_str(), count(part)))
        .collect();
    let total = counts.values().sum();
    for (part, count) in counts {
        assert_share(part, count, total, truth.shares[part]);
    }
    recording
        .profile
        .assert_most(0.85, "is of the main goroutine", |sample| {
            sample.user().any(|frame| is_frame(frame, "main.oneRound"))
        });
}

#[test]
fn root_shares_of_go() {
    let Some(path) = root().then(|| program("shares_go")).flatten() else {
        return;
    };
    assert_shares_of_go(&path, |frame, name| frame.name() == name);
}

/// Built with `-ldflags '-s -w'`: neither symbols nor DWARF, only Go's own table.
#[test]
fn root_shares_of_stripped_go() {
    if !root() {
        return;
    }
    let (Some(path), Some(twin)) = (program("shares_go-stripped"), program("shares_go")) else {
        return;
    };
    let starts = nm(&twin);
    assert_shares_of_go(&path, |frame, name| {
        frame.name() == name && frame.offset == Some(starts[name])
    });
}
