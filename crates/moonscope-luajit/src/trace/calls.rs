//! Calls out of the machine code of a trace: to LuaJIT's helpers, and to C functions that the FFI calls.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Calls in one trace: no more instructions than `JIT_P_maxrecord` become some code each.
const MAX_CALLS: usize = 1 << 14;
/// What a called function may change (System V ABI).
const CALLER_SAVED: [Register; 9] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceCall {
    /// Offset of the return address.
    pub end: u32,
    /// The function that is called; 0 if the code does not tell.
    pub function: u64,
    /// It is a step of the garbage collector, which is where a snapshot is: where the trace begins, or its loop.
    pub is_gc_step: bool,
}

/// All calls in the machine code at `mcode`, ascending. A function that is too far away for a call instruction is loaded into
/// a register first (`emit_call_` in lj_emit_x86.h, `asm_callx_func` in lj_asm_x86.h).
pub(super) fn calls(code: &[u8], mcode: u64) -> Vec<TraceCall> {
    let mut registers = Constants::default();
    let mut found = Vec::new();
    let mut around = 0;
    for insn in Decoder::with_ip(64, code, mcode, DecoderOptions::NONE) {
        if insn.mnemonic() != Mnemonic::Call {
            registers.note(&insn);
            if insn.mnemonic() == Mnemonic::Jb {
                around = insn.near_branch_target();
            }
            continue;
        }
        let function = match insn.op0_kind() {
            OpKind::NearBranch64 => insn.near_branch64(),
            OpKind::Register => registers.of(insn.op0_register()).unwrap_or(0),
            _ => 0,
        };
        let end = u32::try_from(insn.next_ip().wrapping_sub(mcode)).unwrap_or(u32::MAX);
        found.push(TraceCall {
            end,
            function,
            is_gc_step: is_gc_step(
                code.get(end as usize..).unwrap_or_default(),
                insn.next_ip(),
                around,
            ),
        });
        if found.len() == MAX_CALLS {
            break;
        }
        for register in CALLER_SAVED {
            registers.set(register, None);
        }
    }
    found
}

/// What is behind the call of `lj_gc_step_jit`: an exit if objects must be as the interpreter has them, and the place to which
/// a jump leads `around` the call if there is nothing to collect yet (`asm_gc_check`, lj_asm_x86.h).
fn is_gc_step(behind: &[u8], ip: u64, around: u64) -> bool {
    let mut decoder = Decoder::with_ip(64, behind, ip, DecoderOptions::NONE);
    let (test, exit) = (decoder.decode(), decoder.decode());
    test.mnemonic() == Mnemonic::Test
        && [test.op0_register(), test.op1_register()] == [Register::EAX; 2]
        && exit.mnemonic() == Mnemonic::Jne
        && exit.next_ip() == around
}

/// The constants in registers.
#[derive(Default)]
struct Constants([Option<u64>; 16]);

impl Constants {
    fn of(&self, register: Register) -> Option<u64> {
        *self.0.get(register.full_register().number())?
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        if register.is_gpr()
            && let Some(slot) = self.0.get_mut(register.full_register().number())
        {
            *slot = value;
        }
    }

    fn note(&mut self, insn: &Instruction) {
        match insn.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test => return,
            Mnemonic::Mul
            | Mnemonic::Imul
            | Mnemonic::Div
            | Mnemonic::Idiv
            | Mnemonic::Cdq
            | Mnemonic::Cqo => {
                self.set(Register::RAX, None);
                self.set(Register::RDX, None);
            }
            Mnemonic::Xchg if insn.op1_kind() == OpKind::Register => self.set(insn.op1_register(), None),
            _ => {}
        }
        if insn.op0_kind() != OpKind::Register {
            return;
        }
        let value = match (insn.mnemonic(), insn.op1_kind()) {
            (Mnemonic::Mov, OpKind::Immediate64 | OpKind::Immediate32 | OpKind::Immediate32to64) => {
                Some(insn.immediate(1))
            }
            (Mnemonic::Mov, OpKind::Register) => self.of(insn.op1_register()),
            (Mnemonic::Lea, OpKind::Memory) if insn.is_ip_rel_memory_operand() => {
                Some(insn.ip_rel_memory_address())
            }
            _ => None,
        };
        let is_whole = insn.op0_register().size() >= 4;
        self.set(insn.op0_register(), value.filter(|_| is_whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MCODE: u64 = 0x7f00_0000_0000;
    const FAR: u64 = 0x5555_1234_5678;

    fn functions(code: &[&[u8]]) -> Vec<(u32, u64)> {
        let found = calls(&code.concat(), MCODE);
        found.iter().map(|call| (call.end, call.function)).collect()
    }

    #[test]
    fn a_call_of_what_is_near_has_the_distance_and_of_what_is_far_a_register() {
        let load = [&[0x48, 0xb8][..], &FAR.to_le_bytes()].concat();
        // call MCODE + 5 + 0x100; mov rax, FAR; call rax
        assert_eq!(
            functions(&[&[0xe8, 0, 1, 0, 0], &load, &[0xff, 0xd0]]),
            [(5, MCODE + 0x105), (17, FAR)]
        );
        // mov rbx, FAR; call elsewhere; call rbx: that one keeps its registers
        let hoisted = [&[0x48, 0xbb][..], &FAR.to_le_bytes()].concat();
        assert_eq!(
            functions(&[&hoisted, &[0xe8, 0, 0, 0, 0], &[0xff, 0xd3]]),
            [(15, MCODE + 15), (17, FAR)]
        );
    }

    #[test]
    fn a_step_of_the_garbage_collector_is_jumped_around_and_may_leave_the_trace() {
        let jump = |distance: u8| [0x72, distance];
        let call = [0xe8, 0, 1, 0, 0];
        let test = [0x85, 0xc0];
        let exit = [0x0f, 0x85, 0, 2, 0, 0];
        let is_step = |code: &[&[u8]]| calls(&code.concat(), MCODE).last().unwrap().is_gc_step;
        assert!(is_step(&[&jump(13), &call, &test, &exit, &[0x90]]));
        // it leads elsewhere; no jump; the result is not tested; another call before
        assert!(!is_step(&[&jump(7), &call, &test, &exit, &[0x90]]));
        assert!(!is_step(&[&call, &test, &exit, &[0x90]]));
        assert!(!is_step(&[&jump(13), &call, &[0x85, 0xc9], &exit, &[0x90]]));
        assert!(!is_step(&[&jump(18), &call, &call, &exit]));
    }

    #[test]
    fn a_register_that_was_written_since_tells_nothing() {
        let load = [&[0x48, 0xb8][..], &FAR.to_le_bytes()].concat();
        let writes: [&[u8]; 4] = [
            &[0x48, 0x01, 0xd8],       // add rax, rbx
            &[0xe8, 0, 0, 0, 0],       // call
            &[0x48, 0x8b, 0x45, 0x08], // mov rax, [rbp+8]
            &[0x48, 0xf7, 0xf9],       // idiv rcx
        ];
        for write in writes {
            let found = functions(&[&load, write, &[0xff, 0xd0]]);
            assert_eq!(found.last().map(|call| call.1), Some(0), "{write:x?}");
        }
    }
}
