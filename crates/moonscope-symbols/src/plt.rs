//! Names of PLT stubs: `malloc@plt` for the few instructions that jump through malloc's slot of the GOT.
//!
//! No symbol table lists the stubs. But each loads or jumps through one slot, and the relocation of that
//! slot says whose it is, so the name is certain and does not rest on the order of the stubs. Sections as
//! linkers make them: `.plt` (jumps through the GOT itself, or only into the resolver if there is a
//! `.plt.sec`), `.plt.sec` (with CET), `.plt.got` (bound at start).

use crate::elf_file::{ElfError, ElfFile, Section, u32_at, u64_at};
use crate::limits::{MAX_PLT_BYTES, MAX_RAW_NAME, MAX_RELOCATION_BYTES, MAX_STRING_BYTES, MAX_SYMBOL_BYTES};
use crate::symtab::Candidates;
use object::elf;
use rustc_hash::FxHashMap;

/// Size of a relocation with addend in a 64-bit file.
const RELA_SIZE: usize = 24;

/// What fills a slot.
enum Target {
    Name(String),
    /// `IRELATIVE`: the function at this address chooses at start.
    Resolver(u64),
}

/// Start, size and name of each stub that can be told.
pub(crate) fn stubs(elf: &ElfFile, known: &Candidates) -> Result<Vec<(u64, u64, String)>, ElfError> {
    let sections: Vec<&Section> = [".plt", ".plt.sec", ".plt.got", ".iplt"]
        .iter()
        .filter_map(|name| elf.section(name))
        .collect();
    if sections.is_empty() {
        return Ok(Vec::new());
    }
    let slots = slots(elf)?;
    let resolvers: Vec<u64> = slots
        .values()
        .filter_map(|target| match target {
            Target::Resolver(addr) => Some(*addr),
            Target::Name(_) => None,
        })
        .collect();
    let resolvers: FxHashMap<u64, String> = known.names_at(&resolvers).into_iter().collect();
    let name_of = |slot: u64| match slots.get(&slot)? {
        Target::Name(name) => Some(format!("{name}@plt")),
        Target::Resolver(addr) => resolvers.get(addr).map(|name| format!("{name}@plt")),
    };
    let mut found = Vec::new();
    for section in sections {
        let code = elf.raw(section, MAX_PLT_BYTES, "PLT")?;
        let stubs = match elf.machine {
            machine if machine == elf::EM_X86_64.0 => x86_64(section, &code),
            machine if machine == elf::EM_AARCH64.0 => aarch64(section, &code),
            _ => Vec::new(),
        };
        found.extend(
            stubs
                .into_iter()
                .filter_map(|(start, size, slot)| Some((start, size, name_of(slot)?))),
        );
    }
    Ok(found)
}

/// What fills each slot of the GOT, by the slot's address.
fn slots(elf: &ElfFile) -> Result<FxHashMap<u64, Target>, ElfError> {
    let (slot_types, relative) = match elf.machine {
        machine if machine == elf::EM_AARCH64.0 => (
            [elf::R_AARCH64_JUMP_SLOT.0, elf::R_AARCH64_GLOB_DAT.0],
            elf::R_AARCH64_IRELATIVE.0,
        ),
        _ => (
            [elf::R_X86_64_JUMP_SLOT.0, elf::R_X86_64_GLOB_DAT.0],
            elf::R_X86_64_IRELATIVE.0,
        ),
    };
    let mut slots = FxHashMap::default();
    let tables = [".rela.plt", ".rela.dyn", ".rela.iplt"]
        .iter()
        .filter_map(|name| elf.section(name));
    for table in tables {
        let relocations = elf.raw(table, MAX_RELOCATION_BYTES, "relocations")?;
        let names = Names::of(elf, table)?;
        for relocation in relocations.chunks_exact(RELA_SIZE) {
            let (slot, info, addend) = (
                u64_at(relocation, 0),
                u64_at(relocation, 8),
                u64_at(relocation, 16),
            );
            let (kind, symbol) = (info as u32, (info >> 32) as usize);
            if kind == relative {
                slots.insert(slot, Target::Resolver(addend));
            } else if slot_types.contains(&kind)
                && let Some(name) = names.get(symbol)
            {
                slots.insert(slot, Target::Name(name));
            }
        }
    }
    Ok(slots)
}

/// Names of the symbols that a table of relocations refers to.
struct Names {
    symbols: Vec<u8>,
    strings: Vec<u8>,
}

impl Names {
    fn of(elf: &ElfFile, relocations: &Section) -> Result<Self, ElfError> {
        let table = elf
            .sections
            .get(relocations.link)
            .filter(|table| table.is_kind(elf::SHT_DYNSYM));
        let Some(table) = table else {
            return Ok(Self {
                symbols: Vec::new(),
                strings: Vec::new(),
            });
        };
        let strings = elf
            .sections
            .get(table.link)
            .ok_or(ElfError::Damaged("symbol table without names"))?;
        Ok(Self {
            symbols: elf.raw(table, MAX_SYMBOL_BYTES, "symbol table")?,
            strings: elf.raw(strings, MAX_STRING_BYTES, "symbol names")?,
        })
    }

    fn get(&self, symbol: usize) -> Option<String> {
        let symbol = self.symbols.chunks_exact(24).nth(symbol)?;
        let name = self.strings.get(u32_at(symbol, 0) as usize..)?;
        let name = &name[..name.len().min(MAX_RAW_NAME)];
        let name = &name[..memchr::memchr(0, name)?];
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

/// Start, size and GOT slot of x86-64 stubs: `jmp *slot(%rip)`, with or without `endbr64` and the `bnd`
/// prefix before it (psABI 5.2 and its CET appendix).
fn x86_64(section: &Section, code: &[u8]) -> Vec<(u64, u64, u64)> {
    let size = if section.entsize == 8 { 8 } else { 16 };
    let stub = |(number, stub): (usize, &[u8])| {
        let jump = [0, 1, 4, 5]
            .into_iter()
            .find(|&at| stub.get(at..at + 2) == Some(&[0xff, 0x25]))?;
        let displacement = i32::from_le_bytes(*stub.get(jump + 2..)?.first_chunk()?);
        let start = section.addr.wrapping_add((number * size) as u64);
        let next = start.wrapping_add(jump as u64 + 6);
        Some((start, size as u64, next.wrapping_add_signed(displacement.into())))
    };
    code.chunks_exact(size).enumerate().filter_map(stub).collect()
}

/// Start, size and GOT slot of AArch64 stubs: `[bti c;] adrp x16, page; ldr x17, [x16, #low]; …; br x17`
/// (AAELF64, procedure linkage table).
fn aarch64(section: &Section, code: &[u8]) -> Vec<(u64, u64, u64)> {
    const BTI_C: u32 = 0xd503_245f;
    let words: Vec<u32> = code.chunks_exact(4).map(|word| u32_at(word, 0)).collect();
    let stub = |at: usize| {
        let (adrp, ldr) = (words[at], *words.get(at + 1)?);
        // adrp x16: immhi in bits 5..24, immlo in bits 29..31; ldr x17, [x16]: imm12 times 8 in bits 10..22.
        if adrp & 0x9f00_001f != 0x9000_0010 || ldr & 0xffc0_03ff != 0xf940_0211 {
            return None;
        }
        let immediate = u64::from((adrp >> 5) & 0x7ffff) << 2 | u64::from((adrp >> 29) & 3);
        // 21 bits, signed, in pages.
        let pages = ((immediate << 43) as i64 >> 43) << 12;
        let pc = section.addr.wrapping_add(at as u64 * 4);
        let slot = (pc & !0xfff)
            .wrapping_add_signed(pages)
            .wrapping_add(u64::from((ldr >> 10) & 0xfff) * 8);
        let bti = at > 0 && words[at - 1] == BTI_C;
        Some((pc - if bti { 4 } else { 0 }, if bti { 20 } else { 16 }, slot))
    };
    (0..words.len()).filter_map(stub).collect()
}
