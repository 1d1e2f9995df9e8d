//! Stacks whose values come later: the kernel side ships each once, under an id, and then sums up its values.

use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use crate::limits::MAX_DEFINITIONS;
use crate::lua::LuaNotes;
use crate::stacks::{RawStackId, Thread};

/// How a sample is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: complete.
    pub cut: Option<&'static str>,
    /// At least one frame was found by a frame pointer.
    pub by_frame_pointer: bool,
    /// The same words may be resolved better later.
    pub is_provisional: bool,
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

/// Stacks by the ids that the kernel side gave them.
#[derive(Debug, Default)]
pub struct Definitions {
    by_id: FxHashMap<abi::ms_stack_id, Definition>,
}

impl Definitions {
    /// Remembers a stack; a newer one takes the place of an older one.
    pub fn insert(&mut self, id: abi::ms_stack_id, definition: Definition) {
        self.by_id.insert(id, definition);
    }

    /// The stack of this id; `None` if it was lost on its way.
    pub fn get(&self, id: abi::ms_stack_id) -> Option<Definition> {
        self.by_id.get(&id).cloned()
    }

    /// Forgets all when there are too many, and says so: the kernel side has to ship them anew.
    pub fn make_room(&mut self) -> bool {
        let is_full = self.by_id.len() >= MAX_DEFINITIONS;
        if is_full {
            self.by_id.clear();
        }
        is_full
    }
}
