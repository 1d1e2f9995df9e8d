//! The instructions of a trace in LuaJIT's intermediate representation (lj_ir.h), as far as their operands and types tell
//! something: opcodes have other numbers in other versions.

use moonscope_process::RemoteMemory;

/// Number of the first instruction that is no constant.
const REF_BIAS: u32 = 0x8000;
/// Instructions are numbered with 16 bits.
const REF_END: u32 = 0x1_0000;
/// Bytes of one: two operands of 2 bytes, type, opcode, 2 bytes of other use.
const SIZE: usize = 8;
/// `IRT_GUARD` and the type.
const TYPE_AND_GUARD: u8 = 0x80 | 0x1f;
/// `IR_EQ`: comparisons have the first opcodes in all of 2.1, for LuaJIT turns them into each other by their bits.
const EQ: u8 = 8;

/// One instruction.
#[derive(Clone, Copy)]
pub(super) struct IrInstruction([u8; SIZE]);

impl IrInstruction {
    /// Its first operand, which is the number of another one, or something else.
    pub(super) fn op1(self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    /// Its second operand.
    pub(super) fn op2(self) -> u16 {
        u16::from_le_bytes([self.0[2], self.0[3]])
    }

    /// Its type, with `IRT_GUARD`.
    pub(super) fn kind(self) -> u8 {
        self.0[4] & TYPE_AND_GUARD
    }

    /// `IR_EQ`.
    pub(super) fn is_eq(self) -> bool {
        self.0[5] == EQ
    }
}

/// Those of one trace that are no constants.
pub(super) struct Ir(Vec<IrInstruction>);

impl Ir {
    /// `ir` is the address of number 0, which nobody has, and `nins` the number behind the last. Empty if they cannot be read.
    pub(super) fn read(memory: &impl RemoteMemory, ir: u64, nins: u32) -> Self {
        let count = nins.min(REF_END).saturating_sub(REF_BIAS) as usize;
        let mut bytes = vec![0; count * SIZE];
        let first = ir.wrapping_add(u64::from(REF_BIAS) * SIZE as u64);
        if memory.read_exact(first, &mut bytes).is_err() {
            return Self(Vec::new());
        }
        let instructions = bytes.as_chunks::<SIZE>().0.iter();
        Self(instructions.map(|bytes| IrInstruction(*bytes)).collect())
    }

    /// The instruction of this number.
    pub(super) fn get(&self, reference: u16) -> Option<IrInstruction> {
        let at = u32::from(reference).checked_sub(REF_BIAS)?;
        self.0.get(at as usize).copied()
    }

    /// All, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, IrInstruction)> {
        let numbered = (REF_BIAS..REF_END).zip(&self.0);
        numbered.map(|(number, instruction)| (number as u16, *instruction))
    }
}
