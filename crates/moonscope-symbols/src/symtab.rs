//! Function symbols of ELF symbol tables (`.symtab`, `.dynsym`), gathered from all files that belong to
//! one executable.
//!
//! What counts as a function: `STT_FUNC` and `STT_GNU_IFUNC`, and `STT_NOTYPE` (assembler labels), each
//! defined in a section with code. Not: the mapping symbols `$x` and `$d` of AArch64 (AAELF64 5.5.4),
//! local labels `.L…`, and the `.annobin…` marks that Fedora's compilers leave.
//!
//! Of several names for one place the first in this order is taken, so that the same place has the same
//! name in every run: global before weak before local binding; fewer leading underscores; shorter; then
//! by bytes. The version (`@GLIBC_2.2.5`, `@@GLIBC_2.14`) does not belong to the name.

use crate::elf_file::{ElfError, ElfFile, Section, u16_at, u32_at, u64_at};
use crate::limits::{MAX_COMPARED_NAME, MAX_RAW_NAME, MAX_STRING_BYTES, MAX_SYMBOL_BYTES, MAX_SYMBOLS};
use object::elf;
use std::cmp::Ordering;

/// Size of a symbol in a 64-bit file.
const SYMBOL_SIZE: usize = 24;

/// One symbol that may name an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// First address.
    pub(crate) start: u64,
    /// First address after it; for a symbol without size the end of its section.
    pub(crate) end: u64,
    name: u32,
    strings: u8,
    binding: u8,
    /// Does the file say how large it is?
    pub(crate) sized: bool,
}

/// Names, and whether they may carry a version.
#[derive(Debug)]
struct Strings {
    bytes: Vec<u8>,
    versioned: bool,
}

/// All candidates of an executable, and their names.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    all: Vec<Candidate>,
    strings: Vec<Strings>,
    /// Addresses in code where something that is no function begins (tables in `.text`): a symbol without
    /// size ends there.
    barriers: Vec<u64>,
}

impl Candidates {
    /// Adds the symbols of one symbol table; says how many functions it has.
    pub(crate) fn add_table(&mut self, elf: &ElfFile, table: &Section) -> Result<usize, ElfError> {
        let symbols = elf.raw(table, MAX_SYMBOL_BYTES, "symbol table")?;
        let names = elf
            .sections
            .get(table.link)
            .ok_or(ElfError::Damaged("symbol table without names"))?;
        let bytes = elf.raw(names, MAX_STRING_BYTES, "symbol names")?;
        let strings = self.add_strings(bytes, true)?;
        let code: Vec<Option<&Section>> = elf
            .sections
            .iter()
            .map(|section| Some(section).filter(|section| section.is_code()))
            .collect();
        let before = self.all.len();
        for symbol in symbols.chunks_exact(SYMBOL_SIZE) {
            if self.all.len() >= MAX_SYMBOLS {
                return Err(ElfError::TooLarge("number of symbols"));
            }
            let (kind, binding, index) = (symbol[4] & 15, symbol[4] >> 4, u16_at(symbol, 6));
            let (start, size) = (u64_at(symbol, 8), u64_at(symbol, 16));
            // More than 65,279 sections: the index stands in another table. Found by address instead.
            let section = match index == elf::SHN_XINDEX.0 {
                true => code
                    .iter()
                    .flatten()
                    .find(|code| (code.addr..code.end()).contains(&start))
                    .copied(),
                false => code.get(usize::from(index)).copied().flatten(),
            };
            let Some(section) = section.filter(|code| (code.addr..code.end()).contains(&start)) else {
                continue;
            };
            if ![elf::STT_FUNC.0, elf::STT_GNU_IFUNC.0, elf::STT_NOTYPE.0].contains(&kind) {
                if kind == elf::STT_OBJECT.0 {
                    self.barriers.push(start);
                }
                continue;
            }
            let end = match size {
                0 => section.end(),
                _ => start.saturating_add(size).min(section.end()),
            };
            let name = u32_at(symbol, 0);
            let candidate = Candidate {
                start,
                end,
                name,
                strings,
                binding: rank(binding),
                sized: size > 0,
            };
            let name = self.compared_name(&candidate);
            let mark = kind == elf::STT_NOTYPE.0 && is_mark(name, elf.machine);
            if !name.is_empty() && !mark {
                self.all.push(candidate);
            }
        }
        Ok(self.all.len() - before)
    }

    /// Adds symbols that we name ourselves: start, size, name.
    pub(crate) fn add_own(&mut self, own: &[(u64, u64, String)]) -> Result<(), ElfError> {
        let mut bytes = Vec::new();
        let mut candidates = Vec::with_capacity(own.len());
        for (start, size, name) in own {
            let name_at = u32::try_from(bytes.len()).map_err(|_| ElfError::TooLarge("names"))?;
            bytes.extend(name.bytes().take(MAX_RAW_NAME));
            bytes.push(0);
            candidates.push((*start, start.saturating_add(*size), name_at));
        }
        let strings = self.add_strings(bytes, false)?;
        self.all
            .extend(candidates.into_iter().map(|(start, end, name)| Candidate {
                start,
                end,
                name,
                strings,
                binding: rank(elf::STB_LOCAL.0),
                sized: true,
            }));
        Ok(())
    }

    fn add_strings(&mut self, bytes: Vec<u8>, versioned: bool) -> Result<u8, ElfError> {
        let index = u8::try_from(self.strings.len()).map_err(|_| ElfError::TooLarge("number of tables"))?;
        self.strings.push(Strings { bytes, versioned });
        Ok(index)
    }

    /// Takes the candidates out, sorted by address, the best name of each address first; and the
    /// barriers, sorted.
    pub(crate) fn take_sorted(&mut self) -> (Vec<Candidate>, Vec<u64>) {
        let (mut all, mut barriers) = (std::mem::take(&mut self.all), std::mem::take(&mut self.barriers));
        all.sort_unstable_by(|a, b| a.start.cmp(&b.start).then_with(|| self.preference(a, b)));
        barriers.sort_unstable();
        (all, barriers)
    }

    /// Is there anything?
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The best name of each of these addresses where a symbol begins.
    pub(crate) fn names_at(&self, starts: &[u64]) -> Vec<(u64, String)> {
        let mut best: rustc_hash::FxHashMap<u64, Candidate> = Default::default();
        let wanted: rustc_hash::FxHashSet<u64> = starts.iter().copied().collect();
        for candidate in self
            .all
            .iter()
            .filter(|candidate| wanted.contains(&candidate.start))
        {
            let entry = best.entry(candidate.start).or_insert(*candidate);
            if self.preference(candidate, entry) == Ordering::Less {
                *entry = *candidate;
            }
        }
        let text = |candidate| String::from_utf8_lossy(self.name(candidate)).into_owned();
        best.iter()
            .map(|(&start, candidate)| (start, text(candidate)))
            .collect()
    }

    /// The name without its version, cut at the limit.
    pub(crate) fn name(&self, candidate: &Candidate) -> &[u8] {
        self.bounded_name(candidate, MAX_RAW_NAME)
    }

    fn compared_name(&self, candidate: &Candidate) -> &[u8] {
        self.bounded_name(candidate, MAX_COMPARED_NAME)
    }

    fn bounded_name(&self, candidate: &Candidate, limit: usize) -> &[u8] {
        let Some(strings) = self.strings.get(usize::from(candidate.strings)) else {
            return &[];
        };
        let name = strings.bytes.get(candidate.name as usize..).unwrap_or_default();
        let name = &name[..name.len().min(limit)];
        let name = &name[..memchr::memchr(0, name).unwrap_or(name.len())];
        match memchr::memchr(b'@', name) {
            Some(at) if at > 0 && strings.versioned => &name[..at],
            _ => name,
        }
    }

    fn preference(&self, a: &Candidate, b: &Candidate) -> Ordering {
        let key = |candidate| {
            let name = self.compared_name(candidate);
            let underscores = name.iter().take_while(|&&byte| byte == b'_').count();
            (underscores, name.len(), name)
        };
        a.binding.cmp(&b.binding).then_with(|| key(a).cmp(&key(b)))
    }
}

/// Global (and `STB_GNU_UNIQUE`) first, then weak, then local.
fn rank(binding: u8) -> u8 {
    match binding {
        binding if binding == elf::STB_LOCAL.0 => 2,
        binding if binding == elf::STB_WEAK.0 => 1,
        _ => 0,
    }
}

/// Is this label a mark for tools rather than the name of some code?
fn is_mark(name: &[u8], machine: u16) -> bool {
    let mapping =
        machine == elf::EM_AARCH64.0 && matches!(name, [b'$', b'x' | b'd'] | [b'$', b'x' | b'd', b'.', ..]);
    mapping || name.starts_with(b".L") || name.starts_with(b".annobin")
}
