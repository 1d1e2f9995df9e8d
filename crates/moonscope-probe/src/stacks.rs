//! Raw stacks of a session: equal stacks are one, whoever has them; counted per thread.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use crate::executables::ExecutableId;
use crate::limits::MAX_STACK_NODES;
use crate::lua::LuaFunctionId;
use crate::processes::ProcessId;

/// A frame that no longer depends on a living process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RawFrame {
    /// An address in the kernel; of a caller already one byte back, inside its call instruction.
    Kernel(u64),
    /// The same, of the innermost frames of a stack that a tracepoint took: perhaps of the tracepoint itself.
    KernelTracing(u64),
    /// Code of a file, at its own virtual address (what addr2line wants); of a caller one byte back.
    File {
        /// The file.
        executable: ExecutableId,
        /// The address.
        vaddr: u64,
    },
    /// Executable memory that is no file we could open: generated code, or a file out of reach.
    Memory {
        /// Whose.
        process: ProcessId,
        /// What the kernel calls the mapping.
        name: Arc<str>,
        /// The address in the process; of a caller one byte back.
        addr: u64,
        /// Its distance from the start of the mapped file, or of the mapping.
        offset: u64,
    },
    /// A Lua function.
    Lua {
        /// Which.
        function: LuaFunctionId,
        /// The line that was running; 0: not known.
        line: u32,
        /// How it runs.
        code: LuaCode,
    },
    /// A function of LuaJIT's library.
    LuaBuiltin(Arc<str>),
    /// A C function that Lua called: its native frame, if there is one, says the same.
    LuaC {
        /// Where its code begins.
        native: Box<RawFrame>,
        /// What tables of the VM call it.
        name: Option<Arc<str>>,
    },
    /// A Lua function that could not be read.
    LuaUnknown,
    /// What is outside of this resumed or spawned the coroutine that is inside, and waits.
    CoroutineParent,
    /// Compiled code whose inlined calls are not known: they are missing here.
    InlinedUnknown,
    /// The VM was between two states: the Lua frame beside this one may be one that has ended, or lack a callee.
    LeafUncertain,
    /// Native frames are missing here: code without unwind information.
    Gap,
    /// Lua frames are missing here: those of an entry into a VM, or the outer ones of them.
    LuaMissing,
    /// An address of which not even the mapping is known.
    Unknown,
    /// The stack is cut here, for this reason: its outermost frames are missing.
    Cut(&'static str),
    /// What stands before it waited, and was woken by what comes after it: another stack, leaf first.
    WokenBy,
    /// The thread whose stack that was, by name.
    Waker(Arc<str>),
    /// It is not known who it was.
    WakerUnknown,
}

impl RawFrame {
    /// The native code of a C function that Lua called; else the frame itself.
    pub fn of_lua(&self) -> &Self {
        match self {
            Self::LuaC { native, .. } => native,
            other => other,
        }
    }
}

/// How a Lua function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LuaCode {
    /// By the interpreter.
    Interpreted,
    /// As part of a compiled trace.
    Compiled,
}

/// What a Lua VM was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LuaState {
    /// Running bytecode.
    Interpreting,
    /// Running compiled code, or what that called.
    Compiled,
    /// Running a C function.
    C,
    /// Collecting garbage.
    Gc,
    /// Compiling, or leaving compiled code.
    Compiling,
}

impl LuaState {
    /// What a sample tells of the innermost VM on its stack (`vmstate`: a trace, or the complement of
    /// `LJ_VMST_*`, lj_obj.h).
    pub(crate) fn of(head: &abi::ms_sample) -> Option<Self> {
        match (head.lua, !head.lua_vmstate) {
            (abi::MS_LUA_NOT_HERE, _) => None,
            (_, 2) => Some(Self::Gc),
            (_, 3..=6) => Some(Self::Compiling),
            (abi::MS_LUA_ON_TRACE, _) => Some(Self::Compiled),
            (_, 1) => Some(Self::C),
            _ => Some(Self::Interpreting),
        }
    }

    /// A word for a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interpreting => "interpreting",
            Self::Compiled => "compiled",
            Self::C => "c",
            Self::Gc => "gc",
            Self::Compiling => "compiling",
        }
    }
}

/// A stack, root first: a node of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawStackId(pub u32);

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct What {
    /// The number of the event in the recording.
    pub event: u16,
    /// What the event says besides values.
    pub tag: u32,
}

/// Where a sample was taken, apart from its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thread {
    /// The process; `None` if it ended before it could be looked at, and for kernel threads.
    pub process: Option<ProcessId>,
    /// Its pid.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name, with NUL bytes at its end.
    pub comm: [u8; 16],
    /// What the innermost Lua VM on its stack was doing, if there is one.
    pub lua: Option<LuaState>,
}

/// Why a stack is cut for which there was no room.
pub const TOO_MANY_STACKS: &str = "too many distinct stacks";

/// What was measured, by stack and thread.
pub type StackSums = FxHashMap<(RawStackId, Thread, What), abi::ms_sum>;

/// Adds what was measured to what is there.
pub fn add_sum(sums: &mut StackSums, key: (RawStackId, Thread, What), sum: &abi::ms_sum) {
    let old = sums.entry(key).or_default();
    old.count = old.count.saturating_add(sum.count);
    for (old, more) in old.value.iter_mut().zip(sum.value) {
        *old = old.saturating_add(more);
    }
}

/// Numbers of stacks in a smaller tree, by those that they had.
#[derive(Debug)]
pub struct Renumbered(Vec<Option<RawStackId>>);

impl Renumbered {
    /// What a stack is now; `None` if it is not in the smaller tree.
    pub fn get(&self, old: RawStackId) -> Option<RawStackId> {
        self.0.get(old.0 as usize).copied().flatten()
    }
}

/// All stacks and how often each was seen.
#[derive(Debug, Default)]
pub struct RawStacks {
    frames: Vec<RawFrame>,
    frame_ids: FxHashMap<RawFrame, u32>,
    /// Parent and frame of each node.
    nodes: Vec<(Option<RawStackId>, u32)>,
    node_ids: FxHashMap<(Option<RawStackId>, u32), RawStackId>,
    counts: StackSums,
}

impl RawStacks {
    /// The id of a stack given root first. An empty one has no id, nor has one that is new when there are
    /// too many already.
    pub fn intern(&mut self, root_first: impl IntoIterator<Item = RawFrame>) -> Option<RawStackId> {
        self.extend(None, root_first)
    }

    /// The same for frames that come after those of another stack.
    pub fn extend(
        &mut self,
        stack: Option<RawStackId>,
        root_first: impl IntoIterator<Item = RawFrame>,
    ) -> Option<RawStackId> {
        let mut node = stack;
        for frame in root_first {
            let frame = self.intern_frame(frame);
            let next = RawStackId(self.nodes.len() as u32);
            let id = match self.node_ids.entry((node, frame)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(_) if self.nodes.len() >= MAX_STACK_NODES => return None,
                Entry::Vacant(new) => *new.insert(next),
            };
            if id == next {
                self.nodes.push((node, frame));
            }
            node = Some(id);
        }
        node
    }

    /// The stack of all samples for whose stack there is no room.
    pub fn intern_overflow(&mut self) -> RawStackId {
        let frame = self.intern_frame(RawFrame::Cut(TOO_MANY_STACKS));
        let next = RawStackId(self.nodes.len() as u32);
        let id = *self.node_ids.entry((None, frame)).or_insert(next);
        if id == next {
            self.nodes.push((None, frame));
        }
        id
    }

    fn intern_frame(&mut self, frame: RawFrame) -> u32 {
        if let Some(&id) = self.frame_ids.get(&frame) {
            return id;
        }
        let id = self.frames.len() as u32;
        self.frames.push(frame.clone());
        self.frame_ids.insert(frame, id);
        id
    }

    /// Adds what was measured.
    pub fn add(&mut self, stack: RawStackId, thread: Thread, what: What, sum: &abi::ms_sum) {
        add_sum(&mut self.counts, (stack, thread, what), sum);
    }

    /// What was measured so far; from here on nothing was.
    pub fn take_sums(&mut self) -> StackSums {
        std::mem::take(&mut self.counts)
    }

    /// Leaves out what was measured, but for this.
    pub fn retain(&mut self, is_wanted: impl Fn(What) -> bool) {
        self.counts.retain(|(_, _, what), _| is_wanted(*what));
    }

    /// The part of the tree that has these stacks, with nothing measured in it. No stacks can be added to it until
    /// [`RawStacks::index`].
    pub fn part(&self, used: impl IntoIterator<Item = RawStackId>) -> (Self, Renumbered) {
        let mut is_used = vec![false; self.nodes.len()];
        for stack in used {
            let mut at = Some(stack);
            while let Some(RawStackId(id)) = at
                && !std::mem::replace(&mut is_used[id as usize], true)
            {
                at = self.nodes[id as usize].0;
            }
        }
        let mut part = Self::default();
        let mut frames = vec![None; self.frames.len()];
        let mut renumbered = Renumbered(vec![None; self.nodes.len()]);
        // a parent stands before its children
        for (id, &(parent, frame)) in self.nodes.iter().enumerate().filter(|&(id, _)| is_used[id]) {
            let frame = *frames[frame as usize].get_or_insert_with(|| {
                part.frames.push(self.frames[frame as usize].clone());
                part.frames.len() as u32 - 1
            });
            renumbered.0[id] = Some(RawStackId(part.nodes.len() as u32));
            let parent = parent.and_then(|parent| renumbered.get(parent));
            part.nodes.push((parent, frame));
        }
        (part, renumbered)
    }

    /// Makes it possible to add stacks to a part.
    pub fn index(&mut self) {
        let frames = self.frames.iter().cloned();
        self.frame_ids = frames.zip(0..).collect();
        let nodes = self.nodes.iter().copied();
        self.node_ids = nodes.zip((0..).map(RawStackId)).collect();
    }

    /// Has what was measured in terms of another tree.
    pub fn set_sums(&mut self, sums: StackSums, renumbered: &Renumbered) {
        let sums = sums.into_iter();
        self.counts = sums
            .filter_map(|((stack, thread, what), sum)| Some(((renumbered.get(stack)?, thread, what), sum)))
            .collect();
    }

    /// The frames of a stack, leaf first.
    pub fn leaf_to_root(&self, stack: RawStackId) -> impl Iterator<Item = &RawFrame> {
        let mut at = Some(stack);
        std::iter::from_fn(move || {
            let (parent, frame) = self.nodes[at?.0 as usize];
            at = parent;
            self.frames.get(frame as usize)
        })
    }

    /// All distinct frames.
    pub fn frames(&self) -> &[RawFrame] {
        &self.frames
    }

    /// Parent and index of the frame of each node; a parent always stands before its children.
    pub fn nodes(&self) -> &[(Option<RawStackId>, u32)] {
        &self.nodes
    }

    /// Stacks, threads, what was measured and how much, in no particular order.
    pub fn sums(&self) -> impl Iterator<Item = (RawStackId, &Thread, What, &abi::ms_sum)> {
        self.counts
            .iter()
            .map(|((stack, thread, what), sum)| (*stack, thread, *what, sum))
    }

    /// Stacks, threads and how often, in no particular order.
    pub fn counts(&self) -> impl Iterator<Item = (RawStackId, &Thread, u64)> {
        self.sums()
            .map(|(stack, thread, _, sum)| (stack, thread, sum.count))
    }

    /// How many distinct stacks were counted.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether no sample was counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_with_common_callers_share_their_nodes() {
        let mut stacks = RawStacks::default();
        let one = stacks.intern([RawFrame::Kernel(1), RawFrame::Kernel(2)]).unwrap();
        let other = stacks.intern([RawFrame::Kernel(1), RawFrame::Kernel(3)]).unwrap();
        assert_ne!(one, other);
        assert_eq!(stacks.nodes().len(), 3);
        assert_eq!(
            stacks.intern([RawFrame::Kernel(1), RawFrame::Kernel(2)]),
            Some(one)
        );
        assert_eq!(stacks.intern([]), None);
    }

    #[test]
    fn a_part_has_what_was_asked_for_and_can_grow() {
        let mut stacks = RawStacks::default();
        let kernel = |addrs: &[u64]| addrs.iter().copied().map(RawFrame::Kernel).collect::<Vec<_>>();
        let one = stacks.intern(kernel(&[1, 2, 3])).unwrap();
        let other = stacks.intern(kernel(&[1, 4])).unwrap();
        let (mut part, renumbered) = stacks.part([other]);
        assert_eq!(part.nodes().len(), 2);
        assert_eq!(part.frames(), kernel(&[1, 4]));
        assert_eq!(renumbered.get(one), None);
        part.index();
        assert_eq!(part.intern(kernel(&[1, 4])), renumbered.get(other));
        assert_eq!(part.intern(kernel(&[1, 5])), Some(RawStackId(2)));
    }
}
