//! Receiving: when to look, at what, and for how long.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Session;
use crate::drain::Change;
use crate::error::ProbeError;
use crate::limits::{MAPPINGS_REST, MAPPINGS_SOON};

/// Ends a round of receiving; no error number.
pub(super) const STOP: i32 = -4096;

/// Rounds of receiving until others have their turn.
const ROUNDS: usize = 8;

/// What a round of receiving leaves in the ring buffer.
enum Left {
    Nothing,
    /// What came since it began.
    Newer,
    /// As there was no more room.
    Some,
}

impl Session {
    /// Receives what comes within this time, or returns earlier when something new must be looked at.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<Change>, ProbeError> {
        // SAFETY: the ring owns its descriptor and lives longer than this call.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) };
        // on a machine where processes start all the time, new mappings shall not keep us busy
        let rest = MAPPINGS_REST
            .saturating_sub(self.looked_at_mappings.elapsed())
            .min(timeout);
        if !rest.is_zero() && wait_for(&[ring], rest)? {
            return self.receive(ROUNDS);
        }
        let drain = self.drain.borrow();
        let events: Vec<_> = std::iter::once(ring).chain(drain.watch.events()).collect();
        let left = timeout - rest;
        let left = if self.is_loading {
            left.min(MAPPINGS_SOON)
        } else {
            left
        };
        wait_for(&events, left)?;
        drop(events);
        drop(drain);
        self.looked_at_mappings = Instant::now();
        self.receive(ROUNDS)
    }

    pub(super) fn receive(&mut self, rounds: usize) -> Result<Vec<Change>, ProbeError> {
        let has_rested = self.intervals.has_rested();
        let is_all = self.receive_rounds(rounds)?;
        self.take_sums();
        let mut drain = self.drain.borrow_mut();
        self.is_loading = drain.take_is_loading();
        let changes = std::mem::take(&mut drain.changes);
        let remapped = std::mem::take(&mut drain.remapped);
        drop(drain);
        if has_rested && is_all {
            self.complete_interval();
        }
        self.end_wanted_interval();
        self.attach_to_lua()?;
        self.note(&changes);
        self.look_after(&remapped);
        Ok(changes)
    }

    /// Receives until there is nothing left, or for so many rounds. Says whether that was all that was there in the beginning.
    fn receive_rounds(&mut self, rounds: usize) -> Result<bool, ProbeError> {
        let mut is_all = false;
        for _ in 0..rounds {
            match self.receive_some()? {
                Left::Nothing => return Ok(true),
                Left::Newer => is_all = true,
                Left::Some => {}
            }
        }
        Ok(is_all)
    }

    /// Receives what is there, as much as there is room for in our own memory.
    fn receive_some(&mut self) -> Result<Left, ProbeError> {
        self.drain.borrow_mut().begin();
        // samples come without a wake-up, so what is there must be asked for
        let received = self.ring.consume_raw();
        if received < 0 && received != STOP {
            return Err(ProbeError::Map {
                map: "events",
                source: std::io::Error::from_raw_os_error(-received),
            });
        }
        let mut drain = self.drain.borrow_mut();
        self.targets.look_for_ended(&mut drain);
        drain.settle();
        Ok(match received {
            STOP if drain.is_full() => Left::Some,
            STOP => Left::Newer,
            _ => Left::Nothing,
        })
    }
}

/// Waits until one of these is readable; says whether one is.
fn wait_for(events: &[BorrowedFd<'_>], timeout: Duration) -> Result<bool, ProbeError> {
    let mut events: Vec<_> = events
        .iter()
        .map(|event| PollFd::new(event, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut events, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(err) => Err(ProbeError::Io {
            what: "cannot wait for samples",
            source: err.into(),
        }),
    }
}
