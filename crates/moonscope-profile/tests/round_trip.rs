//! What is written is read back the same: everything for JSON, what the format can hold for the others.
//!
//! proptest prints the seed of a case that fails and keeps it beside this file.

#![allow(clippy::unwrap_used)]

mod example;

use std::collections::{BTreeMap, BTreeSet};

use moonscope_profile::{
    Accounting, Format, Frame, FrameKind, Grouping, LabelValue, Meta, Module, Profile, ValueType,
    WriteOptions,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn through(profile: &Profile, format: Format) -> Profile {
    let mut content = Vec::new();
    let options = WriteOptions {
        group: Grouping::None,
        ..WriteOptions::default()
    };
    format.write(profile, &options, &mut content).unwrap();
    assert_eq!(
        Format::detect(&content),
        Some(format),
        "content must tell its format"
    );
    format.parse(&content).unwrap()
}

/// The samples in words, so that numbers of frames and stacks do not matter.
fn samples(profile: &Profile, frame: impl Fn(&Profile, &Frame) -> String) -> BTreeSet<String> {
    profile
        .samples()
        .map(|sample| {
            let frames: Vec<_> = profile
                .root_to_leaf(sample.stack)
                .into_iter()
                .map(|id| frame(profile, profile.frame_of(id)))
                .collect();
            let labels: Vec<_> = profile.labels_of(sample.labels).iter().collect();
            format!("{frames:?} {labels:?} {:?}", sample.values)
        })
        .collect()
}

fn whole_frame(profile: &Profile, frame: &Frame) -> String {
    let module = frame.module.map(|module| profile.module_of(module));
    format!("{frame:?} {module:?}")
}

#[derive(Clone, Debug)]
struct AnyFrame {
    kind: FrameKind,
    function: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    defined_at: Option<u32>,
    module: Option<(String, Option<String>)>,
    offset: Option<u64>,
    inlined: bool,
}

fn any_frame(text: &'static str) -> impl Strategy<Value = AnyFrame> {
    (
        proptest::sample::select(FrameKind::ALL.to_vec()),
        option::of(text),
        option::of(text),
        option::of(1..i32::MAX as u32),
        option::of(1..i32::MAX as u32),
        option::of((text, option::of("[0-9a-f]{1,40}"))),
        option::of(1..=u64::MAX),
        any::<bool>(),
    )
        .prop_map(
            |(kind, function, file, line, defined_at, module, offset, inlined)| AnyFrame {
                kind,
                function,
                file,
                line,
                defined_at,
                module,
                offset,
                inlined,
            },
        )
}

fn any_profile(text: &'static str) -> impl Strategy<Value = Profile> {
    let label = prop_oneof![
        any::<i64>().prop_map(LabelValue::Number),
        text.prop_map(LabelValue::from),
    ];
    let sample = (
        vec(0..8usize, 0..6),
        vec((text, label), 0..4),
        vec(any::<i32>(), 2),
    );
    let counts = || btree_map("[a-z ]{1,8}[a-z]", 0..1_000_000u64, 0..3);
    let accounting = (vec(0..u64::MAX / 16, 4), counts(), counts());
    let meta = (
        option::of(1..i64::MAX as u64),
        option::of(1..i64::MAX as u64),
        option::of(any::<i64>()),
        vec(text, 6),
    );
    (vec(any_frame(text), 8), vec(sample, 0..12), accounting, meta).prop_map(
        |(frames, samples, (ticks, truncated, lost), (start, duration, period, texts))| {
            let mut profile = Profile::new(vec![ValueType::samples(), ValueType::new("space", "bytes")]);
            profile.meta = Meta {
                start,
                duration,
                period: period.map(|period| (ValueType::cpu(), period)),
                event: texts[0].clone(),
                frequency_hz: start,
                target: texts[1].clone(),
                host: texts[2].clone(),
                kernel: texts[3].clone(),
                producer: format!("moonscope {}", texts[4]),
                comments: texts[5..].to_vec(),
            };
            profile.accounting = Accounting {
                fired: ticks[0],
                idle: ticks[1],
                filtered: ticks[2],
                complete: ticks[3],
                truncated,
                lost,
            };
            let frames: Vec<_> = frames
                .into_iter()
                .map(|any| {
                    let module = any
                        .module
                        .map(|(path, build_id)| profile.module(Module { path, build_id }));
                    let frame = Frame {
                        kind: any.kind,
                        function: any.function.map(|name| profile.string(&name)),
                        file: any.file.map(|name| profile.string(&name)),
                        line: any.line,
                        defined_at: any.defined_at,
                        module,
                        offset: any.offset,
                        inlined: any.inlined,
                    };
                    // Only debug information tells of inlined functions, and it knows their names.
                    let frame = Frame {
                        inlined: frame.inlined && frame.name().is_some(),
                        ..frame
                    };
                    profile.frame(frame)
                })
                .collect();
            for (stack, labels, values) in samples {
                let stack = profile.stack(stack.into_iter().map(|nr| frames[nr]));
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.clone()))
                    .collect();
                let labels = profile.labels(&labels);
                let values: Vec<_> = values.into_iter().map(i64::from).collect();
                profile.add(stack, labels, &values);
            }
            profile
        },
    )
}

proptest! {
    #[test]
    fn json_loses_nothing(profile in any_profile(r#"(\PC|[\n\t\x1b"\\;<]){0,8}"#)) {
        let read = through(&profile, Format::Json);
        prop_assert_eq!(&read.meta, &profile.meta);
        prop_assert_eq!(&read.accounting, &profile.accounting);
        prop_assert_eq!(read.value_types(), profile.value_types());
        prop_assert_eq!(read.modules(), profile.modules());
        prop_assert_eq!(read.frames(), profile.frames());
        prop_assert_eq!(read.stacks(), profile.stacks());
        prop_assert_eq!(read.label_sets(), profile.label_sets());
        prop_assert!(read.samples().eq(profile.samples()));
    }

    #[test]
    fn pprof_keeps_names_lines_modules_labels_and_values(profile in any_profile(r#"[a-zé;<@: ]{1,8}"#)) {
        let read = through(&profile, Format::Pprof);
        prop_assert_eq!(read.value_types(), profile.value_types());
        // pprof has one address for all functions inlined into one another, and no place for the mark
        // of an outermost inlined function: compared is what each frame says by itself.
        let frame = |_: &Profile, frame: &Frame| format!(
            "{:?} {:?} {:?} {:?} {:?}",
            frame.kind, frame.file, frame.line, frame.defined_at, frame.name()
        );
        prop_assert_eq!(samples(&read, frame), samples(&profile, frame));
        let reasons = |counts: &BTreeMap<String, u64>| counts.iter().any(|(_, count)| *count == 0);
        if !reasons(&profile.accounting.truncated) && !reasons(&profile.accounting.lost) {
            prop_assert_eq!(&read.accounting, &profile.accounting);
        }
        let meta = Meta { comments: vec![], ..profile.meta.clone() };
        prop_assert_eq!(&Meta { comments: vec![], ..read.meta.clone() }, &meta);
    }

    #[test]
    fn folded_keeps_the_text_of_every_frame(profile in any_profile(r"(\PC|[\n\t\x1b;#0-9 \\]){1,8}")) {
        let mut content = Vec::new();
        let options = WriteOptions { group: Grouping::None, ..WriteOptions::default() };
        Format::Folded.write(&profile, &options, &mut content).unwrap();
        let read = Format::Folded.parse(&content).unwrap();
        let mut again = Vec::new();
        Format::Folded.write(&read, &options, &mut again).unwrap();
        // The order can differ where kinds cannot be told from the text; sums and texts cannot.
        let lines = |content: &[u8]| {
            let mut sums = BTreeMap::<String, i64>::new();
            for line in String::from_utf8(content.to_vec()).unwrap().lines() {
                let (stack, count) = line.rsplit_once(' ').unwrap();
                *sums.entry(stack.to_owned()).or_default() += count.parse::<i64>().unwrap();
            }
            sums
        };
        prop_assert_eq!(lines(&again), lines(&content));
    }
}

#[test]
fn pprof_keeps_all_of_a_real_profile() {
    let profile = example::gateway();
    let read = through(&profile, Format::Pprof);
    assert_eq!(read.meta, profile.meta);
    assert_eq!(read.accounting, profile.accounting);
    assert_eq!(samples(&read, whole_frame), samples(&profile, whole_frame));
}

#[test]
fn hostile_names_come_back_from_every_readable_format() {
    let profile = example::hostile();
    assert_eq!(
        samples(&through(&profile, Format::Json), whole_frame),
        samples(&profile, whole_frame)
    );
    let text = |profile: &Profile, frame: &Frame| {
        frame.name().map_or_else(
            || format!("{frame:?} {:?}", profile.modules().len()),
            str::to_owned,
        )
    };
    assert_eq!(
        samples(&through(&profile, Format::Pprof), text),
        samples(&profile, text)
    );
}
