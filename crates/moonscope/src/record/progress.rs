//! What the terminal shows while recording; nothing in a pipe.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use moonscope_probe::Session;
use moonscope_process::counted;

/// A line on stderr that is written over.
pub struct Progress {
    bar: ProgressBar,
    limit: Option<Duration>,
}

impl Progress {
    /// Shows nothing if stderr is no terminal or `quiet`.
    pub fn new(quiet: bool, limit: Option<Duration>) -> Self {
        let bar = ProgressBar::new_spinner();
        if quiet || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self { bar, limit }
    }

    /// Shows a line of its own that stays.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            crate::exit::tell!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Shows what is waited for.
    pub fn wait(&self, what: &str) {
        self.bar.set_message(format!("waiting for {what}  (Ctrl-C ends)"));
        self.bar.tick();
    }

    /// Shows time, samples, losses and processes as they are now.
    pub fn show(&self, session: &Session, elapsed: Duration) {
        if self.bar.is_hidden() {
            return;
        }
        let ticks = session.ticks();
        let (samples, processes) = session.progress();
        let limit = self
            .limit
            .map(|limit| format!(" of {:.0}", limit.as_secs_f64()))
            .unwrap_or_default();
        self.bar.set_message(format!(
            "{:.1}{limit} s  {}  {} lost  {}  (Ctrl-C ends and writes)",
            elapsed.as_secs_f64(),
            counted(samples, "sample"),
            ticks.lost(),
            counted(processes, "process"),
        ));
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
