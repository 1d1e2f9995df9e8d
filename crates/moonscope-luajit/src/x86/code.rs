//! Instructions of a piece of code, and the few shapes of them that matter here.

use iced_x86::{Code as Op, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// A decoded piece of code.
pub(crate) struct Code {
    instructions: Vec<Instruction>,
}

impl Code {
    /// Decodes from the first byte on. The code of a VM is contiguous, without data in between.
    pub(crate) fn decode(bytes: &[u8], start: u64) -> Self {
        let decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        Self {
            instructions: decoder.into_iter().collect(),
        }
    }

    pub(crate) fn all(&self) -> &[Instruction] {
        &self.instructions
    }

    /// From the instruction at `addr`, or the first one behind it.
    pub(crate) fn from(&self, addr: u64) -> &[Instruction] {
        let at = self.instructions.partition_point(|insn| insn.ip() < addr);
        self.instructions.get(at..).unwrap_or_default()
    }

    /// The instructions that start in `[start, end)`.
    pub(crate) fn range(&self, start: u64, end: u64) -> &[Instruction] {
        let rest = self.from(start);
        let len = rest.partition_point(|insn| insn.ip() < end);
        rest.get(..len).unwrap_or_default()
    }

    /// The instructions before `addr`.
    pub(crate) fn before(&self, addr: u64) -> &[Instruction] {
        let at = self.instructions.partition_point(|insn| insn.ip() < addr);
        self.instructions.get(..at).unwrap_or_default()
    }
}

/// Address of a place in memory: a register and a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) base: Register,
    pub(crate) offset: i32,
}

fn place(insn: &Instruction) -> Option<Place> {
    (insn.memory_index() == Register::None && insn.segment_prefix() == Register::None).then(|| Place {
        base: insn.memory_base(),
        // the displacement is sign-extended to 64 bits when decoded
        offset: insn.memory_displacement64() as i32,
    })
}

/// A plain load: what register (as its 64-bit name), how many bytes, from where.
pub(crate) fn load(insn: &Instruction) -> Option<(Register, usize, Place)> {
    let to = insn.op0_register();
    let is_load = insn.mnemonic() == Mnemonic::Mov
        && insn.op0_kind() == OpKind::Register
        && insn.op1_kind() == OpKind::Memory
        && to.is_gpr();
    Some((to.full_register(), to.size(), place(insn).filter(|_| is_load)?))
}

/// A plain store of a register: the same, to where.
pub(crate) fn store(insn: &Instruction) -> Option<(Register, usize, Place)> {
    let from = insn.op1_register();
    let is_store = insn.mnemonic() == Mnemonic::Mov
        && insn.op0_kind() == OpKind::Memory
        && insn.op1_kind() == OpKind::Register
        && from.is_gpr();
    Some((
        from.full_register(),
        from.size(),
        place(insn).filter(|_| is_store)?,
    ))
}

/// A store of a 4-byte constant.
pub(crate) fn store_constant(insn: &Instruction) -> Option<(u32, Place)> {
    let is_store = insn.code() == Op::Mov_rm32_imm32 && insn.op0_kind() == OpKind::Memory;
    Some((insn.immediate32(), place(insn).filter(|_| is_store)?))
}

/// `op register, constant`; the register as its 64-bit name.
pub(crate) fn immediate(insn: &Instruction, mnemonic: Mnemonic) -> Option<(Register, i64)> {
    if insn.mnemonic() != mnemonic || insn.op_count() != 2 || insn.op0_kind() != OpKind::Register {
        return None;
    }
    let value = match insn.op1_kind() {
        OpKind::Immediate8
        | OpKind::Immediate32
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => insn.immediate(1),
        _ => return None,
    };
    Some((insn.op0_register().full_register(), value as i64))
}

/// `op a, b` with registers; both as their 64-bit names.
pub(crate) fn registers(insn: &Instruction, mnemonic: Mnemonic) -> Option<(Register, Register)> {
    (insn.mnemonic() == mnemonic
        && insn.op_count() == 2
        && insn.op0_kind() == OpKind::Register
        && insn.op1_kind() == OpKind::Register)
        .then(|| {
            (
                insn.op0_register().full_register(),
                insn.op1_register().full_register(),
            )
        })
}

/// `push register`.
pub(crate) fn push(insn: &Instruction) -> Option<Register> {
    (insn.code() == Op::Push_r64).then(|| insn.op0_register())
}

/// `pop register`.
pub(crate) fn pop(insn: &Instruction) -> Option<Register> {
    (insn.code() == Op::Pop_r64).then(|| insn.op0_register())
}

/// Target of a direct jump, conditional jump or call.
pub(crate) fn target(insn: &Instruction) -> Option<u64> {
    (insn.op_count() == 1 && insn.op0_kind() == OpKind::NearBranch64).then(|| insn.near_branch64())
}

/// Where a landing pad of CET stands before an instruction, it belongs to it.
pub(crate) fn with_landing_pad(before: &[Instruction], addr: u64) -> u64 {
    match before.last() {
        Some(pad) if pad.mnemonic() == Mnemonic::Endbr64 && pad.next_ip() == addr => pad.ip(),
        _ => addr,
    }
}

/// Number of a register in DWARF (psABI for x86-64, figure 3.36).
pub(crate) fn dwarf(register: Register) -> Option<u8> {
    Some(match register {
        Register::RBX => 3,
        Register::RBP => 6,
        Register::R12 => 12,
        Register::R13 => 13,
        Register::R14 => 14,
        Register::R15 => 15,
        _ => return None,
    })
}
