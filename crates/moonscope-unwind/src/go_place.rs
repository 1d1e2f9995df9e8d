//! Where a Go program keeps its function table, and where the code starts that the table counts from.
//!
//! The Go linker gives the table a section of its own; the system's linker leaves it there or, in position-
//! independent programs, makes it a part of `.data.rel.ro`. Its header says where the code starts, by a
//! relocation if the program is position-independent, and from Go 1.26 on not at all: then `moduledata`
//! says so (src/runtime/symtab.go; release notes of Go 1.26, "Linker").

use memchr::memmem;
use object::Endianness;
use object::elf;
use object::read::elf::{SectionHeader, SectionTable};

use crate::gopclntab;
use crate::sections::named;

type Table<'a> = SectionTable<'a, elf::FileHeader64<Endianness>>;

/// Sections that a linker may have put the table into, best first.
const OWN_SECTIONS: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];
const SHARED_SECTIONS: [&[u8]; 2] = [b".data.rel.ro", b".rodata"];

/// What every table's header has behind the first byte: magic number, padding, code quantum, pointer size.
const HEADER: &[u8] = &[0xff, 0xff, 0xff, 0, 0, 1, 8];

/// Places in shared sections that look like a header and are tried.
const MAX_TRIES: usize = 16;

/// Bytes from the table's start to where its header says where the code starts.
const TEXT_IN_HEADER: u64 = 24;

/// Bytes from the start of `moduledata` to its `text`; the table's own address is the first word.
const TEXT_IN_MODULE: usize = 22 * 8;

/// The function table of a Go program.
pub(crate) struct GoPlace<'a> {
    /// Starts with the table, but may end later.
    pub(crate) table: &'a [u8],
    /// File virtual address of `runtime.text`.
    pub(crate) text: u64,
}

/// The table of the Go program `data`; `None` if it has none of a known version.
pub(crate) fn find<'a>(sections: &Table<'a>, endian: Endianness, data: &'a [u8]) -> Option<GoPlace<'a>> {
    let file = File {
        sections,
        endian,
        data,
    };
    let own = OWN_SECTIONS
        .iter()
        .filter_map(|name| named(sections, endian, data, name))
        .next();
    match own {
        Some((vaddr, table)) => file.place(vaddr, table),
        None => SHARED_SECTIONS
            .iter()
            .filter_map(|name| named(sections, endian, data, name))
            .find_map(|(vaddr, bytes)| file.search(vaddr, bytes)),
    }
}

struct File<'a, 'b> {
    sections: &'b Table<'a>,
    endian: Endianness,
    data: &'a [u8],
}

impl<'a> File<'a, '_> {
    fn search(&self, vaddr: u64, bytes: &'a [u8]) -> Option<GoPlace<'a>> {
        memmem::find_iter(bytes, HEADER)
            .filter_map(|at| at.checked_sub(1))
            .filter(|&at| gopclntab::is_table(&bytes[at..]))
            .take(MAX_TRIES)
            .find_map(|at| self.place(vaddr.checked_add(at as u64)?, &bytes[at..]))
    }

    fn place(&self, vaddr: u64, table: &'a [u8]) -> Option<GoPlace<'a>> {
        if !gopclntab::is_table(table) {
            return None;
        }
        let text = self
            .pointer(vaddr, table, TEXT_IN_HEADER as usize)
            .or_else(|| self.text_of_module(vaddr))?;
        Some(GoPlace { table, text })
    }

    fn text_of_module(&self, table_vaddr: u64) -> Option<u64> {
        let (vaddr, module) = named(self.sections, self.endian, self.data, b".go.module")?;
        (self.pointer(vaddr, module, 0)? == table_vaddr)
            .then(|| self.pointer(vaddr, module, TEXT_IN_MODULE))
            .flatten()
    }

    /// The pointer at `bytes[at]`, where `bytes[0]` has the address `vaddr`, once the loader has relocated it.
    fn pointer(&self, vaddr: u64, bytes: &[u8], at: usize) -> Option<u64> {
        let value = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        if value != 0 {
            return Some(value);
        }
        let place = vaddr.checked_add(at as u64)?;
        self.sections
            .iter()
            .filter_map(|section| section.rela(self.endian, self.data).ok().flatten())
            .flat_map(|(relocations, _)| relocations)
            .find(|relocation| {
                relocation.r_offset.get(self.endian) == place
                    && relocation.r_type(self.endian, false) == elf::R_X86_64_RELATIVE
            })
            .and_then(|relocation| u64::try_from(relocation.r_addend.get(self.endian)).ok())
            .filter(|&text| text != 0)
    }
}
