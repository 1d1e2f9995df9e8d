//! `moonscope top`: what a target does right now, in the terminal.
//!
//! Three threads: this one records in intervals of a second, the second gives names to what was recorded, the third
//! shows it and takes keys.

mod branches;
mod collected;
mod cursor;
#[cfg(test)]
mod example;
mod flame;
mod functions;
mod guard;
mod keys;
mod labels;
mod measure;
mod names;
mod owners;
mod screen;
mod show;
mod state;
mod terminal;
mod tree;

use std::sync::mpsc::channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::PossibleValuesParser;
use moonscope_profile::{PluginPaths, visible};

use crate::exit::{Code, Failure};
use crate::record::command::{Command, Files};
use crate::record::stop::Stop;
use crate::record::what::WhatArgs;
use crate::record::{self, check_pid_namespace, duration, recorder};
use crate::target::Scope;
use measure::Measurement;
use names::Detail;
use show::{Seen, Show};
use state::{Facts, State};
use terminal::Hold;

const EXAMPLES: &str = "\
Examples:
  What the workers of nginx do right now, down to the line of Lua:
    moonscope top --nginx --lines
  What the whole machine does, a process with all that it calls in one line: press b
    moonscope top -a
  Where the threads of a process wait; the values are switched with v:
    moonscope top -p 4321 -e offcpu
  An APISIX, by plugin:
    moonscope top --nginx --by plugin
  A command, until it ends; its output goes nowhere unless it is redirected:
    moonscope top -- sh -c './job > log'

Keys: q leaves, ? shows all others. docs/top.md explains what is on the screen.

Exit codes: 0 left, 1 failed, 2 usage (also: no terminal), 3 missing privilege or kernel feature, 4 no such target.";

/// Show what a target does right now, in the terminal
///
/// Functions of the kernel, of native code and of Lua (LuaJIT 2.1: nginx with ngx_lua, OpenResty, Apache APISIX), as a table,
/// a call tree, a flame graph, or by process, Lua state, plugin and phase of nginx.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    #[command(flatten)]
    what: WhatArgs,

    /// How much of the time is shown: the last TIME; the key `a` shows all since the start
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    window: Duration,

    /// How often the screen is made anew
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    refresh: Duration,

    /// Begin with the groups of this label: pid, tid, cgroup, lua-state, plugin, phase, or one of the event
    #[arg(
        long,
        value_name = "LABEL",
        help_heading = "What graphs show",
        value_parser = PossibleValuesParser::new(groups()),
        hide_possible_values = true
    )]
    by: Option<String>,
}

/// What `--by` takes: what can be in the fourth view.
fn groups() -> impl Iterator<Item = &'static str> {
    record::labels().filter(|label| labels::key(label).is_some())
}

/// How long the screen has to end. It may be about to write a file.
const PATIENCE: Duration = Duration::from_secs(5);

/// The screen is not made anew more often: the kernel side takes 40 ms to change over, at most.
const SHORTEST: Duration = Duration::from_millis(100);

/// Runs the verb.
pub fn run(args: TopArgs) -> Result<Code, Failure> {
    terminal::check()?;
    if args.refresh < SHORTEST {
        let failure = Failure::new(Code::Usage, "--refresh must be at least 100ms");
        return Err(failure.with_remedy("use --refresh 100ms or more"));
    }
    let target = args.what.target.resolve()?;
    args.what.stacks.check_debug_dirs(&target)?;
    check_pid_namespace()?;
    // both before any thread is started
    let hold = Hold::prepare()?;
    let command = match &target.scope {
        Scope::Command { program, argv } => Some(Command::start(program, argv, Files::NoTerminal)?),
        _ => None,
    };
    let stop = Stop::on_signals_after(terminal::give_back)?;
    recorder::raise_file_limit();

    let facts = Facts {
        target: target.what.clone(),
        event: args.what.event.join(", "),
    };
    let (to_screen, news) = channel();
    let (wishes, asked) = channel();
    let mut measurement = Measurement::new(args.what.clone(), args.refresh, (target, command, stop));
    // what cannot be measured is told before the screen is taken
    let session = measurement.prepare()?;
    let show = Show::new(state(&args, facts), wishes, news);
    let seen = thread::scope(|scope| {
        let screen = thread::Builder::new()
            .name("screen".into())
            .spawn_scoped(scope, || show.run(&hold))?;
        let measured = measurement.run(session, &to_screen, &asked);
        drop(to_screen);
        wait_for_end(&screen);
        let seen = screen
            .join()
            .map_err(|_| Failure::new(Code::Failed, "the thread of the screen panicked"))?;
        measured?;
        Ok::<Seen, Failure>(seen?)
    });
    drop(hold);
    let seen = seen?;
    for path in &seen.written {
        crate::exit::tell!("wrote {}", visible(&path.to_string_lossy()));
    }
    if let Some(profile) = &seen.profile {
        let seconds = collected::length(profile).as_secs_f64();
        crate::exit::tell!("watched {} for {seconds:.1} s", profile.meta.target);
        for comment in &profile.meta.comments {
            crate::exit::tell!("{comment}");
        }
        crate::exit::tell!("{}", profile.accounting);
    }
    Ok(Code::Done)
}

/// A terminal that takes nothing any more, or was closed while a key was read, does not keep us.
fn wait_for_end(screen: &ScopedJoinHandle<'_, std::io::Result<Seen>>) {
    let begin = Instant::now();
    while !screen.is_finished() {
        if begin.elapsed() > PATIENCE {
            terminal::give_back();
            // nobody would read why
            std::process::exit(Code::Failed as i32);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn state(args: &TopArgs, facts: Facts) -> State {
    let mut state = State::new(args.window, facts);
    state.plugins = PluginPaths::new(&args.what.plugin_path);
    state.value = args.what.value.clone();
    if args.what.stacks.lines {
        state.detail = Detail::Line;
    }
    if let Some(word) = &args.by {
        state.label = labels::key(word);
        state.view = state::View::Groups;
    }
    state
}
