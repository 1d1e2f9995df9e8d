//! What became of the search for the logical parents of ngx_lua's coroutines, which the kernel side makes
//! (`bpf/lua_parents.h`).

use std::collections::BTreeMap;

use moonscope_unwind::abi;

use super::words::{LuaWord, UserFrame};

/// Why no parent, or no further one, of a coroutine is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoParents {
    /// No word of the context names the coroutine.
    #[error("no context of ngx_lua was found")]
    NoContext,
    /// The parent does not name the context of which it shall be.
    #[error("what should be the parent is none")]
    Unproven,
    /// It runs on its own, or has ended.
    #[error("the parent does not wait")]
    Running,
    /// Too many parents.
    #[error("the parents are too deep")]
    TooDeep,
}

/// What became of the search for parents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentCounts {
    /// Coroutines in samples, with at least one parent.
    pub found: u64,
    /// Those that have none.
    pub without: u64,
    /// Those whose parent, or a parent of it, is not shown.
    pub failed: BTreeMap<NoParents, u64>,
}

impl ParentCounts {
    /// Those of one stack.
    pub fn of(frames: &[UserFrame]) -> Self {
        let mut counts = Self::default();
        for frame in frames {
            let &UserFrame::Lua(LuaWord::LastParent { found, why }) = frame else {
                continue;
            };
            counts.found += u64::from(found > 0);
            let failed = match why {
                abi::MS_PARENT_NONE => {
                    counts.without += u64::from(found == 0);
                    continue;
                }
                abi::MS_PARENT_NO_CONTEXT => NoParents::NoContext,
                abi::MS_PARENT_RUNS => NoParents::Running,
                abi::MS_PARENT_TOO_DEEP => NoParents::TooDeep,
                _ => NoParents::Unproven,
            };
            *counts.failed.entry(failed).or_default() += 1;
        }
        counts
    }

    /// Adds those of so many samples of one stack.
    pub fn add(&mut self, of_stack: &Self, samples: u64) {
        self.found += of_stack.found * samples;
        self.without += of_stack.without * samples;
        for (why, count) in &of_stack.failed {
            *self.failed.entry(*why).or_default() += count * samples;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_coroutine_counts_as_found_or_without_and_what_ends_a_chain_is_told() {
        let last = |found, why| UserFrame::Lua(LuaWord::LastParent { found, why });
        let of_stack = ParentCounts::of(&[
            last(2, abi::MS_PARENT_NONE),
            last(0, abi::MS_PARENT_NONE),
            last(1, abi::MS_PARENT_RUNS),
            last(0, abi::MS_PARENT_NO_CONTEXT),
        ]);
        let mut counts = ParentCounts::default();
        counts.add(&of_stack, 1);
        assert_eq!((counts.found, counts.without), (2, 1));
        let failed: Vec<_> = counts.failed.into_iter().collect();
        assert_eq!(failed, [(NoParents::NoContext, 1), (NoParents::Running, 1)]);
    }
}
