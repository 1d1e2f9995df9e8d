//! Who owns which part of a shared array.
//!
//! A part that is given back may still be in use by a walk on another CPU. It rests until a grace period
//! of RCU has passed, which every BPF program run is inside of, and only then is it given out again.

use std::collections::BTreeMap;
use std::ops::Range;

use rustix::thread::{MembarrierCommand, membarrier};

/// Hands out parts of `0..len`, first fit.
#[derive(Debug)]
pub struct Slices {
    /// Start and length of each free part; neighbours are merged.
    free: BTreeMap<usize, usize>,
    resting: Vec<Range<usize>>,
    /// Elements that are free or rest.
    room: usize,
}

impl Slices {
    /// All of `0..len` is free.
    pub fn new(len: usize) -> Self {
        Self {
            free: BTreeMap::from([(0, len)]),
            resting: Vec::new(),
            room: len,
        }
    }

    /// Elements that nobody owns, side by side or not.
    pub fn room(&self) -> usize {
        self.room
    }

    /// A part of `len` elements, or `None` if no free part is large enough.
    pub fn take(&mut self, len: usize) -> Option<Range<usize>> {
        if len == 0 {
            return Some(0..0);
        }
        if len > self.room {
            return None;
        }
        self.take_free(len).or_else(|| {
            if self.wake_resting() {
                self.take_free(len)
            } else {
                None
            }
        })
    }

    /// Gives a part back.
    pub fn give(&mut self, part: Range<usize>) {
        if !part.is_empty() {
            self.room += part.len();
            self.resting.push(part);
        }
    }

    fn take_free(&mut self, len: usize) -> Option<Range<usize>> {
        let (&start, &free) = self.free.iter().find(|(_, free)| **free >= len)?;
        self.room -= len;
        self.free.remove(&start);
        if free > len {
            self.free.insert(start + len, free - len);
        }
        Some(start..start + len)
    }

    /// Frees what rests. MEMBARRIER_CMD_GLOBAL waits for an RCU grace period (kernel/sched/membarrier.c).
    fn wake_resting(&mut self) -> bool {
        if self.resting.is_empty() || membarrier(MembarrierCommand::Global).is_err() {
            return false;
        }
        for part in std::mem::take(&mut self.resting) {
            self.free_part(part);
        }
        true
    }

    fn free_part(&mut self, part: Range<usize>) {
        let (mut start, mut len) = (part.start, part.len());
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.free.remove(&before);
            start = before;
            len += before_len;
        }
        if let Some(after_len) = self.free.remove(&(start + len)) {
            len += after_len;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_given_back_can_be_taken_again_as_one() {
        let mut slices = Slices::new(10);
        let parts: Vec<_> = (0..5).map(|_| slices.take(2).unwrap()).collect();
        assert_eq!((slices.take(1), slices.room()), (None, 0));
        for part in parts.into_iter().rev() {
            slices.give(part);
        }
        assert_eq!(slices.room(), 10);
        assert_eq!(slices.take(10), Some(0..10));
    }

    #[test]
    fn a_part_given_back_is_the_last_to_be_given_out() {
        let mut slices = Slices::new(3);
        let first = slices.take(1).unwrap();
        slices.give(first.clone());
        // a walk may still read it: what nobody read comes first, though it lies behind
        assert_eq!((slices.take(1), slices.take(1)), (Some(1..2), Some(2..3)));
        assert_eq!(slices.take(1), Some(first));
    }

    #[test]
    fn a_part_that_does_not_fit_is_refused_and_takes_nothing() {
        let mut slices = Slices::new(4);
        assert_eq!(slices.take(5), None);
        assert_eq!(slices.take(4), Some(0..4));
    }
}
