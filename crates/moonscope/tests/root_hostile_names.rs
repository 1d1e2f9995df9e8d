//! Names of processes, functions and files that were chosen to break something: every file stays well-formed, and
//! nothing of them reaches a terminal unescaped.
//!
//! The truth: parsers that are not ours (Python's XML and JSON, a line splitter as flamegraph.pl has it).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Profile, Program, Recording, record, recording::read_folded, root, tool};

/// What a process calls itself: it begins a tag, ends a record and turns the terminal red.
const COMM: &str = ";<b>\\x1b[31m\\n&\\\"";

/// The name as bytes: what the C literal above means. 15 bytes at most.
const COMM_TEXT: &str = ";<b>\x1b[31m\n&\"";

/// Names that are allowed in an ELF file, and in nothing that is read by lines or tags.
const FUNCTIONS: [(&str, &str); 9] = [
    ("f_semicolon", "a;b 12"),
    ("f_tag", "<script>alert('x')</script>&amp;"),
    ("f_escape", "e\x1b[2J\x07 red"),
    ("f_newline", "first\nsecond \"quoted\" \\n"),
    ("f_percent", "%s%n{}${x}"),
    ("f_direction", "rtl\u{202e}dcba"),
    ("f_comment", "# no comment"),
    ("f_marker", "[truncated]"),
    ("f_kernel", "tcp_sendmsg_[k]"),
];

const SOURCE: &str = r#"
#include <sys/prctl.h>
#include <signal.h>
#include <stdio.h>
static volatile unsigned long sink;
#define F(f) __attribute__((noinline, noipa)) void f(void) { for (int i = 0; i < 300000; i++) sink += i; }
F(f_semicolon) F(f_tag) F(f_escape) F(f_newline) F(f_percent) F(f_direction) F(f_comment) F(f_marker) F(f_kernel)
int main(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "COMM");
	puts("ready");
	fflush(stdout);
	for (;;) {
		f_semicolon(); f_tag(); f_escape(); f_newline(); f_percent(); f_direction(); f_comment(); f_marker(); f_kernel();
	}
}
"#;

/// The program, in a directory with a line feed and a tag in its name.
fn compile(dir: &Path) -> Option<PathBuf> {
    tool("gcc")?;
    let place = dir.join("a\nb;<i>\x1b[31m 7");
    std::fs::create_dir(&place).unwrap();
    let (source, program) = (dir.join("hostile.c"), place.join("prog;<b>\n\x1b[31m 8"));
    std::fs::write(&source, SOURCE.replace("COMM", COMM)).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(Command::new("gcc").args(["-O1", "-o"]).arg(&program).arg(&source));
    let renamed = FUNCTIONS.map(|(plain, hostile)| format!("--redefine-sym={plain}={hostile}"));
    run(Command::new("objcopy").args(renamed).arg(&program));
    Some(program)
}

/// Runs a check in Python, which has parsers of its own.
#[track_caller]
fn python(script: &str, file: &Path) {
    let Some(python) = tool("python3") else { return };
    let output = Command::new(python)
        .args(["-c", script])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// No control character but a line feed, and nothing that reverses text.
#[track_caller]
fn assert_plain(what: &str, text: &str) {
    let bad = text
        .chars()
        .find(|&c| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c));
    assert_eq!(bad, None, "{what}: {text:?}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn record_hostile(dir: &Path) -> Option<(Recording, PathBuf)> {
    let path = root().then(|| compile(dir)).flatten()?;
    let program = Program::start(&path, &[]);
    let out = tempfile::tempdir_in(dir).unwrap().keep();
    let more =
        ["x.svg", "x.pb.gz", "x.speedscope.json"].map(|name| out.join(name).to_str().unwrap().to_owned());
    let mut args = vec![
        "-p".to_owned(),
        program.pid_text(),
        "-d".into(),
        "1500ms".into(),
        "--lines".into(),
    ];
    for file in more {
        args.extend(["-o".to_owned(), file]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Some((record(&args), out))
}

#[test]
fn root_hostile_names_break_no_format() {
    let dir = tempfile::tempdir().unwrap();
    let Some((recording, out)) = record_hostile(dir.path()) else {
        return;
    };

    // lossless in the profile
    recording
        .profile
        .assert_all("has the process's name", |sample| sample.comm == COMM_TEXT);
    for (_, name) in FUNCTIONS {
        assert!(recording.profile.with(name) > 20, "{name:?}");
    }
    // what is said, and what is in lines of text
    assert_plain("stderr", &recording.run.stderr);
    assert_plain("table", &read(&recording.file("x.txt")));
    assert_plain("folded", &read(&recording.file("x.folded")));
    // each stack is one line with one count; no frame is split by what its name holds
    let depth = recording
        .profile
        .samples
        .iter()
        .map(|sample| sample.stack.len())
        .max()
        .unwrap();
    for (stack, _) in &recording.folded {
        assert!(
            stack.len() <= depth + 1 && stack.iter().all(|frame| !frame.is_empty()),
            "{stack:?}"
        );
        assert!(!stack[0].starts_with('#'), "{stack:?}");
    }

    let svg = out.join("x.svg");
    assert_plain("SVG", &read(&svg).replace(['\t', '\r'], " "));
    let no_tags = "import sys, xml.dom.minidom as x
d = x.parse(sys.argv[1])
names = {e.tagName for e in d.getElementsByTagName('*')}
assert not names & {'b', 'i'}, names
assert len(d.getElementsByTagName('script')) <= 1
assert any('alert' in (t.firstChild.data if t.firstChild else '') for t in d.getElementsByTagName('title'))";
    python(no_tags, &svg);
    python(
        "import sys, json; json.load(open(sys.argv[1]))",
        &recording.file("x.json"),
    );
    python(
        "import sys, json; d = json.load(open(sys.argv[1])); assert d['profiles']",
        &out.join("x.speedscope.json"),
    );
    if let Some(go) = tool("go") {
        let output = Command::new(go)
            .args(["tool", "pprof", "-raw"])
            .arg(out.join("x.pb.gz"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("<script>alert('x')</script>"), "{text}");
    }

    // read back and written again: still the same, from each format that can be read
    let total = recording.profile.total();
    for (from, to) in [("x.json", "2.json"), ("x.folded", "3.json")] {
        let (from, to) = (recording.file(from), out.join(to));
        let run = common::moonscope(&[
            "convert".as_ref(),
            from.as_os_str(),
            "-o".as_ref(),
            to.as_os_str(),
        ]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let json: serde_json::Value = serde_json::from_str(&read(&to)).unwrap();
        let sum: u64 = json["samples"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sample| sample[2][0].as_u64().unwrap())
            .sum();
        assert_eq!(sum, total);
        let names: Vec<&str> = json["frames"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|f| f["function"].as_str())
            .collect();
        assert!(names.contains(&"a;b 12"), "{names:?}");
    }
    assert_eq!(
        read_folded(&recording.file("x.folded")).len(),
        recording.folded.len()
    );
}

/// Everything that is printed about such a process, in whatever way it is named.
#[test]
fn root_hostile_names_do_not_reach_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = root().then(|| compile(dir.path())).flatten() else {
        return;
    };
    let program = Program::start(&path, &[]);
    let pid = program.pid_text();
    let path = path.to_str().unwrap();
    for args in [
        vec!["doctor", "-p", &pid],
        vec!["list", "targets"],
        vec!["record", "-d", "200ms", "-o", path, "-p", &pid],
        vec![
            "record",
            "-d",
            "200ms",
            "-o",
            "/no/such\x1b[31m\ndir/x.svg",
            "-p",
            &pid,
        ],
        vec!["record", "-d", "200ms", "-o", "/tmp/x.\x1b[31m\nsvg", "-p", &pid],
        vec!["record", "-d", "200ms", "-o", "/dev/null", "--", path],
        vec!["record", "-d", "200ms", "-o", "/no/x.svg", "--", path],
        vec!["record", "-d", "200ms", "--exe", "/no/\x1b[31m\nsuch"],
        vec!["record", "-d", "200ms", "--comm", "no\x1b[31m\nsuch"],
        vec!["record", "-d", "200ms", "--cgroup", "no\x1b[31m\nsuch"],
        vec!["record", "-d", "200ms", "--container", "no\x1b[31m\nsuch"],
        vec!["record", "-d", "200ms", "--nginx=no\x1b[31m\nsuch"],
        vec!["record", "-d", "200ms", "--", "no\x1b[31m\nsuch"],
        vec!["convert", "/no/\x1b[31m\nsuch.json", "-o", "/no/x.svg"],
        vec!["convert", path, "-o", "/no/\x1b[31mx.svg"],
        vec!["diff", "/no/\x1b[31m\nsuch.json", path, "-o", "/no/x.svg"],
    ] {
        let run = common::moonscope(&args);
        assert_plain(&format!("stderr of {args:?}"), &run.stderr);
        assert_plain(&format!("stdout of {args:?}"), &run.stdout);
    }
    let out = dir.path().join("out.json");
    let run = common::moonscope(&[
        "record",
        "-d",
        "500ms",
        "-F",
        "999",
        "-o",
        out.to_str().unwrap(),
        "--exe",
        path,
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_plain("stderr", &run.stderr);
    let profile = Profile::read(&out);
    assert!(profile.samples.iter().all(|sample| sample.pid == program.pid()));
}
