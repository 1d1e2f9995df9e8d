//! The LuaJIT virtual machines in an ELF file: where their hand-written code is, and what a stack walk must
//! know of its parts. Whatever the file is called, stripped or not.
//!
//! A VM is found by its unwind entry, and without one (`LUAJIT_NO_UNWIND`) by the bytes of its entry stubs in
//! code that no entry describes. What is where inside is read from the instructions, never taken from the
//! constants of one build.

use std::ops::Range;

use crate::elf_code::ElfCode;
use crate::layout::GcMode;
use crate::{eh_frame, x86};

/// Why a file cannot be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmTextError {
    /// Not an ELF file, or its headers are broken.
    #[error("not an ELF file")]
    NotElf,
    /// Made for another processor.
    #[error("not an ELF file for x86-64")]
    WrongMachine,
}

/// One LuaJIT VM in a file. All addresses are virtual addresses of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmText {
    /// First byte of the VM: `lj_vm_asm_begin`.
    pub start: u64,
    /// One past its last byte: `lj_vm_ffi_call`, which is an ordinary function.
    pub end: u64,
    /// Distance of the VM's frame to its CFA: 80, or 96 in builds without unwind information.
    pub cframe_size: u16,
    /// Object model.
    pub mode: GcMode,
    /// Where C code enters.
    pub entries: Entries,
    /// End of the bytecode handlers, where subroutines begin. Below it the BASE register is right at every
    /// bytecode; from here on it need not be.
    pub handlers_end: u64,
    /// Where the VM's frame has no Lua frames of its own, or is not complete; behind the VM's end the places in
    /// `lj_vm_ffi_call` of which its unwind entry is not true. Sorted, without overlaps.
    pub windows: Vec<Window>,
    /// Plain functions inside the VM, called by itself, by compiled code and by C: rounding, modulo, `cpuid`,
    /// table traversal, and the edges of the garbage collector step. Their caller is at the CFA; no VM frame is theirs.
    /// Sorted, without overlaps.
    pub helpers: Vec<Window>,
    /// Where the frame of the VM is live but above the stack pointer by an unknown distance: the exit handler
    /// of compiled code, the jump into compiled code, and the first instructions of the unwinder's way
    /// back. Only `L->cframe` tells where the frame is. Sorted, without overlaps.
    pub below: Vec<Range<u64>>,
    /// `lj_vm_call_dispatch`, up to and including the instruction that writes the link of the new Lua frame.
    /// With bits 0 and 1 of the register PC (rbx) being `01`, C is calling and the Lua frame is not there yet:
    /// then it is a window with `cfa_offset` = `cframe_size`. Else the frame is an ordinary live one.
    pub dispatch: Range<u64>,
}

/// The entry stubs, by their first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// `lj_vm_resume`.
    pub resume: u64,
    /// `lj_vm_pcall`.
    pub pcall: u64,
    /// `lj_vm_call`.
    pub call: u64,
    /// `lj_vm_cpcall`.
    pub cpcall: u64,
    /// `lj_vm_ffi_callback`, in builds with the FFI.
    pub ffi_callback: Option<u64>,
}

/// Code in which the caller's frame is at a known distance from the stack pointer, and to which no Lua frame
/// belongs.
///
/// That is so from the first push of an entry stub until the Lua stack has its first frame for this VM frame,
/// and from the return to C until the stub's `ret`. `L->cframe` may already, or still, name the VM's frame
/// in a part of it; a walk that started at `L->cframe` goes on to the frame's `SAVE_CFRAME` then.
///
/// Outside of windows, helpers and [`VmText::below`], the stack pointer is the address of the VM's frame, and the
/// coroutine in its `SAVE_L` names it. That coroutine is `G->cur_L`, but for a few instructions of the fast functions
/// `coroutine.resume` and `coroutine.wrap`, after the other coroutine has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// CFA less the stack pointer.
    pub cfa_offset: u16,
    /// Registers of the caller that are on the stack. The others still hold the caller's values.
    pub saved: Vec<SavedRegister>,
    /// Where the Lua frames of the next older VM frame of this coroutine begin.
    pub caller_base: CallerBase,
}

/// A register of the caller that is on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedRegister {
    /// Its number in DWARF.
    pub register: u8,
    /// Where it is, from the CFA.
    pub cfa_offset: i16,
}

/// Where the Lua frames of the next older VM frame of a coroutine begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerBase {
    /// At `L->base`.
    LuaState,
    /// At the address in the register PC (rbx): `L->base` is about to be set to it.
    PcRegister,
}

impl VmText {
    /// Does this address lie in the VM?
    pub fn contains(&self, addr: u64) -> bool {
        (self.start..self.end).contains(&addr)
    }

    /// The window at this address.
    pub fn window(&self, addr: u64) -> Option<&Window> {
        at(&self.windows, addr)
    }

    /// The helper function at this address.
    pub fn helper(&self, addr: u64) -> Option<&Window> {
        at(&self.helpers, addr)
    }
}

fn at(rows: &[Window], addr: u64) -> Option<&Window> {
    let row = rows.get(rows.partition_point(|row| row.end <= addr))?;
    (row.start <= addr).then_some(row)
}

/// All LuaJIT VMs of this file. None is not an error: most files have none, and are answered without
/// reading their code.
pub fn find_vms(file: &[u8]) -> Result<Vec<VmText>, VmTextError> {
    let elf = ElfCode::parse(file)?;
    let found = eh_frame::find(&elf);
    let mut vms: Vec<VmText> = found
        .vms
        .into_iter()
        .filter_map(|(range, frame)| {
            let code = elf.code(range.start, range.end)?;
            x86::vm::describe(code, range.start).filter(|vm| vm.cframe_size == frame)
        })
        .collect();
    if vms.is_empty() {
        vms = found
            .holes
            .into_iter()
            .filter_map(|hole| {
                let code = elf.code(hole.start, hole.end)?;
                let range = x86::vm::bounds_without_unwind_entry(code, hole.start)?;
                let code = elf.code(range.start, range.end)?;
                x86::vm::describe(code, range.start)
            })
            .take(eh_frame::MAX_FOUND)
            .collect();
    }
    for vm in &mut vms {
        let code = elf.at(vm.end).unwrap_or_default();
        let code = code.get(..x86::ffi_call::LONGEST).unwrap_or(code);
        vm.windows.extend(x86::ffi_call::windows(code, vm.end));
    }
    Ok(vms)
}

/// The machine code of this VM in the file it was found in.
pub(crate) fn code_of<'a>(file: &'a [u8], vm: &VmText) -> Option<&'a [u8]> {
    ElfCode::parse(file).ok()?.code(vm.start, vm.end)
}
