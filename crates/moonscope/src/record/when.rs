//! When is recorded, and into how many files.

use std::time::Duration;

use clap::Args;

use super::duration;
use super::trigger::Spec;
use crate::exit::{Code, Failure};
use crate::number;

/// When is recorded.
#[derive(Args)]
#[command(next_help_heading = "When")]
pub struct WhenArgs {
    /// Write a file for each TIME, without a gap between them: 5s, 1m. In the names of files %N is the number, %T the
    /// time; a name without them gets -%T
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    interval: Option<Duration>,

    /// With --interval: delete all but the newest N
    #[arg(long, value_name = "N", requires = "interval", value_parser = number::whole(1_usize.., "60"))]
    keep: Option<usize>,

    /// Wait until this happens, then record for -d: psi:cpu:some:300ms/2s (or memory, io, full, @CGROUP), cpu>80%, rss>2G,
    /// signal:USR1; repeatable, the first counts
    #[arg(long, value_name = "SPEC")]
    trigger: Vec<Spec>,

    /// With --trigger: so many recordings, then end
    #[arg(long, value_name = "N", requires = "trigger", value_parser = number::whole(1_u64.., "3"))]
    trigger_count: Option<u64>,

    /// With --trigger: record all the time, and keep the last TIME before the trigger too
    #[arg(long, value_name = "TIME", requires = "trigger", value_parser = duration::parse)]
    flight: Option<Duration>,
}

/// The same as one thing.
#[derive(Clone, Debug)]
pub enum When {
    /// Now, into one file.
    Once,
    /// From now on, into many.
    Intervals(Intervals),
    /// When something happens.
    Triggered(Triggered),
}

impl When {
    /// Is more than one file of a name to be written?
    pub fn writes_many(&self) -> bool {
        match self {
            Self::Once => false,
            Self::Intervals(_) => true,
            Self::Triggered(triggered) => triggered.count > 1,
        }
    }
}

/// A file for each part of the time.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// How long each is.
    pub length: Duration,
    /// How many are kept; `None`: all.
    pub keep: Option<usize>,
}

/// A file for each time that something happens.
#[derive(Clone, Debug)]
pub struct Triggered {
    /// What.
    pub specs: Vec<Spec>,
    /// How often.
    pub count: u64,
    /// How much of the time before.
    pub before: Option<Duration>,
    /// How long after it.
    pub after: Duration,
}

impl Triggered {
    /// What is waited for, in a line.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.specs.iter().map(Spec::to_string).collect();
        names.join(" or ")
    }
}

/// The shortest interval: the kernel side takes 40 ms to change over, at most.
const SHORTEST: Duration = Duration::from_millis(50);

impl WhenArgs {
    /// Takes together what belongs together; `length` is `-d`.
    pub fn resolve(&self, length: Option<Duration>, is_command: bool) -> Result<When, Failure> {
        let usage = |what: &str, remedy: &str| Err(Failure::new(Code::Usage, what).with_remedy(remedy));
        if let Some(interval) = self.interval {
            if !self.trigger.is_empty() {
                return usage(
                    "--interval and --trigger cannot be used together",
                    "--trigger with --flight records all the time too, and writes when it matters",
                );
            }
            if interval < SHORTEST {
                return usage("an interval must be at least 50ms", "use --interval 50ms or more");
            }
            return Ok(When::Intervals(Intervals {
                length: interval,
                keep: self.keep,
            }));
        }
        if self.trigger.is_empty() {
            return Ok(When::Once);
        }
        if is_command && self.flight.is_none() {
            return usage(
                "a trigger waits for what runs already",
                "start the command first and name it (-p PID, --comm NAME), or add --flight TIME",
            );
        }
        let after = match (length, self.flight) {
            (Some(length), _) => length,
            (None, Some(_)) => Duration::ZERO,
            (None, None) => return usage("how long after the trigger?", "add -d TIME, such as -d 10s"),
        };
        Ok(When::Triggered(Triggered {
            specs: self.trigger.clone(),
            count: self.trigger_count.unwrap_or(1),
            before: self.flight,
            after,
        }))
    }
}
