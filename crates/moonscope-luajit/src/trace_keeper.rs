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

/// Flushed traces that are kept: two full flushes of OpenResty's 8000 at some 5 KiB each are 80 MiB.
const MAX_DEAD: usize = 16 << 10;

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
    /// Live ones: address of the code, index in `live`. Sorted.
    by_address: Vec<(u64, usize)>,
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
            by_address: Vec::new(),
        }
    }

    /// The VM.
    pub fn g(&self) -> u64 {
        self.g
    }

    /// Looks for new traces and for those that are gone. Costs two reads and one for each live trace.
    pub fn poll(&mut self, memory: &impl RemoteMemory, now: Instant) -> Result<Polled, PollError> {
        let references = self.read_references(memory)?;
        let mut polled = Polled::default();
        let len = references.len().max(self.live.len());
        self.live.resize_with(len, || None);
        for index in 0..len {
            let reference = references.get(index).copied().unwrap_or(0);
            let before = self.references.get(index).copied().unwrap_or(0);
            let id = self.trace_at(memory, index, reference);
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
                Some(id) => match self.copy(memory, reference, id) {
                    Ok(copy) => {
                        polled.live += 1;
                        polled.copied += 1;
                        self.keep(index, copy);
                    }
                    Err(_) => polled.failed += 1,
                },
                None => {}
            }
        }
        self.references = references;
        self.last_poll = Some(now);
        self.forget(now);
        let live = self.live.iter().enumerate();
        self.by_address = live
            .filter_map(|(index, kept)| Some((kept.as_ref()?.copy.mcode, index)))
            .collect();
        self.by_address.sort_unstable();
        Ok(polled)
    }

    /// The trace that had machine code at this address at this time.
    pub fn find(&self, address: u64, at: Instant) -> Result<&TraceCopy, NoTrace> {
        let after = self.by_address.partition_point(|&(mcode, _)| mcode <= address);
        let live = after.checked_sub(1).and_then(|index| {
            let &(_, index) = self.by_address.get(index)?;
            self.live.get(index)?.as_ref()
        });
        let mut candidates = live.into_iter().chain(&self.dead).filter(|kept| {
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
            let first = self.by_address.partition_point(|&(mcode, _)| mcode < start);
            self.by_address.get(first).is_some_and(|&(mcode, _)| mcode < end)
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

    /// What is at a reference, if it is a finished trace with this number. While a trace is recorded, its
    /// slot refers to `J->cur`, inside the VM's own structure (`trace_start` in lj_trace.c).
    fn trace_at(&self, memory: &impl RemoteMemory, index: usize, reference: u64) -> Option<TraceId> {
        let own = self.g..self.g.saturating_add(u64::from(self.layout.build.g2disp));
        if index == 0 || reference == 0 || own.contains(&reference) {
            return None;
        }
        let id = Header::read(memory, &self.layout, reference).ok()?.id;
        (usize::from(id.traceno) == index).then_some(id)
    }

    fn copy(&self, memory: &impl RemoteMemory, reference: u64, id: TraceId) -> Result<TraceCopy, TraceError> {
        let copy = TraceCopy::read(memory, &self.layout, self.g, reference)?;
        match copy.id() == id {
            true => Ok(copy),
            false => Err(TraceError::Changed),
        }
    }

    fn keep(&mut self, index: usize, copy: TraceCopy) {
        if let Some(slot) = self.live.get_mut(index) {
            *slot = Some(Kept {
                copy,
                since: self.last_poll,
                until: None,
            });
        }
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
        while self.dead.len() > MAX_DEAD || self.dead.front().is_some_and(is_old) {
            self.dead.pop_front();
        }
    }
}
