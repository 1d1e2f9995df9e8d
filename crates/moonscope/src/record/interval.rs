//! A file for each part of the time: the recording goes on while another thread names and writes what was recorded before.

use std::time::{Duration, Instant};

use moonscope_probe::{Interval, Session};

use super::parts::Parts;
use super::recorder::{Recorder, probe_failure};
use super::watch::Turn;
use super::when::Intervals;
use super::writer::{Files, Writer};
use crate::exit::{Code, Failure};

/// How long a turn may last while an interval ends: it is complete some 20 ms later.
pub const ENDING: Duration = Duration::from_millis(5);

/// Records until the end and writes all.
pub fn run(mut recorder: Recorder<'_>, intervals: Intervals) -> Result<Code, Failure> {
    let mut session = recorder.prepare()?;
    recorder.start(&mut session)?;
    let mut parts = Parts::new(&recorder, &session);
    let mut writer = Writer::start(&recorder, Files::Many { keep: intervals.keep })?;
    let mut clock = Clock::new(intervals.length);
    let mut number = 0;
    let start = Instant::now();
    let limit = recorder.limit;
    let ended_by = recorder.watch(&mut session, limit, |session, progress| {
        for line in writer.lines() {
            progress.say(&line);
        }
        while let Some(interval) = session.take_interval() {
            number += 1;
            writer.write(number, vec![parts.part(interval)]);
        }
        if session.is_ending_interval() {
            return Ok(Turn::Within(ENDING));
        }
        if clock.is_over(start.elapsed()) {
            // if it cannot end now, all of it goes to the next file
            match writer.is_busy() {
                true => writer.outcome.stretched += 1,
                false => session.end_interval(),
            }
        }
        Ok(Turn::Within(clock.left(start.elapsed())))
    })?;
    for interval in rest(session)? {
        number += 1;
        writer.write(number, vec![parts.part(interval)]);
    }
    writer.finish(parts.recording(ended_by))
}

/// What is not written yet when a recording ends.
pub fn rest(mut session: Session) -> Result<Vec<Interval>, Failure> {
    let mut rest = Vec::new();
    while session.is_ending_interval() {
        session.poll(ENDING).map_err(probe_failure)?;
    }
    rest.extend(std::iter::from_fn(|| session.take_interval()));
    rest.push(session.finish_interval().map_err(probe_failure)?);
    Ok(rest)
}

/// When intervals end: at multiples of their length, so that their ends do not drift.
pub struct Clock {
    length: Duration,
    next: Duration,
}

impl Clock {
    /// The first one begins now, at 0.
    pub fn new(length: Duration) -> Self {
        Self { length, next: length }
    }

    /// Is one over? Ends that were missed are left out.
    pub fn is_over(&mut self, elapsed: Duration) -> bool {
        let is_over = elapsed >= self.next;
        while self.next <= elapsed {
            self.next += self.length;
        }
        is_over
    }

    /// How long it lasts.
    pub fn left(&self, elapsed: Duration) -> Duration {
        self.next.saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_do_not_drift_and_missed_ones_are_left_out() {
        let seconds = Duration::from_secs_f64;
        let mut clock = Clock::new(seconds(1.0));
        assert!(!clock.is_over(seconds(0.9)));
        assert!(clock.is_over(seconds(1.2)));
        assert_eq!(clock.left(seconds(1.5)), seconds(0.5));
        assert!(clock.is_over(seconds(4.1)));
        assert_eq!(clock.left(seconds(4.25)), seconds(0.75));
    }
}
