//! A recording that was asked for: prepared, started, followed to its end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moonscope_probe::{EventSpec, Options, ProbeError, Session, WalkLoop};
use moonscope_profile::{Profile, Summary};
use moonscope_symbols::SymbolOptions;

use super::command::Command;
use super::progress::Progress;
use super::resolve::Namer;
use super::stop::Stop;
use super::watch::{EndedBy, Turn, Watch};
use super::what::{LoopArg, WhatArgs};
use super::{report, rescue, resolve};
use crate::exit::{Code, Failure};
use crate::output::Outputs;
use crate::target::{Scope, Target};

/// A recording that was asked for.
pub struct Recorder<'a> {
    pub what: &'a WhatArgs,
    /// Print nothing but errors.
    pub quiet: bool,
    /// How long at most.
    pub limit: Option<Duration>,
    /// Measure our own programs with the kernel's statistics.
    pub measure_cost: bool,
    pub target: Target,
    pub outputs: Outputs,
    pub stop: Stop,
    pub command: Option<Command>,
    /// When it began, since 1970, and so that it can be measured.
    pub began: Duration,
    pub start: Instant,
}

impl Recorder<'_> {
    /// Everything but the start.
    pub fn prepare(&self) -> Result<Session, Failure> {
        let mut tell = |event: &'static str, line: &str| {
            if !self.quiet {
                crate::exit::tell!("{event}: {line}");
            }
        };
        self.prepare_and_tell(&mut tell)
    }

    /// The same; what is to be said of events goes to `tell`.
    pub fn prepare_and_tell(&self, tell: &mut dyn FnMut(&'static str, &str)) -> Result<Session, Failure> {
        let options = Options {
            measure_cost: self.measure_cost,
            ..options(self.what, &self.target, self.command.as_ref())
        };
        Session::prepare_and_tell(&options, tell).map_err(probe_failure)
    }

    /// Begins to measure, and lets the command go.
    pub fn start(&mut self, session: &mut Session) -> Result<(), Failure> {
        self.began = since_1970();
        self.start = Instant::now();
        session.start().map_err(probe_failure)?;
        match &mut self.command {
            Some(command) => command.go(),
            None => Ok(()),
        }
    }

    /// Receives until the end.
    pub fn watch(
        &mut self,
        session: &mut Session,
        limit: Option<Duration>,
        mut turn: impl FnMut(&mut Session, &Progress) -> Result<Turn, Failure>,
    ) -> Result<EndedBy, Failure> {
        let progress = Progress::new(self.quiet, limit);
        let mut watch = Watch {
            target: &self.target,
            command: self.command.as_mut(),
            stop: &self.stop,
            start: self.start,
            limit,
            progress: &progress,
        };
        watch.run(session, |session| turn(session, &progress))
    }

    /// What gives names.
    pub fn namer(&self) -> Namer {
        let stacks = &self.what.stacks;
        Namer::new(SymbolOptions {
            inline: stacks.inline,
            lines: stacks.lines,
            debug_dirs: debug_dirs(&stacks.debug_dir),
            ..SymbolOptions::default()
        })
    }

    /// Records from now on, for as long as was asked for, and writes it.
    pub fn record_once(&mut self, notes: Vec<String>) -> Result<Code, Failure> {
        let mut session = self.prepare()?;
        let walk_loop = session.walk_loop();
        self.start(&mut session)?;
        let ended_by = self.watch(&mut session, self.limit, |_, _| Ok(Turn::Within(Duration::MAX)))?;
        let recorded_for = self.start.elapsed();
        let (totals, recorded) = session.finish().map_err(probe_failure)?;
        let mut recording = report::Recording {
            target: self.target.what.clone(),
            walk_loop,
            hz: self.what.frequency,
            began: self.began,
            recorded: recorded_for,
            ended_by,
            totals,
            quiet: self.quiet,
            notes,
            is_of_nobody: self.target.is_of_nobody(),
            symbol_problems: BTreeSet::new(),
        };
        let mut namer = self.namer();
        let profile: Profile =
            resolve::resolve(&recorded, &mut namer, &recording).with_lineage(&self.outputs.options.plugins);
        if profile.is_empty() {
            return Err(recording.no_samples());
        }
        recording.symbol_problems = namer.symbolizer.problems().clone();
        let mut outcome = self.outputs.write_all(&profile);
        let failure = outcome
            .failure()
            .map(|failure| rescue::save(&profile, failure, &mut outcome.written));
        if let Some(failure) = &failure {
            failure.report();
        }
        let summary = Summary::of(&profile, &self.outputs.options).ok().flatten();
        let code = recording.finish((&recorded, &profile), &outcome.written, summary.as_ref());
        Ok(failure.map_or(code, |failure| failure.code()))
    }
}

/// The clock on the wall.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Each executable is held open. As many files as the hard limit allows; that it cannot be raised is told
/// when a file cannot be opened.
pub fn raise_file_limit() {
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

fn options(args: &WhatArgs, target: &Target, command: Option<&Command>) -> Options {
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
        program: match &target.scope {
            Scope::Command { program, .. } => Some(program.clone()),
            _ => None,
        },
        hz: args.frequency,
        max_depth: args.stacks.max_depth,
        kernel_stacks: !args.stacks.no_kernel,
        user_stacks: true,
        follow_forks: !args.stacks.no_inherit,
        report_all_execs: has_rules,
        coroutine_parents: args.stacks.coroutine_parents,
        measure_cost: false,
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

/// What went wrong in the kernel's part, and with which exit code.
pub fn probe_failure(err: ProbeError) -> Failure {
    let err = err.or_file_limit();
    let code = match &err {
        ProbeError::Rate { .. }
        | ProbeError::UnknownEvent { .. }
        | ProbeError::TooManyEvents { .. }
        | ProbeError::ProbeSpec { .. }
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
