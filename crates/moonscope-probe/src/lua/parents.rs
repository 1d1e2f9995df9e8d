//! The logical parents of a coroutine of ngx_lua: who resumed it, or spawned it as a thread.
//!
//! In a request ngx_lua's `coroutine.resume` and `ngx.thread.spawn` yield to its scheduler, which resumes
//! the other coroutine from C: on the native stack parent and child are siblings. OpenResty's LuaJIT keeps a
//! word for its user in each `lua_State`, where ngx_lua puts what it knows of the coroutine
//! (`ngx_http_lua_co_ctx_t`, and the same in stream): among other things the `lua_State` itself and, right
//! behind it, the context of the parent. Where they are in it is found, not known: a context is believed if
//! it names the coroutine that names it, and its parent does the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use moonscope_luajit::lua_stack::{FrameKind, LuaEnd, LuaFrame, SegmentEnd, frames};
use moonscope_luajit::{Base, GcMode, Layout, LuaState, ProtoCode};
use moonscope_process::RemoteMemory;

/// Bytes of a context in which its coroutine is looked for: since 2012 it is in the second word.
const CONTEXT_BYTES: usize = 0x100;

/// Parents of parents that are followed: programs nest two or three.
const MAX_PARENTS: usize = 16;

/// Frames of all parents of a coroutine: what a stack of the kernel side may have.
const MAX_PARENT_FRAMES: usize = 1024;

/// The longest time between a sample and the reading of parents. They are shown as they wait when they are
/// read: a shorter time than the one that most requests take.
const MAX_DELAY: Duration = Duration::from_millis(5);

/// `LUA_YIELD` (lua.h): how a coroutine waits.
const YIELDED: u8 = 1;

/// Why the parents of a coroutine are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoParents {
    /// What its parent was doing then may be over.
    #[error("they were read more than 5 ms after the sample")]
    Late,
    /// Its outermost function called nothing: whether it is the same call now cannot be told.
    #[error("the coroutine was in its outermost function: what it did since cannot be told")]
    Shallow,
    /// It ran on before it could be read.
    #[error("the coroutine had gone on before it was read")]
    Gone,
    /// No word of the context names the coroutine.
    #[error("no context of ngx_lua was found")]
    NoContext,
    /// The parent does not name the context of which it shall be.
    #[error("what should be the parent is none")]
    Unproven,
    /// The parent runs again, or its stack does not hold together.
    #[error("the parent had gone on before it was read")]
    Running,
    /// Too many parents, or too many frames.
    #[error("the parents are too deep")]
    TooDeep,
}

/// What became of the search for parents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentCounts {
    /// Coroutines whose parents were found.
    pub found: u64,
    /// Coroutines that have none.
    pub without: u64,
    /// Coroutines whose parents could not be found.
    pub failed: BTreeMap<NoParents, u64>,
}

/// A coroutine on a stack.
#[derive(Clone, Copy, Debug)]
pub struct Coroutine {
    /// Its `lua_State`.
    pub l: u64,
    /// Its VM.
    pub g: u64,
    /// The prototype of its outermost function, as sampled, and the instruction at which that called another.
    pub outermost: Option<(u64, u32)>,
    /// When.
    pub at: Instant,
}

/// The frames of each parent, the nearest first; of each the innermost frame first. Empty: it has none.
pub fn parents(
    memory: &impl RemoteMemory,
    layout: &Layout,
    child: Coroutine,
) -> Result<Vec<Vec<LuaFrame>>, NoParents> {
    if child.at.elapsed() > MAX_DELAY {
        return Err(NoParents::Late);
    }
    if parent_of(memory, layout, child.g, child.l)?.is_none() {
        return Ok(Vec::new());
    }
    if !still_there(memory, layout, child)? {
        return Err(NoParents::Gone);
    }
    let mut chain = Vec::new();
    let (mut at, mut room) = (child.l, MAX_PARENT_FRAMES);
    while let Some(parent) = parent_of(memory, layout, child.g, at)? {
        if chain.len() >= MAX_PARENTS {
            return Err(NoParents::TooDeep);
        }
        let suspended = suspended_frames(memory, layout, parent)?;
        room = room.checked_sub(suspended.len()).ok_or(NoParents::TooDeep)?;
        chain.push(suspended);
        at = parent;
    }
    Ok(chain)
}

/// Whether the outermost function of a thread is still in the call in which it was sampled. Otherwise it may
/// have yielded since, and been resumed from elsewhere; and a collected thread makes room for others.
fn still_there(memory: &impl RemoteMemory, layout: &Layout, child: Coroutine) -> Result<bool, NoParents> {
    let (proto, pos) = child.outermost.ok_or(NoParents::Shallow)?;
    let Ok(state) = LuaState::read(memory, layout.mode, child.l) else {
        return Ok(false);
    };
    if state.glref != child.g {
        return Ok(false);
    }
    // While it runs, what is stored of its top may be old. A walk that comes to the bottom from there still
    // passes the calls that have not returned.
    let Ok(walk) = frames(memory, layout, child.l, Base::stored(), SegmentEnd::Bottom) else {
        return Ok(false);
    };
    let same = FrameKind::Lua {
        proto,
        pos: Some(pos),
    };
    match &*walk.frames {
        // nothing was stored since it was first resumed
        [] | [_] if state.status != YIELDED => Ok(called_from(memory, layout, &state, proto, pos).is_some()),
        frames => Ok(walk.end == LuaEnd::Bottom && frames.last().is_some_and(|frame| frame.kind == same)),
    }
}

/// The link that the function at the bottom of a stack makes when it calls another at this instruction, if
/// it is there: behind the registers that it has below `A` (lj_frame.h, `frame_prevl`).
fn called_from(
    memory: &impl RemoteMemory,
    layout: &Layout,
    state: &LuaState,
    proto: u64,
    pos: u32,
) -> Option<()> {
    let fields = layout.fields();
    let slots = u64::from(fields.frame_slots);
    let code = ProtoCode::read(memory, fields, proto)?;
    let call = code.bytecode.checked_add(4 * u64::from(pos))?;
    let [_, a, ..] = memory.read_u32(call).ok()?.to_le_bytes();
    // lua_resume calls the function in the first slot of a stack
    let frame = state.stack.checked_add(8 * (2 * slots - 1))?;
    let slot = memory
        .read_u64(frame.checked_add(8 * (slots + u64::from(a)))?)
        .ok()?;
    let link = match layout.mode {
        GcMode::Gc64 => slot,
        GcMode::Gc32 => slot >> 32,
    };
    (link == call + 4).then_some(())
}

/// The parent of a coroutine; `None` if it has none.
fn parent_of(memory: &impl RemoteMemory, layout: &Layout, g: u64, l: u64) -> Result<Option<u64>, NoParents> {
    let context = context_of(memory, layout.mode, l).ok_or(NoParents::Gone)?;
    if context == 0 {
        return Ok(None);
    }
    if context % 8 != 0 {
        return Err(NoParents::NoContext);
    }
    let words = words(memory, context);
    let at = words
        .iter()
        .position(|&word| word == l)
        .ok_or(NoParents::NoContext)?;
    let parent = *words.get(at + 1).ok_or(NoParents::NoContext)?;
    if parent == 0 {
        return Ok(None);
    }
    let thread = memory
        .read_u64(parent.wrapping_add(8 * at as u64))
        .map_err(|_| NoParents::Unproven)?;
    let is_thread = LuaState::read(memory, layout.mode, thread).is_ok_and(|state| state.glref == g);
    if is_thread && context_of(memory, layout.mode, thread) == Some(parent) {
        Ok(Some(thread))
    } else {
        Err(NoParents::Unproven)
    }
}

/// The stack of a coroutine that waits.
fn suspended_frames(memory: &impl RemoteMemory, layout: &Layout, l: u64) -> Result<Vec<LuaFrame>, NoParents> {
    let waits = || {
        LuaState::read(memory, layout.mode, l).is_ok_and(|state| state.status == YIELDED && state.cframe == 0)
    };
    if !waits() {
        return Err(NoParents::Running);
    }
    let walk =
        frames(memory, layout, l, Base::stored(), SegmentEnd::Bottom).map_err(|_| NoParents::Running)?;
    // it may have begun to run meanwhile
    if walk.end != LuaEnd::Bottom || !waits() {
        return Err(NoParents::Running);
    }
    Ok(walk.frames)
}

/// The word that OpenResty's LuaJIT keeps for its user: `lua_State.exdata2` (lj_obj.h, since October 2020).
/// In other builds whatever is behind a `lua_State`.
fn context_of(memory: &impl RemoteMemory, mode: GcMode, l: u64) -> Option<u64> {
    let exdata2 = match mode {
        GcMode::Gc64 => 0x68,
        GcMode::Gc32 => 0x48,
    };
    memory.read_u64(l.checked_add(exdata2)?).ok()
}

/// What is readable of a context.
fn words(memory: &impl RemoteMemory, context: u64) -> Vec<u64> {
    let mut bytes = [0; CONTEXT_BYTES];
    let read = memory.read(context, &mut bytes).unwrap_or(0);
    let (words, _) = bytes[..read.min(CONTEXT_BYTES)].as_chunks::<8>();
    words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::ProcessError;

    const G: u64 = 0x1000;
    const CHILD: u64 = 0x2000;
    const PARENT: u64 = 0x3000;
    const CONTEXT: u64 = 0x4000;
    const PARENT_CONTEXT: u64 = 0x5000;

    /// 64 KiB of memory at address 0.
    struct Memory(Vec<u8>);

    impl RemoteMemory for Memory {
        fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
            let from = usize::try_from(addr).unwrap_or(usize::MAX);
            match self.0.get(from..) {
                Some(rest) if !rest.is_empty() => {
                    let len = rest.len().min(buf.len());
                    buf[..len].copy_from_slice(&rest[..len]);
                    Ok(len)
                }
                _ => Err(ProcessError::Unreadable { addr }),
            }
        }
    }

    impl Memory {
        fn put(&mut self, addr: u64, word: u64) {
            let at = addr as usize;
            self.0[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }

        /// A GC64 thread whose context is this.
        fn thread(&mut self, l: u64, context: u64) {
            self.0[l as usize + 9] = 6;
            let stack = l + 0x200;
            self.put(l + 0x10, G);
            self.put(l + 0x20, stack + 16);
            self.put(l + 0x28, stack + 16);
            self.put(l + 0x30, stack + 0x100);
            self.put(l + 0x38, stack);
            self.put(l + 0x68, context);
        }
    }

    /// A child and its parent, with contexts that have the coroutine in their second word.
    fn family() -> Memory {
        let mut memory = Memory(vec![0; 0x10000]);
        memory.thread(CHILD, CONTEXT);
        memory.thread(PARENT, PARENT_CONTEXT);
        for (context, l, parent) in [(CONTEXT, CHILD, PARENT_CONTEXT), (PARENT_CONTEXT, PARENT, 0)] {
            memory.put(context, 0x7777);
            memory.put(context + 8, l);
            memory.put(context + 16, parent);
        }
        memory
    }

    fn layout() -> Layout {
        use moonscope_luajit::{BuildOffsets, CFrame};
        Layout {
            mode: GcMode::Gc64,
            cframe: CFrame {
                size: 80,
                l: 16,
                pc: 24,
                prev: 32,
                nres: 8,
            },
            build: BuildOffsets {
                g2disp: 0xfa8,
                vmstate: 0xb8,
                cur_l: 0x170,
                jit_base: 0x178,
                trace: 0x460,
                sizetrace: 0x46c,
            },
            trace: None,
        }
    }

    fn parent(memory: &Memory) -> Result<Option<u64>, NoParents> {
        parent_of(memory, &layout(), G, CHILD)
    }

    #[test]
    fn a_parent_is_believed_that_names_its_context() {
        assert_eq!(parent(&family()), Ok(Some(PARENT)));
        assert_eq!(parent_of(&family(), &layout(), G, PARENT), Ok(None));
    }

    #[test]
    fn the_place_of_the_coroutine_in_its_context_is_found() {
        let mut memory = family();
        for (context, l, parent) in [(CONTEXT, CHILD, PARENT_CONTEXT), (PARENT_CONTEXT, PARENT, 0)] {
            memory.put(context + 8, 0x7777);
            memory.put(context + 0x40, l);
            memory.put(context + 0x48, parent);
        }
        assert_eq!(parent(&memory), Ok(Some(PARENT)));
    }

    #[test]
    fn what_is_not_proven_is_no_parent() {
        let mut memory = family();
        memory.put(PARENT + 0x68, 0x6000);
        assert_eq!(parent(&memory), Err(NoParents::Unproven));

        let mut memory = family();
        memory.put(PARENT + 0x10, G + 8);
        assert_eq!(parent(&memory), Err(NoParents::Unproven), "another VM");

        let mut memory = family();
        memory.put(CONTEXT + 16, 0xffff_ffff_0000);
        assert_eq!(parent(&memory), Err(NoParents::Unproven), "unreadable");

        let mut memory = family();
        memory.put(CONTEXT + 8, PARENT);
        assert_eq!(parent(&memory), Err(NoParents::NoContext), "another coroutine's");

        let mut memory = family();
        memory.put(CHILD + 0x68, 0x4001);
        assert_eq!(parent(&memory), Err(NoParents::NoContext), "no address");

        let mut memory = family();
        memory.put(CHILD + 0x68, 0);
        assert_eq!(parent(&memory), Ok(None), "no context at all");
    }

    #[test]
    fn contexts_in_a_circle_come_to_an_end() {
        let mut memory = family();
        memory.put(PARENT_CONTEXT + 16, CONTEXT);
        let mut at = CHILD;
        for _ in 0..=MAX_PARENTS {
            at = parent_of(&memory, &layout(), G, at).unwrap().unwrap();
        }
        // `parents` bounds it; neither of these waits, so it ends at the first
        assert_eq!(suspended_frames(&memory, &layout(), at), Err(NoParents::Running));
    }

    #[test]
    fn a_coroutine_that_runs_another_function_by_now_has_no_parents() {
        let mut child = Coroutine {
            l: CHILD,
            g: G,
            outermost: Some((0x8000, 3)),
            at: Instant::now(),
        };
        assert_eq!(parents(&family(), &layout(), child), Err(NoParents::Gone));
        child.outermost = None;
        assert_eq!(parents(&family(), &layout(), child), Err(NoParents::Shallow));
        child.at -= 2 * MAX_DELAY;
        assert_eq!(parents(&family(), &layout(), child), Err(NoParents::Late));
    }
}
