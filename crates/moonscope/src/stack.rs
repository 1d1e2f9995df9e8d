//! `moonscope stack`: what every thread and every Lua coroutine of a process is doing right now.

mod json;
mod report;
mod system_call;
mod text;

use std::io::Write;

use moonscope_probe::live::{LiveFiles, LiveProcess, Running};
use moonscope_process::{Pid, ProcessError, visible};
use moonscope_symbols::SymbolOptions;
use moonscope_unwind::abi;

use crate::exit::{Code, Failure};
use crate::number;
use crate::record::resolve::Namer;
use crate::target::{Scope, TargetArgs};
use report::Report;

/// Shows what every thread and every Lua coroutine is doing right now.
///
/// Nothing is stopped: what waits in the kernel is shown with its native and Lua stack, every Lua coroutine that is suspended
/// with its Lua stack. BPF is used for one thing: where a function on the stack of a thread that waits is found by its frame
/// pointer, as in all code that is built with -fno-omit-frame-pointer, the registers of the thread are read by it; without it
/// such a stack is cut there, and says so. A thread that runs is read while it is off its processor, as others take
/// their turns there, moonscope among them: if it was not put back meanwhile, its native and its Lua stack are of one moment.
/// Where that does not come about it is caught at a tick of a perf clock, which copies its registers and the top of its
/// stack; its Lua stack is read right after that, while it goes on, and its stack is marked as not certain.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StackArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Frames of a stack at most, up to 1024; the outermost are left out
    #[arg(long, value_name = "N", default_value_t = abi::MS_DEFAULT_DEPTH,
          value_parser = number::whole(1..=abi::MS_MAX_DEPTH, "127"))]
    max_depth: u32,

    /// Writes JSON instead of text (docs/formats.md)
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  sudo moonscope stack -p 4321                what does this process wait for?
  sudo moonscope stack --nginx                every worker: its requests that wait, by Lua stack
  sudo moonscope stack --nginx --json | jq -c '.processes[].vms[].coroutines[] | [.count, .status]'

Stacks are innermost first. Equal Lua stacks are shown once, with how many coroutines have them.

Exit status: 0 if everything was shown, 3 if it is not permitted, 4 if there is no such process,
6 if one of several processes could not be looked at.";

/// Runs the verb.
pub fn run(args: StackArgs) -> Result<Code, Failure> {
    let target = args.target.resolve()?;
    if matches!(target.scope, Scope::Command { .. }) {
        let failure = Failure::new(Code::Usage, "a command that is yet to be started has no stacks");
        return Err(failure.with_remedy("start it, then: moonscope stack -p PID"));
    }
    let mut files = LiveFiles::new()?;
    let mut namer = Namer::new(SymbolOptions::default());
    let pids = target.pids()?;
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for &pid in &pids {
        match LiveProcess::look_at(pid, &mut files, args.max_depth, Running::Caught) {
            Ok(live) => reports.push(Report::new(live, &mut namer)),
            // they come and go
            Err(err) if pids.len() > 1 && is_nobody(&err) => {}
            Err(err) => failed.push((pid, err)),
        }
    }
    if reports.is_empty() {
        return Err(failed.into_iter().next().map_or_else(
            || Failure::new(Code::NoTarget, format_args!("{}: all of it ended", target.what)),
            |(pid, err)| failure(pid, err),
        ));
    }
    let text = match args.json {
        true => json::render(&reports)?,
        false => text::render(&reports),
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // `moonscope stack | head` is no failure
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => return Err(err.into()),
        _ => {}
    }
    for (pid, err) in &failed {
        crate::exit::tell!(
            "moonscope: process {pid} is left out: {}",
            visible(&err.to_string())
        );
    }
    Ok(match failed.is_empty() {
        true => Code::Done,
        false => Code::Partial,
    })
}

/// Has it no code of its own, or ended meanwhile?
fn is_nobody(err: &ProcessError) -> bool {
    err.is_gone() || matches!(err, ProcessError::KernelThread { .. })
}

fn failure(pid: Pid, err: ProcessError) -> Failure {
    if is_nobody(&err) {
        return Failure::new(Code::NoTarget, err);
    }
    if err.is_permission() {
        let remedy = "use sudo, or give moonscope CAP_SYS_PTRACE";
        return Failure::new(Code::NotPermitted, err).with_remedy(remedy);
    }
    Failure::new(Code::Failed, format_args!("process {pid}: {err}"))
}
