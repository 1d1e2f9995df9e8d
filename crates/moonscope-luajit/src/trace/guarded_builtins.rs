//! Which builtin a trace calls where it is bound to no function object.
//!
//! A trace is bound to the function objects that it calls, and has them as constants. Of the iterators that
//! `coroutine.wrap` and `string.gmatch` make anew each time it is not (`rec_call_specialize`, lj_record.c): there it
//! compares the number of the builtin, `EQ (FLOAD function #ffid), constant`.

use super::constants::IrConstants;
use crate::object::number;
use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

/// Number of the first instruction that is no constant.
const REF_BIAS: u32 = 0x8000;
/// Instructions are numbered with 16 bits.
const REF_END: u32 = 0x1_0000;
/// Bytes of one IR instruction: two operands of 2 bytes, type, opcode, 2 bytes of other use (lj_ir.h).
const IR_SIZE: usize = 8;
/// `IR_EQ`: guards have the first opcodes in all of 2.1, for LuaJIT turns them into each other by their bits.
const IR_EQ: u8 = 8;
/// `IRT_INT | IRT_GUARD` and `IRT_U8`: the types of the comparison and of what is loaded for it.
const GUARDED_INT: u8 = 0x80 | 19;
const U8: u8 = 16;
/// `IRT_GUARD` and the type.
const TYPE_AND_GUARD: u8 = 0x80 | 0x1f;

/// The builtins that these instructions yield, as far as the trace makes sure of it. What is compared and loaded
/// besides (`#udtype`, a byte too) is of other objects than functions.
pub(super) fn find(
    memory: &impl RemoteMemory,
    ir: u64,
    nins: u32,
    of: &FxHashSet<u16>,
    constants: &IrConstants,
) -> FxHashMap<u16, u8> {
    let count = nins.min(REF_END).saturating_sub(REF_BIAS) as usize;
    let mut bytes = vec![0; count * IR_SIZE];
    let first = ir.wrapping_add(u64::from(REF_BIAS) * IR_SIZE as u64);
    if memory.read_exact(first, &mut bytes).is_err() {
        return FxHashMap::default();
    }
    let instructions = bytes.as_chunks::<IR_SIZE>().0;
    let instruction = |reference: u16| {
        let at = u32::from(reference).checked_sub(REF_BIAS)?;
        instructions.get(at as usize)
    };
    let operand = |bytes: &[u8], at| number::<2>(bytes, at).map(|value| value as u16);
    let guarded = |bytes: &[u8; IR_SIZE]| {
        let &[.., kind, op, _, _] = bytes;
        if op != IR_EQ || kind & TYPE_AND_GUARD != GUARDED_INT {
            return None;
        }
        let ffid = u8::try_from(constants.integer(operand(bytes, 2)?)?).ok()?;
        let load = instruction(operand(bytes, 0)?)?;
        let function =
            operand(load, 0).filter(|function| load[4] & TYPE_AND_GUARD == U8 && of.contains(function))?;
        // 0 and 1 are functions in Lua and in C
        (ffid > 1).then_some((function, ffid))
    };
    instructions.iter().filter_map(guarded).collect()
}
