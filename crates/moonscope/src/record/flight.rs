//! Records all the time, keeps the last of it in memory, and writes that and what comes after when something happens.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use moonscope_probe::Session;
use moonscope_process::counted;

use super::interval::{Clock, ENDING, rest};
use super::parts::{Part, Parts};
use super::progress::Progress;
use super::recorder::Recorder;
use super::trigger::{Members, Triggers};
use super::watch::{EndedBy, Turn};
use super::when::Triggered;
use super::writer::{Files, Writer};
use crate::exit::{Code, Failure};

/// What is kept is that many pieces, at least: what is older than asked for goes piece by piece.
const PIECES: u32 = 30;
/// A piece is not shorter than this, nor longer than that.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// Stacks and their nodes that are kept: some 100 bytes each. Then the oldest piece goes, whatever its age.
const MOST: usize = 1 << 20;

/// Pieces of the time before, newest last.
struct Kept {
    length: Duration,
    pieces: VecDeque<Part>,
    size: usize,
    /// Pieces that went before they were old enough.
    early: u64,
}

impl Kept {
    fn add(&mut self, part: Part) {
        if let Some(last) = self.pieces.back_mut() {
            self.size -= size(last);
            last.recorded.forget_standing();
            self.size += size(last);
        }
        self.size += size(&part);
        self.pieces.push_back(part);
    }

    /// Lets go of what is too much, and if nothing has happened of what is too old.
    fn trim(&mut self, has_happened: bool) {
        while let Some(oldest) = self.pieces.front() {
            let all: Duration = self.pieces.iter().map(|piece| piece.recording.recorded).sum();
            let is_old = !has_happened && all.saturating_sub(oldest.recording.recorded) >= self.length;
            if !is_old && self.size <= MOST {
                return;
            }
            self.early += u64::from(!is_old);
            self.size -= size(oldest);
            self.pieces.pop_front();
        }
    }

    fn take(&mut self) -> Vec<Part> {
        self.size = 0;
        std::mem::take(&mut self.pieces).into()
    }
}

fn size(part: &Part) -> usize {
    part.recorded.stacks.nodes().len() + part.recorded.stacks.len()
}

/// Something has happened.
struct Happened {
    what: String,
    /// When the recording of it is over.
    until: Instant,
    /// The piece in which it happened has to end first.
    is_ending: bool,
}

/// Records until enough has happened.
pub fn run(mut recorder: Recorder<'_>, triggered: Triggered, before: Duration) -> Result<Code, Failure> {
    let (quiet, target) = (recorder.quiet, &recorder.what.target);
    // what cannot be waited for is told before anything is loaded
    drop(Triggers::arm(&triggered.specs, &recorder.target)?);
    let mut session = recorder.prepare()?;
    recorder.start(&mut session)?;
    let mut flight = Flight {
        parts: Parts::new(&recorder, &session),
        writer: Writer::start(&recorder, Files::of(triggered.count))?,
        kept: Kept {
            length: before,
            pieces: VecDeque::new(),
            size: 0,
            early: 0,
        },
        clock: Clock::new((before / PIECES).clamp(SHORTEST, LONGEST)),
        start: Instant::now(),
        triggers: Triggers::arm(&triggered.specs, &recorder.target)?,
        members: Members::new(target, &recorder.target)?,
        happened: None,
        written: 0,
        triggered,
    };
    flight.tell_what_is_waited_for(quiet);
    let ended_by = recorder.watch(&mut session, None, |session, progress| {
        flight.turn(session, progress)
    })?;
    flight.finish(session, ended_by)
}

struct Flight<'a> {
    parts: Parts,
    writer: Writer,
    kept: Kept,
    clock: Clock,
    start: Instant,
    triggers: Triggers,
    members: Members<'a>,
    happened: Option<Happened>,
    written: u64,
    triggered: Triggered,
}

impl Flight<'_> {
    fn tell_what_is_waited_for(&self, quiet: bool) {
        if !quiet {
            let before = self.kept.length.as_secs_f64();
            crate::exit::tell!(
                "recording; waiting for {}, keeping {before:.1} s",
                self.triggered.names()
            );
        }
    }

    fn turn(&mut self, session: &mut Session, progress: &Progress) -> Result<Turn, Failure> {
        for line in self.writer.lines() {
            progress.say(&line);
        }
        while let Some(interval) = session.take_interval() {
            self.kept.add(self.parts.part(interval));
            self.kept.trim(self.happened.is_some());
        }
        if self.happened.is_none()
            && let Some(what) = self.triggers.wait(&mut self.members, Duration::ZERO)?
        {
            progress.say(&format!("triggered by {what}"));
            self.happened = Some(Happened {
                what,
                until: Instant::now() + self.triggered.after,
                is_ending: false,
            });
        }
        if session.is_ending_interval() {
            return Ok(Turn::Within(ENDING));
        }
        if let Some(happened) = &mut self.happened {
            if happened.is_ending {
                self.write();
                return Ok(match self.written < self.triggered.count {
                    true => Turn::Within(Duration::ZERO),
                    false => Turn::End,
                });
            }
            let left = happened.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                happened.is_ending = true;
                session.end_interval();
                return Ok(Turn::Within(ENDING));
            }
            return Ok(Turn::Within(self.piece(session).min(left)));
        }
        Ok(Turn::Within(self.piece(session)))
    }

    /// Ends a piece if it is long enough; gives what is left of the next one.
    fn piece(&mut self, session: &mut Session) -> Duration {
        if self.clock.is_over(self.start.elapsed()) {
            session.end_interval();
            return ENDING;
        }
        self.clock.left(self.start.elapsed())
    }

    /// Has written what was kept, with the reason.
    fn write(&mut self) {
        let Some(happened) = self.happened.take() else {
            return;
        };
        let mut parts = self.kept.take();
        let early = std::mem::take(&mut self.kept.early);
        if let Some(first) = parts.first_mut() {
            first
                .recording
                .notes
                .push(format!("triggered by {}", happened.what));
            if early > 0 {
                let note = format!(
                    "the time before is shorter than asked for: {} found no room in memory",
                    counted(early, "piece")
                );
                first.recording.notes.push(note);
            }
        }
        self.written += 1;
        self.writer.write(self.written, parts);
    }

    fn finish(mut self, session: Session, ended_by: EndedBy) -> Result<Code, Failure> {
        let waited = self.start.elapsed().as_secs_f64();
        if self.happened.is_some() {
            for interval in rest(session)? {
                self.kept.add(self.parts.part(interval));
            }
            self.write();
        } else if self.written == 0 {
            let names = self.triggered.names();
            return Err(match ended_by {
                EndedBy::Target | EndedBy::Command(_) => Failure::new(
                    Code::NoTarget,
                    format!("the target ended before anything triggered ({names}, {waited:.1} s)"),
                ),
                _ => Failure::new(
                    Code::NoSamples,
                    format!("nothing triggered in {waited:.1} s ({names})"),
                ),
            });
        }
        self.writer.finish(self.parts.recording(ended_by))
    }
}
