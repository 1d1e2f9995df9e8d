//! Ctrl-C: the first one finishes and writes, the second one aborts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;

/// Whether somebody asked to end.
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes note of SIGINT, SIGTERM and SIGHUP from now on.
    pub fn on_signals() -> io::Result<Self> {
        Self::on_signals_after(|| ())
    }

    /// The same; before the second signal ends the process, `last` is called, in the handler: it must not do anything that
    /// a signal handler may not (signal-safety(7)).
    pub fn on_signals_after(last: fn()) -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let before = Arc::clone(&asked);
            let handler = move || {
                if before.swap(true, Ordering::Relaxed) {
                    last();
                    low_level::exit(128 + signal);
                }
            };
            // SAFETY: it swaps a flag, and calls what may be called there, and _exit.
            unsafe { low_level::register(signal, handler) }?;
        }
        Ok(Self(asked))
    }

    /// Was there a signal?
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
