//! Where an ELF file keeps its code and its unwind information.
//!
//! Section headers are used when there are any; without them `PT_GNU_EH_FRAME` leads to `.eh_frame`
//! (Linux Standard Base core, section 10.6.2). A broken section table does not hide the program headers.

use std::borrow::Cow;
use std::ops::Range;

use gimli::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, SectionTable};
use object::{CompressedData, CompressionFormat, Endianness};

use crate::error::UnwindError;
use crate::go_place::{self, GoPlace};
use crate::stubs::{self, Stub};

/// How far apart the first and the last byte of code may lie. The code models in use keep them within 2 GiB;
/// the page words of a table over 4 GiB take 16 MiB.
const MAX_CODE_SPAN: u64 = 2 << 30;

/// What a compressed `.debug_frame` may unpack to.
const MAX_UNPACKED: u64 = 256 << 20;

/// The part of an executable segment that the file has bytes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where it starts in the file.
    pub(crate) offset: usize,
}

/// Where a file says that execution starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryPoint {
    pub(crate) vaddr: u64,
    /// The file is a program. A library may be the loader, or have an entry point that is none: linkers take the first
    /// byte of `.text` where nothing else was said.
    pub(crate) is_of_program: bool,
}

/// The bytes of code between two addresses.
pub(crate) fn code_of<'a>(data: &'a [u8], code: &[Code], wanted: Range<u64>) -> Option<&'a [u8]> {
    let range = code
        .iter()
        .find(|range| range.start <= wanted.start && wanted.end <= range.end)?;
    let place = |vaddr: u64| {
        range
            .offset
            .checked_add(usize::try_from(vaddr - range.start).ok()?)
    };
    data.get(place(wanted.start)?..place(wanted.end)?)
}

/// One section of unwind information.
pub(crate) struct FrameSection<'a> {
    pub(crate) data: Cow<'a, [u8]>,
    pub(crate) vaddr: u64,
    /// Whether `data` ends where the section ends. Found by program headers alone, it runs on, and only the
    /// terminating zero entry tells the end.
    pub(crate) exact_end: bool,
}

/// What [`find`] found.
pub(crate) struct Sections<'a> {
    /// Sorted by address, without overlaps, never empty.
    pub(crate) code: Vec<Code>,
    pub(crate) entry: Option<EntryPoint>,
    /// Sorted; unwind information may describe them too.
    pub(crate) stubs: Vec<Stub>,
    pub(crate) eh_frame: Option<FrameSection<'a>>,
    /// Address and content of `.eh_frame_hdr`.
    pub(crate) eh_frame_hdr: Option<(u64, &'a [u8])>,
    pub(crate) debug_frame: Option<FrameSection<'a>>,
    /// Start of `.text`, or 0: only for text-relative pointers, which nobody emits on x86-64.
    pub(crate) text: u64,
    /// Has code made by the Go compiler.
    pub(crate) go: bool,
    /// The function table of a Go program.
    pub(crate) gopclntab: Option<GoPlace<'a>>,
}

impl Sections<'_> {
    /// The bases of the encoded pointers in `.eh_frame`.
    pub(crate) fn bases(&self) -> gimli::BaseAddresses {
        let mut bases = gimli::BaseAddresses::default().set_text(self.text);
        if let Some(section) = &self.eh_frame {
            bases = bases.set_eh_frame(section.vaddr);
        }
        if let Some((vaddr, _)) = self.eh_frame_hdr {
            bases = bases.set_eh_frame_hdr(vaddr);
        }
        bases
    }
}

/// Code and unwind sections of the ELF file `data`.
pub(crate) fn find(data: &[u8]) -> Result<Sections<'_>, UnwindError> {
    let header = elf::FileHeader64::<Endianness>::parse(data).map_err(not_elf)?;
    let endian = header.endian().map_err(not_elf)?;
    if endian != Endianness::Little || header.e_machine.get(endian) != elf::EM_X86_64 {
        return Err(UnwindError::WrongMachine);
    }
    let segments = header.program_headers(endian, data).map_err(not_elf)?;
    let code = code_ranges(segments, endian, data)?;
    let table = header.sections(endian, data).unwrap_or_default();

    let eh_frame_hdr = segments
        .iter()
        .find(|segment| segment.p_type(endian) == elf::PT_GNU_EH_FRAME)
        .and_then(|segment| Some((segment.p_vaddr(endian), segment.data(endian, data).ok()?)));
    let eh_frame = named(&table, endian, data, b".eh_frame")
        .map(|(vaddr, bytes)| FrameSection {
            data: Cow::Borrowed(bytes),
            vaddr,
            exact_end: true,
        })
        .or_else(|| by_header(eh_frame_hdr?, segments, endian, data));
    let go = table.section_by_name(endian, b".go.buildinfo").is_some();
    let vaddr = header.e_entry.get(endian);
    let entry = (vaddr != 0).then(|| EntryPoint {
        vaddr,
        is_of_program: header.e_type.get(endian) == elf::ET_EXEC || is_program(segments, endian, data),
    });
    Ok(Sections {
        code,
        entry,
        stubs: stubs::find(&table, endian, data),
        eh_frame,
        eh_frame_hdr,
        debug_frame: debug_frame(&table, endian, data),
        text: named(&table, endian, data, b".text").map_or(0, |(vaddr, _)| vaddr),
        go,
        gopclntab: go.then(|| go_place::find(&table, endian, data)).flatten(),
    })
}

/// Whether a shared object is a program: it names its loader, or says so (DF_1_PIE, which static ones have).
fn is_program(segments: &[elf::ProgramHeader64<Endianness>], endian: Endianness, data: &[u8]) -> bool {
    let says_so = |segment: &elf::ProgramHeader64<Endianness>| {
        let entries = segment.dynamic(endian, data).ok().flatten().unwrap_or_default();
        entries.iter().any(|entry| {
            entry.d_tag.get(endian) == elf::DT_FLAGS_1 && entry.d_val.get(endian) & elf::DF_1_PIE.0 != 0
        })
    };
    let names_loader = |segment: &elf::ProgramHeader64<Endianness>| segment.p_type(endian) == elf::PT_INTERP;
    segments
        .iter()
        .any(|segment| names_loader(segment) || says_so(segment))
}

fn not_elf(error: object::Error) -> UnwindError {
    UnwindError::NotElf(error.to_string())
}

fn code_ranges(
    segments: &[elf::ProgramHeader64<Endianness>],
    endian: Endianness,
    data: &[u8],
) -> Result<Vec<Code>, UnwindError> {
    let mut code: Vec<Code> = segments
        .iter()
        .filter(|segment| {
            segment.p_type(endian) == elf::PT_LOAD && segment.p_flags(endian) & elf::PF_X == elf::PF_X
        })
        .filter_map(|segment| {
            let offset = usize::try_from(segment.p_offset(endian)).ok()?;
            let in_file = data.len().checked_sub(offset)? as u64;
            let start = segment.p_vaddr(endian);
            let end = start.checked_add(segment.p_filesz(endian).min(in_file))?;
            (start < end).then_some(Code { start, end, offset })
        })
        .collect();
    code.sort_by_key(|range| (range.start, range.end));
    // the loader would refuse overlapping segments, so whatever is in the second one is not code
    code.dedup_by(|later, earlier| later.start < earlier.end);
    match (code.first(), code.last()) {
        (Some(first), Some(last)) if last.end - first.start <= MAX_CODE_SPAN => Ok(code),
        (Some(first), Some(last)) => Err(UnwindError::TooLarge(last.end - first.start)),
        _ => Err(UnwindError::NoCode),
    }
}

type Table<'a> = SectionTable<'a, elf::FileHeader64<Endianness>>;

/// Address and content of a section that is in the file and in memory.
pub(crate) fn named<'a>(
    table: &Table<'a>,
    endian: Endianness,
    data: &'a [u8],
    name: &[u8],
) -> Option<(u64, &'a [u8])> {
    let (_, section) = table.section_by_name(endian, name)?;
    // in a file of debug information the section is there without content (SHT_NOBITS)
    let bytes = section
        .data(endian, data)
        .ok()
        .filter(|bytes| !bytes.is_empty())?;
    Some((section.sh_addr(endian), bytes))
}

/// `.eh_frame` by the pointer that `.eh_frame_hdr` starts with.
fn by_header<'a>(
    (hdr_vaddr, hdr): (u64, &'a [u8]),
    segments: &[elf::ProgramHeader64<Endianness>],
    endian: Endianness,
    data: &'a [u8],
) -> Option<FrameSection<'a>> {
    let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(hdr_vaddr);
    let parsed = gimli::EhFrameHdr::new(hdr, LittleEndian).parse(&bases, 8).ok()?;
    let vaddr = parsed.eh_frame_ptr().direct().ok()?;
    let bytes = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .find_map(|segment| {
            let into = usize::try_from(vaddr.checked_sub(segment.p_vaddr(endian))?).ok()?;
            let start = usize::try_from(segment.p_offset(endian)).ok()?;
            let size = usize::try_from(segment.p_filesz(endian)).ok()?;
            let end = start.checked_add(size)?.min(data.len());
            data.get(start.checked_add(into)?..end)
                .filter(|bytes| !bytes.is_empty())
        })?;
    Some(FrameSection {
        data: Cow::Borrowed(bytes),
        vaddr,
        exact_end: false,
    })
}

/// `.debug_frame`, unpacked if it is compressed in either of the two ways in use.
fn debug_frame<'a>(table: &Table<'a>, endian: Endianness, data: &'a [u8]) -> Option<FrameSection<'a>> {
    let packed = if let Some((_, section)) = table.section_by_name(endian, b".debug_frame") {
        match section.compression(endian, data).ok()? {
            None => CompressedData::none(section.data(endian, data).ok()?),
            Some((header, offset, size)) => {
                use object::read::elf::CompressionHeader;
                let start = usize::try_from(offset).ok()?;
                let bytes = data.get(start..start.checked_add(usize::try_from(size).ok()?)?)?;
                let format = match header.ch_type(endian) {
                    elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
                    elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
                    _ => return None,
                };
                let uncompressed_size = header.ch_size(endian);
                CompressedData {
                    format,
                    data: bytes,
                    uncompressed_size,
                }
            }
        }
    } else {
        // the older form, which the Go linker wrote until 1.18: "ZLIB", the size in big endian, a zlib stream
        let (_, section) = table.section_by_name(endian, b".zdebug_frame")?;
        let bytes = section.data(endian, data).ok()?.strip_prefix(b"ZLIB")?;
        let (size, bytes) = bytes.split_first_chunk::<8>()?;
        CompressedData {
            format: CompressionFormat::Zlib,
            data: bytes,
            uncompressed_size: u64::from_be_bytes(*size),
        }
    };
    if packed.uncompressed_size == 0 || packed.uncompressed_size > MAX_UNPACKED {
        return None;
    }
    let data = packed.decompress().ok()?;
    Some(FrameSection {
        data,
        vaddr: 0,
        exact_end: true,
    })
}
