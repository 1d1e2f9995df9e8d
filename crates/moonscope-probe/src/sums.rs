//! Values that the kernel side summed up: two maps that take turns (`sums_even` and `sums_odd` of `bpf/maps.h`).

use std::time::{Duration, Instant};

use libbpf_rs::MapHandle;
use moonscope_unwind::abi;

use crate::batches::{self, Then};
use crate::error::ProbeError;
use crate::shared_array::SharedArray;

/// How long a map is filled before the other one takes over.
const TURN: Duration = Duration::from_millis(500);

/// A program that began before the turn changed has ended after this: it runs for microseconds. One that was preempted for
/// longer adds to the map of the turn after the next.
pub const GRACE: Duration = Duration::from_millis(20);

/// What one of the maps held.
pub type Batch = Vec<(abi::ms_sum_key, abi::ms_sum)>;

/// A number for each event.
type OfEvents = [u64; abi::MS_MAX_EVENTS as usize];

/// Reads that failed. What they left is in its map still, and comes with the next read of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedReads {
    /// So many.
    pub count: u64,
    /// What the kernel said to the last one.
    pub reason: String,
}

/// The two maps, and whose turn it is.
pub struct Sums {
    maps: [MapHandle; 2],
    turn: SharedArray<u32>,
    now: u32,
    changed: Instant,
    is_emptied: bool,
    /// Things whose sums were read, by event.
    read: OfEvents,
    pub failed: FailedReads,
}

impl Sums {
    /// The maps of a loaded object; nothing was summed up yet.
    pub fn new(object: &libbpf_rs::Object, maps: [MapHandle; 2]) -> Result<Self, ProbeError> {
        Ok(Self {
            maps,
            turn: SharedArray::of_section(object, ".bss.turn")?,
            now: 0,
            changed: Instant::now(),
            is_emptied: true,
            read: OfEvents::default(),
            failed: FailedReads::default(),
        })
    }

    /// What the map that is not filled now holds, once after each turn; to be called after the ring buffer was read,
    /// which has the stacks.
    pub fn take_turn(&mut self) -> Option<Batch> {
        let since = self.changed.elapsed();
        if !self.is_emptied && since >= GRACE {
            self.is_emptied = true;
            return Some(self.empty(1 - self.now));
        }
        if self.is_emptied && since >= TURN {
            self.turn();
        }
        None
    }

    /// Can the other map take over now? It must have been emptied since it was filled.
    pub fn can_turn(&self) -> bool {
        self.is_emptied
    }

    /// The other map takes over.
    pub fn turn(&mut self) {
        self.now = 1 - self.now;
        self.turn.write(TURN_WORD, &[self.now]);
        self.changed = Instant::now();
        self.is_emptied = false;
    }

    /// What both maps hold, after all programs have ended.
    pub fn finish(&mut self) -> Batch {
        std::thread::sleep(GRACE);
        let mut all = self.empty(0);
        all.extend(self.empty(1));
        all
    }

    /// Of the things that the kernel side has summed up, by event, those that could not be read to the end.
    pub fn unread(&self, mut summed: OfEvents) -> OfEvents {
        if self.failed.count == 0 {
            return OfEvents::default();
        }
        for (summed, read) in summed.iter_mut().zip(self.read) {
            *summed = summed.saturating_sub(read);
        }
        summed
    }

    /// Has every stack shipped anew.
    pub fn forget_stacks(&mut self) {
        let next = self.turn.read(EPOCH_WORD).unwrap_or(0).wrapping_add(1);
        self.turn.write(EPOCH_WORD, &[next]);
    }

    /// What a map holds; of a read that fails halfway, what came before. That was deleted, so it is nowhere else.
    fn empty(&mut self, which: u32) -> Batch {
        let mut sums = Batch::new();
        let add = |key: &[u8], value: &[u8]| sums.extend(plain(key).zip(plain(value)));
        if let Err(err) = batches::for_each(&self.maps[which as usize], Then::Delete, add) {
            self.failed.count += 1;
            self.failed.reason = err.to_string();
        }
        for (key, sum) in &sums {
            self.read[key.event as usize % self.read.len()] += sum.count;
        }
        sums
    }
}

/// `ms_sums_turn` and `ms_stacks_epoch` of `.bss.turn`.
const TURN_WORD: usize = 0;
const EPOCH_WORD: usize = 1;

/// A C struct of `bpf/abi.h` out of the bytes of a map.
pub fn plain<T: Copy>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as large as the struct, which holds only integers; no alignment is assumed.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
