//! `moonscope record`: profiles a target and writes files.

mod command;
mod duration;
mod events;
mod progress;
mod report;
mod rescue;
pub mod resolve;
mod stop;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use clap::builder::PossibleValuesParser;
use moonscope_probe::{Change, EventSpec, Options, ProbeError, Session, WalkLoop};
use moonscope_profile::{Format, Grouping, PluginPaths, Profile, Summary, WriteOptions};
use moonscope_symbols::{SymbolOptions, Symbolizer};
use moonscope_unwind::abi;

use crate::exit::{Code, Failure};
use crate::output::{Outputs, default_path};
use crate::target::{Scope, Target, TargetArgs};
use command::Command;
use progress::Progress;
use stop::Stop;

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
  The whole machine, the processes apart:
    moonscope record -a -d 30 --by pid -o machine.svg

Exit codes: 0 done, 1 failed, 2 usage, 3 missing privilege or kernel feature, 4 no such target or it
ended, 5 no samples, 6 partial: files were written, but more than 1 % of the samples were lost.";

/// Profile a target, then write files
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RecordArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// What to measure; `moonscope list events` shows what there is
    #[arg(short, long, value_name = "EVENT", default_value = "cpu")]
    event: Vec<String>,

    #[command(flatten)]
    events: events::EventArgs,

    /// The value that graphs and tables show, such as `cpu` or `offcpu` [default: the first that is not a count]
    #[arg(long, value_name = "NAME", help_heading = "What graphs show")]
    value: Option<String>,

    /// Samples per second and CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    frequency: u64,

    /// How long: 10, 10s, 500ms, 2m; without it until Ctrl-C or until the target ends
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    duration: Option<Duration>,

    /// File to write, in the format of its ending; repeatable [default: moonscope-DATE-TIME.svg]
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,

    /// Format of files whose ending tells none [formats: `moonscope list formats`]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Replace files that exist
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    stacks: StackArgs,

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

    /// Folder with plugins besides apisix/plugins, as the gateway names its files: PATH/NAME.lua;
    /// repeatable
    #[arg(long, value_name = "PATH", help_heading = "What graphs show")]
    plugin_path: Vec<String>,

    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Measure the time spent in the sampling program itself, with the kernel's BPF statistics
    #[arg(long)]
    measure_cost: bool,
}

/// What `--by` takes.
fn labels() -> impl Iterator<Item = &'static str> {
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

/// What stacks hold.
#[derive(Args)]
#[command(next_help_heading = "Stacks")]
struct StackArgs {
    /// User frames at most
    #[arg(long, value_name = "N", default_value_t = abi::MS_DEFAULT_DEPTH,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(abi::MS_MAX_DEPTH)))]
    max_depth: u32,

    /// Leave kernel frames out
    #[arg(long)]
    no_kernel: bool,

    /// Leave children out that processes start later
    #[arg(long)]
    no_inherit: bool,

    /// Show functions that the compiler inlined; needs debug information
    #[arg(long)]
    inline: bool,

    /// Show source lines; needs debug information
    #[arg(long)]
    lines: bool,

    /// Put above a coroutine of ngx_lua what resumed or spawned it (ngx.thread.spawn, coroutine.resume)
    #[arg(long)]
    coroutine_parents: bool,

    /// Another directory with separate debug files; repeatable
    #[arg(long, value_name = "DIR")]
    debug_dir: Vec<PathBuf>,

    /// Use this loop in the kernel, and no other
    #[arg(long, value_name = "LOOP", hide = true)]
    walk_loop: Option<LoopArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LoopArg {
    BpfLoop,
    PlainLoop,
}

/// How often the target's rules and cgroup are looked at anew, and the terminal is written to.
const TURN: Duration = Duration::from_millis(100);

/// Runs the verb.
pub fn run(args: RecordArgs) -> Result<Code, Failure> {
    check_stdout(&args.output)?;
    let paths = if args.output.is_empty() {
        vec![default_path("svg")]
    } else {
        args.output.clone()
    };
    let mut outputs = Outputs::check_as(&paths, args.format, args.force)?;
    outputs.options = WriteOptions {
        group: Grouping::by(&args.by),
        plugins: PluginPaths::new(&args.plugin_path),
        lines: args.stacks.lines,
        value: args.value.clone(),
        ..WriteOptions::default()
    };
    let target = args.target.resolve()?;
    check_pid_namespace()?;
    let stop = Stop::on_signals()?;
    let mut command = match &target.scope {
        Scope::Command { program, argv } => Some(Command::start(program, argv)?),
        _ => None,
    };

    // not before the command was made, which shall have the limits of whoever typed it
    raise_file_limit();
    let mut session = Session::prepare(&options(&args, &target, command.as_ref())).map_err(probe_failure)?;
    let walk_loop = session.walk_loop();
    let began = SystemTime::now();
    let start = Instant::now();
    session.start().map_err(probe_failure)?;
    if let Some(command) = &mut command {
        command.go()?;
    }
    let why = watch(&mut session, &args, &target, command.as_mut(), &stop, start)?;
    let duration = start.elapsed();
    let (totals, recorded) = session.finish().map_err(probe_failure)?;

    let recording = report::Recording {
        target: target.what.clone(),
        walk_loop,
        hz: args.frequency,
        began: began.duration_since(UNIX_EPOCH).unwrap_or_default(),
        recorded: duration,
        ended_by: why,
        totals,
        quiet: args.quiet,
    };
    let mut symbolizer = Symbolizer::new(SymbolOptions {
        inline: args.stacks.inline,
        lines: args.stacks.lines,
        debug_dirs: debug_dirs(&args.stacks.debug_dir),
        ..SymbolOptions::default()
    });
    let profile: Profile =
        resolve::resolve(&recorded, &mut symbolizer, &recording).with_lineage(&outputs.options.plugins);
    if profile.is_empty() {
        return Err(recording.no_samples());
    }
    let written = match outputs.write_all(&profile) {
        Ok(written) => written,
        Err(failure) => return Err(rescue::save(&profile, failure)),
    };
    let summary = Summary::of(&profile, &outputs.options).ok().flatten();
    Ok(recording.finish(&profile, &written, summary.as_ref()))
}

fn check_stdout(outputs: &[PathBuf]) -> Result<(), Failure> {
    if outputs.iter().all(|path| path.as_os_str() != "-") {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, "a recording is written to files, not to stdout").with_remedy(
        "record to a file first: moonscope record -o x.json ...; moonscope convert x.json -o - --to folded",
    ))
}

/// The kernel side knows processes by the ids of the machine.
fn check_pid_namespace() -> Result<(), Failure> {
    if moonscope_process::process::in_initial_pid_namespace() {
        return Ok(());
    }
    let what = "this is a pid namespace of its own: processes have other ids in the kernel";
    Err(Failure::new(Code::NotPermitted, what).with_remedy(
        "run moonscope on the host, or in a container that shares its pid namespace (--pid=host)",
    ))
}

/// Each executable is held open. As many files as the hard limit allows; that it cannot be raised is told
/// when a file cannot be opened.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

fn options(args: &RecordArgs, target: &Target, command: Option<&Command>) -> Options {
    let scope = match &target.scope {
        Scope::All => moonscope_probe::Scope::All,
        Scope::Processes { pids, .. } => moonscope_probe::Scope::Processes(pids.clone()),
        Scope::Cgroup { cgroup, pids } => match (cgroup.v2_id, cgroup.v2_level) {
            (Some(id), Some(level)) => moonscope_probe::Scope::Cgroup {
                id,
                level,
                members: pids.clone(),
            },
            _ => moonscope_probe::Scope::Processes(pids.clone()),
        },
        Scope::Command { .. } => {
            moonscope_probe::Scope::Processes(command.map(Command::pid).into_iter().collect())
        }
    };
    let has_rules = matches!(&target.scope, Scope::Processes { rules, .. } if !rules.is_empty());
    Options {
        scope,
        events: args.event.iter().map(|event| EventSpec::parse(event)).collect(),
        settings: args.events.settings(),
        hz: args.frequency,
        max_depth: args.stacks.max_depth,
        kernel_stacks: !args.stacks.no_kernel,
        user_stacks: true,
        follow_forks: !args.stacks.no_inherit,
        report_all_execs: has_rules,
        coroutine_parents: args.stacks.coroutine_parents,
        measure_cost: args.measure_cost,
        always_copy_stack: false,
        force_loop: args.stacks.walk_loop.map(|which| match which {
            LoopArg::BpfLoop => WalkLoop::BpfLoop,
            LoopArg::PlainLoop => WalkLoop::PlainLoop,
        }),
        limits: None,
    }
}

fn debug_dirs(more: &[PathBuf]) -> Vec<PathBuf> {
    more.iter()
        .cloned()
        .chain(SymbolOptions::default().debug_dirs)
        .collect()
}

/// Why a recording ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The time was over.
    Time,
    /// Ctrl-C, or another request to end.
    Signal,
    /// The target ended.
    Target,
    /// The command ended, like this.
    Command(String),
}

fn watch(
    session: &mut Session,
    args: &RecordArgs,
    target: &Target,
    mut command: Option<&mut Command>,
    stop: &Stop,
    start: Instant,
) -> Result<EndedBy, Failure> {
    let progress = Progress::new(args.quiet, args.duration);
    // a cgroup that the kernel side cannot compare is looked at again and again
    let by_list = match &target.scope {
        Scope::Cgroup { cgroup, .. } if cgroup.v2_id.is_none() || cgroup.v2_level.is_none() => Some(cgroup),
        _ => None,
    };
    let can_grow = by_list.is_some()
        || matches!(&target.scope, Scope::All | Scope::Cgroup { .. })
        || matches!(&target.scope, Scope::Processes { rules, .. } if !rules.is_empty());
    loop {
        let left = args
            .duration
            .map(|duration| duration.saturating_sub(start.elapsed()));
        if left == Some(Duration::ZERO) {
            return Ok(EndedBy::Time);
        }
        if stop.is_asked() {
            return Ok(EndedBy::Signal);
        }
        let changes = session
            .poll(left.unwrap_or(TURN).min(TURN))
            .map_err(probe_failure)?;
        for change in changes {
            if let Change::Executed(pid) = change
                && can_grow
                && target.matches(pid)
                && !matches!(target.scope, Scope::All)
            {
                session.add_target(pid).map_err(probe_failure)?;
            }
        }
        if let Some(cgroup) = by_list {
            for pid in cgroup.pids().unwrap_or_default() {
                session.add_target(pid).map_err(probe_failure)?;
            }
        }
        if let Some(command) = command.as_deref_mut()
            && let Some(how) = command.ended()?
        {
            return Ok(EndedBy::Command(how));
        }
        if !can_grow && command.is_none() && session.live_targets() == 0 {
            return Ok(EndedBy::Target);
        }
        progress.show(session, start.elapsed());
    }
}

fn probe_failure(err: ProbeError) -> Failure {
    let code = match &err {
        ProbeError::Rate { .. }
        | ProbeError::UnknownEvent { .. }
        | ProbeError::TooManyEvents { .. }
        | ProbeError::EventArgument { .. } => Code::Usage,
        err if err.is_missing_feature() => Code::NotPermitted,
        _ => Code::Failed,
    };
    let remedy = err.remedy();
    let failure = Failure::new(code, err);
    match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}
