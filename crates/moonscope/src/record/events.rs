//! Options of events.

use std::time::Duration;

use clap::{Args, ValueEnum};
use moonscope_probe::EventSettings;
use moonscope_probe::collectors::{alloc, io, offcpu, probe};
use moonscope_unwind::abi;

use super::duration;

/// What of an event is wanted.
#[derive(Clone, Args)]
#[command(next_help_heading = "What events measure")]
pub struct EventArgs {
    /// offcpu: leave out shorter intervals: 50us, 1ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse_limit)]
    min_block: Option<Duration>,

    /// offcpu: leave out longer intervals
    #[arg(long, value_name = "TIME", value_parser = duration::parse_limit)]
    max_block: Option<Duration>,

    /// offcpu: only threads that left their CPU in this state; repeatable
    #[arg(long, value_name = "STATE")]
    state: Vec<State>,

    /// offcpu: put the stack of whoever woke the thread on its own
    #[arg(long)]
    waker: bool,
    /// probe: leave out calls that take less: 5ms, 200us
    #[arg(long, value_name = "TIME", value_parser = duration::parse_limit)]
    slower: Option<Duration>,

    /// probe: count calls of functions and do not wait for their return, which costs half
    #[arg(long, conflicts_with = "slower")]
    calls_only: bool,

    /// probe: have the kernel put its own return addresses on the stack (uretprobe), for functions whose returns
    /// are not found otherwise; an exception, an error of Lua or a coroutine that leaves one ends the program
    #[arg(long, conflicts_with = "calls_only")]
    replace_returns: bool,

    /// io: tell files apart by their paths, in the label io-path
    #[arg(long)]
    paths: bool,

    /// alloc: how much of the CPU time of the recorded processes its probes may take, before they are taken away:
    /// 5%, 100% for all [default: 10%]
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    max_overhead: Option<u64>,
}

/// `5`, `5%`, `0.5%`, in hundredths of a per cent.
fn parse_share(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    match number.parse::<f64>() {
        Ok(share) if (0.01..=100.0).contains(&share) => Ok((share * 100.0).round() as u64),
        _ => Err("a share looks like 5% or 0.5%, and is at most 100%".into()),
    }
}

/// How threads leave their CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// Able to go on: waiting for a CPU
    Runnable,
    /// Waiting, and a signal ends it (S)
    Sleeping,
    /// Waiting, and nothing else ends it (D)
    Uninterruptible,
    /// Stopped by a signal or a debugger (T)
    Stopped,
}

impl State {
    fn number(self) -> u32 {
        match self {
            Self::Runnable => abi::MS_OFFCPU_RUNNABLE,
            Self::Sleeping => abi::MS_OFFCPU_INTERRUPTIBLE,
            Self::Uninterruptible => abi::MS_OFFCPU_UNINTERRUPTIBLE,
            Self::Stopped => abi::MS_OFFCPU_STOPPED,
        }
    }
}

impl EventArgs {
    /// What collectors are told.
    pub fn settings(&self) -> EventSettings {
        let mut settings = EventSettings::default();
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        for (name, time) in [
            (offcpu::MIN_BLOCK, self.min_block),
            (offcpu::MAX_BLOCK, self.max_block),
            (probe::SLOWER, self.slower),
        ] {
            if let Some(time) = time {
                settings.0.insert(name, nanoseconds(time));
            }
        }
        for (name, is_set) in [
            (probe::CALLS_ONLY, self.calls_only),
            (probe::REPLACE_RETURNS, self.replace_returns),
        ] {
            if is_set {
                settings.0.insert(name, 1);
            }
        }
        if !self.state.is_empty() {
            let states = self.state.iter().fold(0, |all, state| all | 1 << state.number());
            settings.0.insert(offcpu::STATE, states);
        }
        if self.waker {
            settings.0.insert(offcpu::WAKER_STACK, 1);
        }
        if self.paths {
            settings.0.insert(io::PATHS, 1);
        }
        if let Some(share) = self.max_overhead {
            settings.0.insert(alloc::MAX_OVERHEAD, share);
        }
        settings
    }
}
