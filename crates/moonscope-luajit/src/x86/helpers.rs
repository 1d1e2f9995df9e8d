//! Plain functions inside the VM. They are entered by `call`, from the VM, from compiled code and from C, and
//! so their return address is at the CFA, wherever they were called from.

use std::ops::Range;

use iced_x86::Mnemonic;

use super::code::{Code, pop, push, with_landing_pad};
use super::stubs::Stubs;
use super::vm::internal_calls;
use super::windows::function_rows;
use crate::vm_text::Window;

/// Instructions of `lj_fff_gcstep` that are looked at.
const MAX_GCSTEP: usize = 40;

/// All helpers, sorted.
pub(super) fn all(code: &Code, vm: Range<u64>, stubs: &Stubs) -> Vec<Window> {
    let entries = &stubs.entries;
    let mut targets: Vec<u64> = internal_calls(code, vm.clone())
        .filter(|&target| target > entries.cpcall)
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let mut rows = Vec::new();
    // lj_fff_gcstep takes its return address off the stack at once, and puts it back for `ret`
    targets.retain(|&target| {
        let body = code.from(target);
        let Some(at) = body.iter().take(2).position(|insn| pop(insn).is_some()) else {
            return true;
        };
        let head = body.get(..=at).unwrap_or_default();
        function_rows(&mut rows, head);
        let end = body.windows(2).take(MAX_GCSTEP).find_map(|two| match two {
            [back, ret] if push(back).is_some() && ret.mnemonic() == Mnemonic::Ret => Some(ret),
            _ => None,
        });
        if let Some(ret) = end {
            function_rows(&mut rows, std::slice::from_ref(ret));
        }
        false
    });
    // the others stand together: the first is lj_vm_floor, which math.floor calls; callbacks follow
    let end = entries.ffi_callback.unwrap_or(vm.end);
    if let Some(&first) = targets.first().filter(|&&first| first < end) {
        let first = with_landing_pad(code.before(first), first);
        function_rows(&mut rows, code.range(first, end));
    }
    rows.sort_by_key(|row| row.start);
    rows.dedup_by(|later, earlier| later.start < earlier.end);
    rows
}
