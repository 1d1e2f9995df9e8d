//! Bytecode instructions, as far as the name of a called function needs them (lj_bc.h).
//!
//! Opcodes 0 to 88 (`ISLT` to `JMP`) have the same numbers and operands in all of 2.1: compared in
//! 2.1.0-beta3 (2017), OpenResty's forks of 2017, 2023 and 2024, Debian's snapshot of 2022 and upstream of
//! 2026; the dump format (`BCDUMP_VERSION`) is 2 in all of them. In 2026 seven bit operators came in between
//! `JMP` and the function headers, which moved the headers from 89 to 96. No header stands inside a body, so
//! 89 to 95 are those operators wherever the method below meets them. LuaJIT 2.0 has other numbers.

/// One instruction: 32 bits, the opcode lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction(pub u32);

/// Opcodes that matter by name.
pub mod op {
    #![allow(missing_docs)]
    /// `ISLT` to `ISNEP`.
    pub const COMPARISONS: std::ops::RangeInclusive<u8> = 0..=11;
    /// `ISTC` to `ISF`.
    pub const TESTS: std::ops::RangeInclusive<u8> = 12..=15;
    pub const MOV: u8 = 18;
    pub const KNIL: u8 = 44;
    pub const UGET: u8 = 45;
    pub const UCLO: u8 = 50;
    pub const GGET: u8 = 54;
    pub const TGETS: u8 = 57;
    pub const CALLM: u8 = 65;
    pub const CALL: u8 = 66;
    pub const CALLMT: u8 = 67;
    pub const CALLT: u8 = 68;
    pub const ITERC: u8 = 69;
    pub const ITERN: u8 = 70;
    pub const ISNEXT: u8 = 72;
    pub const FORI: u8 = 77;
    pub const JFORI: u8 = 78;
    /// `FORI` to `JLOOP`: beginnings and ends of loops, and what the compiler puts in their place.
    pub const LOOPS: std::ops::RangeInclusive<u8> = 77..=87;
    pub const JMP: u8 = 88;
    /// `BNOT` to `BSAR`.
    pub const BIT_OPERATORS: std::ops::RangeInclusive<u8> = 89..=95;
}

/// What an instruction does with its operand A (`bcmode_a`), as far as names need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandA {
    /// It writes this slot.
    Destination,
    /// It writes this slot and those above.
    Base,
    /// It writes no slot.
    Other,
}

/// What an instruction can call (`bcmode_mm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// The function in a slot.
    Function,
    /// A metamethod of this name.
    Metamethod(&'static str),
    /// Nothing.
    Nothing,
}

impl Instruction {
    /// The opcode.
    pub fn op(self) -> u8 {
        self.0 as u8
    }

    /// Operand A.
    pub fn a(self) -> u32 {
        self.0 >> 8 & 0xff
    }

    /// Operand B.
    pub fn b(self) -> u32 {
        self.0 >> 24
    }

    /// Operand C.
    pub fn c(self) -> u32 {
        self.0 >> 16 & 0xff
    }

    /// Operand D, which is B and C together.
    pub fn d(self) -> u32 {
        self.0 >> 16
    }

    /// What it does with operand A.
    pub fn operand_a(self) -> OperandA {
        match self.op() {
            // ISTC ISFC; MOV to LEN; ADDVN to KPRI; UGET; FNEW TNEW TDUP GGET; TGETV to TGETR.
            12 | 13 | 18..=43 | 45 | 51..=54 | 56..=59 => OperandA::Destination,
            op if op::BIT_OPERATORS.contains(&op) => OperandA::Destination,
            // KNIL; TSETM; CALLM to RETM; FORI to JITERL.
            44 | 63 | 65..=73 | 77..=84 => OperandA::Base,
            _ => OperandA::Other,
        }
    }

    /// Comparisons, tests and loops: straight code ends there.
    pub fn is_border(self) -> bool {
        [op::COMPARISONS, op::TESTS, op::LOOPS]
            .iter()
            .any(|those| those.contains(&self.op()))
    }

    /// It begins a loop, or a turn of one.
    pub fn loops(self) -> bool {
        let goes_back = self.op() == op::JMP && self.jump(0).is_none();
        goes_back || self.op() == op::ISNEXT || op::LOOPS.contains(&self.op())
    }

    /// `RETM` to `RET1`.
    pub fn is_return(self) -> bool {
        matches!(self.op(), 73..=76)
    }

    /// Where it may jump forwards to if it stands at this position (`BCBIAS_J`); ends of loops jump backwards only.
    pub fn jump(self, from: usize) -> Option<usize> {
        const BIAS: usize = 0x8000;
        let jumps = matches!(self.op(), op::JMP | op::UCLO | op::ISNEXT | op::FORI | op::JFORI);
        let distance = (self.d() as usize).checked_sub(BIAS)?;
        jumps.then_some(from + 1 + distance)
    }

    /// It writes this slot.
    pub fn fills(self, slot: u32) -> bool {
        match self.operand_a() {
            OperandA::Base => slot >= self.a() && (self.op() != op::KNIL || slot <= self.d()),
            OperandA::Destination => slot == self.a(),
            OperandA::Other => false,
        }
    }

    /// What it can call.
    pub fn calls(self) -> Calls {
        Calls::Metamethod(match self.op() {
            0 | 1 => "__lt",
            2 | 3 => "__le",
            4..=11 => "__eq",
            20 => "__unm",
            21 => "__len",
            22 | 27 | 32 => "__add",
            23 | 28 | 33 => "__sub",
            24 | 29 | 34 => "__mul",
            25 | 30 | 35 => "__div",
            26 | 31 | 36 => "__mod",
            37 => "__pow",
            38 => "__concat",
            // FNEW TNEW TDUP: a step of the garbage collector, which finalizes.
            51..=53 => "__gc",
            54 | 56..=59 => "__index",
            55 | 60..=64 => "__newindex",
            op::CALLM..=op::ITERN => return Calls::Function,
            _ => return Calls::Nothing,
        })
    }
}
