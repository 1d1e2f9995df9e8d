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
//!   only builtins are called, which have no frame. With one, it is looked up whom they call (`way_calls`).
//!
//! Where callers are is exact, but not that of the innermost frame that is certain if what it called has returned: the code may
//! belong to that call, to the next one, or to the function itself, which has no line then (`is_placed`).

use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

use super::constants::IrConstants;
use super::ir::Ir;
use super::metamethods::Metamethods;
use super::way_calls::Passed;
use super::{Snapshot, SureCall, TraceCopy};
use crate::bytecode::{Instruction, op};
use crate::layout::{GcMode, Layout};
use crate::object::{Function, ProtoCode};
use crate::snapshot::SnapFrame;

/// Instructions of one prototype that are looked at.
const MAX_INSTRUCTIONS: u32 = 1 << 16;
/// Calls of one trace whose functions are looked for: at most 128 KiB.
const MAX_CALLEES: usize = 4096;
pub(super) const INSTRUCTION_SIZE: u64 = 4;

impl TraceCopy {
    /// Fills in what is certain behind each snapshot.
    pub(super) fn judge(
        &mut self,
        memory: &impl RemoteMemory,
        layout: &Layout,
        ir: &Ir,
        constants: &IrConstants,
    ) {
        let Some(mut snapshots) = self.snapshots.take() else {
            return;
        };
        let has_others = self.may_call_lua(memory, layout, constants);
        let metamethods = match has_others {
            true => Metamethods::find(memory, layout, ir, constants, &self.taken_over(&snapshots)),
            false => Metamethods::default(),
        };
        let mut bytecode = Bytecode {
            memory,
            read: FxHashMap::default(),
        };
        for at in 0..snapshots.len() {
            let frames = |at: usize| self.frames.get(snapshots.get(at)?.frames.clone()?);
            let Some(here) = frames(at) else { continue };
            let judgement = match (snapshots.get(at + 1), frames(at + 1)) {
                // what is behind the last one leaves the trace, or begins its loop again
                (None, _) => Judgement::all(here, Passed::Nothing),
                (Some(_), None) => Judgement {
                    is_placed: false,
                    ..Judgement::all(here, Passed::Unknown)
                },
                (Some(_), Some(next)) => {
                    let way = Way {
                        copy: self,
                        here,
                        next,
                        metamethods: &metamethods,
                    };
                    way.judge(&mut bytecode, layout.mode, has_others)
                }
            };
            if let Some(snapshot) = snapshots.get_mut(at) {
                self.keep(snapshot, judgement);
            }
        }
        self.snapshots = Some(snapshots);
    }

    fn keep(&mut self, snapshot: &mut Snapshot, mut judgement: Judgement) {
        snapshot.certain = judgement.certain;
        snapshot.may_call = judgement.passed != Passed::Nothing;
        snapshot.is_placed = judgement.is_placed;
        let start = self.sure_calls.len();
        if start + judgement.sure_calls.len() <= MAX_CALLEES {
            self.sure_calls.append(&mut judgement.sure_calls);
            snapshot.sure_calls = start..self.sure_calls.len();
        }
        let first = self.callees.len();
        if let Passed::Calls(mut sources) = judgement.passed
            && first + sources.len() <= MAX_CALLEES
        {
            self.callees.append(&mut sources);
            snapshot.callees = Some(first..self.callees.len());
        }
    }

    /// Are both frames of one function?
    pub(crate) fn is_same_function(&self, one: &SnapFrame, other: &SnapFrame) -> bool {
        self.identity(one) == self.identity(other)
    }

    fn identity(&self, frame: &SnapFrame) -> (u64, u64) {
        let proto = self.code_at(frame.pc).map_or(0, |code| code.proto);
        match frame.function {
            0 => (proto, if proto == 0 { frame.reference.into() } else { 0 }),
            function => (function, 0),
        }
    }

    /// The functions whose frames a side trace has from its parent.
    fn taken_over(&self, snapshots: &[Snapshot]) -> FxHashSet<u64> {
        let first = snapshots.first().filter(|_| self.root != 0);
        let frames = first.and_then(|first| self.frames.get(first.frames.clone()?));
        frames.into_iter().flatten().map(|frame| frame.function).collect()
    }

    /// Does the trace refer to more than one function of bytecode?
    fn may_call_lua(&self, memory: &impl RemoteMemory, layout: &Layout, constants: &IrConstants) -> bool {
        let mut protos: FxHashSet<u64> = constants.protos.iter().copied().collect();
        protos.insert(self.startpt);
        protos.extend(self.functions.values().filter_map(proto_of));
        for (_, function) in &constants.functions {
            if protos.len() > 1 {
                break;
            }
            let read = Function::read(memory, layout.fields(), *function);
            protos.extend(read.as_ref().and_then(proto_of));
        }
        protos.len() > 1
    }
}

/// What is known of the code behind a snapshot.
struct Judgement {
    /// How many of its frames are those of all that code.
    certain: usize,
    /// The place of the innermost of them is known.
    is_placed: bool,
    /// What that calls on the way.
    passed: Passed,
    sure_calls: Vec<SureCall>,
}

impl Judgement {
    fn all(here: &[SnapFrame], passed: Passed) -> Self {
        Self {
            certain: here.len(),
            is_placed: true,
            passed,
            sure_calls: Vec::new(),
        }
    }
}

/// From one snapshot to the next; frames are innermost first.
pub(super) struct Way<'t> {
    pub(super) copy: &'t TraceCopy,
    pub(super) here: &'t [SnapFrame],
    pub(super) next: &'t [SnapFrame],
    pub(super) metamethods: &'t Metamethods,
}

impl Way<'_> {
    fn judge(
        &self,
        bytecode: &mut Bytecode<'_, impl RemoteMemory>,
        mode: GcMode,
        has_others: bool,
    ) -> Judgement {
        let common = self.common();
        let sure_calls = self.sure_calls(bytecode, mode);
        let is_one_function = common == self.here.len() && common == self.next.len();
        let judgement = if is_one_function && has_others {
            Judgement::all(self.here, self.passed(bytecode, mode))
        } else if is_one_function || self.works_only_here(bytecode) {
            Judgement::all(self.here, Passed::Nothing)
        } else {
            Judgement {
                certain: common,
                is_placed: self.is_placed(common),
                ..Judgement::all(self.here, Passed::Unknown)
            }
        };
        Judgement {
            sure_calls,
            ..judgement
        }
    }

    /// How many frames, from the outermost on, both have. The innermost of them may be at two places.
    pub(super) fn common(&self) -> usize {
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
                    .position(|each| each.is_border() || each.is_return())
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
                .position(|each| each.is_border())
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

pub(super) fn index(code: &ProtoCode, pc: u64) -> Option<usize> {
    code.index(pc).map(|index| index as usize)
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
pub(super) struct Bytecode<'m, M> {
    pub(super) memory: &'m M,
    read: FxHashMap<u64, Option<Vec<Instruction>>>,
}

impl<M: RemoteMemory> Bytecode<'_, M> {
    /// The function of an instruction, and all its instructions.
    pub(super) fn around<'c>(
        &mut self,
        copy: &'c TraceCopy,
        pc: u64,
    ) -> Option<(&'c ProtoCode, &[Instruction])> {
        let code = copy.code_at(pc)?;
        Some((code, self.of(code)?))
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
