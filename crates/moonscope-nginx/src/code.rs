//! What a function does with its first argument: which fields it reads, in their order.
//!
//! A walk over the instructions, the way that falls through before the one that jumps, each once. It follows copies between
//! registers and loads of pointers, and forgets what a call may change. That is enough for small accessor functions. Where
//! another compiler does otherwise fewer fields are found, and whoever asks says so: nothing is guessed.

use std::collections::HashSet;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

/// Instructions of a function that are looked at.
const MAX_INSTRUCTIONS: usize = 400;

/// Where a value is: the offsets to follow from the first argument. `[8, 24]`: at 24 in what the pointer at 8 points to.
pub(crate) type Path = Vec<u32>;

/// An access to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Which field.
    pub(crate) path: Path,
    /// Its size in bytes.
    pub(crate) size: usize,
    /// Zero is stored there.
    pub(crate) is_cleared: bool,
}

/// Bytes of a function: what jumps further goes to another one.
const MAX_SIZE: u64 = 2048;

/// What each register points to, as a path from the first argument, and each slot of the frame.
type Known = Vec<(Place, Path)>;

/// Where a value is kept. Code that was compiled without optimization keeps all values in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Register(Register),
    /// So far from `rbp`.
    Slot(u64),
}

/// Accesses of the function whose code begins with these bytes.
pub(crate) fn accesses(code: &[u8]) -> Vec<Access> {
    let mut found = Vec::new();
    let mut ways: Vec<(u64, Known)> = vec![(0, vec![(Place::Register(Register::RDI), Path::new())])];
    let mut seen = HashSet::new();
    while let Some((start, mut known)) = ways.pop() {
        let bytes = usize::try_from(start).ok().and_then(|start| code.get(start..));
        let decoder = Decoder::with_ip(64, bytes.unwrap_or_default(), start, DecoderOptions::NONE);
        for insn in decoder {
            if insn.is_invalid() || seen.len() >= MAX_INSTRUCTIONS || !seen.insert(insn.ip()) {
                break;
            }
            found.extend(step(&insn, &mut known));
            let target = insn.near_branch_target();
            match insn.flow_control() {
                FlowControl::ConditionalBranch if target < MAX_SIZE => ways.push((target, known.clone())),
                FlowControl::UnconditionalBranch if target < MAX_SIZE => {
                    ways.push((target, known));
                    break;
                }
                FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => break,
                _ => {}
            }
        }
    }
    found
}

/// The access of an instruction, and what it makes of the registers.
fn step(insn: &Instruction, known: &mut Known) -> Option<Access> {
    let accessed = access(insn, known);
    let pointer = copied(insn, known).or_else(|| match &accessed {
        Some(access) if is_load_of_pointer(insn) => Some(access.path.clone()),
        _ => None,
    });
    let kept = slot(insn, 0, known).map(|slot| (slot, path_of(insn.op1_register(), known)));
    let mut info = InstructionInfoFactory::new();
    let used = info.info(insn).used_registers();
    for register in used.iter().filter(|used| is_written(used.access())) {
        let register = register.register().full_register();
        known.retain(|(place, _)| match place {
            Place::Register(name) => *name != register,
            Place::Slot(_) => register != Register::RBP,
        });
    }
    if matches!(insn.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        known.retain(|(place, _)| match place {
            Place::Register(name) => is_kept_by_calls(*name),
            Place::Slot(_) => true,
        });
    }
    if let Some((slot, path)) = kept {
        known.retain(|(place, _)| *place != slot);
        known.extend(path.map(|path| (slot, path)));
    }
    known.extend(pointer.map(|path| (Place::Register(insn.op0_register().full_register()), path)));
    accessed
}

/// The slot of the frame that an operand is. Where `rbp` is a pointer that is known it is no frame.
fn slot(insn: &Instruction, op: u32, known: &[(Place, Path)]) -> Option<Place> {
    let is_slot = insn.mnemonic() == Mnemonic::Mov
        && insn.op_kind(op) == OpKind::Memory
        && insn.memory_base() == Register::RBP
        && insn.memory_index() == Register::None
        && path_of(Register::RBP, known).is_none();
    is_slot.then(|| Place::Slot(insn.memory_displacement64()))
}

fn is_written(access: iced_x86::OpAccess) -> bool {
    use iced_x86::OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}

/// psABI x86-64, section 3.2.1
fn is_kept_by_calls(register: Register) -> bool {
    use Register::{R12, R13, R14, R15, RBP, RBX};
    [RBX, RBP, R12, R13, R14, R15].contains(&register)
}

fn is_load_of_pointer(insn: &Instruction) -> bool {
    insn.mnemonic() == Mnemonic::Mov && insn.op0_kind() == OpKind::Register && insn.op0_register().size() == 8
}

/// A plain copy of a register that is known, or of a slot.
fn copied(insn: &Instruction, known: &[(Place, Path)]) -> Option<Path> {
    let is_copy = insn.mnemonic() == Mnemonic::Mov
        && insn.op0_kind() == OpKind::Register
        && insn.op0_register().size() == 8;
    if !is_copy {
        return None;
    }
    match slot(insn, 1, known) {
        Some(slot) => path_at(slot, known),
        None if insn.op1_kind() == OpKind::Register => path_of(insn.op1_register(), known),
        None => None,
    }
}

fn path_of(register: Register, known: &[(Place, Path)]) -> Option<Path> {
    path_at(Place::Register(register.full_register()), known)
}

fn path_at(at: Place, known: &[(Place, Path)]) -> Option<Path> {
    let (_, path) = known.iter().find(|(place, _)| *place == at)?;
    Some(path.clone())
}

fn access(insn: &Instruction, known: &[(Place, Path)]) -> Option<Access> {
    let place = (0..insn.op_count()).find(|&op| insn.op_kind(op) == OpKind::Memory)?;
    if insn.memory_index() != Register::None
        || insn.mnemonic() == Mnemonic::Lea
        || insn.is_stack_instruction()
    {
        return None;
    }
    let mut path = path_of(insn.memory_base(), known)?;
    path.push(u32::try_from(insn.memory_displacement64()).ok()?);
    let is_cleared = insn.mnemonic() == Mnemonic::Mov
        && place == 0
        && insn.op1_kind() != OpKind::Register
        && insn.immediate(1) == 0;
    Some(Access {
        path,
        size: insn.memory_size().size(),
        is_cleared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_through_copies_pointers_and_calls() {
        let code = [
            0x53, // push rbx
            0x48, 0x89, 0xfb, // mov rbx, rdi
            0x48, 0x8b, 0x7f, 0x58, // mov rdi, [rdi+0x58]
            0xe8, 0, 0, 0, 0, // call
            0x48, 0x8b, 0x43, 0x08, // mov rax, [rbx+8]
            0x8b, 0x40, 0x18, // mov eax, [rax+0x18]
            0x48, 0xc7, 0x83, 0x08, 0x05, 0, 0, 0, 0, 0, 0, // mov qword [rbx+0x508], 0
            0x8b, 0x50, 0x18, // mov edx, [rax+0x18]: no pointer any more
            0xc3, 0x48, 0x8b, 0x43, 0x10, // ret; mov rax, [rbx+0x10]
        ];
        let found = accesses(&code);
        let paths: Vec<_> = found.iter().map(|access| access.path.as_slice()).collect();
        assert_eq!(paths, [&[0x58][..], &[8], &[8, 0x18], &[0x508]]);
        assert_eq!(
            found.iter().map(|access| access.size).collect::<Vec<_>>(),
            [8, 8, 4, 8]
        );
        assert_eq!(
            found.iter().map(|access| access.is_cleared).collect::<Vec<_>>(),
            [false, false, false, true]
        );
    }

    #[test]
    fn code_that_was_not_optimized_keeps_its_values_in_the_frame() {
        let code = [
            0x55, // push rbp
            0x48, 0x89, 0xe5, // mov rbp, rsp
            0x48, 0x89, 0x7d, 0xe8, // mov [rbp-0x18], rdi
            0xe8, 0, 0, 0, 0, // call
            0x48, 0x8b, 0x45, 0xe8, // mov rax, [rbp-0x18]
            0x48, 0x8b, 0x40, 0x08, // mov rax, [rax+8]
            0x48, 0x89, 0x45, 0xf8, // mov [rbp-8], rax
            0x48, 0x8b, 0x55, 0xf8, // mov rdx, [rbp-8]
            0x8b, 0x52, 0x18, // mov edx, [rdx+0x18]
            0x48, 0x89, 0x5d, 0xf8, // mov [rbp-8], rbx: not known
            0x48, 0x8b, 0x55, 0xf8, // mov rdx, [rbp-8]
            0x8b, 0x52, 0x20, // mov edx, [rdx+0x20]
            0xc9, 0xc3, // leave; ret
        ];
        let found = accesses(&code);
        let paths: Vec<_> = found.iter().map(|access| access.path.as_slice()).collect();
        assert_eq!(paths, [&[8][..], &[8, 0x18]]);
    }

    #[test]
    fn what_is_no_code_gives_nothing() {
        assert_eq!(accesses(&[]), []);
        assert_eq!(accesses(&[0x06; 32]), []);
    }
}
