//! `moonscope list`: what can be given as target, event or format, and what the tools of others are here.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use moonscope_profile::Format;

use crate::exit::{Code, Failure};
use crate::old_tools::TOOLS;

const EXAMPLES: &str = "\
Examples:
  moonscope list formats
  moonscope list events
  moonscope list targets
  moonscope list tools";

/// Show the targets, events and formats there are, and what old tools are called here
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// What to show
    what: What,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Whom to record
    Targets,
    /// What to record
    Events,
    /// How to write it; READABLE: convert and diff take it, OF DIFF: diff writes it
    Formats,
    /// The scripts of openresty-systemtap-toolkit and stapxx, and what they are here
    Tools,
}

/// (option, what it picks)
const TARGETS: [(&str, &str); 8] = [
    (
        "-p, --pid PID",
        "a process with all its threads and later children; repeatable",
    ),
    (
        "--comm NAME",
        "every process that has this name (one must be there), or gets it later; repeatable",
    ),
    (
        "--exe PATH",
        "every process that runs this program (one must be there), or starts it later; repeatable",
    ),
    ("--container ID|NAME", "every process of a container"),
    (
        "--cgroup PATH",
        "every process of a control group and those below it",
    ),
    (
        "--nginx[=PIDFILE]",
        "the master and the workers of an nginx, across reloads; without PIDFILE of all",
    ),
    ("-a, --all", "the whole machine"),
    (
        "-- COMMAND...",
        "a command that is started for it, and its children",
    ),
];

/// Prints the table.
pub fn run(args: ListArgs) -> Result<Code, Failure> {
    let rows = match args.what {
        What::Targets => rows(["TARGET", "WHAT IT PICKS"], &TARGETS),
        What::Events => rows(["EVENT", "WHAT IS MEASURED"], &events()),
        What::Formats => formats(),
        What::Tools => tools(),
    };
    match print(&rows) {
        // `| head` has seen enough.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(Code::Done),
        Err(err) => Err(Failure::new(
            Code::Failed,
            format_args!("stdout: cannot write: {}", moonscope_process::reason(&err)),
        )),
        Ok(()) => Ok(Code::Done),
    }
}

fn rows(head: [&str; 2], items: &[(&str, &str)]) -> Vec<Vec<String>> {
    let items = items
        .iter()
        .map(|(name, text)| vec![(*name).to_owned(), (*text).to_owned()]);
    std::iter::once(head.map(str::to_owned).to_vec())
        .chain(items)
        .collect()
}

fn events() -> Vec<(&'static str, &'static str)> {
    let all = moonscope_probe::collectors::ALL.iter();
    all.map(|event| (event.name, event.what)).collect()
}

fn tools() -> Vec<Vec<String>> {
    let tools = TOOLS
        .iter()
        .map(|tool| vec![tool.name.to_owned(), tool.described()]);
    std::iter::once(vec!["OLD TOOL".to_owned(), "WHAT IT IS NOW".to_owned()])
        .chain(tools)
        .collect()
}

fn formats() -> Vec<Vec<String>> {
    let head = ["FORMAT", "ENDING", "READABLE", "OF DIFF", "WHAT IT IS"]
        .map(str::to_owned)
        .to_vec();
    let yes = |yes: bool| if yes { "yes" } else { "-" }.to_owned();
    let formats = Format::all().into_iter().map(|format| {
        vec![
            format.name().to_owned(),
            format.endings().join(" "),
            yes(format.is_readable()),
            yes(format.holds_diff()),
            format.description().to_owned(),
        ]
    });
    std::iter::once(head).chain(formats).collect()
}

/// Aligns all columns but the last.
fn print(rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = io::stdout().lock();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    out.flush()
}
