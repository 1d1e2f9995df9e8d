//! Parts of one recording, each with what it needs to be a profile by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use moonscope_probe::{Interval, Recorded, Session, Totals, WalkLoop};

use super::recorder::{Recorder, since_1970};
use super::report::Recording;
use super::watch::EndedBy;

/// By more than this the clocks do not come apart by themselves.
const CLOCK_WAS_SET: Duration = Duration::from_secs(1);

/// A part of a recording.
pub struct Part {
    /// When, how long, and what became of everything.
    pub recording: Recording,
    /// What was recorded.
    pub recorded: Recorded,
}

/// What all parts have in common, and what they are together.
pub struct Parts {
    target: String,
    walk_loop: WalkLoop,
    hz: u64,
    quiet: bool,
    /// The target is a control group in which nobody was when it began.
    is_of_nobody: bool,
    /// The clock on the wall less that of the kernel's samples.
    offset: Duration,
    began: u64,
    ended: u64,
    totals: Option<Totals>,
}

impl Parts {
    /// Of a recording that was just started.
    pub fn new(recorder: &Recorder<'_>, session: &Session) -> Self {
        let began = session.interval_began();
        Self {
            target: recorder.target.what.clone(),
            walk_loop: session.walk_loop(),
            hz: recorder.what.frequency,
            quiet: recorder.quiet,
            is_of_nobody: recorder.target.is_of_nobody(),
            offset: recorder.began.saturating_sub(Duration::from_nanos(began)),
            began,
            ended: began,
            totals: None,
        }
    }

    /// The next part.
    pub fn part(&mut self, interval: Interval) -> Part {
        let Interval {
            began,
            ended,
            totals,
            recorded,
        } = interval;
        self.ended = ended;
        self.look_at_clock();
        match &mut self.totals {
            Some(all) => all.add(totals.clone()),
            none => *none = Some(totals.clone()),
        }
        Part {
            recording: self.of(began, ended, totals),
            recorded,
        }
    }

    /// The clock on the wall may have been set, and goes on while the machine is suspended. Small corrections are not
    /// followed, so that each part begins where the one before it ended.
    fn look_at_clock(&mut self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::new(
            now.tv_sec.cast_unsigned(),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        );
        let offset = since_1970().saturating_sub(now);
        if offset.abs_diff(self.offset) > CLOCK_WAS_SET {
            self.offset = offset;
        }
    }

    fn of(&self, began: u64, ended: u64, totals: Totals) -> Recording {
        Recording {
            target: self.target.clone(),
            walk_loop: self.walk_loop,
            hz: self.hz,
            began: self.offset + Duration::from_nanos(began),
            recorded: Duration::from_nanos(ended.saturating_sub(began)),
            ended_by: EndedBy::Time(None),
            totals,
            quiet: self.quiet,
            notes: Vec::new(),
            is_of_nobody: self.is_of_nobody,
            symbol_problems: BTreeSet::new(),
        }
    }

    /// All of them together; `None` if there was none.
    pub fn recording(&self, ended_by: EndedBy) -> Option<Recording> {
        let totals = self.totals.clone()?;
        let all = self.of(self.began, self.ended, totals);
        Some(Recording { ended_by, ..all })
    }
}
