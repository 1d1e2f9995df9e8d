//! The side band of perf on all CPUs: told of at once while little happens, in heaps while much does.
//!
//! To be told at once is an interrupt for whoever maps something, and also for whoever starts or ends a thread: those
//! records cannot be refused (`perf_event_task_match`, kernel/events/core.c). It takes 5 to 7 microseconds on a virtual
//! machine, which made a program that does nothing but start threads 40 % slower. How much wakes a reader is a
//! property of the ring, so there are two of them for each CPU, of which one is written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::perf_event::{self, Attr, RecordRing};

/// Data pages of a ring, a power of two: 128 KiB hold some 1,000 mappings or 3,000 threads. With both of its rings a
/// CPU stays below what a user may lock beyond RLIMIT_MEMLOCK (516 KiB, kernel.perf_event_mlock_kb).
const RING_PAGES: usize = 32;
/// Bytes that wake the reader while much happens: a quarter of the ring.
const HEAP: u32 = 32 << 10;
/// Records in a [`PACE`] from which on they come in heaps: with interrupts they would take 0.4 % of a CPU.
const MANY: u64 = 500;
/// Over how long records are counted, and how long a ring is used at least.
const PACE: Duration = Duration::from_secs(1);

/// One event with its ring on each CPU.
struct Rings(Vec<(RecordRing, OwnedFd)>);

impl Rings {
    /// Opens them; they are stopped.
    fn open(cpus: &[u32], watermark: u32) -> io::Result<Self> {
        let attr = Attr::side_band(watermark);
        let open = |&cpu: &u32| {
            let event = perf_event::open(&attr, cpu)?;
            Ok((RecordRing::map(event.as_fd(), RING_PAGES)?, event))
        };
        cpus.iter().map(open).collect::<io::Result<_>>().map(Self)
    }

    fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, event)| event.as_fd())
    }

    fn enable(&self) -> io::Result<()> {
        self.events().try_for_each(perf_event::enable)
    }

    fn disable(&self) -> io::Result<()> {
        self.events().try_for_each(perf_event::disable)
    }
}

/// Whether much happens.
#[derive(Debug)]
struct Pace {
    is_storm: bool,
    since: Instant,
    records: u64,
}

impl Pace {
    /// So many records more came until now. Says whether there is a storm from now on, or none any more.
    fn count(&mut self, records: u64, now: Instant) -> Option<bool> {
        self.records += records;
        // a storm is seen at once, its end after a while
        let is_over = now.duration_since(self.since) >= PACE;
        let begins = !self.is_storm && self.records >= MANY;
        let ends = self.is_storm && is_over && self.records < MANY / 2;
        if is_over || begins {
            self.records = 0;
            self.since = now;
        }
        if begins || ends {
            self.is_storm = begins;
            return Some(begins);
        }
        None
    }
}

/// Records of all processes of the machine.
pub struct SideBand {
    at_once: Rings,
    in_heaps: Rings,
    pace: Pace,
}

impl SideBand {
    /// Begins to listen on these CPUs.
    pub fn start(cpus: &[u32]) -> io::Result<Self> {
        let at_once = Rings::open(cpus, 1)?;
        let in_heaps = Rings::open(cpus, HEAP)?;
        at_once.enable()?;
        Ok(Self {
            at_once,
            in_heaps,
            pace: Pace {
                is_storm: false,
                since: Instant::now(),
                records: 0,
            },
        })
    }

    /// What becomes readable when there is something to read.
    pub fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let rings = if self.pace.is_storm {
            &self.in_heaps
        } else {
            &self.at_once
        };
        rings.events()
    }

    /// Does so much happen that not every record is told of?
    pub fn is_storm(&self) -> bool {
        self.pace.is_storm
    }

    /// Hands out kind, misc and body of each new record; CPU by CPU, each in the order of time.
    pub fn drain(&mut self, mut take: impl FnMut(u32, u16, &[u8])) {
        let mut records = 0;
        let all = self.at_once.0.iter_mut().chain(&mut self.in_heaps.0);
        for (ring, _) in all {
            ring.drain(|kind, misc, body| {
                records += 1;
                take(kind, misc, body);
            });
        }
        if let Some(is_storm) = self.pace.count(records, Instant::now())
            && self.change_over(is_storm).is_err()
        {
            // the one that is on stays on
            self.pace.is_storm = !is_storm;
        }
    }

    /// First the one on, then the other off: what comes between is told of twice, and nothing is missed.
    fn change_over(&self, to_heaps: bool) -> io::Result<()> {
        let (from, to) = if to_heaps {
            (&self.at_once, &self.in_heaps)
        } else {
            (&self.in_heaps, &self.at_once)
        };
        to.enable()?;
        // what stays on costs, and does no other harm
        let _ = from.disable();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Pace::count`] says of these numbers of records, each so many milliseconds after the begin.
    fn storms(counts: &[(u64, u64)]) -> Vec<Option<bool>> {
        let begin = Instant::now();
        let mut pace = Pace {
            is_storm: false,
            since: begin,
            records: 0,
        };
        let said = |&(at, records)| pace.count(records, begin + Duration::from_millis(at));
        counts.iter().map(said).collect()
    }

    #[test]
    fn a_storm_is_seen_as_soon_as_there_are_many() {
        assert_eq!(storms(&[(10, 300), (20, 300)]), [None, Some(true)]);
    }

    #[test]
    fn the_same_number_over_a_longer_time_is_none() {
        let slowly: Vec<_> = (1..10).map(|second| (second * 1_000, MANY / 2)).collect();
        assert!(storms(&slowly).iter().all(Option::is_none));
    }

    #[test]
    fn a_storm_ends_after_a_second_with_few() {
        let counts = [(10, MANY), (900, 10), (1_011, 10), (1_100, MANY - 1)];
        assert_eq!(storms(&counts), [Some(true), None, Some(false), None]);
    }

    #[test]
    fn a_storm_that_goes_on_is_not_told_again() {
        assert_eq!(
            storms(&[(10, MANY), (600, MANY), (1_200, MANY)]),
            [Some(true), None, None]
        );
    }
}
