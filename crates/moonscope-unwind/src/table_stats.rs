//! What a file contained, and what of it a table could not use.

use crate::convert::Inexpressible;

/// What became of the unwind information of a file. What is about damage should be 0 or nearly so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// FDEs taken from `.eh_frame`.
    pub eh_frame_entries: u32,
    /// FDEs taken from `.debug_frame`: those for code that `.eh_frame` does not describe.
    pub debug_frame_entries: u32,
    /// Go functions that neither of the two describes.
    pub go_functions: u32,
    /// Signal trampolines found by their code.
    pub trampolines: u32,
    /// Ends of stacks found by their code: of coroutines, and the entry point.
    pub stack_ends: u32,
    /// Places where a thread and the one that it makes stand at the same instruction.
    pub clone_gaps: u32,
    /// Stubs that the linker did not describe, or parts of them.
    pub stubs: u32,
    /// Rows without an expressible rule, by reason.
    pub unsupported: Unsupported,
    /// Rows that save a register where a rule cannot say.
    pub rows_with_lost_registers: u32,
    /// FDEs that overlap another one.
    pub overlaps: u32,
    /// FDEs for addresses outside the executable segments: code that the linker removed.
    pub outside_code: u32,
    /// Entries that do not parse.
    pub broken_entries: u32,
    /// Entries left out because the file asked for too much work.
    pub over_budget: u32,
    /// Bytes of code that something describes.
    pub described_bytes: u64,
}

impl TableStats {
    /// What is wrong with the unwind information, in words; `None`: nothing.
    pub fn damage(&self) -> Option<String> {
        let entries = |count: u32| match count {
            1 => "1 entry".to_owned(),
            count => format!("{count} entries"),
        };
        let broken = self.broken_entries + self.unsupported.invalid;
        let parts = [
            (broken, "cannot be read"),
            (self.over_budget, "would take more work than honest ones"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", entries(*count)))
            .collect();
        (!parts.is_empty()).then(|| format!("its unwind information is damaged: {}", parts.join(", ")))
    }
}

/// Rows without an expressible rule, by what was inexpressible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsupported {
    /// A CFA expression of no known form.
    pub cfa_expression: u32,
    /// A CFA that starts from no general register, or whose offset does not fit.
    pub cfa_register: u32,
    /// A return address that is neither at CFA - 8 nor in a register.
    pub return_address: u32,
    /// A caller's stack pointer that is not the CFA (`longjmp`).
    pub stack_pointer: u32,
    /// A signal frame that is not the kernel's.
    pub signal_frame: u32,
    /// Instructions that are invalid where they stand.
    pub invalid: u32,
}

impl Unsupported {
    /// All of them.
    pub fn total(&self) -> u32 {
        let Unsupported {
            cfa_expression,
            cfa_register,
            return_address,
            stack_pointer,
            signal_frame,
            invalid,
        } = *self;
        cfa_expression + cfa_register + return_address + stack_pointer + signal_frame + invalid
    }

    pub(crate) fn count(&mut self, why: Inexpressible) {
        let counter = match why {
            Inexpressible::CfaExpression => &mut self.cfa_expression,
            Inexpressible::CfaRegister => &mut self.cfa_register,
            Inexpressible::ReturnAddress => &mut self.return_address,
            Inexpressible::StackPointer => &mut self.stack_pointer,
            Inexpressible::SignalFrame => &mut self.signal_frame,
        };
        *counter += 1;
    }
}
