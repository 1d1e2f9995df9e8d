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

/// The two maps, and whose turn it is.
pub struct Sums {
    maps: [MapHandle; 2],
    turn: SharedArray<u32>,
    now: u32,
    changed: Instant,
    is_emptied: bool,
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
        })
    }

    /// What the map that is not filled now holds, once after each turn; to be called after the ring buffer was read,
    /// which has the stacks.
    pub fn take_turn(&mut self) -> Result<Option<Vec<(abi::ms_sum_key, abi::ms_sum)>>, ProbeError> {
        let since = self.changed.elapsed();
        if !self.is_emptied && since >= GRACE {
            self.is_emptied = true;
            return self.empty(1 - self.now).map(Some);
        }
        if self.is_emptied && since >= TURN {
            self.turn();
        }
        Ok(None)
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
    pub fn finish(&mut self) -> Result<Vec<(abi::ms_sum_key, abi::ms_sum)>, ProbeError> {
        std::thread::sleep(GRACE);
        let mut all = self.empty(0)?;
        all.extend(self.empty(1)?);
        Ok(all)
    }

    /// Has every stack shipped anew.
    pub fn forget_stacks(&mut self) {
        let next = self.turn.read(EPOCH_WORD).unwrap_or(0).wrapping_add(1);
        self.turn.write(EPOCH_WORD, &[next]);
    }

    fn empty(&self, which: u32) -> Result<Vec<(abi::ms_sum_key, abi::ms_sum)>, ProbeError> {
        let map = &self.maps[which as usize];
        let failed = |err: libbpf_rs::Error| ProbeError::Map {
            map: "sums",
            source: std::io::Error::other(err),
        };
        let mut sums = Vec::new();
        let add = |key: &[u8], value: &[u8]| sums.extend(plain(key).zip(plain(value)));
        batches::for_each(map, Then::Delete, add).map_err(failed)?;
        Ok(sums)
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
