//! The stubs through which calls of other files go, where the linker did not describe them.
//!
//! GNU ld describes those of a dynamic program, but not those that a static one calls glibc's string functions by; lld describes
//! none. A stub begins where it was called, and pushes what the loader wants to know (psABI x86-64, section 5.2,
//! "Procedure Linkage Table").

use iced_x86::{Code as Operation, Decoder, DecoderOptions, Instruction};
use object::Endianness;
use object::elf;
use object::read::elf::{SectionHeader, SectionTable};

use crate::sections::named;

/// `.plt.sec` and `.plt.bnd` are for processors that check jumps, `.plt.got` is for functions whose address is taken.
const SECTIONS: [&[u8]; 5] = [b".plt", b".plt.sec", b".plt.got", b".plt.bnd", b".iplt"];

/// Code in which the return address lies at the same distance from the stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stub {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Words above the stack pointer, before the return address.
    pub(crate) pushed: u8,
}

/// All stubs of a file, described or not, sorted.
pub(crate) fn find(
    sections: &SectionTable<'_, elf::FileHeader64<Endianness>>,
    endian: Endianness,
    data: &[u8],
) -> Vec<Stub> {
    let mut stubs = Vec::new();
    for name in SECTIONS {
        let is_code = sections
            .section_by_name(endian, name)
            .is_some_and(|(_, section)| section.sh_flags(endian).0 & elf::SHF_EXECINSTR.0 != 0);
        if let Some((vaddr, code)) = named(sections, endian, data, name).filter(|_| is_code) {
            decode(vaddr, code, &mut stubs);
        }
    }
    stubs.sort_unstable_by_key(|stub| stub.start);
    stubs
}

fn decode(vaddr: u64, code: &[u8], stubs: &mut Vec<Stub>) {
    let mut pushed = 0;
    for instruction in &mut Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE) {
        let Some(next) = step(&instruction, &mut pushed) else {
            return;
        };
        match stubs.last_mut() {
            Some(last) if last.end == instruction.ip() && last.pushed == pushed => {
                last.end = instruction.next_ip()
            }
            _ => stubs.push(Stub {
                start: instruction.ip(),
                end: instruction.next_ip(),
                pushed,
            }),
        }
        pushed = next;
    }
}

/// How much is pushed behind this instruction; `None`: this is no stub.
fn step(instruction: &Instruction, pushed: &mut u8) -> Option<u8> {
    match instruction.code() {
        Operation::Endbr64
        | Operation::Nopd
        | Operation::Nopw
        | Operation::Nopq
        | Operation::Nop_rm16
        | Operation::Nop_rm32
        | Operation::Nop_rm64
        | Operation::Int3
        | Operation::Pause => Some(*pushed),
        // the number of the function
        Operation::Pushq_imm32 | Operation::Pushq_imm8 => pushed.checked_add(1),
        // the first stub gives the loader its own pointer; the others come to it with one word pushed
        Operation::Push_rm64 if instruction.is_ip_rel_memory_operand() => {
            *pushed = 1;
            Some(2)
        }
        Operation::Jmp_rm64 if instruction.is_ip_rel_memory_operand() => Some(0),
        Operation::Jmp_rel32_64 | Operation::Jmp_rel8_64 => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stubs(code: &[u8]) -> Vec<(u64, u64, u8)> {
        let mut found = Vec::new();
        decode(0x1000, code, &mut found);
        found
            .iter()
            .map(|stub| (stub.start - 0x1000, stub.end - 0x1000, stub.pushed))
            .collect()
    }

    #[test]
    fn what_a_static_program_calls_through_pushes_nothing() {
        let code = b"\xff\x25\xe2\x7f\x0b\x00\x66\x90\xff\x25\xe2\x7f\x0b\x00\x66\x90";
        assert_eq!(stubs(code), [(0, 16, 0)]);
        assert_eq!(
            stubs(b"\xf3\x0f\x1e\xfa\xf2\xff\x25\x01\x02\x03\x04\x0f\x1f\x44\x00\x00"),
            [(0, 16, 0)]
        );
    }

    #[test]
    fn what_binds_lazily_pushes_two_words() {
        // the first stub, and one of a function
        let code = b"\xff\x35\x0a\x1a\x00\x00\xff\x25\x0c\x1a\x00\x00\x0f\x1f\x40\x00\
            \xff\x25\x0a\x1a\x00\x00\x68\x00\x00\x00\x00\xe9\xe0\xff\xff\xff";
        assert_eq!(stubs(code), [(0, 6, 1), (6, 12, 2), (12, 27, 0), (27, 32, 1)]);
    }

    #[test]
    fn what_is_no_stub_is_left_alone() {
        assert_eq!(stubs(b"\x55\x48\x89\xe5\xff\x25\x0a\x1a\x00\x00"), []);
        assert_eq!(
            stubs(b"\xff\x25\x0a\x1a\x00\x00\xc3\xff\x25\x0a\x1a\x00\x00"),
            [(0, 6, 0)]
        );
        let many = [0x68u8, 0, 0, 0, 0].repeat(1000);
        assert!(stubs(&many).len() <= 256);
    }
}
