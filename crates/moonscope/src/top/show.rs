//! The thread of the screen: takes what was measured, and keys, and draws.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use moonscope_process::counted;
use moonscope_profile::{Profile, WriteOptions, visible};
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGCONT, SIGTSTP};

use super::collected::Span;
use super::keys::{self, Wish};
use super::screen::{self, Ink};
use super::state::{Facts, State};
use super::terminal::{self, Drawn, Hold};
use crate::output::{Outputs, default_path};

/// How long the screen waits for a key before it looks for news.
const TURN: Duration = Duration::from_millis(100);

/// What the screen is told.
pub enum News {
    /// What was measured since the last one.
    Piece(Box<Profile>),
    /// How it is measured.
    Facts(Facts),
    /// From now on something else is measured.
    Changed(Facts),
    /// Something that the user should know.
    Say(String),
    /// Nothing comes any more, for this reason.
    Ended(String),
    /// It is over: leave.
    Leave,
}

/// What becomes of the screen when it is left.
#[derive(Default)]
pub struct Seen {
    /// Everything since the start.
    pub profile: Option<Profile>,
    /// Files that were written.
    pub written: Vec<PathBuf>,
}

/// The screen.
pub struct Show {
    /// What is shown.
    state: State,
    /// What it was asked to measure, and that it was left.
    wishes: Sender<Wish>,
    /// What comes.
    news: Receiver<News>,
    is_stale: bool,
    had_message: bool,
}

impl Show {
    /// A screen that was not drawn yet.
    pub fn new(state: State, wishes: Sender<Wish>, news: Receiver<News>) -> Self {
        Self {
            state,
            wishes,
            news,
            is_stale: true,
            had_message: false,
        }
    }

    /// Shows what comes until somebody leaves.
    pub fn run(mut self, hold: &Hold) -> io::Result<Seen> {
        let (stopped, went_on) = (flag(SIGTSTP)?, flag(SIGCONT)?);
        let ink = Ink::from_environment();
        let mut seen = Seen::default();
        let mut drawn = hold.take()?;
        while self.hear() {
            if stopped.swap(false, Ordering::Relaxed) {
                went_on.store(false, Ordering::Relaxed);
                terminal::suspend();
            }
            if went_on.swap(false, Ordering::Relaxed) {
                // a shell had the terminal while we were stopped
                hold.take_again(&mut drawn)?;
                self.is_stale = true;
            }
            self.draw(ink, &mut drawn)?;
            match self.wait()? {
                None => {}
                Some(Wish::Quit) => break,
                Some(Wish::Suspend) => stopped.store(true, Ordering::Relaxed),
                Some(Wish::Redraw) => terminal::draw_all(&mut drawn)?,
                Some(Wish::Write(span)) => seen.written.extend(self.write(span)),
                Some(event @ Wish::Event(_)) => {
                    // that nobody listens means that it is over, which is told by other news
                    let _ = self.wishes.send(event);
                }
            }
        }
        let _ = self.wishes.send(Wish::Quit);
        seen.profile = Some(self.state.collected.profile(Span::All).clone());
        Ok(seen)
    }

    /// Draws if something changed; what was said disappears after a while.
    fn draw(&mut self, ink: Ink, drawn: &mut Drawn) -> io::Result<()> {
        let has_message = self.state.message().is_some();
        if !terminal::is_ours() || !(self.is_stale || self.had_message && !has_message) {
            return Ok(());
        }
        (self.is_stale, self.had_message) = (false, has_message);
        let state = &mut self.state;
        drawn.draw(|frame| {
            let area = frame.area();
            if let Some(cursor) = screen::draw(state, ink, area, frame.buffer_mut()) {
                frame.set_cursor_position(cursor);
            }
        })?;
        Ok(())
    }

    /// Takes the news; `false`: it is over.
    fn hear(&mut self) -> bool {
        loop {
            let news = self.news.try_recv();
            self.is_stale |= news.is_ok();
            match news {
                Ok(News::Piece(piece)) => self.state.add(*piece),
                Ok(News::Facts(facts)) => self.state.facts = facts,
                Ok(News::Changed(facts)) => {
                    self.state.facts = facts;
                    self.state.value = None;
                    self.state.clear();
                }
                Ok(News::Say(text)) => self.state.say(visible(&text)),
                Ok(News::Ended(why)) => {
                    self.state.say(format!("{}   (q leaves)", visible(&why)));
                    self.state.ended = Some(why);
                }
                Err(TryRecvError::Empty) => return true,
                Ok(News::Leave) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits for keys, and does what they mean, up to the first that wants more than that.
    fn wait(&mut self) -> io::Result<Option<Wish>> {
        terminal::wait_for_keys(TURN)?;
        while event::poll(Duration::ZERO)? {
            self.is_stale = true;
            if let Event::Key(key) = event::read()?
                && let Some(wish) = keys::press(&mut self.state, key)
            {
                return Ok(Some(wish));
            }
            terminal::wait_for_keys(Duration::ZERO)?;
        }
        Ok(None)
    }

    /// Writes a flame graph; says how it went.
    fn write(&mut self, span: Span) -> Option<PathBuf> {
        let state = &mut self.state;
        let options = WriteOptions {
            value: state.value_type().map(|value| value.kind.clone()),
            lines: state.detail == super::names::Detail::Line,
            plugins: state.plugins.clone(),
            ..WriteOptions::default()
        };
        let profile = state.frozen.as_deref().unwrap_or(&state.collected).profile(span);
        if profile.is_empty() {
            state.say("nothing to write yet");
            return None;
        }
        let path = default_path("svg");
        let written = Outputs::check(std::slice::from_ref(&path), false).and_then(|mut outputs| {
            outputs.options = options;
            outputs.write_all(profile).complete()
        });
        match written {
            Ok(()) => {
                let samples = counted(profile.accounting.kept(), "sample");
                state.say(format!("wrote {}: {samples}", path.display()));
                Some(path)
            }
            Err(failure) => {
                state.say(failure.lines().join(" "));
                None
            }
        }
    }
}

/// A flag that a signal sets.
fn flag(signal: i32) -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal, Arc::clone(&flag))?;
    Ok(flag)
}
