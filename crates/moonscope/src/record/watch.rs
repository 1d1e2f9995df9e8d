//! Goes along with a recording until it ends.

use std::time::{Duration, Instant};

use moonscope_probe::{Change, Session};

use super::command::Command;
use super::progress::Progress;
use super::recorder::probe_failure;
use super::stop::Stop;
use crate::exit::Failure;
use crate::target::{Scope, Target};

/// How often the target's rules and cgroup are looked at anew, and the terminal is written to.
const TURN: Duration = Duration::from_millis(100);

/// The terminal sends Ctrl-C to the command too: for so long its end is waited for, to be recorded and told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a recording ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The time was over; and what became of the command, if there is one.
    Time(Option<String>),
    /// Ctrl-C, or another request to end; and what became of the command.
    Signal(Option<String>),
    /// The target ended.
    Target,
    /// The command ended, like this.
    Command(String),
}

impl EndedBy {
    /// What became of the command.
    pub fn command(&self) -> Option<&str> {
        match self {
            Self::Time(fate) | Self::Signal(fate) => fate.as_deref(),
            Self::Command(how) => Some(how),
            Self::Target => None,
        }
    }
}

/// What a recording does at each turn besides receiving.
pub enum Turn {
    /// Goes on; the next turn must not be later than this.
    Within(Duration),
    /// It has all that it wants.
    End,
}

/// A recording that runs.
pub struct Watch<'a> {
    /// Whom it records.
    pub target: &'a Target,
    /// A command that was started for it.
    pub command: Option<&'a mut Command>,
    /// Whether somebody asked to end.
    pub stop: &'a Stop,
    /// When it began.
    pub start: Instant,
    /// How long it is to last; `None`: until something else ends it.
    pub limit: Option<Duration>,
    /// What the terminal shows.
    pub progress: &'a Progress,
}

impl Watch<'_> {
    /// Receives until the end; `turn` is called again and again.
    pub fn run(
        &mut self,
        session: &mut Session,
        mut turn: impl FnMut(&mut Session) -> Result<Turn, Failure>,
    ) -> Result<EndedBy, Failure> {
        // a cgroup that the kernel side cannot compare is looked at again and again
        let by_list = match &self.target.scope {
            Scope::Cgroup { cgroup, .. } if cgroup.v2_id.is_none() || cgroup.v2_level.is_none() => {
                Some(cgroup)
            }
            _ => None,
        };
        let can_grow = by_list.is_some()
            || matches!(&self.target.scope, Scope::All | Scope::Cgroup { .. })
            || matches!(&self.target.scope, Scope::Processes { rules, .. } if !rules.is_empty());
        let mut asked_at = None;
        loop {
            let left = self.limit.map(|limit| limit.saturating_sub(self.start.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(EndedBy::Time(self.fate_of_command()?));
            }
            if self.stop.is_asked() {
                let asked_at = asked_at.get_or_insert_with(Instant::now);
                if self.command.is_none() || asked_at.elapsed() >= PATIENCE {
                    return Ok(EndedBy::Signal(self.fate_of_command()?));
                }
            }
            let Turn::Within(next) = turn(session)? else {
                return Ok(EndedBy::Time(self.fate_of_command()?));
            };
            let changes = session
                .poll(left.unwrap_or(TURN).min(TURN).min(next))
                .map_err(probe_failure)?;
            for change in changes {
                if let Change::Executed(pid) | Change::Renamed(pid) = change
                    && can_grow
                    && self.target.matches(pid)
                    && !self.target.is_machine()
                {
                    session.add_target(pid).map_err(probe_failure)?;
                }
            }
            if let Some(cgroup) = by_list {
                for pid in cgroup.pids().unwrap_or_default() {
                    session.add_target(pid).map_err(probe_failure)?;
                }
            }
            if let Some(command) = self.command.as_deref_mut()
                && let Some(how) = command.ended()?
            {
                return Ok(match self.stop.is_asked() {
                    true => EndedBy::Signal(Some(how)),
                    false => EndedBy::Command(how),
                });
            }
            if !can_grow && self.command.is_none() && session.live_targets() == 0 {
                return Ok(EndedBy::Target);
            }
            self.progress.show(session, self.start.elapsed());
        }
    }

    fn fate_of_command(&mut self) -> Result<Option<String>, Failure> {
        let command = self.command.as_deref_mut();
        command.map(Command::fate).transpose()
    }
}
