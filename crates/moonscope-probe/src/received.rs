//! What came out of the ring buffer, by what became of it.

use std::collections::BTreeMap;

use moonscope_unwind::abi;

use crate::comparison::Comparison;

/// What came out of the ring buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Samples whose stack is complete.
    pub complete: u64,
    /// Samples whose stack is cut, by reason.
    pub truncated: BTreeMap<&'static str, u64>,
    /// Of both: samples that were walked in user space.
    pub walked_here: u64,
    /// Of both: samples with at least one frame found by a frame pointer.
    pub by_frame_pointer: u64,
    /// Records that were none of ours; more than 0 is a defect.
    pub malformed: u64,
    /// Things that were summed up for a stack that never came, by event.
    pub without_stack: [u64; abi::MS_MAX_EVENTS as usize],
    /// Things that were summed up and could not be read when the recording ended, by event.
    pub unread: [u64; abi::MS_MAX_EVENTS as usize],
    /// Stacks of which it is not known any more what they were, so that what stands or is left over of them is missing: `in use`
    /// of `alloc`.
    pub values_without_stack: u64,
    /// Processes that there was no time to look at when the recording ended: what lasts in them is missing.
    pub not_looked_at: u64,
    /// Samples that were walked in the kernel and here (tests only).
    pub comparison: Comparison,
}

impl Received {
    /// Counts samples by whether their stack is cut.
    pub(crate) fn count(&mut self, cut: Option<&'static str>, samples: u64) {
        match cut {
            None => self.complete += samples,
            Some(reason) => *self.truncated.entry(reason).or_default() += samples,
        }
    }

    /// Adds what came in the next interval. Comparisons are of tests, which have no intervals.
    pub(crate) fn add(&mut self, next: Self) {
        let Self {
            complete,
            truncated,
            walked_here,
            by_frame_pointer,
            malformed,
            without_stack,
            unread,
            values_without_stack,
            not_looked_at,
            comparison: _,
        } = next;
        self.complete += complete;
        for (reason, samples) in truncated {
            *self.truncated.entry(reason).or_default() += samples;
        }
        self.walked_here += walked_here;
        self.by_frame_pointer += by_frame_pointer;
        self.malformed += malformed;
        for (mine, more) in self.without_stack.iter_mut().zip(without_stack) {
            *mine += more;
        }
        for (mine, more) in self.unread.iter_mut().zip(unread) {
            *mine += more;
        }
        self.values_without_stack += values_without_stack;
        self.not_looked_at += not_looked_at;
    }

    /// All samples.
    pub fn samples(&self) -> u64 {
        self.complete + self.truncated.values().sum::<u64>()
    }
}
