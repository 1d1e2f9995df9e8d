//! Where an exception leaves the unwinder, and its frame is no longer what unwind information says.
//!
//! libgcc's `_Unwind_RaiseException`, `_Unwind_Resume` and their like end in `__builtin_eh_return`. Before that,
//! `uw_install_context_1` writes the registers of the frame that catches, and what that returns to, over those that were
//! saved in the unwinder's own frame (libgcc/unwind-dw2.c, `uw_install_context`). Who follows the rules from there on finds
//! the catching function as the caller, with a stack pointer that is not its own, and then whatever lies there. The way
//! to the true stack pointer is in a register that no rule names.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};

use crate::abi;
use crate::cfi::{Cfa, RegisterRule, Row};

/// A function with more bytes is none of these: libgcc's have about a thousand.
const MAX_LENGTH: u64 = 1 << 16;

/// Such functions save the registers in which a handler gets its arguments (`EH_RETURN_DATA_REGNO`), which nobody else does.
pub(crate) const DATA: [u16; 2] = [abi::MS_REG_RAX as u16, abi::MS_REG_RDX as u16];

/// And where they leave, what will be the stack pointer is in rcx.
pub(crate) const STACK: u16 = abi::MS_REG_RCX as u16;

/// Does a function leave where this row holds?
pub(crate) fn leaves(row: &Row) -> bool {
    let is_saved = |&register: &u16| matches!(row.registers[usize::from(register)], RegisterRule::Offset(_));
    matches!(row.cfa, Cfa::RegisterOffset { register: STACK, .. }) && DATA.iter().all(is_saved)
}

/// The part of a function that leaves at `at` in which its frame may be another one's. `code` is all of it, from `start` on.
///
/// It begins with the last byte of the call of `uw_install_context_1`, where the return address of that is looked up. That
/// is the last call but one: `_Unwind_DebugHook` comes behind it.
pub(crate) fn without_frame(start: u64, at: u64, code: &[u8]) -> Option<Range<u64>> {
    let length = at.checked_sub(start).filter(|&length| length <= MAX_LENGTH)?;
    let (before, after) = code.split_at_checked(usize::try_from(length).ok()?)?;
    let mut calls = [None; 2];
    for instruction in &mut Decoder::with_ip(64, before, start, DecoderOptions::NONE) {
        if instruction.flow_control() == FlowControl::Call && instruction.op0_kind() == OpKind::NearBranch64 {
            calls = [calls[1], Some(instruction.next_ip() - 1)];
        }
    }
    let from = calls.into_iter().flatten().next().unwrap_or(at);
    let last = Decoder::with_ip(64, after, at, DecoderOptions::NONE)
        .into_iter()
        .find(|instruction| instruction.flow_control() != FlowControl::Next)?;
    Some(from..last.next_ip())
}
