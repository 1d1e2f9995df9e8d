//! Makes registers, stacks and files out of the bytes of the fuzzer.

#![allow(dead_code)]

use std::fs::File;
use std::io::Write;

use moonscope_unwind::{ModuleAt, Modules, Registers, UnwindData, abi};

#[path = "../../../crates/moonscope-unwind/tests/common/elf.rs"]
pub mod elf;

use elf::{CODE, EhFrame, Elf};

/// Where the made-up stack starts.
pub const STACK: u64 = 0x7fff_0000_0000;

/// The first byte of a call, of which the code consists.
pub const CALL: u8 = 0xe8;

/// How much code a made-up file has.
const CODE_SIZE: usize = 4096;

/// Takes numbers off the front; zeros when there are no more.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub fn half(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    pub fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }

    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }

    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number that may well be an address: on the stack, in the code, or anything.
    pub fn address(&mut self) -> u64 {
        let half = self.half();
        let low = u64::from(half & 0x0fff);
        match half >> 12 {
            0..=5 => STACK + low % 1024 * 8,
            6..=11 => CODE + low,
            12 => low,
            13 => u64::MAX - low,
            14 => STACK + low,
            _ => self.long(),
        }
    }

    pub fn registers(&mut self) -> Registers {
        let mut registers = Registers::new(std::array::from_fn(|_| self.address()));
        let valid = self.word();
        // the stack pointer and the place are always known
        registers.valid &= valid | 1 << abi::MS_REG_RSP | 1 << abi::MS_REG_RIP;
        registers
    }

    pub fn stack(&mut self) -> Vec<u8> {
        let words = usize::from(self.byte()) * 2;
        (0..words).flat_map(|_| self.address().to_le_bytes()).collect()
    }

    /// Functions one behind the other, with any instructions.
    fn functions(&mut self) -> Vec<u8> {
        let mut frames = EhFrame::default();
        let len = usize::from(self.byte() % 32);
        let cie = frames.cie(self.take(len));
        let mut start = CODE;
        while !self.0.is_empty() && start < CODE + CODE_SIZE as u64 {
            let (gap, size) = (self.byte(), self.byte());
            let len = usize::from(self.byte() % 64);
            let instructions = self.take(len);
            start += u64::from(gap % 16);
            frames.fde(cie, start, u64::from(size) + 1, instructions);
            start += u64::from(size) + 1;
        }
        frames.bytes
    }

    /// An ELF file of [`Bytes::functions`].
    pub fn plain_elf(&mut self) -> Vec<u8> {
        Elf {
            code: vec![CALL; CODE_SIZE],
            eh_frame: self.functions(),
            ..Elf::default()
        }
        .build()
    }

    /// An ELF file: the rest of the input as it is, or as the instructions of a few functions, or as a whole
    /// section.
    pub fn elf(&mut self) -> Vec<u8> {
        let mut elf = Elf {
            // a return address anywhere is behind a call
            code: vec![CALL; CODE_SIZE],
            ..Elf::default()
        };
        let kind = self.byte();
        match kind % 4 {
            0 => return self.0.to_vec(),
            1 => elf.eh_frame = self.0.to_vec(),
            2 => elf.debug_frame = self.0.to_vec(),
            _ => elf.eh_frame = self.functions(),
        }
        elf.without_sections = kind & 0x80 != 0;
        elf.build()
    }
}

/// One file where it says that it wants to be, and generated code behind it.
pub struct OneFile<'a>(pub &'a UnwindData);

/// Generated code.
pub const GENERATED: std::ops::Range<u64> = CODE + 3 * 1024..CODE + 4 * 1024;

impl Modules for OneFile<'_> {
    fn find(&self, address: u64) -> Option<ModuleAt<'_>> {
        if GENERATED.contains(&address) {
            return Some(ModuleAt::Anonymous);
        }
        self.0.code_at(address, 1)?;
        Some(ModuleAt::File {
            bias: 0,
            data: self.0,
        })
    }
}

/// A file in memory with this content, and the path that opens it.
pub fn file(content: &[u8]) -> Option<(File, String)> {
    use std::os::fd::AsRawFd;
    let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = File::from(fd);
    file.write_all(content).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Some((file, path))
}
