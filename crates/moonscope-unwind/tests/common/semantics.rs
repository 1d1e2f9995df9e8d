//! What a rule means and what a row of DWARF means, on made-up registers and memory.
//!
//! Two rules are the same if they lead from the same registers and memory to the same caller. The DWARF side
//! is evaluated by gimli alone and shares no code with the library.

use gimli::{CfaRule, EndianSlice, EvaluationResult, LittleEndian, RegisterRule, UnwindTableRow};
use moonscope_unwind::abi;

/// rbx, rbp, r12 to r15: the order of `ms_rule.saved`.
pub const SAVED: [usize; 6] = [3, 6, 12, 13, 14, 15];

/// Registers in the order of `struct sigcontext_64`.
const SIGCONTEXT: [usize; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];

/// Where a step leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Hole,
    Root,
    /// No rule, or none that this module can evaluate.
    Unknown,
    /// Registers by DWARF number; `None` is lost. Only rsp, rip and the kept ones unless a signal frame.
    Caller {
        signal: bool,
        registers: Box<[Option<u64>; 17]>,
    },
}

/// Memory that has another word at every address.
pub fn memory(address: u64) -> u64 {
    let mut x = address.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Follows a rule as `bpf/abi.h` describes it.
pub fn by_rule(rule: &abi::ms_rule, registers: &[u64; 17]) -> Step {
    let base = registers[usize::from(rule.reg)].wrapping_add_signed(rule.off.into());
    let cfa = match u32::from(rule.cfa) {
        abi::MS_CFA_HOLE => return Step::Hole,
        abi::MS_CFA_ROOT => return Step::Root,
        abi::MS_CFA_SIGNAL => {
            let mut caller = Box::new([None; 17]);
            for (word, register) in SIGCONTEXT.into_iter().enumerate() {
                let offset = u64::from(abi::MS_UCONTEXT_REGS) + 8 * word as u64;
                caller[register] = Some(memory(base.wrapping_add(offset)));
            }
            return Step::Caller {
                signal: true,
                registers: caller,
            };
        }
        abi::MS_CFA_CLONE if registers[0] == 0 => return Step::Root,
        abi::MS_CFA_REG | abi::MS_CFA_CLONE => base,
        abi::MS_CFA_DEREF | abi::MS_CFA_REALIGNED => memory(base).wrapping_add_signed(rule.add.into()),
        abi::MS_CFA_DEREF_INDEXED => {
            let index = registers[usize::from(rule.window >> abi::MS_INDEX_SHIFT)];
            memory(base.wrapping_add(index.wrapping_mul(8))).wrapping_add_signed(rule.add.into())
        }
        abi::MS_CFA_PLT => {
            let pushed = registers[16] & 15 >= u64::try_from(rule.off).unwrap();
            registers[7].wrapping_add(if pushed { 16 } else { 8 })
        }
        _ => return Step::Unknown,
    };
    let saved_below = if u32::from(rule.cfa) == abi::MS_CFA_REALIGNED {
        registers[usize::from(rule.reg)].wrapping_add(8)
    } else {
        cfa
    };
    let mut caller = Box::new([None; 17]);
    let mut deepest = 1;
    for (&slot, register) in rule.saved.iter().zip(SAVED) {
        caller[register] = match slot {
            0 => Some(registers[register]),
            1.. => {
                if i32::from(slot) <= abi::MS_WINDOW_WORDS {
                    deepest = deepest.max(slot);
                }
                Some(memory(saved_below.wrapping_sub(8 * slot as u64)))
            }
            _ => None,
        };
    }
    assert_eq!(
        rule.window & abi::MS_WINDOW_WORDS as u8,
        deepest as u8,
        "{rule:?}"
    );
    caller[7] = Some(cfa);
    caller[16] = Some(match rule.ra {
        0 => memory(cfa.wrapping_sub(8)),
        n => registers[usize::from(n - 1)],
    });
    Step::Caller {
        signal: false,
        registers: caller,
    }
}

/// Follows a row as DWARF describes it. `section` is what its expressions point into.
pub fn by_dwarf(
    row: &UnwindTableRow<usize>,
    signal: bool,
    section: &[u8],
    encoding: gimli::Encoding,
    registers: &[u64; 17],
) -> Step {
    let evaluate = |expression: &gimli::UnwindExpression<usize>, cfa: Option<u64>| {
        let bytes = &section[expression.offset..expression.offset + expression.length];
        let mut evaluation = gimli::Expression(EndianSlice::new(bytes, LittleEndian)).evaluation(encoding);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut state = evaluation.evaluate().ok()?;
        loop {
            state = match state {
                EvaluationResult::Complete => return evaluation.value_result()?.to_u64(u64::MAX).ok(),
                EvaluationResult::RequiresMemory { address, size: 8, .. } => evaluation
                    .resume_with_memory(gimli::Value::Generic(memory(address)))
                    .ok()?,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = gimli::Value::Generic(*registers.get(usize::from(register.0))?);
                    evaluation.resume_with_register(value).ok()?
                }
                _ => return None,
            };
        }
    };
    if row.register(gimli::Register(16)) == Some(RegisterRule::Undefined) {
        return Step::Root;
    }
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => registers
            .get(usize::from(register.0))
            .map(|value| value.wrapping_add_signed(*offset)),
        CfaRule::Expression(expression) => evaluate(expression, None),
    };
    let Some(cfa) = cfa else { return Step::Unknown };
    let mut caller = Box::new([None; 17]);
    for (register, value) in caller.iter_mut().enumerate() {
        let kept = signal || SAVED.contains(&register);
        *value = match row.register(gimli::Register(register as u16)) {
            _ if !kept && register != 7 && register != 16 => None,
            None | Some(RegisterRule::SameValue) if register == 7 => Some(cfa),
            None | Some(RegisterRule::SameValue) => Some(registers[register]),
            Some(RegisterRule::Offset(offset)) => Some(memory(cfa.wrapping_add_signed(offset))),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => registers.get(usize::from(other.0)).copied(),
            Some(RegisterRule::Expression(expression)) => evaluate(&expression, Some(cfa)).map(memory),
            Some(RegisterRule::ValExpression(expression)) => evaluate(&expression, Some(cfa)),
            Some(_) => None,
        };
    }
    Step::Caller {
        signal,
        registers: caller,
    }
}
