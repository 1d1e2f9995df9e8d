//! The instruction near the beginning of a function at which a probe serves best.
//!
//! Some instructions the kernel emulates, which spares a second trap. And when the breakpoint is hit, the kernel has the
//! thread one byte behind it for a moment (`bpf/uprobes.h`): of an instruction of one byte it would be open whether it was
//! executed. Of a push the stack pointer tells.

use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::image::Image;
use crate::breakpoints::cost::emulates;

/// Instructions that are looked at: those of a prologue.
const MOST: usize = 10;

/// A place for a probe at the beginning of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The instruction. Whatever enters the function comes there, once.
    pub vaddr: u64,
    /// Words that were pushed before it, onto the return address.
    pub words: u64,
    /// One trap and not two.
    pub is_emulated: bool,
}

/// Finds it.
pub fn entry(image: &Image<'_>, function: &Range<u64>) -> Entry {
    let targets: Vec<u64> = image
        .instructions(function)
        .filter(|instruction| instruction.op0_kind() == OpKind::NearBranch64)
        .map(|instruction| instruction.near_branch_target())
        .collect();
    let mut info = InstructionInfoFactory::new();
    let mut words = 0;
    let mut best = None;
    for instruction in image.instructions(function).take(MOST) {
        let vaddr = instruction.ip();
        if vaddr > function.start && targets.contains(&vaddr) {
            break;
        }
        let here = Entry {
            vaddr,
            words,
            is_emulated: emulates(&instruction),
        };
        if here.is_emulated {
            return here;
        }
        if instruction.len() > 1 {
            best = best.or(Some(here));
        }
        let is_push = instruction.mnemonic() == Mnemonic::Push;
        if instruction.flow_control() != FlowControl::Next
            || changes_arguments(&instruction, &mut info, is_push)
        {
            break;
        }
        words += u64::from(is_push);
    }
    best.unwrap_or(Entry {
        vaddr: function.start,
        words: 0,
        is_emulated: false,
    })
}

/// Does it write what the probe reads: an argument, or the stack pointer otherwise than by a push?
fn changes_arguments(instruction: &Instruction, info: &mut InstructionInfoFactory, is_push: bool) -> bool {
    let arguments = [Register::RDI, Register::RSI, Register::RDX];
    let used = info.info(instruction).used_registers();
    used.iter().filter(|used| writes(used.access())).any(|used| {
        let register = used.register().full_register();
        arguments.contains(&register) || (register == Register::RSP && !is_push)
    })
}

fn writes(access: OpAccess) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}
