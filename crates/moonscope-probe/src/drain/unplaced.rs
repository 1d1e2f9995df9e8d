//! Stacks that were walked here while the tables of new files were being built. There is no Lua in them, and where it belongs
//! they say so: but that a file has a LuaJIT in it is known only with its table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moonscope_unwind::{WalkFrame, abi};

use super::Drain;
use crate::frames::place_in_file;
use crate::generation::Generation;
use crate::limits::MAX_UNPLACED;
use crate::lua::{LuaWord, UserFrame};
use crate::sample::RawSample;
use crate::unsettled::Unsettled;

/// How long they wait: the table of a large library takes 0.3 s, and others may be built before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of a recording waits for tables.
const PATIENCE_AT_END: Duration = Duration::from_millis(300);

/// Walked, and not placed.
pub(super) struct Unplaced {
    stack: Unsettled,
    since: Instant,
}

impl Drain {
    /// Counts a sample that was walked here, as soon as it is known which of its files have Lua.
    pub(super) fn place_walked_here(
        &mut self,
        sample: &RawSample<'_>,
        generation: Option<Arc<Generation>>,
        frames: Vec<UserFrame>,
        cut: Option<&'static str>,
    ) {
        // values of shipped stacks come without the stack, and may come first
        let may_wait = sample.head.stack == abi::ms_stack_id::default() && self.unplaced.len() < MAX_UNPLACED;
        let stack = Unsettled::new(sample, (frames, cut), generation);
        if may_wait && self.awaits_tables(&stack) {
            let since = Instant::now();
            self.unplaced.push(Unplaced { stack, since });
        } else {
            self.place_unsettled(stack);
        }
    }

    /// Counts those of which everything is known by now, and those that have waited for long.
    pub(super) fn place_waiting(&mut self) {
        for unplaced in std::mem::take(&mut self.unplaced) {
            if unplaced.since.elapsed() < PATIENCE && self.awaits_tables(&unplaced.stack) {
                self.unplaced.push(unplaced);
            } else {
                self.place_unsettled(unplaced.stack);
            }
        }
    }

    /// Counts all, at the end of a recording.
    pub(super) fn place_last(&mut self) {
        if !self.unplaced.is_empty() {
            self.wait_for_tables(PATIENCE_AT_END);
        }
        self.place_all();
    }

    /// Counts all, with what is known.
    pub(super) fn place_all(&mut self) {
        for unplaced in std::mem::take(&mut self.unplaced) {
            self.place_unsettled(unplaced.stack);
        }
    }

    fn awaits_tables(&self, stack: &Unsettled) -> bool {
        let Some(generation) = stack.generation.as_deref() else {
            return false;
        };
        let mut files = stack
            .native()
            .filter_map(|frame| Some(place_in_file(frame, generation)?.0));
        files.any(|file| self.executables.is_being_built(file))
    }

    fn place_unsettled(&mut self, stack: Unsettled) {
        let user = self.without_lua(stack.generation.as_deref(), &stack.user);
        let generation = stack.generation.clone();
        self.place_and_add(&stack.sample(), generation, user, stack.cut);
    }

    /// Where Lua belongs in frames that were walked without it, a mark.
    fn without_lua(&self, generation: Option<&Generation>, frames: &[UserFrame]) -> Vec<UserFrame> {
        let is_vm = |frame: &WalkFrame| {
            let place = generation.and_then(|generation| place_in_file(frame, generation));
            place.is_some_and(|(file, vaddr)| {
                let mut builds = self.executables.lua(file).iter();
                builds.any(|build| build.code.contains(&vaddr))
            })
        };
        let marked = frames.iter().flat_map(|frame| {
            let mark = matches!(frame, UserFrame::Native(native) if is_vm(native));
            let mark = mark.then_some(UserFrame::Lua(LuaWord::NotWalked));
            std::iter::once(*frame).chain(mark)
        });
        marked.collect()
    }
}
