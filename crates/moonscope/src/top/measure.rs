//! What is measured for the screen: in intervals, one after the other, until somebody leaves; another event on demand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use moonscope_probe::Session;
use moonscope_profile::PluginPaths;

use super::keys::Wish;
use super::show::News;
use super::state::Facts;
use crate::exit::Failure;
use crate::output::Outputs;
use crate::record::command::Command;
use crate::record::interval::{Clock, ENDING, rest};
use crate::record::parts::{Part, Parts};
use crate::record::recorder::Recorder;
use crate::record::resolve::{self, Namer};
use crate::record::stop::Stop;
use crate::record::watch::{EndedBy, Turn};
use crate::record::what::WhatArgs;
use crate::target::Target;

/// Intervals that may wait for names. If there are more, the next one lasts longer.
const WAITING: usize = 2;

/// How often it is looked whether somebody leaves, when nothing is measured any more.
const IDLE: Duration = Duration::from_millis(100);

/// What is measured.
pub struct Measurement {
    what: WhatArgs,
    interval: Duration,
    target: Target,
    command: Option<Command>,
    stop: Option<Stop>,
}

/// Why measuring ended.
enum End {
    /// Somebody left.
    Left,
    /// Something else is to be measured.
    Event(String),
    /// By itself.
    Itself(EndedBy),
}

impl Measurement {
    /// One that is yet to begin.
    pub fn new(
        what: WhatArgs,
        interval: Duration,
        (target, command, stop): (Target, Option<Command>, Stop),
    ) -> Self {
        Self {
            what,
            interval,
            target,
            command,
            stop: Some(stop),
        }
    }

    /// Lends everything to a recording.
    fn lend<T>(&mut self, work: impl FnOnce(&mut Recorder<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let Some(stop) = self.stop.take() else {
            return Err(io::Error::other("two recordings at a time").into());
        };
        let mut recorder = Recorder {
            what: &self.what,
            quiet: true,
            limit: None,
            measure_cost: false,
            target: self.target.clone(),
            outputs: Outputs::check(&[], false)?,
            stop,
            command: self.command.take(),
            began: Duration::ZERO,
            start: Instant::now(),
        };
        let result = work(&mut recorder);
        self.stop = Some(recorder.stop);
        self.command = recorder.command;
        result
    }

    /// Loads and attaches everything. What is to be said of events goes to stderr.
    pub fn prepare(&mut self) -> Result<Session, Failure> {
        self.lend(|recorder| {
            recorder.prepare_and_tell(&mut |event, line| crate::exit::tell!("{event}: {line}"))
        })
    }

    /// Measures until somebody leaves.
    pub fn run(
        &mut self,
        session: Session,
        news: &Sender<News>,
        asked: &Receiver<Wish>,
    ) -> Result<(), Failure> {
        let mut session = session;
        loop {
            match self.measure(session, news, asked)? {
                End::Left => break,
                End::Itself(ended_by) => {
                    let why = match ended_by {
                        EndedBy::Signal(_) => break,
                        EndedBy::Command(how) => how,
                        EndedBy::Target | EndedBy::Time(_) => format!("{} ended", self.target.what),
                    };
                    // that nobody hears it means that somebody left
                    let _ = news.send(News::Ended(why));
                    self.wait_until_left(asked);
                    break;
                }
                End::Event(event) => session = self.change(event, news)?,
            }
        }
        let _ = news.send(News::Leave);
        if let Some(command) = &self.command {
            command.interrupt();
        }
        Ok(())
    }

    fn wait_until_left(&self, asked: &Receiver<Wish>) {
        while !self.stop.as_ref().is_none_or(Stop::is_asked) {
            match asked.recv_timeout(IDLE) {
                Ok(Wish::Quit) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                _ => {}
            }
        }
    }

    /// Something else is measured from now on; if that cannot be, what was measured before.
    fn change(&mut self, event: String, news: &Sender<News>) -> Result<Session, Failure> {
        let before = std::mem::replace(
            &mut self.what.event,
            event.split_whitespace().map(str::to_owned).collect(),
        );
        let mut said = Vec::new();
        let prepared = self.lend(|recorder| {
            recorder.prepare_and_tell(&mut |event, line| said.push(format!("{event}: {line}")))
        });
        let session = match prepared {
            Ok(session) => session,
            Err(failure) => {
                said = failure.lines();
                self.what.event = before;
                self.lend(|recorder| recorder.prepare_and_tell(&mut |_, _| ()))?
            }
        };
        let facts = Facts {
            target: self.target.what.clone(),
            event: self.what.event.join(", "),
        };
        let _ = news.send(News::Changed(facts));
        if !said.is_empty() {
            let _ = news.send(News::Say(said.join(" ")));
        }
        Ok(session)
    }

    /// Measures until the end.
    fn measure(
        &mut self,
        mut session: Session,
        news: &Sender<News>,
        asked: &Receiver<Wish>,
    ) -> Result<End, Failure> {
        let interval = self.interval;
        self.lend(|recorder| {
            let namers = Namers::start(recorder, news.clone())?;
            recorder.start(&mut session)?;
            let mut parts = Parts::new(recorder, &session);
            let mut clock = Clock::new(interval);
            let start = Instant::now();
            let mut end = None;
            let ended_by = recorder.watch(&mut session, None, |session, _| {
                while let Some(interval) = session.take_interval() {
                    namers.name(parts.part(interval));
                }
                end = match asked.try_recv() {
                    Ok(Wish::Event(event)) => Some(End::Event(event)),
                    Ok(Wish::Quit) | Err(TryRecvError::Disconnected) => Some(End::Left),
                    _ => None,
                };
                if end.is_some() {
                    return Ok(Turn::End);
                }
                if session.is_ending_interval() {
                    return Ok(Turn::Within(ENDING));
                }
                // if it cannot end now, all of it goes to the next one
                if clock.is_over(start.elapsed()) && !namers.is_busy() {
                    session.end_interval();
                    return Ok(Turn::Within(ENDING));
                }
                Ok(Turn::Within(clock.left(start.elapsed())))
            })?;
            if end.is_none() {
                for interval in rest(session)? {
                    namers.name(parts.part(interval));
                }
            }
            namers.finish();
            Ok(end.unwrap_or(End::Itself(ended_by)))
        })
    }
}

/// The thread that gives names: an executable's symbols can take a second, and meanwhile samples come.
struct Namers {
    parts: Sender<Part>,
    waiting: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

impl Namers {
    fn start(recorder: &Recorder<'_>, news: Sender<News>) -> io::Result<Self> {
        let (parts, incoming) = channel::<Part>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let done = Arc::clone(&waiting);
        let mut namer: Namer = recorder.namer();
        let plugins = PluginPaths::new(&recorder.what.plugin_path);
        let target = recorder.target.what.clone();
        let thread = thread::Builder::new().name("names".into()).spawn(move || {
            let mut is_first = true;
            for part in incoming {
                if std::mem::take(&mut is_first) {
                    let event = part.recording.events();
                    let target = target.clone();
                    let _ = news.send(News::Facts(Facts { target, event }));
                }
                let profile = resolve::resolve(&part.recorded, &mut namer, &part.recording);
                // that nobody sees it means that somebody left
                let _ = news.send(News::Piece(Box::new(profile.with_lineage(&plugins))));
                done.fetch_sub(1, Ordering::Release);
            }
        })?;
        Ok(Self {
            parts,
            waiting,
            thread,
        })
    }

    /// Gives names to a part, and shows it.
    fn name(&self, part: Part) {
        self.waiting.fetch_add(1, Ordering::Release);
        // that the thread is gone shows in the end
        let _ = self.parts.send(part);
    }

    /// Has it more to do than it should?
    fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > WAITING
    }

    /// Waits until all is shown.
    fn finish(self) {
        drop(self.parts);
        // its panic was told when it happened
        let _ = self.thread.join();
    }
}
