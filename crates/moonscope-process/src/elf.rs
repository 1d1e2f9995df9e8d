//! The headers of an ELF file, read piece by piece: class, machine, program headers, build id.
//!
//! Only what identifies a file and maps its addresses stands here; unwind tables and symbols are read
//! by other crates. Headers may be forged: every count and offset is bounded before it is used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Most program headers that are looked at. The kernel refuses to run a file whose table is larger than
/// 64 KiB (fs/binfmt_elf.c, `load_elf_phdrs`), which is 1170 of them.
const MAX_PROGRAM_HEADERS: u16 = 1170;
/// Most bytes of notes that are searched for a build id; real ones are below 1 KiB.
const MAX_NOTES: u64 = 64 << 10;
/// Longest build id: SHA-512 is 64 bytes, what linkers make is 8 to 20.
const MAX_BUILD_ID: usize = 64;

/// Something that has bytes at offsets: a file or a copy of memory.
pub(crate) trait ReadAt {
    /// Fills `buf` from `offset`; an error if there is less.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// A `PT_LOAD` program header: a stretch of the file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Address in the file's own address space.
    pub vaddr: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub filesz: u64,
    /// Bytes in memory; what exceeds `filesz` is zero.
    pub memsz: u64,
    /// Mapped executable.
    pub executable: bool,
}

/// What the ELF header and the program headers say.
#[derive(Debug)]
pub(crate) struct Headers {
    /// ELFCLASS64, else 32 bit.
    pub(crate) is_64: bool,
    /// `e_machine`: 62 is x86-64, 183 AArch64.
    pub(crate) machine: u16,
    /// The `PT_LOAD`s in the order of the file.
    pub(crate) segments: Vec<Segment>,
    /// `PT_NOTE`s: offset and size.
    notes: Vec<(u64, u64)>,
    /// `PT_GNU_EH_FRAME`: offset and size.
    pub(crate) eh_frame_hdr: Option<(u64, u64)>,
    /// ELF header and program headers as they are.
    pub(crate) raw: Vec<u8>,
}

/// Where the fields of the two classes are.
struct Layout {
    header: usize,
    phoff: usize,
    phnum: usize,
    phentsize: usize,
}

const LAYOUT_32: Layout = Layout {
    header: 52,
    phoff: 28,
    phnum: 44,
    phentsize: 32,
};
const LAYOUT_64: Layout = Layout {
    header: 64,
    phoff: 32,
    phnum: 56,
    phentsize: 56,
};

impl Headers {
    /// Reads them; the error says what is wrong.
    pub(crate) fn read(file: &(impl ReadAt + ?Sized)) -> Result<Self, &'static str> {
        let mut ident = [0; 16];
        file.read_exact_at(&mut ident, 0).map_err(|_| "not an ELF file")?;
        if !ident.starts_with(b"\x7fELF") {
            return Err("not an ELF file");
        }
        let is_64 = match ident[4] {
            1 => false,
            2 => true,
            _ => return Err("neither a 32-bit nor a 64-bit ELF file"),
        };
        if ident[5] != if cfg!(target_endian = "little") { 1 } else { 2 } {
            return Err("an ELF file of the other byte order");
        }
        let layout = if is_64 { LAYOUT_64 } else { LAYOUT_32 };
        let mut raw = vec![0; layout.header];
        file.read_exact_at(&mut raw, 0)
            .map_err(|_| "the ELF header is truncated")?;
        let phoff = word(&raw, layout.phoff, is_64);
        let phentsize = usize::from(u16_at(&raw, layout.phnum - 2));
        let phnum = u16_at(&raw, layout.phnum);
        if phnum > MAX_PROGRAM_HEADERS {
            return Err("more program headers than the kernel would load");
        }
        if phnum > 0 && phentsize != layout.phentsize {
            return Err("program headers of an unknown size");
        }
        let mut table = vec![0; usize::from(phnum) * layout.phentsize];
        file.read_exact_at(&mut table, phoff)
            .map_err(|_| "the program headers are truncated")?;
        let mut headers = Self {
            is_64,
            machine: u16_at(&raw, 18),
            segments: Vec::new(),
            notes: Vec::new(),
            eh_frame_hdr: None,
            raw,
        };
        for entry in table.chunks_exact(layout.phentsize) {
            headers.add(entry);
        }
        headers.raw.extend_from_slice(&table);
        Ok(headers)
    }

    fn add(&mut self, entry: &[u8]) {
        const PT_LOAD: u32 = 1;
        const PT_NOTE: u32 = 4;
        const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
        const PF_X: u32 = 1;
        // Elf64_Phdr: type flags offset vaddr paddr filesz memsz align;
        // Elf32_Phdr: type offset vaddr paddr filesz memsz flags align.
        let [flags, offset, vaddr, filesz, memsz] = if self.is_64 {
            [4, 8, 16, 32, 40]
        } else {
            [24, 4, 8, 16, 20]
        };
        let at = |field| word(entry, field, self.is_64);
        let (offset, filesz) = (at(offset), at(filesz));
        match u32_at(entry, 0) {
            PT_LOAD => self.segments.push(Segment {
                vaddr: at(vaddr),
                offset,
                filesz,
                memsz: at(memsz),
                executable: u32_at(entry, flags) & PF_X != 0,
            }),
            PT_NOTE => self.notes.push((offset, filesz)),
            PT_GNU_EH_FRAME => self.eh_frame_hdr = Some((offset, filesz)),
            _ => {}
        }
    }

    /// The GNU build id from the notes.
    pub(crate) fn build_id(&self, file: &(impl ReadAt + ?Sized)) -> Option<Vec<u8>> {
        let mut budget = MAX_NOTES;
        self.notes.iter().find_map(|&(offset, size)| {
            let size = size.min(budget);
            budget -= size;
            let mut notes = vec![0; usize::try_from(size).ok()?];
            file.read_exact_at(&mut notes, offset).ok()?;
            find_build_id(&notes)
        })
    }
}

/// Walks notes: name size, description size, type, name, description; each padded to 4 bytes.
/// (Notes of `.note.gnu.property` are padded to 8, but they are the only one of their segment.)
fn find_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    while notes.len() >= 12 {
        let (name_len, desc_len) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize);
        let kind = u32_at(notes, 8);
        let desc_start = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let desc_end = desc_start.checked_add(desc_len)?;
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        let desc = notes.get(desc_start..desc_end)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (1..=MAX_BUILD_ID).contains(&desc_len) {
            return Some(desc.to_vec());
        }
        notes = notes.get(desc_end.checked_next_multiple_of(4)?..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

/// A field that is 4 bytes in a 32-bit file and 8 in a 64-bit one.
fn word(bytes: &[u8], at: usize, is_64: bool) -> u64 {
    if is_64 {
        bytes
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    } else {
        u32_at(bytes, at).into()
    }
}

#[cfg(test)]
mod tests;
