//! One step by frame pointer, where no unwind information exists.

use crate::end::WalkEnd;
use crate::walker::{Modules, RBP, RIP, RSP, Registers, StackCopy};

/// The registers of the caller, if rbp looks like a frame pointer: on the stack, aligned, and with a return
/// address above it that lies in code behind a call instruction. rbp may hold anything in such code.
pub(crate) fn caller(
    registers: &Registers,
    stack: &StackCopy<'_>,
    modules: &impl Modules,
) -> Result<Registers, WalkEnd> {
    let (Some(fp), Some(sp)) = (registers.get(RBP), registers.get(RSP)) else {
        return Err(WalkEnd::NoRow);
    };
    if fp == 0 {
        return Err(WalkEnd::RootZero);
    }
    if fp % 8 != 0 || fp < sp {
        return Err(WalkEnd::NoRow);
    }
    let (Some(outer), Some(back)) = (stack.word(fp), fp.checked_add(8).and_then(|at| stack.word(at))) else {
        return Err(WalkEnd::NoRow);
    };
    if back == 0 {
        return Err(WalkEnd::RootZero);
    }
    if modules.find(back.wrapping_sub(1)).is_none() {
        return Err(WalkEnd::NoRow);
    }
    let mut code = [0; 7];
    if modules.code(back.wrapping_sub(7), &mut code) && !ends_with_call(&code) {
        return Err(WalkEnd::NoRow);
    }
    // nobody says where the other registers were saved
    let mut caller = Registers {
        valid: 0,
        ..*registers
    };
    caller.set(RIP, Some(back));
    caller.set(RSP, fp.checked_add(16));
    caller.set(RBP, Some(outer));
    Ok(caller)
}

/// Whether a call instruction ends with the last of these bytes: `e8` with a 32-bit displacement, or `ff /2`
/// (Intel SDM, volume 2, CALL) with any operand.
fn ends_with_call(code: &[u8; 7]) -> bool {
    code[2] == 0xe8 || (2..=7).any(|length| is_indirect_call(&code[7 - length..]))
}

/// Whether these bytes are one `ff /2` of exactly their length.
fn is_indirect_call(code: &[u8]) -> bool {
    let &[0xff, modrm, ref rest @ ..] = code else {
        return false;
    };
    let (mode, operation, operand) = (modrm >> 6, (modrm >> 3) & 7, modrm & 7);
    let sib = u8::from(mode != 3 && operand == 4);
    let displacement = match (mode, operand) {
        (0, 5) | (2, _) => 4,
        // a SIB byte with base 5 and no displacement has 32 bits of it
        (0, 4) if rest.first().is_some_and(|sib| sib & 7 == 5) => 4,
        (1, _) => 1,
        _ => 0,
    };
    operation == 2 && rest.len() == usize::from(sib + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_recognised_by_their_last_bytes() {
        // each as the assembler writes it, padded with nops in front
        let calls: [&[u8]; 9] = [
            &[0xe8, 1, 2, 3, 4],
            &[0xff, 0xd0],                      // call *%rax
            &[0x41, 0xff, 0xd3],                // call *%r11
            &[0xff, 0x10],                      // call *(%rax)
            &[0xff, 0x50, 0x18],                // call *24(%rax)
            &[0xff, 0x15, 1, 2, 3, 4],          // call *sym(%rip)
            &[0xff, 0x14, 0xc8],                // call *(%rax,%rcx,8)
            &[0xff, 0x94, 0x24, 0x10, 1, 0, 0], // call *272(%rsp)
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4],    // call *table(,%rax,8)
        ];
        for call in calls {
            let mut code = [0x90; 7];
            code[7 - call.len()..].copy_from_slice(call);
            assert!(ends_with_call(&code), "{call:x?}");
            code.rotate_left(1);
            code[6] = 0x90;
            assert!(!ends_with_call(&code), "{call:x?}");
        }
        assert!(!ends_with_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0])); // jmp *%rax
    }
}
