//! What a machine-code address of a trace means in Lua: the calls inlined into it, and where each is.
//!
//! LuaJIT describes the Lua stack at points of a trace by snapshots: the slots that a side exit would
//! write, with the frames among them (`snapshot_slots`, `snapshot_framelinks` and `lj_snap_restore` in
//! lj_snap.c). Machine code from one snapshot to the next was compiled from bytecode at or behind the
//! first one's program counter; this is as precise as LuaJIT itself is when code on a trace fails. Frames that the two do
//! not have in common are left out, and that something may be missing is told (`trace/between.rs`).

mod called;

use crate::callee::Source;
use crate::layout::GcMode;
use crate::lua_stack::FrameKind;
use crate::object::Function;
use crate::trace::{Snapshot, TraceCopy};
pub use called::Called;
use called::called;

const SNAP_FRAME: u32 = 0x01_0000;
const SNAP_CONT: u32 = 0x02_0000;

/// References below this are constants (`REF_BIAS`).
const REF_BIAS: u16 = 0x8000;

const TYPE_MASK: u64 = 7;
const CONT: u64 = 2;
const VARG: u64 = 3;

/// How well an expansion knows the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// To the last side exit before it.
    Guard,
    /// Only where the trace starts: this LuaJIT (before March 2021) does not record which machine code
    /// belongs to which snapshot.
    Start,
}

/// A call that a trace has inlined, or the one it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InlinedFrame {
    /// The function object, if the trace is bound to one closure.
    pub function: Option<u64>,
    /// What it is, and where; `None` if its prototype is gone.
    pub kind: Option<FrameKind>,
    /// Address of its current instruction in bytecode; 0 if not known.
    pub pc: u64,
}

impl InlinedFrame {
    /// It is at another instruction of its bytecode.
    fn move_to(&mut self, pc: u64) {
        let moved = self.position_of(pc);
        if let Some(FrameKind::Lua { pos, .. }) = &mut self.kind {
            *pos = moved;
        }
        self.pc = pc;
    }

    /// The position in its bytecode of another instruction of it; `None` if where it is itself is not known.
    pub fn position_of(&self, pc: u64) -> Option<u32> {
        let Some(FrameKind::Lua { pos: Some(pos), .. }) = self.kind else {
            return None;
        };
        let distance = pc.wrapping_sub(self.pc).cast_signed() / 4;
        pos.checked_add_signed(i32::try_from(distance).ok()?)
    }

    /// It is not known where it is.
    pub fn lose_place(&mut self) {
        self.pc = 0;
        if let Some(FrameKind::Lua { pos, .. }) = &mut self.kind {
            *pos = None;
        }
    }
}

/// What an address on a trace means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Calls, innermost first. The last stands for the frame that `jit_base` points to, and replaces what
    /// a walk from there finds first; if there are others, they are above it.
    pub frames: Vec<InlinedFrame>,
    /// Calls may be inlined inside the innermost of them at this place.
    pub may_call: bool,
    /// Where the innermost of them is at the next side exit, if it runs there still: at an address of its bytecode.
    pub until: Option<u64>,
    /// If so: what it calls around this place, if that is known.
    pub callees: Option<Vec<Source>>,
    /// If the address is behind a call of other code: more may be known by whom that calls.
    pub called: Option<Called>,
    /// How well the place is known.
    pub precision: Precision,
    /// Number of the snapshot.
    pub snapshot: u16,
    /// The trace has made a tail call out of the frame at `jit_base`, where the Lua stack still has the
    /// function that made it.
    pub tail_called: bool,
}

/// Why an address on a trace has no expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoExpansion {
    /// The offset is not in the machine code.
    #[error("the address is outside the trace")]
    Outside,
    /// The snapshot contradicts itself.
    #[error("the snapshot is not consistent")]
    Inconsistent,
}

/// What the machine code at this offset was compiled from. For a return address, pass the offset before
/// it: the call belongs to the snapshot before.
pub fn expand(trace: &TraceCopy, offset: u64) -> Result<Expansion, NoExpansion> {
    if offset >= u64::from(trace.szmcode) {
        return Err(NoExpansion::Outside);
    }
    let Some(snapshots) = &trace.snapshots else {
        return Ok(start_of(trace));
    };
    // Snapshot 0 has offset 0. Equal offsets: the last one, since no code belongs to those before.
    let after = snapshots.partition_point(|snapshot| u64::from(snapshot.mcofs) <= offset);
    let index = after.checked_sub(1).ok_or(NoExpansion::Inconsistent)?;
    let snapshot = snapshots.get(index).ok_or(NoExpansion::Inconsistent)?;
    let stored = trace.base_stores.partition_point(|&end| u64::from(end) <= offset);
    let stored = stored.checked_sub(1).and_then(|last| trace.base_stores.get(last));
    let is_moved = stored.is_some_and(|&end| end > u32::from(snapshot.mcofs));
    let frames = |snapshot: &Snapshot| trace.frames.get(snapshot.frames.clone()?);
    let is_at_snapshot = !is_moved && is_gc_step(trace, offset);
    let raw = match (is_moved, snapshots.get(index + 1)) {
        (false, _) if is_at_snapshot => frames(snapshot),
        (false, _) => frames(snapshot).and_then(|frames| {
            // the function that jit_base belongs to runs, whatever it calls
            let certain = snapshot.certain.max(1);
            frames.get(frames.len().checked_sub(certain)?..)
        }),
        // Behind a return to a lower frame, jit_base belongs to the next snapshot. Its outermost frame is the
        // one returned to; what it inlines may not be called yet.
        (true, Some(next)) => frames(next).and_then(|frames| frames.get(frames.len().checked_sub(1)?..)),
        // At the end, all frames are on the Lua stack, and jit_base is the innermost.
        (true, None) => frames(snapshot).and_then(|frames| frames.get(..1)),
    };
    let raw = raw.ok_or(NoExpansion::Inconsistent)?;
    let until = snapshots.get(index + 1).and_then(frames).and_then(|next| {
        let same = next.get(next.len().checked_sub(raw.len())?)?;
        trace.is_same_function(raw.first()?, same).then_some(same.pc)
    });
    let mut frames: Vec<InlinedFrame> = raw.iter().map(|frame| inlined(trace, frame)).collect();
    let is_placed = snapshot.is_placed || is_moved || is_at_snapshot;
    if let Some(innermost) = frames.first_mut().filter(|_| !is_placed) {
        innermost.lose_place();
    }
    Ok(Expansion {
        frames,
        may_call: snapshot.may_call && !is_moved && !is_at_snapshot,
        until,
        callees: snapshot
            .callees
            .clone()
            .and_then(|callees| trace.callees.get(callees))
            .map(<[Source]>::to_vec),
        called: called(trace, index, offset).filter(|_| !is_moved),
        precision: Precision::Guard,
        snapshot: u16::try_from(index).unwrap_or(u16::MAX),
        tail_called: snapshot.tail_called && !is_moved,
    })
}

/// The call at this offset is a step of the garbage collector, which runs before anything that is behind its snapshot: if it
/// leaves the trace, the interpreter goes on there.
fn is_gc_step(trace: &TraceCopy, offset: u64) -> bool {
    let call = trace
        .calls
        .binary_search_by_key(&(offset + 1), |call| call.end.into());
    call.is_ok_and(|at| trace.calls.get(at).is_some_and(|call| call.is_gc_step))
}

fn start_of(trace: &TraceCopy) -> Expansion {
    Expansion {
        frames: vec![InlinedFrame {
            function: None,
            kind: Some(FrameKind::Lua {
                proto: trace.startpt,
                pos: None,
            }),
            pc: 0,
        }],
        may_call: true,
        until: None,
        callees: None,
        called: None,
        precision: Precision::Start,
        snapshot: 0,
        tail_called: false,
    }
}

fn inlined(trace: &TraceCopy, frame: &SnapFrame) -> InlinedFrame {
    let function = (frame.function != 0).then_some(frame.function);
    let kind = match function.and_then(|function| trace.functions.get(&function)) {
        Some(Function::C { f }) => Some(FrameKind::C {
            f: *f,
            function: frame.function,
        }),
        Some(Function::Builtin { ffid }) => Some(FrameKind::Builtin { ffid: *ffid }),
        Some(Function::Lua(code)) => Some(FrameKind::Lua {
            proto: code.proto,
            pos: code.index(frame.pc),
        }),
        _ => match trace.code_at(frame.pc) {
            Some(code) => Some(FrameKind::Lua {
                proto: code.proto,
                pos: code.index(frame.pc),
            }),
            None => trace
                .guarded_builtins
                .get(&frame.reference)
                .map(|&ffid| FrameKind::Builtin { ffid }),
        },
    };
    InlinedFrame {
        function,
        kind,
        pc: frame.pc,
    }
}

/// A frame as a snapshot has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapFrame {
    /// The function object if it is a constant of the trace, else 0.
    pub function: u64,
    /// Where it is not: the IR instruction that yields it, or 0.
    pub reference: u16,
    /// The current instruction; 0 for a function that is not bytecode.
    pub pc: u64,
}

/// The constants of a trace that frames refer to.
pub(crate) trait Constants {
    /// A 64-bit constant.
    fn word(&self, reference: u16) -> Option<u64>;
    /// The function object, if the constant is one.
    fn function(&self, reference: u16) -> Option<u64>;
}

/// The frames of one snapshot, innermost first, and whether the outermost was replaced by a tail call.
pub(crate) struct Frames {
    pub frames: Vec<SnapFrame>,
    pub tail_called: bool,
}

/// Decodes a snapshot: `map` begins with its entries, of which there are `nent`; the program counter and,
/// in GC32, the frame links follow.
pub(crate) fn decode(mode: GcMode, map: &[u32], nent: usize, constants: &impl Constants) -> Option<Frames> {
    let entries = map.get(..nent)?;
    let rest = map.get(nent..)?;
    let is_ascending = entries
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a >> 24 < b >> 24));
    let snapshot = Entries { entries, constants };
    match (is_ascending, mode) {
        (false, _) => None,
        (true, GcMode::Gc64) => snapshot.decode_gc64(rest),
        (true, GcMode::Gc32) => snapshot.decode_gc32(rest),
    }
}

struct Entries<'a, C> {
    entries: &'a [u32],
    constants: &'a C,
}

impl<C: Constants> Entries<'_, C> {
    /// Slot 0 is the function at `jit_base - 16`, slot 1 its link. The word behind the entries is
    /// `pc << 8 | baseslot - 2`; links are constants in the slots.
    fn decode_gc64(&self, rest: &[u32]) -> Option<Frames> {
        let (&low, &high) = (rest.first()?, rest.get(1)?);
        let pcbase = u64::from(low) | u64::from(high) << 32;
        let mut pc = pcbase >> 8;
        let mut slot = (pcbase & 0xff) as u32 + 1;
        let mut frames = Vec::new();
        let mut is_copied = false;
        while slot > 1 {
            let (function, reference) = self.function(slot - 1);
            let link = self.word(slot, SNAP_FRAME)?;
            if !is_copied {
                frames.push(SnapFrame {
                    function,
                    reference,
                    pc,
                });
            }
            is_copied = link & TYPE_MASK == VARG;
            let (caller, previous) = match link & TYPE_MASK {
                0 | 4 => (link, self.frame_below(slot).unwrap_or(1)),
                CONT => (self.word(slot.checked_sub(2)?, SNAP_CONT)?, below(slot, link)?),
                VARG => (pc.wrapping_add(4), below(slot, link)?),
                1 | 5 => return None,
                _ => (4, below(slot, link)?),
            };
            pc = caller.wrapping_sub(4);
            slot = previous;
        }
        let (function, reference) = self.function(0);
        if slot != 1 {
            return None;
        }
        if !is_copied {
            frames.push(SnapFrame {
                function,
                reference,
                pc,
            });
        }
        let tail_called = self.entry(1).is_some_and(|entry| entry & SNAP_FRAME != 0);
        Some(Frames { frames, tail_called })
    }

    /// Slot 0 is the frame at `jit_base - 8`. Behind the entries are the program counter and the links of
    /// all frames above slot 0, innermost first; a continuation has its program counter behind its link.
    fn decode_gc32(&self, rest: &[u32]) -> Option<Frames> {
        let mut words = rest.iter().map(|&word| u64::from(word));
        let mut pc = words.next()?;
        let mut slot = self.frame_below(256).unwrap_or(0);
        let mut frames = Vec::new();
        let mut is_copied = false;
        while slot > 0 {
            let (function, reference) = self.function(slot);
            let link = words.next()?;
            if !is_copied {
                frames.push(SnapFrame {
                    function,
                    reference,
                    pc,
                });
            }
            is_copied = link & TYPE_MASK == VARG;
            let (caller, previous) = match link & TYPE_MASK {
                0 | 4 => (link, self.frame_below(slot).unwrap_or(0)),
                CONT => (words.next()?, below(slot, link)?),
                VARG => (pc.wrapping_add(4), below(slot, link)?),
                1 | 5 => return None,
                _ => (4, below(slot, link)?),
            };
            pc = caller.wrapping_sub(4);
            slot = previous;
        }
        if !is_copied {
            let (function, reference) = self.function(0);
            frames.push(SnapFrame {
                function,
                reference,
                pc,
            });
        }
        Some(Frames {
            frames,
            tail_called: false,
        })
    }

    fn entry(&self, slot: u32) -> Option<u32> {
        let at = self.entries.partition_point(|entry| entry >> 24 < slot);
        self.entries.get(at).copied().filter(|entry| entry >> 24 == slot)
    }

    /// The highest frame slot below this one.
    fn frame_below(&self, slot: u32) -> Option<u32> {
        let below = self.entries.iter().rev().filter(|&&entry| entry >> 24 < slot);
        below
            .map(|&entry| (entry >> 24, entry & SNAP_FRAME))
            .find(|&(_, flag)| flag != 0)
            .map(|(slot, _)| slot)
    }

    fn word(&self, slot: u32, flag: u32) -> Option<u64> {
        let entry = self.entry(slot).filter(|entry| entry & flag != 0)?;
        let reference = entry as u16;
        (reference < REF_BIAS).then(|| self.constants.word(reference))?
    }

    /// The function object in a slot, or the instruction that yields it.
    fn function(&self, slot: u32) -> (u64, u16) {
        match self.entry(slot).map(|entry| entry as u16) {
            Some(constant) if constant < REF_BIAS => (self.constants.function(constant).unwrap_or(0), 0),
            Some(reference) => (0, reference),
            None => (0, 0),
        }
    }
}

/// The slot that a link with a distance leads to.
fn below(slot: u32, link: u64) -> Option<u32> {
    let distance = u32::try_from(link >> 3).ok().filter(|&slots| slots > 0)?;
    slot.checked_sub(distance)
}

#[cfg(test)]
mod tests;
