//! Which builtin a trace calls where it is bound to no function object.
//!
//! A trace is bound to the function objects that it calls, and has them as constants. Of the iterators that
//! `coroutine.wrap` and `string.gmatch` make anew each time it is not (`rec_call_specialize`, lj_record.c): there it
//! compares the number of the builtin, `EQ (FLOAD function #ffid), constant`.

use super::constants::IrConstants;
use super::ir::{Ir, IrInstruction};
use rustc_hash::{FxHashMap, FxHashSet};

/// `IRT_INT | IRT_GUARD` and `IRT_U8`: the types of the comparison and of what is loaded for it.
const GUARDED_INT: u8 = 0x80 | 19;
const U8: u8 = 16;

/// The builtins that these instructions yield, as far as the trace makes sure of it. What is compared and loaded
/// besides (`#udtype`, a byte too) is of other objects than functions.
pub(super) fn find(ir: &Ir, of: &FxHashSet<u16>, constants: &IrConstants) -> FxHashMap<u16, u8> {
    let guarded = |(_, compared): (u16, IrInstruction)| {
        if !compared.is_eq() || compared.kind() != GUARDED_INT {
            return None;
        }
        let ffid = u8::try_from(constants.integer(compared.op2())?).ok()?;
        let load = ir.get(compared.op1())?;
        let function = Some(load.op1()).filter(|function| load.kind() == U8 && of.contains(function))?;
        // 0 and 1 are functions in Lua and in C
        (ffid > 1).then_some((function, ffid))
    };
    ir.iter().filter_map(guarded).collect()
}
