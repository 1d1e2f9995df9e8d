//! What the terminal shows while a large heap is read; nothing in a pipe.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::vms::OneVm;

/// A heap that takes less needs no words.
const PATIENCE: Duration = Duration::from_millis(500);

/// A line on stderr that is written over.
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
    what: String,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new(vm: &OneVm) -> Self {
        let bar = ProgressBar::new_spinner();
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            since: Instant::now(),
            what: format!("process {}", vm.pid),
        }
    }

    /// So many objects were looked at.
    pub fn show(&self, objects: u64) {
        if self.bar.is_hidden() || self.since.elapsed() < PATIENCE {
            return;
        }
        let millions = objects as f64 / 1e6;
        self.bar
            .set_message(format!("{}: {millions:.1} million objects", self.what));
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
