//! What an ELF file says of its functions: names, extents, code, and where its jumps to other files lead.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use moonscope_process::{Executable, ExecutableData};
use moonscope_unwind::{RuleSet, Table};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, SymbolIndex};

use super::names::{Role, is_operator, returns_first, role};
use crate::breakpoints::exits::{self, Exit};
use crate::breakpoints::functions::{self, Function, Functions};

/// Where a jump out of a function leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a function that allocates: it is probed itself.
    Allocates,
    /// To one that frees.
    Frees,
    /// To one that returns its first argument.
    ReturnsFirst,
    /// To other code of this file.
    Code(Range<u64>),
    /// To another file, or nobody knows.
    Elsewhere,
}

/// What a word that a jump takes its target from is filled with.
enum Filled {
    With(String),
    /// With what the function there returns (R_X86_64_IRELATIVE).
    By(u64),
}

/// A function of the allocator.
pub struct Member {
    /// Its name; of several the one that everybody knows.
    pub name: String,
    /// Where it is.
    pub extent: Range<u64>,
    /// What it does.
    pub role: Role,
}

/// An ELF file that has functions of an allocator. Addresses are those of the file.
pub struct Image<'a> {
    file: &'a Executable,
    data: Arc<ExecutableData>,
    functions: Functions,
    /// Functions of the allocator by address.
    pub family: BTreeMap<u64, Member>,
    /// All functions by address: places in `functions`.
    by_address: Vec<(u64, usize)>,
    table: Option<Table>,
    filled: BTreeMap<u64, Filled>,
}

impl<'a> Image<'a> {
    /// Reads a file; `None`: it has no such function, or cannot be read.
    pub fn read(file: &'a Executable) -> Option<Self> {
        /// EM_X86_64
        const X86_64: u16 = 62;
        // operators alone leave the work to the malloc of another file
        let is_allocator = |name: &str| role(name).is_some() && !is_operator(name);
        if !file.is_64() || file.machine() != X86_64 || !functions::has(file, is_allocator) {
            return None;
        }
        let data = file.data().ok()?;
        let functions = functions::functions(file);
        let mut family: BTreeMap<u64, Member> = BTreeMap::new();
        let mut by_address = Vec::with_capacity(functions.all.len());
        for (place, function) in functions.all.iter().enumerate() {
            let Some(start) = file.vaddr_of_offset(function.offset) else {
                continue;
            };
            by_address.push((start, place));
            let Some(role) = role(&function.name).filter(|_| !function.is_chosen) else {
                continue;
            };
            let known = family.entry(start).or_insert_with(|| Member {
                name: function.name.clone(),
                extent: start..start.saturating_add(function.size),
                role,
            });
            if function.name.len() < known.name.len() {
                known.name.clone_from(&function.name);
            }
        }
        if !family.values().any(|member| !is_operator(&member.name)) {
            return None;
        }
        by_address.sort_unstable();
        let filled = filled(&ElfFile64::parse(&**data).ok()?);
        Some(Self {
            file,
            functions,
            family,
            by_address,
            table: Table::build(&data, &mut RuleSet::new()).ok().flatten(),
            filled,
            data,
        })
    }

    /// Instructions in this range.
    pub fn instructions(&self, range: &Range<u64>) -> impl Iterator<Item = Instruction> + use<'_> {
        let code = || {
            let start = usize::try_from(self.offset(range.start)?).ok()?;
            let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
            let all = self.data.get(start..)?;
            Some(&all[..len.min(all.len())])
        };
        let mut decoder = Decoder::with_ip(64, code().unwrap_or_default(), range.start, DecoderOptions::NONE);
        std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
    }

    /// Where the code of this address stands in the file.
    pub fn offset(&self, vaddr: u64) -> Option<u64> {
        self.file.offset_of_vaddr(vaddr)
    }

    /// Where a function, or a part of one, is left: offsets in the file. `None`: that cannot be told. Its parts that were
    /// split off are known by its name.
    pub fn exits(&self, name: &str, range: &Range<u64>) -> Option<BTreeMap<u64, Exit>> {
        let function = Function {
            name: name.to_owned(),
            offset: self.offset(range.start)?,
            size: range.end.checked_sub(range.start)?,
            is_chosen: false,
        };
        exits::exits(self.file, &self.functions, &function).ok()
    }

    /// The function, or a part that was split off it, at this address: by its unwind entry, else by its symbol.
    pub fn function(&self, vaddr: u64) -> Option<Range<u64>> {
        let by_entry = || self.table.as_ref()?.function_at(vaddr);
        let by_symbol = || {
            let after = self.by_address.partition_point(|(start, _)| *start <= vaddr);
            let (start, place) = self.by_address.get(after.checked_sub(1)?)?;
            let extent = *start..start.saturating_add(self.functions.all[*place].size);
            extent.contains(&vaddr).then_some(extent)
        };
        by_entry().or_else(by_symbol)
    }

    /// Where a jump to this address leads.
    pub fn target(&self, vaddr: u64) -> Target {
        if let Some(member) = self.family.get(&vaddr) {
            return of_role(member.role);
        }
        if self.names_at(vaddr).any(returns_first) {
            return Target::ReturnsFirst;
        }
        if let Some(word) = exits::stub(self.file, vaddr) {
            return self.target_in(word);
        }
        self.function(vaddr).map_or(Target::Elsewhere, Target::Code)
    }

    /// Where a jump leads that takes its target from this word.
    pub fn target_in(&self, word: u64) -> Target {
        match self.filled.get(&word) {
            Some(Filled::With(name)) if returns_first(name) => Target::ReturnsFirst,
            Some(Filled::With(name)) => match (role(name), self.address_of(name)) {
                (Some(role), _) => of_role(role),
                // a function of this file, unless another file has one of the same name
                (None, Some(address)) => self.function(address).map_or(Target::Elsewhere, Target::Code),
                (None, None) => Target::Elsewhere,
            },
            Some(Filled::By(resolver)) if self.names_at(*resolver).any(returns_first) => Target::ReturnsFirst,
            _ => Target::Elsewhere,
        }
    }

    fn names_at(&self, vaddr: u64) -> impl Iterator<Item = &str> {
        let first = self.by_address.partition_point(|(address, _)| *address < vaddr);
        let same = self.by_address[first..]
            .iter()
            .take_while(move |(address, _)| *address == vaddr);
        same.map(|(_, place)| self.functions.all[*place].name.as_str())
    }

    fn address_of(&self, name: &str) -> Option<u64> {
        // by name, and then by place
        let first = self
            .functions
            .all
            .partition_point(|function| function.name.as_str() < name);
        let found = self.functions.all.get(first)?;
        (found.name == name)
            .then(|| self.file.vaddr_of_offset(found.offset))
            .flatten()
    }
}

fn of_role(role: Role) -> Target {
    match role {
        Role::Allocates(_) => Target::Allocates,
        Role::Frees => Target::Frees,
    }
}

/// The words that the dynamic linker fills (or the program itself, where it is static), by address.
fn filled(file: &ElfFile64<'_, Endianness>) -> BTreeMap<u64, Filled> {
    /// `Elf64_Rela`: offset, info, addend.
    const ENTRY: usize = 24;
    // psABI x86-64, 4.4.1
    const GLOB_DAT: u32 = 6;
    const JUMP_SLOT: u32 = 7;
    const IRELATIVE: u32 = 37;
    let dynamic = file.dynamic_symbol_table();
    let mut all = BTreeMap::new();
    let sections = file.sections().filter(|section| {
        section
            .name()
            .is_ok_and(|name| name.starts_with(".rela.") && name != ".rela.text")
    });
    for section in sections {
        let Ok(bytes) = section.data() else { continue };
        for entry in bytes.chunks_exact(ENTRY) {
            let word = |at: usize| {
                let bytes = entry.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u64::from_le_bytes)
            };
            let (info, addend) = (word(8), word(16));
            let filled = match info as u32 {
                GLOB_DAT | JUMP_SLOT => {
                    let symbol = dynamic
                        .as_ref()
                        .and_then(|table| table.symbol_by_index(SymbolIndex((info >> 32) as usize)).ok());
                    symbol.and_then(|symbol| Some(Filled::With(symbol.name().ok()?.to_owned())))
                }
                IRELATIVE => Some(Filled::By(addend)),
                _ => None,
            };
            if let Some(filled) = filled {
                all.insert(word(0), filled);
            }
        }
    }
    all
}
