//! One row of call frame information → one `ms_rule` of `bpf/abi.h`.

use crate::abi;
use crate::cfi::{Cfa, RegisterRule, Row};
use crate::expression::{self, Form};

/// Why a row has no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inexpressible {
    /// The CFA is an expression of no known form.
    CfaExpression,
    /// The CFA starts from no general register, or its offset does not fit.
    CfaRegister,
    /// The return address is neither at CFA - 8 nor in a register.
    ReturnAddress,
    /// The caller's stack pointer is not the CFA.
    StackPointer,
    /// A signal frame that is not laid out as the kernel does it.
    SignalFrame,
}

/// The registers that a called function must keep, in the order of `ms_rule.saved`.
const SAVED: [usize; abi::MS_NR_SAVED as usize] = [
    abi::MS_REG_RBX as usize,
    abi::MS_REG_RBP as usize,
    abi::MS_REG_R12 as usize,
    abi::MS_REG_R13 as usize,
    abi::MS_REG_R14 as usize,
    abi::MS_REG_R15 as usize,
];

const RSP: usize = abi::MS_REG_RSP as usize;
const RIP: usize = abi::MS_REG_RIP as usize;

/// Where the kernel puts each register, by DWARF number, in words from `MS_UCONTEXT_REGS`
/// (`struct sigcontext_64` in arch/x86/include/uapi/asm/sigcontext.h).
const UCONTEXT_WORD: [i64; abi::MS_NR_REGS as usize] =
    [13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7, 16];

/// The rule for `row`. `section` is what its expressions point into; `signal` tells that the augmentation
/// of the CIE marks a signal frame.
pub(crate) fn rule(row: &Row, signal: bool, section: &[u8]) -> Result<abi::ms_rule, Inexpressible> {
    if signal {
        return signal_frame(row, section).ok_or(Inexpressible::SignalFrame);
    }
    let mut rule = abi::ms_rule::default();
    match row.registers[RIP] {
        RegisterRule::Undefined => {
            rule.cfa = abi::MS_CFA_ROOT as u8;
            return Ok(rule);
        }
        RegisterRule::Offset(-8) => rule.ra = abi::MS_RA_AT_CFA as u8,
        RegisterRule::Register(n) if u32::from(n) < abi::MS_REG_RIP => {
            rule.ra = (abi::MS_RA_IN_REG + u32::from(n)) as u8;
        }
        _ => return Err(Inexpressible::ReturnAddress),
    }
    if !matches!(
        row.registers[RSP],
        RegisterRule::Default | RegisterRule::ValOffset(0)
    ) {
        return Err(Inexpressible::StackPointer);
    }
    let form = cfa(row, section, &mut rule)?;
    let origin = match form {
        Form::Deref { register, .. } if saves_beside(row, register, section) => {
            rule.cfa = abi::MS_CFA_REALIGNED as u8;
            Form::Sum { register, offset: 8 }
        }
        _ => form,
    };
    for (slot, &register) in rule.saved.iter_mut().zip(&SAVED) {
        // an offset from the CFA says nothing about the distance to another register
        *slot = match row.registers[register] {
            RegisterRule::Offset(_) if origin != form => abi::MS_SAVED_LOST as i8,
            saved => slot_of(saved, origin, section),
        };
    }
    rule.window |= window(&rule);
    Ok(rule)
}

/// Whether a register is saved at a fixed distance from the value of `base` itself.
///
/// gcc realigns a stack by keeping the CFA in a slot, `*(rbp - n)`, and saves registers at `rbp + 0`, `- 8`
/// and so on (gcc/config/i386/i386.cc, `ix86_expand_prologue`, "dynamic realign argument pointer").
fn saves_beside(row: &Row, base: u16, section: &[u8]) -> bool {
    SAVED.iter().any(|&register| match row.registers[register] {
        RegisterRule::Expression(expression) => matches!(
            bytes(expression, section).and_then(expression::recognise),
            Some(Form::Sum { register, .. }) if register == base
        ),
        _ => false,
    })
}

/// Sets the CFA fields of `rule`; returns the CFA's form for comparison with expressions of registers.
fn cfa(row: &Row, section: &[u8], rule: &mut abi::ms_rule) -> Result<Form, Inexpressible> {
    let form = match row.cfa {
        Cfa::Unset => return Err(Inexpressible::CfaRegister),
        Cfa::RegisterOffset { register, offset } => Form::Sum { register, offset },
        Cfa::Expression(expression) => bytes(expression, section)
            .and_then(expression::recognise)
            .ok_or(Inexpressible::CfaExpression)?,
    };
    let (kind, register, offset, add) = match form {
        Form::Sum { register, offset } => (abi::MS_CFA_REG, register, offset, 0),
        Form::Deref {
            register,
            offset,
            add,
        } => (abi::MS_CFA_DEREF, register, offset, add),
        Form::DerefIndexed {
            register,
            offset,
            index,
            add,
        } => {
            if u32::from(index) >= abi::MS_REG_RIP {
                return Err(Inexpressible::CfaRegister);
            }
            rule.window = (index as u8) << abi::MS_INDEX_SHIFT;
            (abi::MS_CFA_DEREF_INDEXED, register, offset, add)
        }
        Form::Plt { threshold } => (abi::MS_CFA_PLT, abi::MS_REG_RSP as u16, i64::from(threshold), 0),
    };
    if u32::from(register) >= abi::MS_REG_RIP {
        return Err(Inexpressible::CfaRegister);
    }
    rule.cfa = kind as u8;
    rule.reg = register as u8;
    rule.off = i32::try_from(offset).map_err(|_| Inexpressible::CfaRegister)?;
    rule.add = i16::try_from(add).map_err(|_| Inexpressible::CfaRegister)?;
    Ok(form)
}

/// The slot of a saved register: where the caller's value is, in words below `origin`.
fn slot_of(rule: RegisterRule, origin: Form, section: &[u8]) -> i8 {
    let distance_to = match rule {
        RegisterRule::Default | RegisterRule::SameValue => return abi::MS_SAVED_SAME as i8,
        RegisterRule::Offset(offset) => Some(offset),
        RegisterRule::Expression(expression) => bytes(expression, section)
            .and_then(expression::recognise)
            .and_then(|address| distance(address, origin)),
        _ => None,
    };
    let slot = distance_to
        .filter(|offset| offset % 8 == 0)
        .map(|offset| offset / -8);
    match slot {
        Some(n) if (1..=i64::from(abi::MS_SAVED_MAX)).contains(&n) => n as i8,
        _ => abi::MS_SAVED_LOST as i8,
    }
}

/// `address` - `origin`, where both start from the same value.
fn distance(address: Form, origin: Form) -> Option<i64> {
    match (address, origin) {
        (
            Form::Sum {
                register: r,
                offset: a,
            },
            Form::Sum { register, offset },
        ) if r == register => a.checked_sub(offset),
        (
            Form::Deref {
                register: r,
                offset: o,
                add: a,
            },
            Form::Deref {
                register,
                offset,
                add,
            },
        ) if r == register && o == offset => a.checked_sub(add),
        _ => None,
    }
}

/// How many words below the CFA (or what stands in for it) to fetch at once.
fn window(rule: &abi::ms_rule) -> u8 {
    let slots = rule
        .saved
        .iter()
        .copied()
        .filter(|&n| n > 0 && i32::from(n) <= abi::MS_WINDOW_WORDS);
    slots.max().unwrap_or(1).max(1) as u8
}

/// A frame whose registers lie in the `ucontext` that the kernel pushed for a signal handler.
///
/// glibc describes each register by an expression `rsp + n` (sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c).
/// All that are given must point into the same `ucontext`, and those that a walk needs must be given.
fn signal_frame(row: &Row, section: &[u8]) -> Option<abi::ms_rule> {
    let saved_at = |register: usize| match row.registers[register] {
        RegisterRule::Expression(expression) => bytes(expression, section).and_then(expression::recognise),
        _ => None,
    };
    let Form::Sum {
        register: base,
        offset,
    } = saved_at(RIP)?
    else {
        return None;
    };
    let regs = offset.checked_sub(8 * UCONTEXT_WORD[RIP])?;
    for (register, rule) in row.registers.iter().enumerate() {
        let needed = register == RSP || SAVED.contains(&register);
        match rule {
            RegisterRule::Default if !needed => continue,
            // rsp may also come as the CFA
            RegisterRule::Default if register == RSP => {
                let Cfa::Expression(cfa) = row.cfa else {
                    return None;
                };
                let cfa = expression::recognise(bytes(cfa, section)?)?;
                let offset = regs.checked_add(8 * UCONTEXT_WORD[RSP])?;
                if cfa
                    != (Form::Deref {
                        register: base,
                        offset,
                        add: 0,
                    })
                {
                    return None;
                }
            }
            _ => {
                let offset = regs.checked_add(8 * UCONTEXT_WORD[register])?;
                if saved_at(register)?
                    != (Form::Sum {
                        register: base,
                        offset,
                    })
                {
                    return None;
                }
            }
        }
    }
    if u32::from(base) >= abi::MS_REG_RIP {
        return None;
    }
    let off = i32::try_from(regs.checked_sub(i64::from(abi::MS_UCONTEXT_REGS))?).ok()?;
    Some(abi::ms_rule {
        cfa: abi::MS_CFA_SIGNAL as u8,
        reg: base as u8,
        off,
        ..Default::default()
    })
}

/// The rule of a bare `rt_sigreturn` trampoline: the kernel takes the `ucontext` from the stack pointer.
pub(crate) fn trampoline() -> abi::ms_rule {
    abi::ms_rule {
        cfa: abi::MS_CFA_SIGNAL as u8,
        reg: abi::MS_REG_RSP as u8,
        ..Default::default()
    }
}

/// The rule of code that has no caller.
pub(crate) fn root() -> abi::ms_rule {
    abi::ms_rule {
        cfa: abi::MS_CFA_ROOT as u8,
        ..Default::default()
    }
}

/// The rule of a function that has pushed so many words and uses no other register for its frame.
pub(crate) fn pushed(words: u8) -> abi::ms_rule {
    abi::ms_rule {
        cfa: abi::MS_CFA_REG as u8,
        reg: abi::MS_REG_RSP as u8,
        window: 1,
        off: 8 + 8 * i32::from(words),
        ..Default::default()
    }
}

/// The rule of code whose frame no rule can find.
pub(crate) fn unsupported() -> abi::ms_rule {
    abi::ms_rule {
        cfa: abi::MS_CFA_UNSUPPORTED as u8,
        ..Default::default()
    }
}

/// The rule of the code that `clone_gap.rs` finds: the old thread returns to what is on top of its stack.
pub(crate) fn clone_gap() -> abi::ms_rule {
    abi::ms_rule {
        cfa: abi::MS_CFA_CLONE as u8,
        ..pushed(0)
    }
}

fn bytes(expression: gimli::UnwindExpression<usize>, section: &[u8]) -> Option<&[u8]> {
    section.get(expression.offset..expression.offset.checked_add(expression.length)?)
}
