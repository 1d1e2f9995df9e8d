//! What is in use by stack when an interval ends: what came so far, less what went.
//!
//! Sums say what came and went in an interval, so they are added up here over all of them. What a process had not freed when
//! it ended, or executed another program, is in use in the interval in which that was, and not in those after it.

use std::collections::BTreeMap;

use libbpf_rs::{MapCore, MapFlags};
use moonscope_process::Pid;
use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use crate::batches::{self, Then};
use crate::collector::Leftover;
use crate::processes::monotonic_now;
use crate::skeleton::MoonscopeSkel;
use crate::sums::plain;

/// Blocks, in the units of the sums. While some sums are told and others are not, it may be less than nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    objects: i64,
    bytes: i64,
}

impl Amount {
    fn add(&mut self, objects: i64, bytes: i64) {
        self.objects = self.objects.wrapping_add(objects);
        self.bytes = self.bytes.wrapping_add(bytes);
    }

    /// As values of a sum.
    fn sum(self) -> abi::ms_sum {
        let mut sum = abi::ms_sum::default();
        sum.value[abi::MS_ALLOC_OBJECTS as usize] = u64::try_from(self.objects).unwrap_or(0);
        sum.value[abi::MS_ALLOC_BYTES as usize] = u64::try_from(self.bytes).unwrap_or(0);
        sum
    }
}

/// What is in use.
#[derive(Default)]
pub struct InUse {
    by_stack: FxHashMap<abi::ms_stack_id, Amount>,
    /// Processes that ended, and when that was noticed; their blocks are in the kernel's map still.
    ended: BTreeMap<Pid, u64>,
    /// Processes that executed another program since the map was looked through.
    executed: BTreeMap<Pid, abi::ms_alloc_exec>,
    /// What was not freed by programs that ended, and when they did: a stack is of one process, and of one program in it.
    left: FxHashMap<abi::ms_stack_id, (u64, Amount)>,
}

impl InUse {
    /// Adds what came and went.
    pub fn add(&mut self, event: u32, sums: &[Leftover]) {
        let is_ours = |key: &abi::ms_sum_key| key.event == event && key.tag == abi::MS_ALLOC_CHANGES;
        for (key, sum) in sums.iter().filter(|(key, _)| is_ours(key)) {
            let value = |which: u32| sum.value[which as usize];
            let less = |more: u32, less: u32| value(more).wrapping_sub(value(less)).cast_signed();
            self.by_stack.entry(key.stack).or_default().add(
                less(abi::MS_ALLOC_OBJECTS, abi::MS_ALLOC_FREED_OBJECTS),
                less(abi::MS_ALLOC_BYTES, abi::MS_ALLOC_FREED_BYTES),
            );
        }
    }

    /// The stacks of what is in use.
    pub fn stacks(&self) -> Vec<abi::ms_stack_id> {
        let in_use = self
            .by_stack
            .iter()
            .filter(|(_, amount)| **amount != Amount::default());
        in_use.map(|(&stack, _)| stack).collect()
    }

    /// A process ended.
    pub fn process_went(&mut self, pid: Pid) {
        self.ended.insert(pid, monotonic_now());
    }

    /// What is in use when an interval ends at `ended` (CLOCK_MONOTONIC, nanoseconds). Then what processes left behind
    /// that had ended by then is not in use any more.
    pub fn at_end(&mut self, ended: u64) -> Vec<Leftover> {
        self.by_stack.retain(|_, amount| *amount != Amount::default());
        let standing = self.by_stack.iter().map(|(&stack, amount)| {
            let key = abi::ms_sum_key {
                stack,
                tag: abi::MS_ALLOC_IN_USE,
                ..Default::default()
            };
            (key, amount.sum())
        });
        let standing = standing.collect();
        let by_stack = &mut self.by_stack;
        self.left.retain(|stack, (at, amount)| {
            let is_over = *at <= ended;
            if is_over {
                let known = by_stack.entry(*stack).or_default();
                known.add(amount.objects.wrapping_neg(), amount.bytes.wrapping_neg());
            }
            !is_over
        });
        standing
    }

    /// The processes that executed another program are taken out of the kernel's map: which program, and when.
    fn take_executed(&mut self, skel: &MoonscopeSkel<'static>) {
        let map = &skel.maps.alloc_execs;
        for key in map.keys() {
            let value = map.lookup(&key, MapFlags::ANY).ok().flatten();
            let (Some(pid), Some(exec)) = (
                plain::<u32>(&key),
                value.and_then(|value| plain::<abi::ms_alloc_exec>(&value)),
            ) else {
                continue;
            };
            self.executed.insert(pid, exec);
        }
        for &pid in self.executed.keys() {
            // one more in between is told of the next time: what it has allocated has another number
            let _ = map.delete(&pid.to_ne_bytes());
        }
    }

    /// When the program ended that had allocated a block; `None`: it runs.
    fn end_of(&self, block: &abi::ms_alloc_block) -> Option<u64> {
        let executed = self.executed.get(&block.pid);
        let replaced = executed.filter(|exec| exec.image != block.image);
        replaced
            .map(|exec| exec.time)
            .or_else(|| self.ended.get(&block.pid).copied())
    }

    /// Removes the blocks of programs that ended from the kernel's map: nobody will free them, and they take the room of
    /// others.
    pub fn sweep(&mut self, skel: &MoonscopeSkel<'static>) {
        self.take_executed(skel);
        if self.ended.is_empty() && self.executed.is_empty() {
            return;
        }
        let map = &skel.maps.alloc_live;
        // not while they are read
        let mut gone = BTreeMap::new();
        let all = batches::for_each(map, Then::Keep, |key, value| {
            if let Some(block) = plain::<abi::ms_alloc_block>(value)
                && let Some(at) = self.end_of(&block)
            {
                gone.insert(key.to_vec(), (at, block));
            }
        });
        if all.is_err() {
            // the next time
            return;
        }
        for (at, block) in gone.values() {
            let (_, left) = self.left.entry(block.stack).or_insert((*at, Amount::default()));
            left.add(block.objects.cast_signed(), block.bytes.cast_signed());
        }
        self.ended.clear();
        self.executed.clear();
        for key in gone.keys() {
            // whoever got its address space may have freed it
            let _ = map.delete(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(number: u64) -> abi::ms_stack_id {
        abi::ms_stack_id { a: number, b: 1 }
    }

    fn change(number: u64, value: [u64; 4]) -> Leftover {
        let key = abi::ms_sum_key {
            stack: stack(number),
            event: 3,
            tag: abi::MS_ALLOC_CHANGES,
        };
        (key, abi::ms_sum { count: 1, value })
    }

    fn bytes(standing: &[Leftover], number: u64) -> Option<u64> {
        let found = standing.iter().find(|(key, _)| key.stack == stack(number))?;
        assert_eq!((found.0.tag, found.1.count), (abi::MS_ALLOC_IN_USE, 0));
        Some(found.1.value[1])
    }

    #[test]
    fn what_stays_is_in_use_in_every_interval_until_it_is_freed() {
        let mut in_use = InUse::default();
        in_use.add(3, &[change(1, [2, 200, 0, 0]), change(2, [1, 10, 1, 10])]);
        in_use.add(4, &[change(1, [2, 200, 0, 0])]);
        for _ in 0..2 {
            let standing = in_use.at_end(1);
            assert_eq!((bytes(&standing, 1), bytes(&standing, 2)), (Some(200), None));
        }
        in_use.add(3, &[change(1, [0, 0, 1, 150])]);
        assert_eq!(bytes(&in_use.at_end(2), 1), Some(50));
        in_use.add(3, &[change(1, [0, 0, 1, 50])]);
        assert_eq!(bytes(&in_use.at_end(3), 1), None);
    }

    #[test]
    fn what_went_may_be_told_before_it_came() {
        let mut in_use = InUse::default();
        in_use.add(3, &[change(1, [0, 0, 1, 100])]);
        assert_eq!(bytes(&in_use.at_end(1), 1), Some(0));
        in_use.add(3, &[change(1, [2, 300, 0, 0])]);
        assert_eq!(bytes(&in_use.at_end(2), 1), Some(200));
    }

    #[test]
    fn what_a_process_left_is_in_use_up_to_the_interval_in_which_it_ended() {
        let mut in_use = InUse::default();
        in_use.add(3, &[change(1, [1, 100, 0, 0])]);
        let amount = Amount {
            objects: 1,
            bytes: 100,
        };
        in_use.left.insert(stack(1), (15, amount));
        assert_eq!(bytes(&in_use.at_end(10), 1), Some(100));
        assert_eq!(bytes(&in_use.at_end(20), 1), Some(100));
        assert_eq!(bytes(&in_use.at_end(30), 1), None);
    }
}
