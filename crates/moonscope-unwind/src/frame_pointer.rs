//! One step by frame pointer, where no unwind information exists.

use crate::end::WalkEnd;
use crate::walker::{Modules, RBP, RIP, RSP, Registers, StackCopy};

/// A function with more bytes is none whose frame pointer is believed.
const MAX_FUNCTION: u64 = 1 << 20;

/// The registers of the caller, if rbp looks like a frame pointer: on the stack, aligned, and with a return
/// address above it that lies in code behind a call that may have come here. rbp may hold anything in such code: most of all
/// the frame pointer of a caller further up. `is_exact`: the address is that of the thread, not a return address; `is_by_fp`:
/// this frame was found by frame pointer, so a zero ends the stack.
pub(crate) fn caller(
    registers: &Registers,
    stack: &StackCopy<'_>,
    modules: &impl Modules,
    is_exact: bool,
    is_by_fp: bool,
) -> Result<Registers, WalkEnd> {
    let zero = if is_by_fp {
        WalkEnd::RootZero
    } else {
        WalkEnd::NoRow
    };
    let (Some(fp), Some(sp)) = (registers.get(RBP), registers.get(RSP)) else {
        return Err(WalkEnd::NoRow);
    };
    if fp == 0 {
        return Err(zero);
    }
    if fp % 8 != 0 || fp < sp {
        return Err(WalkEnd::NoRow);
    }
    let (Some(outer), Some(back)) = (stack.word(fp), fp.checked_add(8).and_then(|at| stack.word(at))) else {
        return Err(WalkEnd::NoRow);
    };
    if back == 0 {
        return Err(zero);
    }
    if modules.find(back.wrapping_sub(1)).is_none() {
        return Err(WalkEnd::NoRow);
    }
    let pc = registers.get(RIP).map(|pc| pc.wrapping_sub(u64::from(!is_exact)));
    let mut code = [0; 7];
    if modules.code(back.wrapping_sub(7), &mut code) && !may_return_to(&code, back, pc, modules) {
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

/// Whether a call ends with the last of these bytes, at `back`, that may have called the function of `pc`: an indirect one
/// (`ff /2`), or `e8` with a 32-bit displacement (Intel SDM, volume 2, CALL) to a place before `pc`, or to a stub.
fn may_return_to(code: &[u8; 7], back: u64, pc: Option<u64>, modules: &impl Modules) -> bool {
    if (2..=7).any(|length| is_indirect_call(&code[7 - length..])) {
        return true;
    }
    let &[_, _, 0xe8, a, b, c, d] = code else {
        return false;
    };
    let displacement = i32::from_le_bytes([a, b, c, d]);
    let target = back.wrapping_add_signed(displacement.into());
    let is_called = pc.is_some_and(|pc| target <= pc && pc - target < MAX_FUNCTION);
    is_called || is_stub(target, modules)
}

/// Whether the code there jumps elsewhere at once, as a stub of a PLT does: \[endbr64\] \[bnd\] jmp *\[rip + disp32\], or jmp rel32.
fn is_stub(target: u64, modules: &impl Modules) -> bool {
    let mut code = [0; 16];
    if !modules.code(target, &mut code) {
        return false;
    }
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(&code);
    let code = code.strip_prefix(&[0xf2]).unwrap_or(code);
    matches!(code, [0xff, 0x25, ..] | [0xe9, ..])
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
    use crate::walker::ModuleAt;

    /// Where calls return to, and the function 256 bytes behind it that `e8 0 1 0 0` calls.
    const BACK: u64 = 0x5000;
    const CALLED: u64 = BACK + 0x100;

    /// Nothing can be read.
    struct NoCode;

    impl Modules for NoCode {
        fn find(&self, _: u64) -> Option<ModuleAt<'_>> {
            None
        }

        fn code(&self, _: u64, _: &mut [u8]) -> bool {
            false
        }
    }

    /// A stub at `CALLED`.
    struct Stub(&'static [u8]);

    impl Modules for Stub {
        fn find(&self, _: u64) -> Option<ModuleAt<'_>> {
            None
        }

        fn code(&self, addr: u64, into: &mut [u8]) -> bool {
            into.fill(0x90);
            into[..self.0.len()].copy_from_slice(self.0);
            addr == CALLED
        }
    }

    #[test]
    fn a_direct_call_returns_only_from_what_it_called() {
        let call = [0x90, 0x90, 0xe8, 0, 1, 0, 0];
        let returns = |pc: u64| may_return_to(&call, BACK, Some(pc), &NoCode);
        assert!(returns(CALLED) && returns(CALLED + 0x200));
        // to a function further up, and to one that is elsewhere altogether
        assert!(!returns(CALLED - 1) && !returns(CALLED + MAX_FUNCTION));
        assert!(!may_return_to(&call, BACK, None, &NoCode));
        let plt: [&[u8]; 4] = [
            &[0xff, 0x25, 1, 2, 3, 4],
            &[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 1, 2, 3, 4],
            &[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 1, 2, 3, 4],
            &[0xe9, 1, 2, 3, 4],
        ];
        for stub in plt {
            assert!(may_return_to(&call, BACK, Some(0x1000), &Stub(stub)), "{stub:x?}");
        }
        assert!(!may_return_to(&call, BACK, Some(0x1000), &Stub(&[0x55])));
    }

    #[test]
    fn calls_are_recognised_by_their_last_bytes() {
        // each as the assembler writes it, padded with nops in front
        let calls: [&[u8]; 9] = [
            &[0xe8, 0, 1, 0, 0],
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
            let is_call = |code: &[u8; 7]| may_return_to(code, BACK, Some(CALLED), &NoCode);
            assert!(is_call(&code), "{call:x?}");
            code.rotate_left(1);
            code[6] = 0x90;
            assert!(!is_call(&code), "{call:x?}");
        }
        let jump = [0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0]; // jmp *%rax
        assert!(!may_return_to(&jump, BACK, Some(CALLED), &NoCode));
    }
}
