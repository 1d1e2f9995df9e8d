//! Names and writes what was recorded, in a thread of its own: an executable's symbols can take a second, and meanwhile
//! samples come.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use moonscope_process::{Pid, counted};
use moonscope_profile::{Accounting, Profile, visible};

use super::parts::Part;
use super::pattern::{self, Keep};
use super::recorder::Recorder;
use super::report::{Recording, TOLERATED_LOSS, sampled};
use super::resolve::Namer;
use super::{rescue, resolve};
use crate::exit::{Code, Failure};
use crate::output::Outputs;

/// Profiles that may wait to be written, besides the one that is. What is recorded when there are more goes to the next.
const WAITING: usize = 2;

/// How many profiles are written, and under which names.
#[derive(Clone, Copy, Debug)]
pub enum Files {
    /// One, under the name that was given.
    One,
    /// Many, whose names are made of that; of which so many are kept.
    Many {
        /// `None`: all.
        keep: Option<usize>,
    },
}

impl Files {
    /// Names for so many profiles.
    pub fn of(count: u64) -> Self {
        match count {
            1 => Self::One,
            _ => Self::Many { keep: None },
        }
    }
}

/// Profiles that are to become files.
struct Job {
    number: u64,
    parts: Vec<Part>,
}

/// What became of profiles.
#[derive(Default)]
pub struct Outcome {
    /// Ends of intervals that were left out, as there was too much to write.
    pub stretched: u64,
    profiles: u64,
    empty: u64,
    /// Of which nothing could be written.
    failed: u64,
    /// Of which not all files could be written.
    partial: u64,
    accounting: Accounting,
    /// Processes that they have samples of.
    sampled: BTreeSet<Pid>,
    /// What was wrong with files in which names were looked for.
    symbol_problems: BTreeSet<String>,
}

/// The thread, and the way to it.
pub struct Writer {
    jobs: Sender<Job>,
    lines: Receiver<String>,
    waiting: Arc<AtomicUsize>,
    thread: JoinHandle<Outcome>,
    /// What this side knows of it.
    pub outcome: Outcome,
}

impl Writer {
    /// Starts the thread.
    pub fn start(recorder: &Recorder<'_>, files: Files) -> io::Result<Self> {
        let (jobs, incoming) = channel::<Job>();
        let (said, lines) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let done = Arc::clone(&waiting);
        let mut desk = Desk {
            outputs: recorder.outputs.clone(),
            namer: recorder.namer(),
            keep: match files {
                Files::Many { keep } => Some(Keep::new(keep)),
                Files::One => None,
            },
            outcome: Outcome::default(),
        };
        let quiet = recorder.quiet;
        let thread = thread::Builder::new().name("writer".into()).spawn(move || {
            for job in incoming {
                for line in desk.write(job, quiet) {
                    // nobody listens any more: the recording failed, and says why
                    let _ = said.send(line);
                }
                done.fetch_sub(1, Ordering::Release);
            }
            desk.outcome.symbol_problems = desk.namer.symbolizer.problems().clone();
            desk.outcome
        })?;
        Ok(Self {
            jobs,
            lines,
            waiting,
            thread,
            outcome: Outcome::default(),
        })
    }

    /// Has it more to do than it should?
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > WAITING
    }

    /// Has these parts written as one profile.
    pub fn write(&self, number: u64, parts: Vec<Part>) {
        self.waiting.fetch_add(1, Ordering::Release);
        // that the thread is gone shows in the end
        let _ = self.jobs.send(Job { number, parts });
    }

    /// Lines for the terminal that came meanwhile.
    pub fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Waits until all is written, and says how it went. `recording`: all of it.
    pub fn finish(self, recording: Option<Recording>) -> Result<Code, Failure> {
        drop(self.jobs);
        self.lines.iter().for_each(|line| crate::exit::tell!("{line}"));
        let written = self
            .thread
            .join()
            .map_err(|_| Failure::new(Code::Failed, "the thread that writes files panicked"))?;
        let Some(mut recording) = recording else {
            return Err(Failure::new(Code::NoSamples, "nothing was recorded"));
        };
        recording.symbol_problems = written.symbol_problems.clone();
        let outcome = Outcome {
            stretched: self.outcome.stretched,
            ..written
        };
        outcome.tell(&recording)
    }
}

/// What the thread works with.
struct Desk {
    outputs: Outputs,
    namer: Namer,
    /// `None`: names are taken as they are.
    keep: Option<Keep>,
    outcome: Outcome,
}

impl Desk {
    /// Writes one profile; gives lines that say how it went.
    fn write(&mut self, job: Job, quiet: bool) -> Vec<String> {
        let Job { number, parts } = job;
        let Some(began) = parts.first().map(|part| part.recording.began) else {
            return Vec::new();
        };
        let mut all: Option<Profile> = None;
        for part in parts {
            let profile = resolve::resolve(&part.recorded, &mut self.namer, &part.recording);
            match &mut all {
                Some(all) => all.merge(&profile),
                none => *none = Some(profile),
            }
        }
        let Some(profile) = all.map(|all| all.with_lineage(&self.outputs.options.plugins)) else {
            return Vec::new();
        };
        self.outcome.profiles += 1;
        self.outcome.accounting.merge(&profile.accounting);
        self.outcome.sampled.extend(sampled(&profile));
        let says = |line: String| if quiet { Vec::new() } else { vec![line] };
        let seconds = profile.meta.duration.unwrap_or(0) as f64 / 1e9;
        if profile.is_empty() {
            self.outcome.empty += 1;
            return says(format!("no file for {seconds:.1} s without samples"));
        }
        let outputs = match self.keep {
            Some(_) => self.outputs.renamed(|path| pattern::fill(path, number, began)),
            None => self.outputs.clone(),
        };
        let mut outcome = outputs.write_all(&profile);
        let mut lines = Vec::new();
        if let Some(failure) = outcome.failure() {
            match outcome.written.is_empty() {
                true => self.outcome.failed += 1,
                false => self.outcome.partial += 1,
            }
            lines = rescue::save(&profile, failure, &mut outcome.written).lines();
        }
        if outcome.written.is_empty() {
            return lines;
        }
        let files: Vec<PathBuf> = outcome
            .written
            .iter()
            .filter_map(|file| file.path.clone())
            .collect();
        let names: Vec<String> = outcome
            .written
            .iter()
            .map(|file| match &file.path {
                Some(path) => visible(&path.to_string_lossy()).into_owned(),
                None => "to stdout".to_owned(),
            })
            .collect();
        if let Some(keep) = &mut self.keep {
            keep.add(files);
        }
        lines.extend(says(format!(
            "wrote {}: {seconds:.1} s, {}, {} lost",
            names.join(", "),
            counted(profile.accounting.kept(), "sample"),
            profile.accounting.lost_total()
        )));
        lines
    }
}

impl Outcome {
    /// Prints the last lines, and says how it went.
    fn tell(&self, recording: &Recording) -> Result<Code, Failure> {
        if self.profiles > 0 && self.empty == self.profiles {
            return Err(recording.no_samples());
        }
        if !recording.quiet {
            for line in self.lines(recording) {
                crate::exit::tell!("{line}");
            }
        }
        let wanted = self.accounting.kept() + self.accounting.lost_total();
        let lost = self.accounting.lost_total() as f64;
        Ok(if self.failed > 0 && self.failed + self.empty == self.profiles {
            Code::Failed
        } else if self.failed + self.partial > 0 || lost > TOLERATED_LOSS * wanted as f64 {
            Code::Partial
        } else {
            Code::Done
        })
    }

    fn lines(&self, recording: &Recording) -> Vec<String> {
        let files = self.profiles - self.empty - self.failed;
        let mut lines = vec![format!(
            "recorded {} for {:.1} s: {} in {}, {}",
            recording.target,
            recording.recorded.as_secs_f64(),
            counted(self.accounting.kept(), "sample"),
            counted(files, "profile"),
            recording.events(),
        )];
        lines.push(recording.walked());
        lines.extend(recording.of_events());
        lines.extend(recording.refused(&self.sampled));
        lines.extend(recording.limits_hit());
        for (count, one, what) in [
            (self.failed, "profile", "could not be written"),
            (self.partial, "profile", "could not be written to all files"),
            (
                self.stretched,
                "interval",
                "not ended in time, as writing takes longer than an interval lasts: what was in it is in the next file",
            ),
        ] {
            if count > 0 {
                lines.push(format!("{} {what}", counted(count, one)));
            }
        }
        lines.push(self.accounting.to_string());
        lines
    }
}
