//! Evaluates call frame instructions into rows, for the table builder.
//!
//! gimli decodes the instructions and has an evaluator too. This one keeps only the registers of a walk, in
//! an array, and so costs a third and cannot be made to copy kilobytes for each byte of hostile input. Tests
//! compare the two on whole libraries. Semantics: DWARF 5, section 6.4.2.

use gimli::{CallFrameInstruction, CallFrameInstructionIter, UnwindExpression};

use crate::abi;

/// What all parsing here reads from.
pub(crate) type Slice<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;

/// Registers that a row speaks of: the sixteen general ones and the return address.
pub(crate) const NR_REGS: usize = abi::MS_NR_REGS as usize;

/// States that `DW_CFA_remember_state` may stack up. Compilers need two.
const MAX_REMEMBERED: usize = 8;

/// How the canonical frame address is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cfa {
    /// Nothing said yet.
    Unset,
    RegisterOffset {
        register: u16,
        offset: i64,
    },
    Expression(UnwindExpression<usize>),
}

/// How one register of the caller is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterRule {
    /// Nothing said: the psABI decides.
    Default,
    Undefined,
    SameValue,
    /// Saved at CFA + n.
    Offset(i64),
    /// The value is CFA + n.
    ValOffset(i64),
    Register(u16),
    /// Saved at the address that the expression yields.
    Expression(UnwindExpression<usize>),
    ValExpression,
}

/// The rules in force over a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cfa: Cfa,
    pub(crate) registers: [RegisterRule; NR_REGS],
}

impl Row {
    pub(crate) const EMPTY: Row = Row {
        cfa: Cfa::Unset,
        registers: [RegisterRule::Default; NR_REGS],
    };

    fn set(&mut self, register: gimli::Register, rule: RegisterRule) {
        if let Some(place) = self.registers.get_mut(usize::from(register.0)) {
            *place = rule;
        }
    }
}

/// Instructions that make no sense where they stand. The rows before them are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// Where the row starts that could not be completed.
    pub(crate) from: u64,
}

/// A program of call frame instructions and what it needs to run.
pub(crate) struct Program<'a> {
    pub(crate) instructions: CallFrameInstructionIter<'a, Slice<'a>>,
    pub(crate) code_align: u64,
    pub(crate) data_align: i64,
}

/// Runs the initial instructions of a CIE.
pub(crate) fn initial_row(program: Program<'_>) -> Result<Row, Invalid> {
    let mut initial = Row::EMPTY;
    run(program, None, 0, |_, row| initial = *row)?;
    Ok(initial)
}

/// Runs the instructions of an FDE that starts at `start`, and calls `each` with every row and where it
/// begins, in rising order. The last row holds up to the end of the FDE.
pub(crate) fn rows(
    program: Program<'_>,
    initial: &Row,
    start: u64,
    each: impl FnMut(u64, &Row),
) -> Result<(), Invalid> {
    run(program, Some(initial), start, each)
}

fn run(
    mut program: Program<'_>,
    initial: Option<&Row>,
    start: u64,
    mut each: impl FnMut(u64, &Row),
) -> Result<(), Invalid> {
    let mut row = initial.copied().unwrap_or(Row::EMPTY);
    let mut remembered = Vec::new();
    let mut at = start;
    loop {
        let invalid = Invalid { from: at };
        let instruction = match program.instructions.next() {
            Ok(Some(instruction)) => instruction,
            Ok(None) => {
                each(at, &row);
                return Ok(());
            }
            Err(_) => return Err(invalid),
        };
        let next = match instruction {
            CallFrameInstruction::AdvanceLoc { delta } => u64::from(delta)
                .checked_mul(program.code_align)
                .and_then(|delta| at.checked_add(delta))
                .ok_or(invalid)?,
            CallFrameInstruction::SetLoc { address } if address >= at => address,
            CallFrameInstruction::SetLoc { .. } => return Err(invalid),
            other => {
                apply(&other, program.data_align, &mut row, initial, &mut remembered).ok_or(invalid)?;
                continue;
            }
        };
        if next > at {
            each(at, &row);
            at = next;
        }
    }
}

/// One instruction that changes the row; `None` if it cannot stand here.
fn apply(
    instruction: &CallFrameInstruction<usize>,
    data_align: i64,
    row: &mut Row,
    initial: Option<&Row>,
    remembered: &mut Vec<Row>,
) -> Option<()> {
    use CallFrameInstruction as I;
    use RegisterRule as R;

    let factored = |n: i64| n.wrapping_mul(data_align);
    match *instruction {
        I::DefCfa { register, offset } => {
            row.cfa = Cfa::RegisterOffset {
                register: register.0,
                offset: i64::try_from(offset).ok()?,
            };
        }
        I::DefCfaSf {
            register,
            factored_offset,
        } => {
            row.cfa = Cfa::RegisterOffset {
                register: register.0,
                offset: factored(factored_offset),
            };
        }
        I::DefCfaRegister { register: new } => match &mut row.cfa {
            Cfa::RegisterOffset { register, .. } => *register = new.0,
            _ => return None,
        },
        I::DefCfaOffset { offset: new } => match &mut row.cfa {
            Cfa::RegisterOffset { offset, .. } => *offset = i64::try_from(new).ok()?,
            _ => return None,
        },
        I::DefCfaOffsetSf { factored_offset } => match &mut row.cfa {
            Cfa::RegisterOffset { offset, .. } => *offset = factored(factored_offset),
            _ => return None,
        },
        I::DefCfaExpression { expression } => row.cfa = Cfa::Expression(expression),
        I::Undefined { register } => row.set(register, R::Undefined),
        I::SameValue { register } => row.set(register, R::SameValue),
        I::Offset {
            register,
            factored_offset,
        } => {
            row.set(
                register,
                R::Offset(factored(i64::try_from(factored_offset).ok()?)),
            );
        }
        I::OffsetExtendedSf {
            register,
            factored_offset,
        } => {
            row.set(register, R::Offset(factored(factored_offset)));
        }
        I::ValOffset {
            register,
            factored_offset,
        } => {
            row.set(
                register,
                R::ValOffset(factored(i64::try_from(factored_offset).ok()?)),
            );
        }
        I::ValOffsetSf {
            register,
            factored_offset,
        } => {
            row.set(register, R::ValOffset(factored(factored_offset)));
        }
        I::Register {
            dest_register,
            src_register,
        } => row.set(dest_register, R::Register(src_register.0)),
        I::Expression { register, expression } => row.set(register, R::Expression(expression)),
        I::ValExpression { register, .. } => row.set(register, R::ValExpression),
        I::Restore { register } => {
            // registers beyond those of a walk are not kept, and not missed
            let rule = initial?.registers.get(usize::from(register.0)).copied();
            row.set(register, rule.unwrap_or(R::Default));
        }
        I::RememberState => {
            if remembered.len() >= MAX_REMEMBERED {
                return None;
            }
            remembered.push(*row);
        }
        I::RestoreState => *row = remembered.pop()?,
        I::ArgsSize { .. } | I::Nop => {}
        // those that advance are handled by the caller, and the rest belongs to other processors
        _ => return None,
    }
    Some(())
}
