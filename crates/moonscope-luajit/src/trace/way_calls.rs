//! What is called on the way from one snapshot to the next.
//!
//! All that may be called tells whether something of Lua may be inlined there. And what is called whichever branches are taken
//! tells where the machine code is that calls this C function.

use moonscope_process::RemoteMemory;

use super::between::{Bytecode, INSTRUCTION_SIZE, Way, index};
use super::places::{Code, Ways};
use super::{Caller, SureCall};
use crate::bytecode::Calls;
use crate::callee::Source;
use crate::layout::GcMode;
use crate::object::ProtoCode;

/// Calls on the way from one snapshot to the next.
#[derive(PartialEq, Eq)]
pub(super) enum Passed {
    Nothing,
    /// Of functions that come from there.
    Calls(Vec<Source>),
    Unknown,
}

impl Way<'_> {
    /// What is called on this way, whichever branches are taken: by the innermost function of the second snapshot, and by that of
    /// the first if it returns.
    pub(super) fn sure_calls(
        &self,
        bytecode: &mut Bytecode<'_, impl RemoteMemory>,
        mode: GcMode,
    ) -> Vec<SureCall> {
        let memory = bytecode.memory;
        let mut found = Vec::new();
        for by in [Caller::First, Caller::Second] {
            let frames = match by {
                // it has returned if it is not among the others
                Caller::First if self.common() == self.here.len() => continue,
                Caller::First => self.here,
                Caller::Second => self.next,
            };
            let function = frames.first().and_then(|frame| {
                let (proto, instructions) = bytecode.around(self.copy, frame.pc)?;
                Some((frame.pc, proto, instructions))
            });
            let Some((pc, proto, instructions)) = function else {
                continue;
            };
            let code = Code(instructions);
            let ways = index(proto, pc).and_then(|at| match by {
                Caller::First => {
                    let starts = code.starts(at);
                    Ways::new(code, &starts, &code.returns(&starts)?)
                }
                Caller::Second => Ways::new(code, &self.starts_in(proto, code)?, &code.ends(at)),
            });
            let Some(ways) = ways else { continue };
            let mut calls: Vec<(Source, Vec<usize>)> = Vec::new();
            for at in ways.calls() {
                let Some(source) = Source::of_call(memory, mode, proto, (instructions, at)) else {
                    continue;
                };
                match calls.iter_mut().find(|(known, _)| *known == source) {
                    Some((_, places)) => places.push(at),
                    None => calls.push((source, vec![at])),
                }
            }
            calls.retain(|(_, places)| ways.lead_through(places));
            let pc = |at: usize| proto.bytecode + at as u64 * INSTRUCTION_SIZE;
            found.extend(calls.into_iter().map(|(source, places)| SureCall {
                source,
                pc: match places.as_slice() {
                    [only] => Some(pc(*only)),
                    _ => None,
                },
                by,
            }));
        }
        found
    }

    /// Where the innermost function of the second snapshot may begin on the way.
    fn starts_in(&self, proto: &ProtoCode, code: Code<'_>) -> Option<Vec<usize>> {
        let depth = self.here.len().checked_sub(self.next.len());
        let Some(depth) = depth.filter(|_| self.common() == self.next.len()) else {
            // it is called, and begins behind its header
            return Some(vec![1]);
        };
        let at = index(proto, self.here.get(depth)?.pc)?;
        match depth {
            0 => Some(code.starts(at)),
            // a caller's place is its call, which is over
            _ => Some(vec![at + 1]),
        }
    }

    /// Both are in one function: what may that call on the way?
    pub(super) fn passed(&self, bytecode: &mut Bytecode<'_, impl RemoteMemory>, mode: GcMode) -> Passed {
        let (Some(here), Some(next)) = (self.here.first(), self.next.first()) else {
            return Passed::Unknown;
        };
        let memory = bytecode.memory;
        let Some((code, instructions)) = bytecode.around(self.copy, here.pc) else {
            return Passed::Unknown;
        };
        let (Some(one), Some(other)) = (index(code, here.pc), index(code, next.pc)) else {
            return Passed::Unknown;
        };
        let on_way = passed_code(Code(instructions), one, other);
        let calls = |at: &usize| {
            instructions.get(*at).is_some_and(|each| {
                each.calls() == Calls::Function || self.metamethods.may_be_called_by(*each)
            })
        };
        let mut sources = Vec::new();
        for at in on_way.into_iter().filter(calls) {
            match Source::of_call(memory, mode, code, (instructions, at)) {
                Some(source) => sources.push(source),
                None => return Passed::Unknown,
            }
        }
        match sources.is_empty() {
            true => Passed::Nothing,
            false => Passed::Calls(sources),
        }
    }
}

/// The instructions that may run between snapshots with these places.
fn passed_code(code: Code<'_>, one: usize, other: usize) -> Vec<usize> {
    if let Some(ways) = Ways::new(code, &code.starts(one), &code.ends(other)) {
        return ways.on_way;
    }
    // in a loop, or not understood: straight code around both
    let (low, high) = (one.min(other), one.max(other));
    let is_border_at = |at: &usize| code.0.get(*at).is_some_and(|each| each.is_border());
    let start = (0..low).rev().find(is_border_at).map_or(0, |at| at + 1);
    let end = (high..code.0.len()).find(is_border_at).unwrap_or(code.0.len());
    (start..end).collect()
}
