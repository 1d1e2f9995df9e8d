//! Hostile names in outputs, hostile bytes in inputs.

#![allow(clippy::unwrap_used)]

mod example;

use std::time::{Duration, Instant};

use moonscope_profile::{Format, ReadError, WriteOptions, limits};
use proptest::prelude::*;

fn written(format: Format) -> Vec<u8> {
    let mut content = Vec::new();
    format
        .write(&example::hostile(), &WriteOptions::default(), &mut content)
        .unwrap();
    content
}

#[test]
fn no_name_breaks_out_of_the_picture() {
    let svg = String::from_utf8(written(Format::Svg)).unwrap();
    // The one script is inferno's own; every other < of a name is escaped.
    assert_eq!(svg.matches("<script").count(), 1);
    assert!(!svg.contains("<script>alert"));
    assert!(svg.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    for attribute in [" onload=\"alert", "\"alert"] {
        assert!(!svg.contains(attribute), "{attribute}");
    }
    // XML 1.0 knows no control characters but tab, line feed and carriage return, escaped or not.
    let forbidden =
        |c: char| (c.is_control() && !"\n\t\r".contains(c)) || matches!(c, '\u{fffe}' | '\u{ffff}');
    assert_eq!(svg.chars().find(|c| forbidden(*c)), None);
    // Comments end at the first "--": inferno writes two, neither of ours.
    assert_eq!(svg.matches("-->").count(), 2);
}

#[test]
fn no_name_reaches_the_terminal() {
    for format in [Format::Text, Format::Folded, Format::Speedscope, Format::Json] {
        let text = String::from_utf8(written(format)).unwrap();
        assert_eq!(
            text.chars().find(|c| c.is_control() && *c != '\n'),
            None,
            "{format}"
        );
    }
}

#[test]
fn every_line_of_folded_stacks_is_one_stack() {
    let text = String::from_utf8(written(Format::Folded)).unwrap();
    let total: u64 = text
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(total, 42);
    assert_eq!(text.lines().count(), 28);
}

/// inferno reads the same files, and its picture has all samples.
#[test]
fn inferno_counts_the_same_samples() {
    for profile in [example::gateway(), example::hostile()] {
        let mut folded = Vec::new();
        Format::Folded
            .write(&profile, &WriteOptions::default(), &mut folded)
            .unwrap();
        let folded = String::from_utf8(folded).unwrap();
        let mut svg = Vec::new();
        let mut options = inferno::flamegraph::Options::default();
        inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains(&format!("total_samples=\"{}\"", profile.total(0))));
    }
}

#[test]
fn a_small_file_that_stands_for_terabytes_is_refused() {
    // 8192 frames deep, then every sample is one more leaf on top of them.
    let mut json = String::from(
        r#"{"format":"moonscope-profile","version":1,"value_types":[{"kind":"samples","unit":"count"}],"frames":["#,
    );
    let leaves = 40_000;
    let frames: Vec<_> = (0..leaves)
        .map(|nr| format!(r#"{{"kind":"native","function":"f{nr}"}}"#))
        .collect();
    json.push_str(&frames.join(","));
    json.push_str("],\"labels\":[[]],\"stacks\":[[null,0]");
    for parent in 0..limits::MAX_DEPTH - 2 {
        json.push_str(&format!(",[{parent},0]"));
    }
    for leaf in 0..leaves {
        json.push_str(&format!(",[{},{leaf}]", limits::MAX_DEPTH - 2));
    }
    json.push_str("],\"samples\":[");
    let samples: Vec<_> = (0..leaves)
        .map(|nr| format!("[{},0,[1]]", limits::MAX_DEPTH - 1 + nr))
        .collect();
    json.push_str(&samples.join(","));
    json.push_str("]}");
    let start = Instant::now();
    let profile = Format::Json.parse(json.as_bytes()).unwrap();
    for format in [
        Format::Svg,
        Format::Folded,
        Format::Text,
        Format::Pprof,
        Format::Speedscope,
    ] {
        let err = format
            .write(&profile, &WriteOptions::default(), &mut Vec::new())
            .unwrap_err();
        assert!(err.to_string().starts_with("too large"), "{format}: {err}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_is_wrong_with_our_json_is_said() {
    let head = r#"{"format":"moonscope-profile","version":1,"value_types":[{"kind":"s","unit":"u"}],"#;
    for (json, what) in [
        ("{", "line 1, column 1: EOF while parsing"),
        ("{}", "not a moonscope profile"),
        (
            r#"{"format":"moonscope-profile","version":2}"#,
            "version 2 of the format, known is 1",
        ),
        (
            &format!("{head}\n\"frames\":[{{\"kind\":\"jvm\"}}],\"stacks\":[],\"samples\":[]}}"),
            "line 2, column 24: unknown kind of frame",
        ),
        (
            &format!(
                "{head}\"frames\":[{{\"kind\":\"native\",\"module\":0}}],\"stacks\":[],\"samples\":[]}}"
            ),
            "frames entry 0: there is no such module",
        ),
        (
            &format!("{head}\"frames\":[{{\"kind\":\"native\"}}],\"stacks\":[[0,0]],\"samples\":[]}}"),
            "stacks entry 0: its parent does not",
        ),
        (
            &format!("{head}\"frames\":[],\"stacks\":[],\"samples\":[[0,0,[1]]]}}"),
            "samples entry 0: there is no such stack",
        ),
        (
            &format!("{head}\"frames\":[],\"stacks\":[],\"labels\":[[]],\"samples\":[[null,0,[]]]}}"),
            "samples entry 0: there is not one value",
        ),
    ] {
        let err = Format::Json.parse(json.as_bytes()).unwrap_err().to_string();
        assert!(err.contains(what), "{json}: {err}");
    }
}

#[test]
fn deep_nesting_in_json_is_an_error() {
    let deep = format!("{{\"format\":{}", "[".repeat(1_000_000));
    assert!(matches!(
        Format::Json.parse(deep.as_bytes()),
        Err(ReadError::Json { .. })
    ));
}

fn valid(format: Format) -> Vec<u8> {
    let mut content = Vec::new();
    format
        .write(&example::gateway(), &WriteOptions::default(), &mut content)
        .unwrap();
    if format == Format::Pprof {
        let mut raw = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&content[..]), &mut raw).unwrap();
        raw
    } else {
        content
    }
}

proptest! {
    #[test]
    fn damaged_files_are_errors_or_profiles(
        format in proptest::sample::select(vec![Format::Json, Format::Pprof, Format::Folded]),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        length in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut content = valid(format);
        for (at, byte) in damage {
            let at = at.index(content.len());
            content[at] = byte;
        }
        if let Some(length) = length {
            content.truncate(length.index(content.len()));
        }
        if let Ok(profile) = format.parse(&content) {
            for format in Format::all() {
                let _ = format.write(&profile, &WriteOptions::default(), &mut Vec::new());
            }
        }
        let _ = Format::read_any(&mut &content[..]);
    }
}
