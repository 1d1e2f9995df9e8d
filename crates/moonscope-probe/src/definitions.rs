//! Stacks whose values come later: the kernel side ships each once, under an id, and then sums up its values.

use moonscope_unwind::abi;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::limits::{FEW_DEFINITIONS, FORGOTTEN_AT_ONCE, IDLE_INTERVALS, MAX_DEFINITIONS};
use crate::lua::LuaNotes;
use crate::stacks::{RawStackId, Renumbered, Thread};
use crate::unsettled::Unsettled;

/// How a sample is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why frames are missing; `None`: complete.
    pub lacks: Option<&'static str>,
    /// At least one frame was found by a frame pointer.
    pub by_frame_pointer: bool,
    /// The same words may be resolved better later.
    pub is_provisional: bool,
    /// Of a coroutine that waits: what it called for that, as a tag ([`Sites`](crate::sites::Sites)).
    pub site: Option<u32>,
}

/// Everything that is known of a stack of a thread, except how much was measured.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The stack.
    pub stack: RawStackId,
    /// The thread.
    pub thread: Thread,
    /// How its samples are counted.
    pub verdict: Verdict,
    /// What is counted of Lua, if a Lua VM is on the stack.
    pub lua: Option<LuaNotes>,
}

/// A definition, and when it was needed.
#[derive(Debug)]
struct Kept {
    definition: Definition,
    /// The interval in which it was last shipped or had values.
    used: u32,
    /// The interval at whose end the kernel side was told to ship it anew.
    withdrawn: Option<u32>,
    /// What it was told from, if that may be told better later.
    unsettled: Option<Unsettled>,
}

/// Stacks by the ids that the kernel side gave them.
#[derive(Debug, Default)]
pub struct Definitions {
    by_id: FxHashMap<abi::ms_stack_id, Kept>,
    /// Stacks that are to be joined: both may be on their way still.
    pairs: FxHashMap<abi::ms_stack_id, abi::ms_pair>,
    /// Number of the interval at hand.
    interval: u32,
}

impl Definitions {
    /// Remembers a stack; a newer one takes the place of an older one.
    pub fn insert(&mut self, id: abi::ms_stack_id, definition: Definition) {
        let kept = Kept {
            definition,
            used: self.interval,
            withdrawn: None,
            unsettled: None,
        };
        self.by_id.insert(id, kept);
    }

    /// Remembers of a stack that is known how it may be told better later.
    pub fn insert_unsettled(&mut self, id: abi::ms_stack_id, unsettled: Unsettled) {
        if let Some(kept) = self.by_id.get_mut(&id) {
            kept.unsettled = Some(unsettled);
        }
    }

    /// How a stack may be told better, if it is to be tried again.
    pub fn take_unsettled(&mut self, id: abi::ms_stack_id) -> Option<Unsettled> {
        self.by_id.get_mut(&id)?.unsettled.take()
    }

    /// A stack is told better than before.
    pub fn settle(&mut self, id: abi::ms_stack_id, (stack, verdict): (RawStackId, Verdict)) {
        if let Some(kept) = self.by_id.get_mut(&id) {
            (kept.definition.stack, kept.definition.verdict) = (stack, verdict);
        }
    }

    /// The stack of this id; `None` if it was lost on its way.
    pub fn get(&mut self, id: abi::ms_stack_id) -> Option<Definition> {
        let kept = self.by_id.get_mut(&id)?;
        kept.used = self.interval;
        Some(kept.definition.clone())
    }

    /// Remembers that two stacks are one.
    pub fn insert_pair(&mut self, pair: abi::ms_pair) {
        if let Some(known) = self.by_id.get_mut(&pair.joined) {
            (known.used, known.withdrawn) = (self.interval, None);
        } else if self.pairs.len() < MAX_DEFINITIONS {
            self.pairs.insert(pair.joined, pair);
        }
    }

    /// What is to be joined under this id.
    pub fn take_pair(&mut self, id: abi::ms_stack_id) -> Option<abi::ms_pair> {
        self.pairs.remove(&id)
    }

    /// Are there as many as there may be?
    pub fn is_full(&self) -> bool {
        self.by_id.len() >= MAX_DEFINITIONS
    }

    /// Forgets all but those that are `held`, as something has begun with them that lasts; and these too if they are most of
    /// all. The kernel side has to ship them anew.
    pub fn make_room(&mut self, held: &FxHashSet<abi::ms_stack_id>) {
        self.by_id.retain(|id, _| held.contains(id));
        if self.by_id.len() > MAX_DEFINITIONS / 2 {
            self.by_id.clear();
        }
        self.pairs.clear();
    }

    /// All stacks that are referred to.
    pub fn stacks(&self) -> impl Iterator<Item = RawStackId> {
        self.by_id.values().map(|kept| kept.definition.stack)
    }

    /// All threads that are referred to.
    pub fn threads(&self) -> impl Iterator<Item = &Thread> {
        self.by_id.values().map(|kept| &kept.definition.thread)
    }

    /// The tree of stacks was made smaller.
    pub fn renumber(&mut self, renumbered: &Renumbered) {
        self.by_id
            .retain(|_, kept| match renumbered.get(kept.definition.stack) {
                Some(stack) => {
                    kept.definition.stack = stack;
                    true
                }
                None => false,
            });
    }

    /// An interval ends. Gives out which stacks the kernel side is to ship anew when they are met again; they are
    /// forgotten two intervals later, when no values can be on their way any more. Not those that are `held`: something
    /// has begun with this stack and lasts.
    pub fn end_interval(
        &mut self,
        held: impl FnOnce() -> FxHashSet<abi::ms_stack_id>,
    ) -> Vec<abi::ms_stack_id> {
        let now = self.interval;
        self.interval += 1;
        self.by_id.retain(|_, kept| {
            let is_gone = kept.withdrawn.is_some_and(|at| at + 2 <= now && kept.used <= at);
            !is_gone
        });
        if self.by_id.len() <= FEW_DEFINITIONS {
            return Vec::new();
        }
        let held = held();
        let idle = self.by_id.iter_mut().filter(|(id, kept)| {
            // one that had values after it was withdrawn is looked at once more
            let is_withdrawn = kept.withdrawn.is_some_and(|at| kept.used <= at);
            !is_withdrawn && kept.used + IDLE_INTERVALS <= now && !held.contains(id)
        });
        idle.take(FORGOTTEN_AT_ONCE)
            .map(|(&id, kept)| {
                kept.withdrawn = Some(now);
                id
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> abi::ms_stack_id {
        abi::ms_stack_id {
            a: number as u64,
            b: 1,
        }
    }

    fn definition() -> Definition {
        Definition {
            stack: RawStackId(0),
            thread: Thread {
                process: None,
                pid: 1,
                tid: 1,
                comm: [0; 16],
                lua: None,
            },
            verdict: Verdict {
                site: None,
                lacks: None,
                by_frame_pointer: false,
                is_provisional: false,
            },
            lua: None,
        }
    }

    #[test]
    fn where_there_is_no_room_stacks_are_kept_that_something_refers_to_unless_these_are_too_many() {
        let mut definitions = Definitions::default();
        for number in 0..MAX_DEFINITIONS {
            assert!(!definitions.is_full());
            definitions.insert(id(number), definition());
        }
        assert!(definitions.is_full());
        definitions.make_room(&FxHashSet::from_iter([id(7), id(MAX_DEFINITIONS)]));
        assert!(definitions.get(id(7)).is_some() && definitions.get(id(8)).is_none());
        for number in 0..MAX_DEFINITIONS {
            definitions.insert(id(number), definition());
        }
        definitions.make_room(&(0..MAX_DEFINITIONS).map(id).collect());
        assert!(definitions.get(id(7)).is_none());
    }

    #[test]
    fn stacks_that_are_not_met_for_long_are_withdrawn_first_and_forgotten_later() {
        let mut definitions = Definitions::default();
        for number in 0..FEW_DEFINITIONS + 3 {
            definitions.insert(id(number), definition());
        }
        let held = || FxHashSet::from_iter([id(1)]);
        for _ in 0..IDLE_INTERVALS {
            assert!(definitions.get(id(0)).is_some());
            assert_eq!(definitions.end_interval(held), []);
        }
        let withdrawn = definitions.end_interval(held);
        assert!(withdrawn.len() > FEW_DEFINITIONS / 2);
        assert!(!withdrawn.contains(&id(0)) && !withdrawn.contains(&id(1)));
        let [first, second] = [withdrawn[0], withdrawn[1]];
        definitions.end_interval(held);
        // values were on their way, and the other was met again
        assert!(definitions.get(first).is_some());
        definitions.insert(second, definition());
        definitions.end_interval(held);
        for kept in [id(0), id(1), first, second] {
            assert!(definitions.get(kept).is_some());
        }
        assert!(definitions.get(withdrawn[2]).is_none());
    }
}
