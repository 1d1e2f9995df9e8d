//! The report as tables for people, 100 columns wide.

use super::check::{Check, State};
use super::file::{Debug, FileReport, SymbolKinds, UnwindKind};
use super::files::TargetReport;
use super::{Report, lua, sysctl};
use moonscope_process::{counted, visible};
use std::fmt::Write;

/// Text behind this column is wrapped at `WIDTH`.
const INDENT: usize = 37;
const WIDTH: usize = 100;
/// Where the last column of the table of files begins.
const FILE_COLUMN: usize = 69;
/// Where the path of a separate debug file begins: in the line below, so that there is room for it.
const DEBUG_COLUMN: usize = 19;

/// Where what is said of stacks begins.
const STACKS_COLUMN: usize = 9;

/// What is wrong with one file, at most; JSON has all of it.
const MOST_PROBLEMS: usize = 4;

/// Makes the text; writing to a String cannot fail, so its results are not looked at.
pub(super) fn render(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "moonscope {} on Linux {}", report.version, sysctl::release());
    let mut group = "";
    let remedies = Remedies::of(&report.checks);
    for check in &report.checks {
        if check.group != group {
            group = check.group;
            let _ = writeln!(out, "\n{group}");
        }
        render_check(&mut out, check, remedies.number(check), colour);
    }
    remedies.render(&mut out);
    out.push('\n');
    let (state, verdict) = match report.can_record {
        true => (State::Ok, "recording can work on this machine"),
        false => (
            State::Missing,
            "recording cannot work: what is marked `missing` above must be there",
        ),
    };
    let _ = writeln!(out, "{}", paint(verdict, state, colour));
    if let Some(target) = &report.target {
        render_target(&mut out, target, colour);
    }
    out
}

/// What to do, each thing once: one missing capability breaks ten checks.
struct Remedies<'a>(Vec<&'a str>);

impl<'a> Remedies<'a> {
    fn of(checks: &'a [Check]) -> Self {
        let mut all: Vec<&str> = Vec::new();
        for check in checks {
            if !check.remedy.is_empty() && !all.contains(&check.remedy.as_str()) {
                all.push(&check.remedy);
            }
        }
        Self(all)
    }

    /// Number of the remedy of a check, from 1.
    fn number(&self, check: &Check) -> Option<usize> {
        self.0
            .iter()
            .position(|remedy| *remedy == check.remedy)
            .map(|at| at + 1)
    }

    /// Commands for pasting are in them, so they are not wrapped.
    fn render(&self, out: &mut String) {
        if !self.0.is_empty() {
            out.push_str("\nto do\n");
        }
        for (at, remedy) in self.0.iter().enumerate() {
            let mut lines = remedy.lines();
            let _ = writeln!(out, "  [{}] {}", at + 1, lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(out, "      {line}");
            }
        }
    }
}

fn render_check(out: &mut String, check: &Check, remedy: Option<usize>, colour: bool) {
    let word = match check.state {
        State::Ok => "ok",
        State::Limited => "limited",
        State::Missing => "missing",
        State::Info => "-",
    };
    let word = paint(&format!("{word:<8}"), check.state, colour);
    let found = visible(&check.found).to_string();
    let mut lines = wrap(&found, WIDTH - INDENT).into_iter();
    let _ = writeln!(
        out,
        "  {word} {:<25} {}",
        check.name,
        lines.next().unwrap_or_default()
    );
    for line in lines {
        let _ = writeln!(out, "{:INDENT$}{line}", "");
    }
    if !check.lost.is_empty() {
        let remedy = remedy.map(|number| format!(" [{number}]")).unwrap_or_default();
        for line in wrap(&format!("without it: {}{remedy}", check.lost), WIDTH - INDENT) {
            let _ = writeln!(out, "{:INDENT$}{line}", "");
        }
    }
}

fn render_target(out: &mut String, target: &TargetReport, colour: bool) {
    let processes = match target.processes {
        0 => String::new(),
        count => format!(", {} looked at", counted(count, "process")),
    };
    let _ = writeln!(out, "\n{}{processes}\n", target.what);
    if !target.files.is_empty() {
        let _ = writeln!(
            out,
            "{:>5}  {:<8} {:>7} {:>6}  {:<7} {:>7}  {:<8}  {:<8}  file",
            "procs", "unwind", "funcs", "code %", "symbols", "funcs", "debug", "build id"
        );
        target
            .files
            .iter()
            .for_each(|file| render_file(out, file, colour));
        out.push('\n');
    }
    for text in lua::sentences(target) {
        let mut indent = 0;
        for line in wrap(&text, WIDTH - 4) {
            let _ = writeln!(out, "{:indent$}{line}", "");
            indent = 4;
        }
    }
    for code in &target.generated {
        let names = if code.perf_map {
            "names from its perf map"
        } else {
            "no names"
        };
        let _ = writeln!(
            out,
            "process {}: {} KiB of other code made at run time in {}: frame pointers only, {names}",
            code.pid,
            code.kib,
            counted(code.areas, "area")
        );
    }
    for problem in &target.problems {
        let _ = writeln!(
            out,
            "{}",
            paint(&visible(problem).to_string(), State::Limited, colour)
        );
    }
    summarize(out, target);
}

fn render_file(out: &mut String, file: &FileReport, colour: bool) {
    let (unwind, unwind_state) = match file.unwind.kind {
        UnwindKind::EhFrame => ("eh_frame", State::Ok),
        UnwindKind::DebugFrame => ("dw_frame", State::Ok),
        UnwindKind::Go => ("go", State::Ok),
        UnwindKind::None => ("none", State::Limited),
    };
    let (symbols, symbols_state) = match file.symbols.kind {
        SymbolKinds::Symtab => ("symtab", State::Ok),
        SymbolKinds::Separate => ("debug", State::Ok),
        SymbolKinds::Mini => ("mini", State::Ok),
        SymbolKinds::Dynsym => ("dynsym", State::Limited),
        SymbolKinds::None => ("none", State::Limited),
    };
    let covers = file
        .unwind
        .covers()
        .map_or("-".to_owned(), |part| part.to_string());
    let covers_state = if covers_little(file) {
        State::Limited
    } else {
        State::Ok
    };
    let debug = match file.debug {
        Debug::InFile => "in file",
        Debug::Separate(_) => "separate",
        Debug::None => "none",
    };
    let _ = writeln!(
        out,
        "{:>5}  {} {:>7} {}  {} {:>7}  {debug:<8}  {:<8}  {}",
        file.processes,
        paint(&format!("{unwind:<8}"), unwind_state, colour),
        file.unwind.functions,
        paint(&format!("{covers:>6}"), covers_state, colour),
        paint(&format!("{symbols:<7}"), symbols_state, colour),
        file.symbols.functions,
        file.build_id
            .as_deref()
            .map_or("none", |id| id.get(..8).unwrap_or(id)),
        end_of(&visible(&file.path).to_string(), WIDTH - FILE_COLUMN),
    );
    if let Debug::Separate(path) = &file.debug {
        let path = end_of(&visible(path).to_string(), WIDTH - DEBUG_COLUMN);
        let _ = writeln!(out, "{:>DEBUG_COLUMN$}{path}", "debug file: ");
    }
    for problem in file.problems.iter().take(MOST_PROBLEMS) {
        let lines = wrap(&visible(problem).to_string(), WIDTH - DEBUG_COLUMN);
        for (line, begin) in lines
            .iter()
            .zip(["problem: "].into_iter().chain(std::iter::repeat("")))
        {
            let line = paint(line, State::Limited, colour);
            let _ = writeln!(out, "{begin:>DEBUG_COLUMN$}{line}");
        }
    }
}

/// The end of a path that is too long: its last parts tell most. JSON has all of it.
fn end_of(path: &str, width: usize) -> String {
    let length = path.chars().count();
    if length <= width {
        return path.to_owned();
    }
    let end: String = path.chars().skip(length - width + 1).collect();
    format!("…{end}")
}

/// Code that unwind tables say nothing of is worth a sentence from so many bytes on: what starts a program has a few without.
const MUCH_CODE: u64 = 16 << 10;

/// Whether unwind tables say nothing of much of the code.
fn covers_little(file: &FileReport) -> bool {
    let rest = file.unwind.code_bytes.saturating_sub(file.unwind.described_bytes);
    rest >= MUCH_CODE && file.unwind.covers().is_some_and(|part| part < 80)
}

/// What the table means, in a sentence for each gap.
fn summarize(out: &mut String, target: &TargetReport) {
    let count = |test: &dyn Fn(&FileReport) -> bool| target.files.iter().filter(|file| test(file)).count();
    if target.files.is_empty() {
        return;
    }
    let all = counted(target.files.len(), "file");
    let unwind = count(&|file| file.unwind.kind != UnwindKind::None);
    let named = count(&|file| !matches!(file.symbols.kind, SymbolKinds::Dynsym | SymbolKinds::None));
    let debug = count(&|file| file.debug != Debug::None);
    let _ = writeln!(
        out,
        "stacks:  unwind tables in {unwind} of {all}; through other code frame pointers are followed"
    );
    let little: Vec<String> = target
        .files
        .iter()
        .filter(|file| file.unwind.kind != UnwindKind::None && covers_little(file))
        .map(|file| end_of(&visible(&file.path).to_string(), WIDTH - FILE_COLUMN))
        .collect();
    if !little.is_empty() {
        let text = format!(
            "{}: the tables say nothing of much of the code (code %): stacks there are cut, unless it keeps frame pointers",
            little.join(", ")
        );
        for line in wrap(&text, WIDTH - STACKS_COLUMN) {
            let _ = writeln!(out, "{:STACKS_COLUMN$}{line}", "");
        }
    }
    let _ = writeln!(
        out,
        "names:   all functions in {named} of {all}; in the others only those that they export, the rest shows\n\
         \x20        as [file+0x...]: install their debug packages (-dbgsym, -debuginfo)"
    );
    let _ = writeln!(
        out,
        "lines:   debug information for lines and inlined functions in {debug} of {all}"
    );
}

/// Wraps at blanks; a word longer than a line stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn paint(text: &str, state: State, colour: bool) -> String {
    let code = match state {
        State::Ok => "32",
        State::Limited => "33",
        State::Missing => "31",
        State::Info => return text.to_owned(),
    };
    if colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{Symbols, Unwind};
    use super::*;

    fn file(path: &str) -> FileReport {
        FileReport {
            path: path.to_owned(),
            processes: 3,
            build_id: Some("0123456789abcdef".to_owned()),
            unwind: Unwind {
                kind: UnwindKind::EhFrame,
                functions: 1234,
                described_bytes: 100_000,
                code_bytes: 1_000_000,
            },
            symbols: Symbols {
                kind: SymbolKinds::Dynsym,
                functions: 56,
            },
            debug: Debug::Separate("/usr/lib/debug/x\x1b[31m".to_owned()),
            lua: Vec::new(),
            ngx_lua: None,
            problems: vec![format!(
                "a \x1b[31mproblem that takes {}",
                "very many words ".repeat(9)
            )],
        }
    }

    fn report() -> Report {
        let files = vec![
            file("/usr/sbin/nginx"),
            file("/tmp/evil\x1b]0;x\x07\n"),
            file("[vdso]"),
        ];
        let path = format!("/{}/libcrypto.so.3", "long".repeat(30));
        let files = files.into_iter().chain([file(&path)]).collect();
        let target = TargetReport {
            what: "us".to_owned(),
            processes: 3,
            files,
            ..TargetReport::default()
        };
        let long =
            "a long explanation that goes on and on until it does not fit into the line any more at all";
        let checks = vec![
            Check::ok("kernel", "release", "6.18"),
            Check::info("bpf", "something", long).limited(long, "do this\nthen that"),
            Check::info("bpf", "other", "no").missing(long, "sudo"),
        ];
        Report {
            version: "1.0",
            can_record: false,
            checks,
            target: Some(target),
        }
    }

    #[test]
    fn columns_align_and_fit() {
        let text = render(&report(), false);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let header = text.lines().find(|line| line.ends_with("  file")).unwrap();
        let column = header.len() - "file".len();
        assert_eq!(column, FILE_COLUMN);
        assert!(
            text.lines()
                .any(|line| line.get(column..) == Some("/usr/sbin/nginx"))
        );
        assert!(text.lines().any(|line| line.get(column..) == Some("[vdso]")));
        assert!(
            text.lines()
                .any(|line| line.contains('…') && line.ends_with("/libcrypto.so.3"))
        );
        assert!(
            text.contains("\nto do\n  [1] do this\n      then that\n  [2] sudo\n"),
            "{text}"
        );
        assert!(text.contains("recording cannot work"));
        let said = text.split("stacks:").nth(1).unwrap();
        assert!(
            said.contains("/usr/sbin/nginx") && said.contains("much of the code"),
            "{text}"
        );
    }

    #[test]
    fn names_of_others_cannot_steer_the_terminal() {
        let text = render(&report(), false);
        assert!(!text.contains('\x1b') && !text.contains('\x07'));
        assert!(text.contains(r"/tmp/evil\x1b]0;x\x07\n"));
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        assert!(render(&report(), true).contains("\x1b[31mmissing"));
        assert!(!render(&report(), false).contains("\x1b["));
    }
}
