//! `coroutine.yield` in the VM.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::code::{Code, store};
use crate::vm_text::VmText;

/// Instructions between the first store and that of the status.
const REACH: usize = 8;

/// The instruction of `coroutine.yield` (vm_x64.dasc, vm_x86.dasc) that stores where the Lua stack ends, behind the check
/// that this coroutine can yield. It is found by the last one, which stores `LUA_YIELD` as the coroutine's status and
/// stands nowhere else.
pub(crate) fn builtin_yield(bytes: &[u8], vm: &VmText) -> Option<u64> {
    const LUA_YIELD: u64 = 1;
    let fields = vm.mode.fields();
    // lua_State has a byte where functions have ffid, and its status behind it
    let status = i32::from(fields.fn_ffid) + 1;
    let code = Code::decode(bytes, vm.start);
    let at = code.all().windows(2).position(|two| {
        let [yields, stores] = two else { return false };
        yields.mnemonic() == Mnemonic::Mov
            && yields.op0_register() == Register::AL
            && yields.op1_kind() == OpKind::Immediate8
            && yields.immediate(1) == LUA_YIELD
            && of_state(stores, status) == Some(Register::RAX)
    })?;
    let before = code.all().get(at.saturating_sub(REACH)..at)?;
    before
        .iter()
        .rev()
        .find(|insn| of_state(insn, i32::from(fields.l_base)) == Some(Register::RDX))
        .map(Instruction::ip)
}

/// What register is stored in this field of the `lua_State` in rbp.
fn of_state(insn: &Instruction, field: i32) -> Option<Register> {
    let (from, _, place) = store(insn)?;
    (place.base == Register::RBP && place.offset == field).then_some(from)
}
