//! Where the stack of a process ends: the code at the entry point of its file and of its loader, if nothing describes it.
//!
//! The kernel jumps to the entry point of the loader (or of a program without one), and the loader jumps to that of
//! the program: nobody calls them. Compilers' start files say so (glibc's `_start` has an undefined return address),
//! but glibc's loader has its entry point in assembler without unwind information (`RTLD_START`,
//! sysdeps/x86_64/dl-machine.h), and so have musl (arch/x86_64/crt_arch.h) and programs in assembler.

use iced_x86::{
    Code as Operation, Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register, UsedRegister,
};

use crate::entries::Entry;
use crate::sections::{self, Code, EntryPoint};

/// How much code is looked at. That of glibc's loader has 61 bytes.
pub(crate) const MAX_LENGTH: usize = 256;

/// Where a function's caller has left nothing for it: it saves them, but never reads them for their values.
const MEANINGLESS_TO_FUNCTIONS: [Register; 6] = [
    Register::RAX,
    Register::RBX,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Where the code ends that runs from the entry point on, without a way to come there but through it; `None` if that
/// is not certain. `code` is what begins there.
pub(crate) fn reach(entry: EntryPoint, code: &[u8]) -> Option<u64> {
    let code = code.get(..code.len().min(MAX_LENGTH))?;
    let mut factory = InstructionInfoFactory::new();
    let mut line = Line::new(entry);
    for instruction in &mut Decoder::with_ip(64, code, entry.vaddr, DecoderOptions::NONE) {
        let registers = factory.info(&instruction).used_registers();
        match line.add(&instruction, registers) {
            Next::GoOn => {}
            Next::End => return line.end.filter(|_| line.is_entry),
            Next::NoEntry => return None,
        }
    }
    // no more code, or none that a processor knows
    line.end.filter(|_| line.is_entry && line.has_called)
}

/// The code that runs from the entry point on, if nothing describes it.
pub(crate) fn find(
    data: &[u8],
    code: &[Code],
    entry: Option<EntryPoint>,
    described: &[Entry],
) -> Option<Entry> {
    let entry = entry?;
    let range = code
        .iter()
        .find(|range| (range.start..range.end).contains(&entry.vaddr))?;
    let next = described.get(described.partition_point(|piece| piece.end <= entry.vaddr));
    let end = next.map_or(range.end, |piece| piece.start.min(range.end));
    Some(Entry {
        start: entry.vaddr,
        end: reach(entry, sections::code_of(data, code, entry.vaddr..end)?)?,
        offset: usize::MAX,
    })
}

enum Next {
    GoOn,
    End,
    NoEntry,
}

/// The instructions from an entry point on, one behind the other.
struct Line {
    /// Behind the last instruction that certainly belongs to it.
    end: Option<u64>,
    /// Something was called that may never return: what follows may be another function.
    is_in_doubt: bool,
    has_called: bool,
    /// Where something that is called begins.
    limit: u64,
    /// The file says so, or the code was seen to take the stack of a new process.
    is_entry: bool,
    written: Vec<Register>,
}

impl Line {
    fn new(entry: EntryPoint) -> Line {
        Line {
            end: None,
            is_in_doubt: false,
            has_called: false,
            limit: u64::MAX,
            is_entry: entry.is_of_program,
            written: Vec::new(),
        }
    }

    fn add(&mut self, instruction: &iced_x86::Instruction, registers: &[UsedRegister]) -> Next {
        if instruction.is_invalid() || instruction.next_ip() > self.limit {
            return self.finish();
        }
        if !self.is_entry {
            // nobody gives away the address of its own return address: this is the stack that a process starts with
            self.is_entry = is_stack_as_argument(instruction);
            let uses_stack = |used: &UsedRegister| used.register().full_register() == Register::RSP;
            if !self.is_entry && registers.iter().any(uses_stack) {
                return Next::NoEntry;
            }
        }
        self.is_in_doubt &= !self.takes_over(instruction, registers);
        let flow = instruction.flow_control();
        if flow == FlowControl::Return && !self.is_in_doubt {
            return Next::NoEntry; // it has a caller
        }
        if !self.is_in_doubt {
            self.end = Some(instruction.next_ip());
        }
        match flow {
            FlowControl::Next | FlowControl::ConditionalBranch if instruction.code() != Operation::Hlt => {}
            FlowControl::Call | FlowControl::IndirectCall => {
                if self.is_in_doubt {
                    return Next::End;
                }
                self.is_in_doubt = true;
                self.has_called = true;
                self.written.clear();
                let target = instruction.near_branch_target();
                if flow == FlowControl::Call && target > instruction.ip() {
                    self.limit = self.limit.min(target);
                }
            }
            _ => return Next::End,
        }
        let is_written = |used: &&UsedRegister| used.access() != OpAccess::Read;
        let written = registers.iter().filter(is_written);
        self.written
            .extend(written.map(|used| used.register().full_register()));
        Next::GoOn
    }

    fn finish(&self) -> Next {
        if self.has_called { Next::End } else { Next::NoEntry }
    }

    /// Does this instruction need what was in a register before the last call, or what that returned?
    fn takes_over(&self, instruction: &iced_x86::Instruction, registers: &[UsedRegister]) -> bool {
        let is_copy = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Lea)
            && instruction.op0_kind() == OpKind::Register;
        let is_jump = instruction.flow_control() == FlowControl::IndirectBranch;
        (is_copy || is_jump)
            && registers.iter().any(|used| {
                let register = used.register().full_register();
                used.access() == OpAccess::Read
                    && used.register().size() >= 4
                    && MEANINGLESS_TO_FUNCTIONS.contains(&register)
                    && !self.written.contains(&register)
            })
    }
}

/// `mov %rsp, %rdi`.
fn is_stack_as_argument(instruction: &iced_x86::Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_register() == Register::RDI
        && instruction.op1_register() == Register::RSP
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x1ab70;

    fn length(is_of_program: bool, code: &[u8]) -> Option<u64> {
        let entry = EntryPoint {
            vaddr: START,
            is_of_program,
        };
        reach(entry, code).map(|end| end - START)
    }

    /// glibc 2.36 of Debian 12, ld-linux-x86-64.so.2; then the first instructions of the next function.
    const GLIBC_LOADER: &[u8] = b"\x48\x89\xe7\xe8\xf8\x0b\x00\x00\x49\x89\xc4\x48\x8b\x14\x24\x48\x89\xd6\x49\x89\xe5\
        \x48\x83\xe4\xf0\x48\x8b\x3d\x90\x84\x01\x00\x49\x8d\x4c\xd5\x10\x49\x8d\x55\x08\x31\xed\xe8\xf0\x9e\xfe\xff\
        \x48\x8d\x15\x29\x9b\xfe\xff\x4c\x89\xec\x41\xff\xe4\x0f\x1f\x00\x53\x48\x89\xfb";

    /// musl 1.2.3: `_start` of a static program, then `_start_c`, which it calls.
    const MUSL_PROGRAM: &[u8] = b"\x48\x31\xed\x48\x89\xe7\x48\x8d\x35\x97\xef\xbf\xff\x48\x83\xe4\xf0\xe8\x0e\x00\x00\x00\
        \x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00\x0f\x1f\x40\x00\x8b\x37\x48\x8d\x57\x08\x49\xc7\xc0\x45\x32\x40\x00\
        \x45\x31\xc9\xe9\xad\x03\x00\x00";

    /// `deregister_tm_clones`, which old linkers make the entry point of a library that has none.
    const NO_ENTRY: &[u8] = b"\x48\x8d\x3d\x61\x4f\x00\x00\x48\x8d\x05\x5a\x4f\x00\x00\x48\x39\xf8\x74\x15\
        \x48\xc7\xc0\x00\x00\x00\x00\x48\x85\xc0\x74\x09\xff\xe0\x0f\x1f\x80\x00\x00\x00\x00\xc3";

    #[test]
    fn the_entry_of_a_loader_reaches_to_its_jump_into_the_program() {
        assert_eq!(length(false, GLIBC_LOADER), Some(61));
        assert_eq!(length(true, GLIBC_LOADER), Some(61));
    }

    #[test]
    fn behind_a_call_that_need_not_return_nothing_is_certain() {
        assert_eq!(length(true, MUSL_PROGRAM), Some(22));
        assert_eq!(length(false, MUSL_PROGRAM), Some(22));
        // the function behind it, with no padding between: it uses its argument, and jumps by what that has
        let call = b"\x48\x89\xe7\xe8\x00\x10\x00\x00";
        let next = [&call[..], b"\x48\x8b\x07\xff\x60\x10"].concat();
        assert_eq!(length(true, &next), Some(8));
        let next = [&call[..], b"\x41\x54\x49\x89\xfc\x41\xff\xe4"].concat(); // push r12; mov rdi, r12; jmp *r12
        assert_eq!(length(true, &next), Some(8));
        let next = [&call[..], b"\x31\xc0\x49\x89\xc4\x41\xff\xe4"].concat(); // xor eax, eax; mov rax, r12
        assert_eq!(length(true, &next), Some(8));
        let next = [&call[..], b"\xc3"].concat();
        assert_eq!(length(true, &next), Some(8));
        // what it calls begins inside of what runs on
        let next = [
            &b"\x48\x89\xe7\xe8\x03\x00\x00\x00"[..],
            b"\x49\x89\xc4\x41\xff\xe4",
        ]
        .concat();
        assert_eq!(length(true, &next), Some(11));
    }

    #[test]
    fn what_returns_is_no_entry_point() {
        assert_eq!(length(true, b"\x31\xc0\xc3"), None);
        assert_eq!(length(false, NO_ENTRY), None);
        // a function that calls another one, in a library
        assert_eq!(length(false, b"\x53\xe8\x00\x10\x00\x00\x5b\xc3"), None);
        assert_eq!(
            length(false, b"\x48\x83\xec\x08\xe8\x00\x10\x00\x00\x0f\x0b"),
            None
        );
    }

    #[test]
    fn what_is_no_code_is_no_entry_point() {
        assert_eq!(length(true, b""), None);
        assert_eq!(length(true, &[0x90; 64]), None);
        assert_eq!(length(true, &[0x90; 4096]), None);
        assert_eq!(length(true, b"\x06\x06"), None);
        for seed in 0..2000u64 {
            let mut state = seed;
            let code: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .take(300)
            .collect();
            assert!(length(seed % 2 == 0, &code).is_none_or(|length| (1..=256).contains(&length)));
        }
    }
}
