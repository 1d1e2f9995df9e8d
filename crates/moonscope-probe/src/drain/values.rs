//! What was measured: values that came with a stack, and those that the kernel side summed up for one that it shipped.

use moonscope_unwind::abi;
use rustc_hash::FxHashSet;

use super::{Drain, Interval};
use crate::definitions::Definition;
use crate::stacks::{What, add_sum};

impl Drain {
    /// Counts what was measured.
    pub(super) fn measure(
        &mut self,
        definition: &Definition,
        what: What,
        sum: &abi::ms_sum,
        interval: Interval,
    ) {
        let Definition {
            stack,
            thread,
            verdict,
            ref lua,
        } = *definition;
        let what = What {
            tag: verdict.site.unwrap_or(what.tag),
            ..what
        };
        if let Some(notes) = lua {
            self.lua.counts.add_samples(notes, sum.count);
        }
        let received = self.received_in(interval);
        received.count(verdict.lacks, sum.count);
        received.by_frame_pointer += u64::from(verdict.by_frame_pointer) * sum.count;
        match (&mut self.ended, interval) {
            (Some(ended), Interval::Ended) => add_sum(&mut ended.sums, (stack, thread, what), sum),
            _ => self.stacks.add(stack, thread, what, sum),
        }
    }

    /// What is known of a stack; of two that are to be joined, both.
    fn definition(&mut self, id: abi::ms_stack_id) -> Option<Definition> {
        if let Some(known) = self.settled(id) {
            return Some(known);
        }
        let pair = self.definitions.take_pair(id)?;
        let mut joined = self.settled(pair.stack)?;
        let waker = self.settled(pair.waker);
        // without room for more stacks at least the one that waited
        joined.stack = self
            .stacks
            .join(joined.stack, waker.as_ref())
            .unwrap_or(joined.stack);
        self.definitions.insert(id, joined.clone());
        Some(joined)
    }

    /// Adds a sum to its stack; false: that is not known.
    fn take_sum(&mut self, key: &abi::ms_sum_key, sum: &abi::ms_sum, interval: Interval) -> bool {
        let Some(definition) = self.definition(key.stack) else {
            return false;
        };
        let what = What {
            event: key.event as u16,
            tag: key.tag,
        };
        self.measure(&definition, what, sum, interval);
        true
    }

    /// Takes what the kernel side summed up.
    pub fn take_sums(&mut self, sums: &[(abi::ms_sum_key, abi::ms_sum)], interval: Interval) {
        for (key, sum) in sums {
            if !self.take_sum(key, sum, interval) {
                let without_stack = &mut self.received_in(interval).without_stack;
                let event = key.event as usize % without_stack.len();
                without_stack[event] += sum.count;
            }
        }
    }

    /// Takes what is added to stacks whose samples were counted before: how it stands, and what is left over.
    pub fn take_uncounted(&mut self, sums: &[(abi::ms_sum_key, abi::ms_sum)], interval: Interval) {
        for (key, sum) in sums {
            if !self.take_sum(key, sum, interval) {
                self.received_in(interval).values_without_stack += 1;
            }
        }
    }

    /// Are so many stacks remembered that some must be forgotten?
    pub fn has_too_many_stacks(&self) -> bool {
        self.definitions.is_full()
    }

    /// Forgets stacks but those that are `held`. The kernel side has to ship all anew.
    pub fn forget_stacks(&mut self, held: &FxHashSet<abi::ms_stack_id>) {
        self.definitions.make_room(held);
    }
}
