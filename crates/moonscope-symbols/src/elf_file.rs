//! One ELF file: its section headers, and the bytes of its sections, read with `pread`.
//!
//! Only what is asked for is read, into our own memory, and every size that the file claims is compared
//! with a limit and with the length of the file before anything is allocated. Symbol tables are read
//! this way rather than mapped because they are read once: pages of a mapping would count as ours for
//! as long as it lives.
//!
//! The format: System V gABI 4.1, chapter 4; constants from the `object` crate. 64-bit little-endian
//! only, which is all that runs on the machines we profile.

use crate::limits::{MAX_SECTION_NAMES, MAX_SECTIONS};
use moonscope_process::{Executable, ProcessError};
use object::elf;
use object::read::{CompressedData, CompressionFormat};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Why a file, or a part of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElfError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    #[error("damaged: {0}")]
    Damaged(&'static str),
    #[error("{0} is larger than moonscope's limit")]
    TooLarge(&'static str),
}

/// Where the bytes are.
#[derive(Debug)]
enum Source {
    File { file: File, len: u64 },
    Bytes(Vec<u8>),
}

/// A section header, with its name.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: Vec<u8>,
    kind: u32,
    flags: u64,
    pub(crate) addr: u64,
    offset: u64,
    pub(crate) size: u64,
    /// Index of the section that this one refers to: a symbol table's names.
    pub(crate) link: usize,
    pub(crate) entsize: u64,
}

impl Section {
    /// Has it code?
    pub(crate) fn is_code(&self) -> bool {
        self.flags & elf::SHF_EXECINSTR.0 != 0
    }

    /// First address after it.
    pub(crate) fn end(&self) -> u64 {
        self.addr.saturating_add(self.size)
    }

    pub(crate) fn is_kind(&self, kind: elf::SectionType) -> bool {
        self.kind == kind.0
    }

    /// False for sections that only have an address: the code in a separate debug file.
    pub(crate) fn has_bytes(&self) -> bool {
        self.kind != elf::SHT_NOBITS.0 && self.size > 0
    }

    fn is_compressed(&self) -> bool {
        self.flags & elf::SHF_COMPRESSED.0 != 0
    }
}

/// An open ELF file.
#[derive(Debug)]
pub(crate) struct ElfFile {
    source: Source,
    /// `e_machine`.
    pub(crate) machine: u16,
    /// All section headers; empty if the file has none.
    pub(crate) sections: Vec<Section>,
}

impl ElfFile {
    /// Reads the headers of an open file.
    pub(crate) fn from_file(file: File) -> Result<Self, ElfError> {
        let len = file.metadata()?.len();
        Self::parse(Source::File { file, len })
    }

    /// Reads the headers of an image in memory.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self, ElfError> {
        Self::parse(Source::Bytes(bytes))
    }

    /// The file of an executable, or the image of the vDSO.
    pub(crate) fn from_executable(exe: &Executable) -> Result<Self, ElfError> {
        if !exe.is_as_it_was() {
            let path = exe.path().to_owned();
            let changed = ProcessError::FileChanged { path };
            return Err(io::Error::other(changed.without_path()).into());
        }
        match exe.fd_path() {
            Some(path) => Self::from_file(File::open(path)?),
            None => Self::from_bytes(
                exe.data()
                    .map_err(|err| io::Error::other(err.without_path()))?
                    .to_vec(),
            ),
        }
    }

    fn parse(source: Source) -> Result<Self, ElfError> {
        let mut file = Self {
            source,
            machine: 0,
            sections: Vec::new(),
        };
        let header = file.read(0, 64, 64, "header")?;
        // EI_CLASS is ELFCLASS64, EI_DATA is ELFDATA2LSB.
        if header.get(..6) != Some(b"\x7fELF\x02\x01") {
            return Err(ElfError::NotElf);
        }
        file.machine = u16_at(&header, 18);
        let table = u64_at(&header, 40);
        if table == 0 {
            return Ok(file);
        }
        if u16_at(&header, 58) != 64 {
            return Err(ElfError::Damaged("size of a section header"));
        }
        let (mut count, mut names) = (u64::from(u16_at(&header, 60)), usize::from(u16_at(&header, 62)));
        // More than 65,279 sections: the numbers stand in the first section header.
        if count == 0 || names == usize::from(elf::SHN_XINDEX.0) {
            let first = file.read(table, 64, 64, "first section header")?;
            if count == 0 {
                count = u64_at(&first, 32);
            }
            if names == usize::from(elf::SHN_XINDEX.0) {
                names = u32_at(&first, 40) as usize;
            }
        }
        if count > MAX_SECTIONS {
            return Err(ElfError::TooLarge("number of sections"));
        }
        let headers = file.read(table, count * 64, MAX_SECTIONS * 64, "section headers")?;
        let name_at: Vec<usize> = headers
            .chunks_exact(64)
            .map(|header| u32_at(header, 0) as usize)
            .collect();
        file.sections = headers.chunks_exact(64).map(section).collect();
        if let Some(table) = file.sections.get(names).cloned() {
            let table = file.read(table.offset, table.size, MAX_SECTION_NAMES, "section names")?;
            for (section, at) in file.sections.iter_mut().zip(name_at) {
                // The longest name that means anything to us has 18 bytes.
                let name = table.get(at..).unwrap_or_default();
                section.name = name
                    .iter()
                    .take(64)
                    .copied()
                    .take_while(|&byte| byte != 0)
                    .collect();
            }
        }
        Ok(file)
    }

    /// The section of this name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name == name.as_bytes())
    }

    /// The bytes of a section as they stand in the file; none if it has only an address.
    pub(crate) fn raw(&self, section: &Section, limit: u64, what: &'static str) -> Result<Vec<u8>, ElfError> {
        match section.has_bytes() {
            true => self.read(section.offset, section.size, limit, what),
            false => Ok(Vec::new()),
        }
    }

    /// The bytes of a section, unpacked if it is compressed (by the gABI's flag, or as `.zdebug_*` of
    /// GNU binutils before 2.26).
    pub(crate) fn unpacked(
        &self,
        section: &Section,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, ElfError> {
        let raw = self.raw(section, limit, what)?;
        let packed = if section.is_compressed() {
            let format = match u32_at(&raw, 0) {
                kind if kind == elf::ELFCOMPRESS_ZLIB.0 => CompressionFormat::Zlib,
                kind if kind == elf::ELFCOMPRESS_ZSTD.0 => CompressionFormat::Zstandard,
                _ => return Err(ElfError::Damaged("unknown compression")),
            };
            let data = raw.get(24..).ok_or(ElfError::Damaged("compression header"))?;
            CompressedData {
                format,
                data,
                uncompressed_size: u64_at(&raw, 8),
            }
        } else if let Some(rest) = raw
            .strip_prefix(b"ZLIB")
            .filter(|_| section.name.starts_with(b".z"))
        {
            let (size, data) = rest
                .split_first_chunk()
                .ok_or(ElfError::Damaged("compression header"))?;
            CompressedData {
                format: CompressionFormat::Zlib,
                data,
                uncompressed_size: u64::from_be_bytes(*size),
            }
        } else {
            return Ok(raw);
        };
        // Neither deflate nor zstd makes a section more than some 1,000 times smaller; a claim above
        // that is there to make us allocate.
        let plausible = (packed.data.len() as u64)
            .saturating_mul(2048)
            .saturating_add(4096);
        if packed.uncompressed_size > limit.min(plausible) {
            return Err(ElfError::TooLarge(what));
        }
        let unpacked = packed
            .decompress()
            .map_err(|_| ElfError::Damaged("compressed section"))?;
        Ok(unpacked.into_owned())
    }

    /// Where the bytes of a section are, if they can be used in place: the file, offset and size.
    pub(crate) fn in_place(&self, section: &Section) -> Option<(&File, u64, u64)> {
        let Source::File { file, len } = &self.source else {
            return None;
        };
        let packed = section.is_compressed() || section.name.starts_with(b".z");
        let end = section.offset.checked_add(section.size)?;
        (section.has_bytes() && !packed && end <= *len).then_some((file, section.offset, section.size))
    }

    /// The file, if it is not an image in memory.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.source {
            Source::File { file, .. } => Some(file),
            Source::Bytes(_) => None,
        }
    }

    /// The GNU build id.
    pub(crate) fn build_id(&self) -> Option<Vec<u8>> {
        let notes = self
            .sections
            .iter()
            .filter(|section| section.is_kind(elf::SHT_NOTE));
        notes
            .filter_map(|section| self.raw(section, 1 << 16, "notes").ok())
            .find_map(|notes| build_id(&notes))
    }

    fn read(&self, offset: u64, size: u64, limit: u64, what: &'static str) -> Result<Vec<u8>, ElfError> {
        let len = match &self.source {
            Source::File { len, .. } => *len,
            Source::Bytes(bytes) => bytes.len() as u64,
        };
        let end = offset
            .checked_add(size)
            .ok_or(ElfError::Damaged("section beyond the end of the file"))?;
        if end > len {
            return Err(ElfError::Damaged("section beyond the end of the file"));
        }
        let too_large = |_| ElfError::TooLarge(what);
        let (start, size) = (
            usize::try_from(offset).map_err(too_large)?,
            size.min(limit.saturating_add(1)),
        );
        let size = usize::try_from(size).map_err(too_large)?;
        if size as u64 > limit {
            return Err(ElfError::TooLarge(what));
        }
        match &self.source {
            Source::File { file, .. } => {
                let mut bytes = vec![0; size];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            }
            Source::Bytes(bytes) => Ok(bytes.get(start..start + size).unwrap_or_default().to_vec()),
        }
    }
}

fn section(header: &[u8]) -> Section {
    Section {
        name: Vec::new(),
        kind: u32_at(header, 4),
        flags: u64_at(header, 8),
        addr: u64_at(header, 16),
        offset: u64_at(header, 24),
        size: u64_at(header, 32),
        link: u32_at(header, 40) as usize,
        entsize: u64_at(header, 56),
    }
}

/// The build id in a section of notes. A note is: size of the name, size of the contents, type, name,
/// contents, both filled up to four bytes.
fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    while notes.len() >= 12 {
        let (name, contents, kind) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8));
        let start = 12 + (name as usize).checked_next_multiple_of(4)?;
        let end = start.checked_add(contents as usize)?;
        if kind == elf::NT_GNU_BUILD_ID.0 && notes.get(12..16) == Some(b"GNU\0") {
            return notes
                .get(start..end)
                .filter(|id| !id.is_empty())
                .map(<[u8]>::to_vec);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// A little-endian number; zero if the bytes end before it does.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A little-endian number; zero if the bytes end before it does.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A little-endian number; zero if the bytes end before it does.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u16::from_le_bytes(*bytes))
}
