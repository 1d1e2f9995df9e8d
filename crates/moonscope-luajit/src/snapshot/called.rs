//! Which call of the bytecode a call in the machine code is.
//!
//! If a function is called whichever branches the bytecode takes between two snapshots, and the machine code between them has
//! one call of that function, then it is that one. This holds whatever else is inlined on the way: if that called the function
//! too, there would be two.

use super::{InlinedFrame, inlined};
use crate::trace::{Caller, Snapshot, SureCall, TraceCall, TraceCopy};

/// What an address behind a call means if one of these calls is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The function that the machine code calls; 0 if that does not tell.
    function: u64,
    /// Those that it calls too, before the next snapshot.
    others: Vec<u64>,
    /// The calls that run here for certain, and where they are.
    pub calls: Vec<SureCall>,
    /// Like [`Expansion::frames`], of the first snapshot and of the second: the innermost of one of them is at the call.
    frames: [Vec<InlinedFrame>; 2],
}

impl Called {
    /// If this function is called around here for certain: is this that call?
    pub fn is_call_of(&self, function: u64) -> bool {
        let may_be = |called: u64| called == 0 || called == function;
        may_be(self.function) && !self.others.iter().any(|other| may_be(*other))
    }

    /// Who calls, and those that called it; the innermost has the place of a snapshot still.
    pub fn callers(&self, call: &SureCall) -> &[InlinedFrame] {
        let [first, second] = &self.frames;
        match call.by {
            Caller::First => first,
            Caller::Second => second,
        }
    }

    /// The frames, if this is the call.
    pub fn at(&self, call: &SureCall) -> Vec<InlinedFrame> {
        let mut frames = self.callers(call).to_vec();
        if let Some(innermost) = frames.first_mut() {
            match call.pc {
                Some(pc) => innermost.move_to(pc),
                None => innermost.lose_place(),
            }
        }
        frames
    }
}

/// What a return address may tell, of which `offset` is the byte before.
pub(super) fn called(trace: &TraceCopy, index: usize, offset: u64) -> Option<Called> {
    let (here, next) = (
        trace.snapshots.as_ref()?.get(index)?,
        trace.snapshots.as_ref()?.get(index + 1)?,
    );
    let calls = trace.sure_calls.get(here.sure_calls.clone())?;
    let within = u32::from(here.mcofs) + 1..=u32::from(next.mcofs);
    // the frames of the next snapshot may be above another base
    if calls.is_empty() || trace.base_stores.iter().any(|end| within.contains(end)) {
        return None;
    }
    let call = trace
        .calls
        .iter()
        .find(|call| u64::from(call.end) == offset + 1)?;
    let others = |other: &&TraceCall| within.contains(&other.end) && other.end != call.end;
    let others = trace.calls.iter().filter(others).map(|other| other.function);
    let frames = |snapshot: &Snapshot| {
        let frames = trace.frames.get(snapshot.frames.clone()?)?;
        Some(frames.iter().map(|frame| inlined(trace, frame)).collect())
    };
    Some(Called {
        function: call.function,
        others: others.collect(),
        calls: calls.to_vec(),
        frames: [frames(here)?, frames(next)?],
    })
}
