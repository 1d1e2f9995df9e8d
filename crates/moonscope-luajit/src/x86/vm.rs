//! Describes the VM in a piece of code.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, Register};

use super::code::{Code, immediate, push, registers, target, with_landing_pad};
use super::stubs::Stubs;
use super::{helpers, windows};
use crate::vm_text::VmText;

/// The VM that this code is; `None` if it is not one.
pub(crate) fn describe(bytes: &[u8], start: u64) -> Option<VmText> {
    let code = Code::decode(bytes, start);
    let end = start.checked_add(bytes.len() as u64)?;
    let stubs = Stubs::find(&code)?;
    let leave = windows::Leave::find(&code, &stubs)?;
    let handlers_end = handlers_end(&code, leave.returning)?;
    let exit = exit_handler(&code, stubs.entries.cpcall);
    let mut below: Vec<Range<u64>> = into_compiled_code(&code, handlers_end).into_iter().collect();
    below.extend(leave.unwinding.iter().cloned());
    below.extend(exit);
    below.sort_by_key(|range| range.start);
    Some(VmText {
        start,
        end,
        cframe_size: stubs.cframe_size,
        mode: stubs.mode,
        handlers_end,
        windows: windows::all(&code, &stubs, &leave),
        helpers: helpers::all(&code, start..end, &stubs),
        below,
        dispatch: stubs.dispatch..stubs.linked,
        entries: stubs.entries,
    })
}

/// The first subroutine is `lj_vm_returnp`: a test of the link for a protected call, and if it is one, the
/// caller's base from it. `returning` is in the next subroutine but one.
fn handlers_end(code: &Code, returning: u64) -> Option<u64> {
    const FRAME_P: i64 = 4;
    const REACH: usize = 64;
    let before = code.before(returning);
    let near = before.get(before.len().saturating_sub(REACH)..)?;
    let [test, ..] = near.windows(4).find(|four| {
        let [test, jump, mask, subtract] = four else {
            return false;
        };
        immediate(test, Mnemonic::Test) == Some((Register::RBX, FRAME_P))
            && jump.mnemonic() == Mnemonic::Je
            && immediate(mask, Mnemonic::And) == Some((Register::RBX, -8))
            && registers(subtract, Mnemonic::Sub) == Some((Register::RDX, Register::RBX))
    })?
    else {
        return None;
    };
    Some(with_landing_pad(code.before(test.ip()), test.ip()))
}

/// In the handler of `BC_JLOOP`: from the reservation of the additional stack of compiled code to the jump.
fn into_compiled_code(code: &Code, handlers_end: u64) -> Option<Range<u64>> {
    let (reserve, jump) = compiled_code_jump(code, handlers_end)?;
    Some(reserve.next_ip()..jump.next_ip())
}

/// The only place in the bytecode handlers that changes the stack pointer, and the jump behind it.
pub(super) fn compiled_code_jump(code: &Code, handlers_end: u64) -> Option<(&Instruction, &Instruction)> {
    const BETWEEN: usize = 4;
    let handlers = code.before(handlers_end);
    let at = handlers
        .iter()
        .position(|insn| immediate(insn, Mnemonic::Sub) == Some((Register::RSP, 16)))?;
    let reserve = handlers.get(at)?;
    let jump = handlers
        .iter()
        .skip(at)
        .take(BETWEEN)
        .find(|insn| insn.mnemonic() == Mnemonic::Jmp && insn.op0_register() == Register::RAX)?;
    Some((reserve, jump))
}

/// `lj_vm_exit_handler` and the head of `lj_vm_exit_interp`: until the stack pointer is the VM's frame again.
fn exit_handler(code: &Code, behind: u64) -> Vec<Range<u64>> {
    const REACH: usize = 80;
    // 32-bit references: `lj_vm_exit_interp` is entered with the stack of compiled code
    const REACH_INTERP: usize = 12;
    const SAVED: [Register; 4] = [Register::R13, Register::R12, Register::R11, Register::R10];
    let rest = code.from(behind);
    let is_start = |four: &[Instruction]| four.iter().map(push).eq(SAVED.map(Some));
    let Some(at) = rest.windows(SAVED.len()).position(is_start) else {
        return Vec::new();
    };
    let Some(first) = rest.get(at) else {
        return Vec::new();
    };
    let mut tail = rest.iter().skip(at).take(REACH);
    let Some(reset) = tail.find(|insn| {
        registers(insn, Mnemonic::Mov).is_some_and(|(to, from)| to == Register::RSP && from == Register::RCX)
    }) else {
        return Vec::new();
    };
    let start = with_landing_pad(code.before(first.ip()), first.ip());
    let interp = tail
        .take(REACH_INTERP)
        .find(|insn| immediate(insn, Mnemonic::Add) == Some((Register::RSP, 16)))
        .map(|insn| with_landing_pad(code.before(insn.ip()), insn.ip())..insn.next_ip());
    std::iter::once(start..reset.next_ip()).chain(interp).collect()
}

/// Where the VM begins and ends in code that no unwind entry describes.
pub(crate) fn bounds_without_unwind_entry(bytes: &[u8], addr: u64) -> Option<Range<u64>> {
    // saveregs of a build without unwind information: pushes of rbp, rbx, r15, r14, r13, r12, sub rsp, 40
    const ENTRY: &[u8] = b"\x55\x53\x41\x57\x41\x56\x41\x55\x41\x54\x48\x83\xec\x28";
    // lj_vm_ffi_call: push rbp; mov rbp, rsp; push rbx; mov rbx, rdi
    const FFI_CALL: &[u8] = b"\x55\x48\x89\xe5\x53\x48\x89\xfb";
    const LANDING_PAD: &[u8] = b"\xf3\x0f\x1e\xfa";
    let entry = memchr::memmem::find(bytes, ENTRY)?;
    let first = first_handler(bytes.get(..entry)?, addr)?;
    let behind = bytes.get(entry..)?;
    let end = match memchr::memmem::find(behind, FFI_CALL) {
        Some(at) if behind.get(..at)?.ends_with(LANDING_PAD) => entry + at - LANDING_PAD.len(),
        Some(at) => entry + at,
        None => bytes.len(),
    };
    let limit = first.saturating_add(usize::try_from(crate::eh_frame::MAX_VM).ok()?);
    let end = end.min(limit);
    Some(addr.checked_add(first as u64)?..addr.checked_add(end as u64)?)
}

/// Offset of the first bytecode handler, `BC_ISLT`: aligned to 16, and it begins with an access to
/// `BASE[RA]` (rdx + 8 * rcx).
fn first_handler(before: &[u8], addr: u64) -> Option<usize> {
    // no VM has its entries farther from its start
    let reach = usize::try_from(crate::eh_frame::MAX_VM).ok()?;
    let nearest = before.len().saturating_sub(reach);
    let aligned = usize::try_from(addr.checked_next_multiple_of(16)? - addr).ok()?;
    (aligned..before.len())
        .step_by(16)
        .filter(|&at| at >= nearest)
        .find(|&at| {
            let head = before.get(at..).unwrap_or_default();
            let head = head.get(..32.min(head.len())).unwrap_or_default();
            let code = Code::decode(head, 0);
            let mut insns = code
                .all()
                .iter()
                .filter(|insn| insn.mnemonic() != Mnemonic::Endbr64);
            insns.next().is_some_and(|insn| {
                insn.memory_base() == Register::RDX
                    && insn.memory_index() == Register::RCX
                    && insn.memory_index_scale() == 8
            })
        })
}

/// Calls from the VM to itself.
pub(super) fn internal_calls(code: &Code, vm: Range<u64>) -> impl Iterator<Item = u64> {
    code.all()
        .iter()
        .filter(|insn| insn.mnemonic() == Mnemonic::Call)
        .filter_map(target)
        .filter(move |target| vm.contains(target))
}
