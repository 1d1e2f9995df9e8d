//! From the registers of one frame to those of its caller: by evaluated DWARF rules, by Go's function table, or
//! from the frame that the kernel pushes for a signal.

use gimli::{CfaRule, EvaluationResult, RegisterRule};

use crate::abi;
use crate::end::WalkEnd;
use crate::gopclntab::{GoFrame, GoRbp};
use crate::unwind_data::{FrameRules, UnwindData};
use crate::walker::{RAX, RBP, RIP, RSP, Registers, StackCopy};

/// Operations of one expression. The longest real ones have about ten.
const MAX_OPERATIONS: u32 = 256;

/// `mov $15, %rax; syscall`, the code that signal handlers return to.
const TRAMPOLINE: &[u8] = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05";

/// DWARF numbers of the registers in `struct sigcontext_64`, in its order
/// (arch/x86/include/uapi/asm/sigcontext.h).
const SIGCONTEXT: [usize; abi::MS_UCONTEXT_NR_REGS as usize] =
    [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];

/// A caller's registers.
pub(crate) struct Caller {
    pub(crate) registers: Registers,
    /// This frame was pushed by the kernel, so the caller did not call but was interrupted.
    pub(crate) signal: bool,
    /// The return address was in a register.
    pub(crate) address_in_register: bool,
}

/// The caller by the rules of this address.
pub(crate) fn by_rules(
    rules: &FrameRules<'_, '_>,
    registers: &Registers,
    stack: &StackCopy<'_>,
) -> Result<Caller, WalkEnd> {
    let frame = Frame {
        rules,
        registers,
        stack,
    };
    let return_address = rules.row.register(gimli::X86_64::RA);
    if matches!(return_address, Some(RegisterRule::Undefined)) {
        return Err(WalkEnd::Root);
    }
    if rules.is_frameless {
        return Err(WalkEnd::Unsupported);
    }
    let cfa = frame.cfa()?;
    let mut caller = Registers {
        valid: 0,
        ..*registers
    };
    for register in 0..caller.regs.len() {
        // also those that a called function may change: who relies on one, at a return address, says so
        if register != RIP && register != RSP {
            caller.set(register, registers.get(register));
        }
    }
    caller.set(RSP, Some(cfa));
    for (register, rule) in rules.row.registers() {
        let number = usize::from(register.0);
        if number < caller.regs.len() && number != RIP {
            // a register that cannot be had is lost; whether that matters shows later
            caller.set(number, frame.restore(number, rule, cfa).ok().flatten());
        }
    }
    let rule = return_address.ok_or(WalkEnd::Unsupported)?;
    caller.set(RIP, frame.restore(RIP, &rule, cfa)?);
    Ok(Caller {
        registers: caller,
        signal: rules.signal,
        address_in_register: matches!(rule, RegisterRule::Register(_)),
    })
}

/// The caller of a frame of Go code.
pub(crate) fn by_go_frame(
    frame: GoFrame,
    registers: &Registers,
    stack: &StackCopy<'_>,
) -> Result<Caller, WalkEnd> {
    let (above, rbp) = match frame {
        GoFrame::Root => return Err(WalkEnd::Root),
        GoFrame::Unsupported => return Err(WalkEnd::Unsupported),
        GoFrame::Returns { above, rbp } => (above, rbp),
    };
    let sp = registers.get(RSP).ok_or(WalkEnd::LostRegister)?;
    let return_address = sp.wrapping_add(above.into());
    let mut caller = Registers {
        valid: 0,
        ..*registers
    };
    caller.set(RIP, Some(stack.word(return_address).ok_or(WalkEnd::Unreadable)?));
    caller.set(RSP, Some(return_address.wrapping_add(8)));
    caller.set(
        RBP,
        match rbp {
            GoRbp::Unchanged => registers.get(RBP),
            GoRbp::BelowReturnAddress => stack.word(return_address.wrapping_sub(8)),
            GoRbp::Unknown => None,
        },
    );
    Ok(Caller {
        registers: caller,
        signal: false,
        address_in_register: false,
    })
}

/// The caller of clone() behind its system call: rax is 0 in the new thread, which has none.
pub(crate) fn by_clone_gap(
    registers: &Registers,
    stack: &StackCopy<'_>,
    is_exact: bool,
) -> Result<Caller, WalkEnd> {
    // nothing is called from there
    let result = registers
        .get(RAX)
        .filter(|_| is_exact)
        .ok_or(WalkEnd::LostRegister)?;
    if result == 0 {
        return Err(WalkEnd::Root);
    }
    by_pushed(0, registers, stack)
}

/// The caller of code that has pushed so many words, and nothing else.
pub(crate) fn by_pushed(words: u8, registers: &Registers, stack: &StackCopy<'_>) -> Result<Caller, WalkEnd> {
    let sp = registers.get(RSP).ok_or(WalkEnd::LostRegister)?;
    let sp = sp.wrapping_add(8 * u64::from(words));
    let mut caller = *registers;
    caller.set(RIP, Some(stack.word(sp).ok_or(WalkEnd::Unreadable)?));
    caller.set(RSP, Some(sp.wrapping_add(8)));
    Ok(Caller {
        registers: caller,
        signal: false,
        address_in_register: false,
    })
}

struct Frame<'a, 'b> {
    rules: &'a FrameRules<'b, 'b>,
    registers: &'a Registers,
    stack: &'a StackCopy<'a>,
}

impl Frame<'_, '_> {
    fn register(&self, number: u16) -> Result<u64, WalkEnd> {
        if usize::from(number) >= self.registers.regs.len() {
            return Err(WalkEnd::Unsupported);
        }
        self.registers
            .get(usize::from(number))
            .ok_or(WalkEnd::LostRegister)
    }

    fn word(&self, address: u64) -> Result<u64, WalkEnd> {
        self.stack.word(address).ok_or(WalkEnd::Unreadable)
    }

    fn cfa(&self) -> Result<u64, WalkEnd> {
        match *self.rules.row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Ok(self.register(register.0)?.wrapping_add_signed(offset))
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None),
        }
    }

    /// The caller's value of a register; `None` if it has none.
    fn restore(&self, register: usize, rule: &RegisterRule<usize>, cfa: u64) -> Result<Option<u64>, WalkEnd> {
        Ok(match *rule {
            RegisterRule::Undefined => None,
            RegisterRule::SameValue => self.registers.get(register),
            RegisterRule::Offset(offset) => Some(self.word(cfa.wrapping_add_signed(offset))?),
            RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(offset)),
            RegisterRule::Register(other) => Some(self.register(other.0)?),
            RegisterRule::Expression(expression) => Some(self.word(self.evaluate(expression, Some(cfa))?)?),
            RegisterRule::ValExpression(expression) => Some(self.evaluate(expression, Some(cfa))?),
            _ => return Err(WalkEnd::Unsupported),
        })
    }

    /// Runs an expression; those of registers start with the CFA on the stack (DWARF 5, section 6.4.2.3).
    fn evaluate(&self, expression: gimli::UnwindExpression<usize>, cfa: Option<u64>) -> Result<u64, WalkEnd> {
        let unsupported = |_| WalkEnd::Unsupported;
        let end = expression
            .offset
            .checked_add(expression.length)
            .ok_or(WalkEnd::Unsupported)?;
        let bytes = self
            .rules
            .section
            .get(expression.offset..end)
            .ok_or(WalkEnd::Unsupported)?;
        let bytes = gimli::EndianSlice::new(bytes, gimli::LittleEndian);
        let mut evaluation = gimli::Expression(bytes).evaluation(self.rules.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut state = evaluation.evaluate().map_err(unsupported)?;
        loop {
            let next = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory {
                    address,
                    size,
                    space: None,
                    ..
                } => {
                    let value = match size {
                        1 => self.stack.read(address).map(u8::from_le_bytes).map(u64::from),
                        2 => self.stack.read(address).map(u16::from_le_bytes).map(u64::from),
                        4 => self.stack.read(address).map(u32::from_le_bytes).map(u64::from),
                        8 => self.stack.word(address),
                        _ => return Err(WalkEnd::Unsupported),
                    };
                    evaluation.resume_with_memory(gimli::Value::Generic(value.ok_or(WalkEnd::Unreadable)?))
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(gimli::Value::Generic(self.register(register.0)?))
                }
                EvaluationResult::RequiresCallFrameCfa => {
                    evaluation.resume_with_call_frame_cfa(cfa.ok_or(WalkEnd::Unsupported)?)
                }
                _ => return Err(WalkEnd::Unsupported),
            };
            state = next.map_err(unsupported)?;
        }
        let value = evaluation.value_result().ok_or(WalkEnd::Unsupported)?;
        value.to_u64(u64::MAX).map_err(unsupported)
    }
}

/// Whether this address is one of the two at which a thread can stand in a signal trampoline, or, if it is that of the `leaf`,
/// the one behind it, where the kernel would return to that comes back from the handler.
///
/// Unwind information is no help: musl has none, and Go describes an ordinary function.
pub(crate) fn is_trampoline(data: &UnwindData, vaddr: u64, leaf: bool) -> bool {
    let here = |start: u64| data.code_at(start, TRAMPOLINE.len()) == Some(TRAMPOLINE);
    let begins_before = |bytes: u64| vaddr.checked_sub(bytes).is_some_and(here);
    here(vaddr) || begins_before(7) || leaf && begins_before(TRAMPOLINE.len() as u64)
}

/// What the kernel saved before it called a handler: at the trampoline rsp points at the `ucontext`.
pub(crate) fn from_kernel_signal_frame(
    registers: &Registers,
    stack: &StackCopy<'_>,
) -> Result<Caller, WalkEnd> {
    let context = registers.get(RSP).ok_or(WalkEnd::LostRegister)?;
    let mut address = context.wrapping_add(u64::from(abi::MS_UCONTEXT_REGS));
    let mut caller = Registers {
        valid: 0,
        ..*registers
    };
    for register in SIGCONTEXT {
        caller.set(register, Some(stack.word(address).ok_or(WalkEnd::Unreadable)?));
        address = address.wrapping_add(8);
    }
    Ok(Caller {
        registers: caller,
        signal: true,
        address_in_register: false,
    })
}
