//! `moonscope record`: profiles a target and writes files.

pub mod command;
mod culprits;
mod cut;
pub mod duration;
mod events;
mod flight;
pub mod interval;
pub mod parts;
mod pattern;
mod progress;
pub mod recorder;
pub mod report;
mod rescue;
pub mod resolve;
pub mod stop;
mod trigger;
mod triggered;
pub mod watch;
pub mod what;
mod when;
mod writer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::PossibleValuesParser;
use moonscope_profile::{Format, Grouping, PluginPaths, WriteOptions};

use crate::exit::{Code, Failure};
use crate::output::{Outputs, default_path, is_stream};
use crate::target::Scope;
use command::Command;
use recorder::Recorder;
use stop::Stop;
use what::WhatArgs;
use when::{When, WhenArgs};

const EXAMPLES: &str = "\
Examples:
  All workers of nginx for ten seconds, as a flame graph:
    moonscope record --nginx -d 10 -o flame.svg
  A process until Ctrl-C, for the browser, for go tool pprof, and as a table:
    moonscope record -p 4321 -o cpu.svg -o cpu.pb.gz -o cpu.txt
  A command from its first to its last instruction:
    moonscope record -F 999 -o sums.svg -- sh -c 'sha256sum /usr/bin/* > /dev/null'
  An APISIX: which plugin, in which phase of nginx:
    moonscope record --nginx -d 30 --by plugin -o plugins.svg -o apisix.json
    moonscope convert apisix.json --by phase -o - --to txt
  Where the threads of a process wait, and for what, from a millisecond on:
    moonscope record -p 4321 -e offcpu --min-block 1ms -d 10 -o waits.svg
  Who makes the resident memory of a process grow:
    moonscope record -p 4321 -e memory -d 60 -o memory.svg
  Which calls of a function take longer than 5 ms, by whom, and how long all of them take:
    moonscope record -p 4321 -e probe:p:libc:fsync --slower 5ms -d 60 -o slow.svg
  Which lines of Lua block a worker of nginx for 20 ms and more, and where its requests wait:
    moonscope record --nginx -e lua-loop -d 60 -o blocked.svg
    moonscope record --nginx -e lua-wait -d 30 -o requests.svg
  The whole machine, the processes apart:
    moonscope record -a -d 30 --by pid -o machine.svg
  A file for each minute, of which the last hour is kept:
    moonscope record --nginx --interval 1m --keep 60 -o 'cpu-%T.pb.gz'
  The half minute before a process uses more than 80 % of a CPU, and ten seconds after it:
    moonscope record -p 4321 --trigger 'cpu>80%' --flight 30s -d 10s -o busy.svg

Exit codes: 0 done, 1 failed, 2 usage, 3 missing privilege or kernel feature, 4 no such target or it
ended, 5 no samples, 6 partial: files were written, but more than 1 % of the samples were lost.";

/// Profile a target, then write files
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RecordArgs {
    #[command(flatten)]
    what: WhatArgs,

    /// How long: 10, 10s, 500ms, 2m; without it until Ctrl-C or until the target ends
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    duration: Option<Duration>,

    #[command(flatten)]
    when: WhenArgs,

    /// File to write, in the format of its ending; repeatable [default: moonscope-DATE-TIME.svg]
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,

    /// Format of files whose ending tells none [formats: `moonscope list formats`]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Replace files that exist
    #[arg(short, long)]
    force: bool,

    /// What makes the outermost frame of graphs, and the table at the end: comm, pid, tid, thread,
    /// cgroup, lua-state, plugin, phase, a label of the event such as offcpu-reason, or none
    #[arg(
        long,
        value_name = "LABEL",
        default_value = "comm",
        help_heading = "What graphs show",
        value_parser = PossibleValuesParser::new(labels()),
        hide_possible_values = true
    )]
    by: String,

    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Measure the time spent in the sampling program itself, with the kernel's BPF statistics
    #[arg(long)]
    measure_cost: bool,
}

/// What `--by` takes.
pub fn labels() -> impl Iterator<Item = &'static str> {
    let always = [
        "comm",
        "pid",
        "tid",
        "thread",
        "cgroup",
        "lua-state",
        "plugin",
        "phase",
        "none",
    ];
    always.into_iter().chain(moonscope_probe::collectors::labels())
}

/// Runs the verb.
pub fn run(args: RecordArgs) -> Result<Code, Failure> {
    let when = args.when.resolve(args.duration, args.what.target.is_command())?;
    check_stdout(&args.output, args.format)?;
    let mut paths = if args.output.is_empty() {
        vec![match when.writes_many() {
            // with the time of each
            true => PathBuf::from("moonscope.svg"),
            false => default_path("svg"),
        }]
    } else {
        args.output.clone()
    };
    if when.writes_many() {
        paths = paths
            .iter()
            .map(|path| match is_stream(path) {
                true => Ok(path.clone()),
                false => pattern::pattern(path),
            })
            .collect::<Result<_, _>>()?;
    }
    let mut outputs = Outputs::check_as(&paths, args.format, args.force)?;
    outputs.options = WriteOptions {
        group: Grouping::by(&args.by),
        plugins: PluginPaths::new(&args.what.plugin_path),
        lines: args.what.stacks.lines,
        value: args.what.value.clone(),
        ..WriteOptions::default()
    };
    let target = args.what.target.resolve()?;
    args.what.stacks.check_debug_dirs(&target)?;
    check_pid_namespace()?;
    if target.is_of_nobody() && !args.quiet {
        crate::exit::tell!(
            "no process is in {} yet: those that come are recorded",
            target.what
        );
    }
    let stop = Stop::on_signals()?;
    let command = match &target.scope {
        Scope::Command { program, argv } => Some(Command::start(program, argv, command::Files::Ours)?),
        _ => None,
    };
    // not before the command was made, which shall have the limits of whoever typed it
    recorder::raise_file_limit();
    let mut recorder = Recorder {
        what: &args.what,
        quiet: args.quiet,
        limit: args.duration,
        measure_cost: args.measure_cost,
        target,
        outputs,
        stop,
        command,
        began: Duration::ZERO,
        start: Instant::now(),
    };
    match when {
        When::Once => recorder.record_once(Vec::new()),
        When::Intervals(intervals) => interval::run(recorder, intervals),
        When::Triggered(triggered) => match triggered.before {
            Some(before) => flight::run(recorder, triggered, before),
            None => triggered::run(recorder, triggered),
        },
    }
}

/// Formats of which one profile may follow another, as those of intervals do.
const STREAMS: [Format; 2] = [Format::StackAnalyzer, Format::Folded];

fn check_stdout(outputs: &[PathBuf], format: Option<Format>) -> Result<(), Failure> {
    let is_stream = format.is_some_and(|format| STREAMS.contains(&format));
    if is_stream || outputs.iter().all(|path| path.as_os_str() != "-") {
        return Ok(());
    }
    Err(Failure::new(
        Code::Usage,
        "a recording goes to stdout as --format folded or stack-analyzer only",
    )
    .with_remedy(
        "other formats go to files: moonscope record -o x.json ...; moonscope convert x.json -o - --to pprof",
    ))
}

/// The kernel side knows processes by the ids of the machine.
pub fn check_pid_namespace() -> Result<(), Failure> {
    if moonscope_process::process::in_initial_pid_namespace() {
        return Ok(());
    }
    let what = "this is a pid namespace of its own: processes have other ids in the kernel";
    Err(Failure::new(Code::NotPermitted, what).with_remedy(
        "run moonscope on the host, or in a container that shares its pid namespace (--pid=host)",
    ))
}
