//! The executable segments of an ELF file, and which parts of them no unwind entry describes.

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use crate::vm_text::VmTextError;

/// A loaded part of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) start: u64,
    pub(crate) bytes: &'a [u8],
    pub(crate) executable: bool,
}

impl Segment<'_> {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}

/// Machine code and unwind sections of one file.
pub(crate) struct ElfCode<'a> {
    pub(crate) segments: Vec<Segment<'a>>,
    /// Address and content of `.eh_frame_hdr`.
    pub(crate) eh_frame_hdr: Option<(u64, &'a [u8])>,
    /// Address and content of `.eh_frame`, where the section table names it.
    pub(crate) eh_frame: Option<(u64, &'a [u8])>,
}

impl<'a> ElfCode<'a> {
    /// Reads the headers of an x86-64 file.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, VmTextError> {
        let not_elf = |_| VmTextError::NotElf;
        let header = elf::FileHeader64::<Endianness>::parse(file).map_err(not_elf)?;
        let endian = header.endian().map_err(not_elf)?;
        if endian != Endianness::Little || header.e_machine.get(endian) != elf::EM_X86_64 {
            return Err(VmTextError::WrongMachine);
        }
        let programs = header.program_headers(endian, file).map_err(not_elf)?;
        let mut segments: Vec<Segment<'a>> = programs
            .iter()
            .filter(|program| program.p_type(endian) == elf::PT_LOAD)
            .filter_map(|program| {
                let offset = usize::try_from(program.p_offset(endian)).ok()?;
                let size = usize::try_from(program.p_filesz(endian)).ok()?;
                let end = offset.saturating_add(size).min(file.len());
                let bytes = file.get(offset..end)?;
                let start = program.p_vaddr(endian);
                start.checked_add(bytes.len() as u64)?;
                Some(Segment {
                    start,
                    bytes,
                    executable: program.p_flags(endian) & elf::PF_X == elf::PF_X,
                })
            })
            .collect();
        segments.sort_by_key(|segment| segment.start);
        let eh_frame_hdr = programs
            .iter()
            .find(|program| program.p_type(endian) == elf::PT_GNU_EH_FRAME)
            .and_then(|program| Some((program.p_vaddr(endian), program.data(endian, file).ok()?)));
        let eh_frame = header.sections(endian, file).ok().and_then(|sections| {
            let (_, section) = sections.section_by_name(endian, b".eh_frame")?;
            let bytes = section.data(endian, file).ok()?;
            (!bytes.is_empty()).then_some((section.sh_addr(endian), bytes))
        });
        Ok(Self {
            segments,
            eh_frame_hdr,
            eh_frame,
        })
    }

    /// The file's bytes from this address to the end of its segment.
    pub(crate) fn at(&self, addr: u64) -> Option<&'a [u8]> {
        let after = self.segments.partition_point(|segment| segment.start <= addr);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let bytes = segment.bytes.get(usize::try_from(addr - segment.start).ok()?..)?;
        (!bytes.is_empty()).then_some(bytes)
    }

    /// The bytes of `[start, end)` if they are machine code of one segment.
    pub(crate) fn code(&self, start: u64, end: u64) -> Option<&'a [u8]> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.executable && segment.start <= start && end <= segment.end())?;
        let from = usize::try_from(start - segment.start).ok()?;
        let to = usize::try_from(end.checked_sub(segment.start)?).ok()?;
        segment.bytes.get(from..to)
    }
}
