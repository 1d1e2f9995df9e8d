//! What each format looks like. `MOONSCOPE_BLESS=1 cargo test -p moonscope-profile --test golden` writes
//! the files anew; look at the difference before committing it.

#![allow(clippy::unwrap_used)]

mod example;

use std::path::Path;

use moonscope_profile::{Comparison, Filter, Format, Grouping, Profile, WriteOptions};

fn check(name: &str, content: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("MOONSCOPE_BLESS").is_some() {
        std::fs::write(&path, content).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_default();
    assert!(
        golden == content,
        "{name} differs from its golden file; is now:\n{}",
        String::from_utf8_lossy(content)
    );
}

fn written(profile: &Profile, format: Format, options: &WriteOptions) -> Vec<u8> {
    let mut out = Vec::new();
    format.write(profile, options, &mut out).unwrap();
    out
}

/// The picture without inferno's script and style, which change with its version and are not ours.
fn without_script(svg: Vec<u8>) -> Vec<u8> {
    let mut svg = String::from_utf8(svg).unwrap();
    for tag in ["script", "style"] {
        let start = svg.find(&format!("<{tag}")).unwrap();
        let end = svg.find(&format!("</{tag}>")).unwrap();
        svg.replace_range(start..end, &format!("<{tag}>"));
    }
    svg.replace("<g>", "\n<g>")
        .replace("<text", "\n<text")
        .into_bytes()
}

#[test]
fn folded() {
    check(
        "gateway.folded",
        &written(&example::gateway(), Format::Folded, &WriteOptions::default()),
    );
}

#[test]
fn folded_by_thread_with_lines() {
    let options = WriteOptions {
        group: Grouping::Label("tid".to_owned()),
        lines: true,
        ..Default::default()
    };
    check(
        "gateway-lines.folded",
        &written(&example::gateway(), Format::Folded, &options),
    );
}

#[test]
fn hostile_names_in_folded() {
    check(
        "hostile.folded",
        &written(&example::hostile(), Format::Folded, &WriteOptions::default()),
    );
}

#[test]
fn json() {
    check(
        "gateway.json",
        &written(&example::gateway(), Format::Json, &WriteOptions::default()),
    );
}

#[test]
fn text() {
    let options = WriteOptions {
        width: Some(120),
        ..Default::default()
    };
    check(
        "gateway.txt",
        &written(&example::gateway(), Format::Text, &options),
    );
}

#[test]
fn speedscope() {
    let content = written(&example::gateway(), Format::Speedscope, &WriteOptions::default());
    check("gateway.speedscope.json", &content);
}

#[test]
fn svg() {
    let content = written(&example::gateway(), Format::Svg, &WriteOptions::default());
    check("gateway.svg", &without_script(content));
}

#[test]
fn hostile_names_in_text() {
    check(
        "hostile.txt",
        &written(&example::hostile(), Format::Text, &WriteOptions::default()),
    );
}

#[test]
fn comparisons() {
    let before = example::gateway();
    let without = vec![regex::Regex::new("gsub").unwrap()];
    let after = Filter {
        without,
        ..Default::default()
    }
    .apply(&before);
    let comparison = Comparison::new(&before, &after, &WriteOptions::default(), false).unwrap();
    for (name, format) in [
        ("diff.folded", Format::Folded),
        ("diff.txt", Format::Text),
        ("diff.svg", Format::Svg),
    ] {
        let mut content = Vec::new();
        comparison.write(format, &mut content).unwrap();
        check(
            name,
            &if format == Format::Svg {
                without_script(content)
            } else {
                content
            },
        );
    }
    let raw = Comparison::new(&before, &after, &WriteOptions::default(), true).unwrap();
    let mut content = Vec::new();
    raw.write(Format::Text, &mut content).unwrap();
    check("diff-raw.txt", &content);
}

#[test]
fn stack_analyzer() {
    for (name, profile) in [
        ("gateway.stacks", example::gateway()),
        ("hostile.stacks", example::hostile()),
    ] {
        check(
            name,
            &written(&profile, Format::StackAnalyzer, &WriteOptions::default()),
        );
    }
}

/// Folded stacks do not say that they begin with a group and not with a frame.
#[test]
fn a_profile_does_not_differ_from_its_folded_stacks() {
    let options = WriteOptions::default();
    let profile = example::gateway();
    let text = written(&profile, Format::Folded, &options);
    let folded = Format::Folded.read(&mut text.as_slice()).unwrap();
    for (before, after) in [(&profile, &folded), (&folded, &profile)] {
        let mut out = Vec::new();
        Comparison::new(before, after, &options, false)
            .unwrap()
            .write(Format::Folded, &mut out)
            .unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(!lines.is_empty());
        for line in lines {
            let mut words = line.rsplit(' ');
            assert_eq!(words.next(), words.next(), "{line}");
        }
    }
}
