//! All traces of one VM, copied as soon as they are seen, and kept for a while after they were flushed:
//! samples are resolved later than they were taken.

use crate::layout::Layout;
use crate::object::number;
use crate::trace::{Header, TraceCopy, TraceError, TraceId};
use moonscope_process::RemoteMemory;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// `JIT_P_maxtrace` is 1000, in OpenResty 8000; trace numbers have 16 bits.
const MAX_TRACES: usize = 1 << 16;

/// How long a flushed trace is kept: longer than any sample waits for its names.
const KEEP: Duration = Duration::from_secs(60);

/// All that is kept, in units of some 16 bytes ([`TraceCopy::weight`]): 64 MiB, which is OpenResty's 8000
/// traces and two flushes of all of them. Beyond it the longest dead are forgotten, then new ones refused.
const MAX_WEIGHT: usize = 4 << 20;

/// Traces copied in one round, so that a round takes milliseconds.
const MAX_COPIES: usize = 1024;

/// What one round of polling did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Traces that are there.
    pub live: usize,
    /// Copied in this round.
    pub copied: usize,
    /// Not there any more.
    pub died: usize,
    /// Could not be copied: changed meanwhile (tried again next time), or beyond a bound.
    pub failed: usize,
    /// Left for the next round: poll again soon.
    pub postponed: usize,
}

/// Why polling did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PollError {
    /// This build's traces have no known layout.
    #[error("the layout of traces is not known")]
    NoLayout,
    /// The VM is gone, or this is none.
    #[error("the list of traces of the VM at {g:#x} cannot be read")]
    Unreadable {
        /// `G`.
        g: u64,
    },
    /// Longer than trace numbers allow.
    #[error("the VM at {g:#x} would have {count} traces")]
    TooMany {
        /// `G`.
        g: u64,
        /// `sizetrace`.
        count: u32,
    },
}

/// Why an address belongs to no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoTrace {
    /// No trace that was seen has code there: an exit stub, or a trace younger than the last poll.
    #[error("no known trace has code at this address")]
    Unknown,
    /// Several traces had code there, one after the other, and the time does not tell which it was.
    #[error("several traces may have had code at this address")]
    Ambiguous,
}

struct Kept {
    copy: TraceCopy,
    /// The poll before the one that found it: it may be as old as this.
    since: Option<Instant>,
    /// The poll that no longer found it.
    until: Option<Instant>,
}

/// The traces of one VM.
pub struct TraceKeeper {
    layout: Layout,
    g: u64,
    last_poll: Option<Instant>,
    /// The array of references at the last poll, and for each what it was and whether it was copied.
    references: Vec<u64>,
    live: Vec<Option<Kept>>,
    /// In the order in which they died.
    dead: VecDeque<Kept>,
    /// Address of the code, and index in `live` or `dead`. Sorted.
    live_by_address: Vec<(u64, usize)>,
    dead_by_address: Vec<(u64, usize)>,
    /// Bytes of the longest machine code of a dead trace.
    longest_dead: u64,
    weight: usize,
}

impl TraceKeeper {
    /// Keeps the traces of the VM whose `global_State` is at `g`. Nothing is read yet.
    pub fn new(layout: Layout, g: u64) -> Self {
        Self {
            layout,
            g,
            last_poll: None,
            references: Vec::new(),
            live: Vec::new(),
            dead: VecDeque::new(),
            live_by_address: Vec::new(),
            dead_by_address: Vec::new(),
            longest_dead: 0,
            weight: 0,
        }
    }

    /// The VM.
    pub fn g(&self) -> u64 {
        self.g
    }

    /// Looks for new traces and for those that are gone. Costs three reads and some for each new trace.
    pub fn poll(&mut self, memory: &impl RemoteMemory, now: Instant) -> Result<Polled, PollError> {
        let references = self.read_references(memory)?;
        let mut polled = Polled::default();
        let len = references.len().max(self.live.len());
        self.live.resize_with(len, || None);
        let ids = self.traces_at(memory, &references);
        for index in 0..len {
            let reference = references.get(index).copied().unwrap_or(0);
            let before = self.references.get(index).copied().unwrap_or(0);
            let id = ids.get(index).copied().flatten();
            let known = self
                .live
                .get(index)
                .and_then(Option::as_ref)
                .map(|kept| kept.copy.id());
            if known.is_some() && (known != id || reference != before) {
                polled.died += 1;
                self.bury(index, now);
            }
            let is_known = known.is_some() && known == id && reference == before;
            match id {
                Some(_) if is_known => polled.live += 1,
                Some(_) if polled.copied + polled.failed >= MAX_COPIES => polled.postponed += 1,
                Some(id) => match self
                    .copy(memory, reference, id)
                    .is_ok_and(|copy| self.keep(index, copy))
                {
                    true => {
                        polled.live += 1;
                        polled.copied += 1;
                    }
                    false => polled.failed += 1,
                },
                None => {}
            }
        }
        self.references = references;
        self.last_poll = Some(now);
        self.forget(now);
        self.index();
        Ok(polled)
    }

    /// The trace that had machine code at this address at this time.
    pub fn find(&self, address: u64, at: Instant) -> Result<&TraceCopy, NoTrace> {
        let live = up_to(&self.live_by_address, address).next_back();
        let live = live.and_then(|index| self.live.get(index)?.as_ref());
        // Dead traces may overlap each other: all that begin near enough before the address.
        let lowest = address.saturating_sub(self.longest_dead);
        let skipped = self.dead_by_address.partition_point(|&(mcode, _)| mcode < lowest);
        let near = self.dead_by_address.get(skipped..).unwrap_or_default();
        let dead = up_to(near, address).filter_map(|index| self.dead.get(index));
        let mut candidates = live.into_iter().chain(dead).filter(|kept| {
            kept.copy.contains(address)
                && kept.since.is_none_or(|since| since <= at)
                && kept.until.is_none_or(|until| at <= until)
        });
        let found = candidates.next().ok_or(NoTrace::Unknown)?;
        match candidates.next() {
            None => Ok(&found.copy),
            Some(_) => Err(NoTrace::Ambiguous),
        }
    }

    /// The live trace with this number.
    pub fn live(&self, traceno: u16) -> Option<&TraceCopy> {
        self.live
            .get(usize::from(traceno))?
            .as_ref()
            .map(|kept| &kept.copy)
    }

    /// Which of these executable mappings hold code of this VM's traces: its machine code areas, with
    /// the exit stubs that stand beside traces.
    pub fn areas(&self, mappings: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
        let holds = |&(start, end): &(u64, u64)| {
            let first = self.live_by_address.partition_point(|&(mcode, _)| mcode < start);
            self.live_by_address
                .get(first)
                .is_some_and(|&(mcode, _)| mcode < end)
        };
        mappings.into_iter().filter(holds).collect()
    }

    fn read_references(&self, memory: &impl RemoteMemory) -> Result<Vec<u64>, PollError> {
        let g = self.g;
        if self.layout.trace.is_none() {
            return Err(PollError::NoLayout);
        }
        let unreadable = |_| PollError::Unreadable { g };
        let build = &self.layout.build;
        let array = memory
            .read_u64(g.wrapping_add(u64::from(build.trace)))
            .map_err(unreadable)?;
        let count = memory
            .read_u32(g.wrapping_add(u64::from(build.sizetrace)))
            .map_err(unreadable)?;
        if count as usize > MAX_TRACES {
            return Err(PollError::TooMany { g, count });
        }
        let size = usize::from(self.layout.fields().ref_size).max(1);
        let mut bytes = vec![0; count as usize * size];
        memory.read_exact(array, &mut bytes).map_err(unreadable)?;
        let reference = |slot| match size {
            4 => number::<4>(slot, 0),
            _ => number::<8>(slot, 0),
        };
        Ok(bytes
            .chunks_exact(size)
            .map(|slot| reference(slot).unwrap_or(0))
            .collect())
    }

    /// What is at each reference, if it is a finished trace with this number. While a trace is recorded, its
    /// slot refers to `J->cur`, inside the VM's own structure (`trace_start` in lj_trace.c).
    fn traces_at(&self, memory: &impl RemoteMemory, references: &[u64]) -> Vec<Option<TraceId>> {
        let own = self.g..self.g.saturating_add(u64::from(self.layout.build.g2disp));
        let mut found = vec![None; references.len()];
        let Ok(len) = Header::len(&self.layout) else {
            return found;
        };
        let wanted: Vec<(usize, u64)> = references
            .iter()
            .copied()
            .enumerate()
            .filter(|&(index, reference)| index != 0 && reference != 0 && !own.contains(&reference))
            .collect();
        let addrs: Vec<u64> = wanted.iter().map(|&(_, addr)| addr).collect();
        let mut heads = vec![0; addrs.len() * len];
        let were_read = memory.read_each(&addrs, &mut heads);
        for (((index, _), head), was_read) in wanted.iter().zip(heads.chunks_exact(len)).zip(were_read) {
            let header = Header::from_bytes(&self.layout, head).ok().filter(|_| was_read);
            found[*index] = header
                .map(|header| header.id)
                .filter(|id| usize::from(id.traceno) == *index);
        }
        found
    }

    fn copy(&self, memory: &impl RemoteMemory, reference: u64, id: TraceId) -> Result<TraceCopy, TraceError> {
        let copy = TraceCopy::read(memory, &self.layout, self.g, reference)?;
        match copy.id() == id {
            true => Ok(copy),
            false => Err(TraceError::Changed),
        }
    }

    /// Keeps a copy, unless there is no room even without dead ones.
    fn keep(&mut self, index: usize, copy: TraceCopy) -> bool {
        let weight = copy.weight();
        while self.weight.saturating_add(weight) > MAX_WEIGHT {
            if !self.forget_oldest() {
                return false;
            }
        }
        let Some(slot) = self.live.get_mut(index) else {
            return false;
        };
        self.weight += weight;
        *slot = Some(Kept {
            copy,
            since: self.last_poll,
            until: None,
        });
        true
    }

    fn forget_oldest(&mut self) -> bool {
        let oldest = self.dead.pop_front();
        let weight = oldest.as_ref().map_or(0, |kept| kept.copy.weight());
        self.weight = self.weight.saturating_sub(weight);
        oldest.is_some()
    }

    fn index(&mut self) {
        let live = self.live.iter().enumerate();
        let live = live.filter_map(|(index, kept)| Some((kept.as_ref()?.copy.mcode, index)));
        self.live_by_address = live.collect();
        self.live_by_address.sort_unstable();
        let dead = self.dead.iter().enumerate();
        self.dead_by_address = dead.map(|(index, kept)| (kept.copy.mcode, index)).collect();
        self.dead_by_address.sort_unstable();
        let lengths = self.dead.iter().map(|kept| u64::from(kept.copy.szmcode));
        self.longest_dead = lengths.max().unwrap_or(0);
    }

    fn bury(&mut self, index: usize, now: Instant) {
        if let Some(kept) = self.live.get_mut(index).and_then(Option::take) {
            self.dead.push_back(Kept {
                until: Some(now),
                ..kept
            });
        }
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |kept: &Kept| {
            kept.until
                .is_some_and(|until| now.saturating_duration_since(until) > KEEP)
        };
        while self.dead.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }
}

/// The indexes of those that begin at or before this address.
fn up_to(sorted: &[(u64, usize)], address: u64) -> impl DoubleEndedIterator<Item = usize> {
    let after = sorted.partition_point(|&(mcode, _)| mcode <= address);
    sorted
        .get(..after)
        .unwrap_or_default()
        .iter()
        .map(|&(_, index)| index)
}

#[cfg(test)]
mod tests;
