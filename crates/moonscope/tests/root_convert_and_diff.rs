//! What was recorded survives every conversion, and a comparison of two recordings names what changed.
//!
//! The truth: sums over the recorded `.json`, and how the two recorded programs differ.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::recording::read_folded;
use common::{Profile, Program, Recording, moonscope, program, record, root};

fn record_program(name: &str, args: &[&str]) -> Option<Recording> {
    let path = root().then(|| program(name)).flatten()?;
    let program = Program::start(&path, &[&["60"], args].concat());
    Some(record(&["-p", &program.pid_text(), "-d", "1500ms"]))
}

#[track_caller]
fn convert(from: &Path, to: &Path, more: &[&str]) {
    let mut args = vec!["convert", from.to_str().unwrap(), "-o", to.to_str().unwrap()];
    args.extend(more);
    let run = moonscope(&args);
    assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
    assert_eq!(run.stderr, "");
}

/// Sum of each value type.
fn totals(json: &serde_json::Value) -> Vec<u64> {
    let mut totals = vec![0; json["value_types"].as_array().unwrap().len()];
    for sample in json["samples"].as_array().unwrap() {
        for (total, value) in totals.iter_mut().zip(sample[2].as_array().unwrap()) {
            *total += value.as_u64().unwrap();
        }
    }
    totals
}

#[test]
fn root_a_recording_survives_every_conversion() {
    let Some(recording) = record_program("shares_cpp", &[]) else {
        return;
    };
    let json = recording.file("x.json");
    // the very same file
    convert(&json, &recording.file("again.json"), &[]);
    let (first, again) = (
        std::fs::read(&json).unwrap(),
        std::fs::read(recording.file("again.json")).unwrap(),
    );
    assert!(
        first == again,
        "{} is not {}",
        json.display(),
        recording.file("again.json").display()
    );
    // written later is written the same
    convert(&json, &recording.file("later.folded"), &[]);
    assert_eq!(read_folded(&recording.file("later.folded")), recording.folded);
    convert(&json, &recording.file("later.txt"), &[]);
    let text = |name: &str| std::fs::read_to_string(recording.file(name)).unwrap();
    assert_eq!(text("later.txt"), text("x.txt"));
    // through pprof: all values, labels, accounting and period
    convert(&json, &recording.file("x.pb.gz"), &[]);
    convert(&recording.file("x.pb.gz"), &recording.file("back.json"), &[]);
    let back = Profile::read(&recording.file("back.json"));
    assert_eq!(totals(&back.json), totals(&recording.profile.json));
    assert_eq!(back.json["accounting"], recording.profile.json["accounting"]);
    assert_eq!(
        back.json["meta"]["period"],
        recording.profile.json["meta"]["period"]
    );
    convert(&recording.file("back.json"), &recording.file("back.folded"), &[]);
    let sorted = |name: &str| {
        read_folded(&recording.file(name))
            .into_iter()
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(sorted("back.folded"), sorted("x.folded"));
    // folded to folded
    convert(
        &recording.file("x.folded"),
        &recording.file("twice.folded"),
        &["--by", "none"],
    );
    assert_eq!(sorted("twice.folded"), sorted("x.folded"));
}

#[test]
fn root_filters_keep_what_they_say() {
    let Some(recording) = record_program("shares", &[]) else {
        return;
    };
    let json = recording.file("x.json");
    convert(&json, &recording.file("only.json"), &["--only", "^share_50$"]);
    convert(
        &json,
        &recording.file("without.json"),
        &["--without", "^share_50$"],
    );
    let total = |name: &str| Profile::read(&recording.file(name)).total();
    assert_eq!(total("only.json"), recording.profile.with("share_50"));
    assert_eq!(
        total("only.json") + total("without.json"),
        recording.profile.total()
    );
    // two recordings are added up
    let (one, two, sum) = (
        recording.file("only.json"),
        recording.file("without.json"),
        recording.file("sum.json"),
    );
    let args = [
        "convert",
        one.to_str().unwrap(),
        two.to_str().unwrap(),
        "-o",
        sum.to_str().unwrap(),
    ];
    assert_eq!(moonscope(&args).code, 0);
    assert_eq!(total("sum.json"), recording.profile.total());
}

/// The same program with a chain of 4 and of 6 links: the difference is the two links.
#[test]
fn root_a_comparison_shows_what_changed() {
    let (Some(before), Some(after)) = (
        record_program("chain-O2", &["4"]),
        record_program("chain-O2", &["6"]),
    ) else {
        return;
    };
    let (a, b) = (before.file("x.json"), after.file("x.json"));
    let out = |name: &str| after.file(name).to_str().unwrap().to_owned();
    let files = [out("diff.folded"), out("diff.svg"), out("diff.txt")];
    let mut args = vec!["diff", "--raw", a.to_str().unwrap(), b.to_str().unwrap()];
    for file in &files {
        args.extend(["-o", file]);
    }
    let run = moonscope(&args);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // a line: stack, count before, count after
    let text = std::fs::read_to_string(&files[0]).unwrap();
    let (mut old, mut new) = (0, 0);
    for line in text.lines() {
        let (rest, after) = line.rsplit_once(' ').unwrap();
        let (stack, before) = rest.rsplit_once(' ').unwrap();
        let (before, after): (u64, u64) = (before.parse().unwrap(), after.parse().unwrap());
        if stack.contains(";chain_leaf") {
            assert!(
                if stack.contains(";chain_06;") {
                    before == 0
                } else {
                    after == 0
                },
                "{line}"
            );
        }
        old += before;
        new += after;
    }
    assert_eq!((old, new), (before.profile.total(), after.profile.total()));
    let table = std::fs::read_to_string(&files[2]).unwrap();
    assert!(table.contains("chain_leaf"), "{table}");
    let svg = std::fs::read_to_string(&files[1]).unwrap();
    assert!(svg.contains("chain_06") && svg.trim_end().ends_with("</svg>"));
}

/// `--by` makes the outermost frame of graphs; the values stay the same.
#[test]
fn root_graphs_can_be_grouped_by_any_label() {
    let Some(recording) = record_program("shares", &[]) else {
        return;
    };
    let json = recording.file("x.json");
    let pid = recording.profile.samples[0].pid;
    for (by, first) in [
        ("comm", "shares".to_owned()),
        ("pid", format!("shares-{pid}")),
        ("none", "_start".to_owned()),
    ] {
        let file = recording.file(&format!("{by}.folded"));
        convert(&json, &file, &["--by", by]);
        let folded = read_folded(&file);
        assert_eq!(
            folded.iter().map(|(_, count)| count).sum::<u64>(),
            recording.profile.total()
        );
        assert!(
            folded.iter().any(|(stack, _)| stack[0] == first),
            "--by {by}: {:?}",
            folded[0]
        );
    }
}
