//! What is certain of the machine code between two snapshots.
//!
//! A snapshot tells the frames at its place. Code behind it runs the bytecode from there to the next snapshot's place, and a
//! call or a return on that way leaves no trace of its own: arithmetic has no side exits, so a function that does nothing
//! else has no snapshot at all. Frames that both snapshots have are certain. Of those that one has alone:
//!
//! * The innermost function of the first is certain if nothing else on the way does any work: what it returns to until that
//!   calls the next one, and what is called until its first side exit.
//! * A function that is called and has returned in between is in neither. Such a call is an instruction on the way, and whom
//!   it calls is among the constants of the trace (`rec_call_specialize`, lj_record.c): without another Lua function there
//!   only builtins are called, which have no frame.
//!
//! Where callers are is exact, but not that of the innermost frame that is certain if what it called has returned: the code may
//! belong to that call, to the next one, or to the function itself, which has no line then (`is_placed`). Where the innermost
//! function is may be the other side of the comparison that ends the way (`rec_comp_fixup`), so that is only taken for the
//! neighbourhood: straight code between comparisons and loops.

use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

use super::TraceCopy;
use super::constants::IrConstants;
use crate::bytecode::{Calls, Instruction, op};
use crate::layout::Layout;
use crate::object::{Function, ProtoCode};
use crate::snapshot::SnapFrame;

/// Instructions of one prototype that are looked at.
const MAX_INSTRUCTIONS: u32 = 1 << 16;
const INSTRUCTION_SIZE: u64 = 4;
/// `FORI` to `JLOOP`: beginnings and ends of loops, and what the compiler puts in their place.
const LOOPS: std::ops::RangeInclusive<u8> = 77..=87;

impl TraceCopy {
    /// Fills in what is certain behind each snapshot.
    pub(super) fn judge(&mut self, memory: &impl RemoteMemory, layout: &Layout, constants: &IrConstants) {
        let Some(mut snapshots) = self.snapshots.take() else {
            return;
        };
        let has_others = self.may_call_lua(memory, layout, constants);
        let mut bytecode = Bytecode {
            memory,
            read: FxHashMap::default(),
        };
        for at in 0..snapshots.len() {
            let frames = |at: usize| self.frames.get(snapshots.get(at)?.frames.clone()?);
            let Some(here) = frames(at) else { continue };
            let (certain, may_call, is_placed) = match (snapshots.get(at + 1), frames(at + 1)) {
                // what is behind the last one leaves the trace, or begins its loop again
                (None, _) => (here.len(), false, true),
                (Some(_), None) => (here.len(), true, false),
                (Some(_), Some(next)) => {
                    let way = Way {
                        copy: self,
                        here,
                        next,
                    };
                    match way.common() {
                        all if all == here.len() && all == next.len() => {
                            let may_call = has_others && way.may_pass_call(&mut bytecode);
                            (all, may_call, true)
                        }
                        _ if way.works_only_here(&mut bytecode) => (here.len(), false, true),
                        some => (some, true, way.is_placed(some)),
                    }
                }
            };
            if let Some(snapshot) = snapshots.get_mut(at) {
                snapshot.certain = certain;
                snapshot.may_call = may_call;
                snapshot.is_placed = is_placed;
            }
        }
        self.snapshots = Some(snapshots);
    }

    fn identity(&self, frame: &SnapFrame) -> (u64, u64) {
        let proto = self.code_at(frame.pc).map_or(0, |code| code.proto);
        match frame.function {
            0 => (proto, if proto == 0 { frame.reference.into() } else { 0 }),
            function => (function, 0),
        }
    }

    /// Does the trace refer to more than one function of bytecode?
    fn may_call_lua(&self, memory: &impl RemoteMemory, layout: &Layout, constants: &IrConstants) -> bool {
        let mut protos: FxHashSet<u64> = constants.protos.iter().copied().collect();
        protos.insert(self.startpt);
        protos.extend(self.functions.values().filter_map(proto_of));
        for function in &constants.functions {
            if protos.len() > 1 {
                break;
            }
            let read = Function::read(memory, layout.fields(), *function);
            protos.extend(read.as_ref().and_then(proto_of));
        }
        protos.len() > 1
    }
}

/// From one snapshot to the next; frames are innermost first.
struct Way<'t> {
    copy: &'t TraceCopy,
    here: &'t [SnapFrame],
    next: &'t [SnapFrame],
}

impl Way<'_> {
    /// How many frames, from the outermost on, both have. The innermost of them may be at two places.
    fn common(&self) -> usize {
        let mut common = 0;
        for (one, other) in self.here.iter().rev().zip(self.next.iter().rev()) {
            if self.copy.identity(one) != self.copy.identity(other) {
                break;
            }
            common += 1;
            // the call in it is another one
            if one.pc != other.pc {
                break;
            }
        }
        common
    }

    /// The innermost frame that both have is the one that runs in the first, where its last side exit was; or what it called
    /// there it still calls in the second. Else that call may be over.
    fn is_placed(&self, common: usize) -> bool {
        let innermost = |frames: &[SnapFrame]| {
            let at = frames.len().checked_sub(common)?;
            frames.get(at).map(|frame| frame.pc)
        };
        common == self.here.len() || common > 0 && innermost(self.here) == innermost(self.next)
    }

    /// Both are in one function: may that call another one on the way?
    fn may_pass_call(&self, bytecode: &mut Bytecode<'_, impl RemoteMemory>) -> bool {
        let (Some(here), Some(next)) = (self.here.first(), self.next.first()) else {
            return true;
        };
        let Some((code, instructions)) = bytecode.around(self.copy, here.pc) else {
            return true;
        };
        let (Some(one), Some(other)) = (index(code, here.pc), index(code, next.pc)) else {
            return true;
        };
        let (low, high) = (one.min(other), one.max(other));
        let before = instructions.get(..low).unwrap_or_default();
        let start = before
            .iter()
            .rposition(|each| is_border(*each))
            .map_or(0, |at| at + 1);
        let behind = instructions.get(high..).unwrap_or_default();
        let end = behind
            .iter()
            .position(|each| is_border(*each))
            .map_or(instructions.len(), |at| high + at);
        let passed = instructions.get(start..end).unwrap_or_default();
        passed.iter().any(|each| each.calls() == Calls::Function)
    }

    /// The first snapshot is in a function that returns: does nobody else work until the second one?
    fn works_only_here(&self, bytecode: &mut Bytecode<'_, impl RemoteMemory>) -> bool {
        let common = self.common();
        let (Some(left), Some(entered)) = (
            self.here.len().checked_sub(common),
            self.next.len().checked_sub(common),
        ) else {
            return false;
        };
        if left == 0 || common == 0 {
            return false;
        }
        let is_idle = |instructions: &[Instruction]| instructions.iter().all(|each| is_idle(*each));
        // callers that return too, and the one that both have, each from behind its call
        for depth in 1..=left {
            let Some(frame) = self.here.get(depth) else {
                return false;
            };
            let Some((code, instructions)) = bytecode.around(self.copy, frame.pc) else {
                return false;
            };
            let Some(start) = index(code, frame.pc).map(|at| at + 1) else {
                return false;
            };
            let rest = instructions.get(start..).unwrap_or_default();
            let next_call = match (depth == left && entered > 0, self.next.get(entered)) {
                (true, Some(next)) => index(code, next.pc),
                _ => None,
            };
            let end = match next_call {
                Some(call) if call >= start => call - start,
                // it calls again in the next turn of its loop
                Some(_) => return false,
                None => rest
                    .iter()
                    .position(|each| is_border(*each) || is_return(*each))
                    .unwrap_or(rest.len()),
            };
            if !rest.get(..end).is_some_and(is_idle) {
                return false;
            }
        }
        // what is called, from its beginning: behind the header
        (0..entered).all(|depth| {
            let Some(frame) = self.next.get(depth) else {
                return false;
            };
            let Some((code, instructions)) = bytecode.around(self.copy, frame.pc) else {
                return false;
            };
            let body = instructions.get(1..).unwrap_or_default();
            let border = body
                .iter()
                .position(|each| is_border(*each))
                .unwrap_or(body.len());
            let end = match depth {
                // it may be on the other side of its first comparison
                0 => border,
                _ => index(code, frame.pc)
                    .map_or(0, |at| at.saturating_sub(1))
                    .min(border),
            };
            body.get(..end).is_some_and(is_idle)
        })
    }
}

fn index(code: ProtoCode, pc: u64) -> Option<usize> {
    code.index(pc).map(|index| index as usize)
}

/// Comparisons, tests and loops: straight code ends there.
fn is_border(instruction: Instruction) -> bool {
    matches!(instruction.op(), 0..=15) || LOOPS.contains(&instruction.op())
}

/// `RETM` to `RET1`.
fn is_return(instruction: Instruction) -> bool {
    matches!(instruction.op(), 73..=76)
}

/// Moves, constants, upvalues, returns and jumps become no machine code to speak of.
fn is_idle(instruction: Instruction) -> bool {
    matches!(instruction.op(), op::MOV | 39..=45 | 50 | 73..=76 | op::JMP)
}

fn proto_of(function: &Function) -> Option<u64> {
    match function {
        Function::Lua(code) => Some(code.proto),
        _ => None,
    }
}

/// Bytecode of prototypes, read once.
struct Bytecode<'m, M> {
    memory: &'m M,
    read: FxHashMap<u64, Option<Vec<Instruction>>>,
}

impl<M: RemoteMemory> Bytecode<'_, M> {
    /// The function of an instruction, and all its instructions.
    fn around(&mut self, copy: &TraceCopy, pc: u64) -> Option<(ProtoCode, &[Instruction])> {
        let code = *copy.code_at(pc)?;
        Some((code, self.of(&code)?))
    }

    fn of(&mut self, code: &ProtoCode) -> Option<&[Instruction]> {
        let memory = self.memory;
        let read = || {
            let count = code.sizebc.min(MAX_INSTRUCTIONS);
            let mut bytes = vec![0; (u64::from(count) * INSTRUCTION_SIZE) as usize];
            memory.read_exact(code.bytecode, &mut bytes).ok()?;
            let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
            Some(words.map(|word| Instruction(u32::from_le_bytes(word))).collect())
        };
        self.read.entry(code.bytecode).or_insert_with(read).as_deref()
    }
}
