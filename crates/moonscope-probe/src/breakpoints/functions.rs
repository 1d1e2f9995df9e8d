//! Functions of an ELF file by name (`.symtab` and `.dynsym`), and where in the file they begin.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Decoder, DecoderOptions};
use moonscope_process::Executable;
use object::elf;
use object::read::elf::{FileHeader, Sym};
use object::{Endianness, elf::FileHeader64};

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name; one of them.
    pub name: String,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes; 0: not known.
    pub size: u64,
    /// The name stands for one of several, which is chosen when the program starts (STT_GNU_IFUNC).
    pub is_chosen: bool,
}

/// What a file has.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    /// By name; the same place may have several.
    pub all: Vec<Function>,
    begins: BTreeSet<u64>,
    /// Was it made by Go's compiler, whose stacks move?
    pub is_go: bool,
}

impl Functions {
    /// Does a function begin at this address of the file?
    pub fn begins_at(&self, file: &Executable, address: u64) -> bool {
        let offset = file.offset_of_vaddr(address);
        offset.is_some_and(|offset| self.begins.contains(&offset))
    }
}

/// Symbols of a file that are looked at.
const MAX_SYMBOLS: usize = 4 << 20;

/// No name of a symbol is longer.
const MAX_NAME: usize = 4096;

/// A symbol of a function, as it stands in the file.
struct Symbol<'a> {
    name: &'a [u8],
    vaddr: u64,
    size: u64,
    is_chosen: bool,
}

/// Hands out the symbols of functions until `take` says false; what is damaged is left out. Says whether it is Go's.
fn each_symbol(file: &Executable, mut take: impl FnMut(&Symbol<'_>) -> bool) -> Option<bool> {
    let data = file.data().ok()?;
    let data: &[u8] = &data;
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
        let Ok(table) = sections.symbols(endian, data, kind) else {
            continue;
        };
        for symbol in table.iter().take(MAX_SYMBOLS) {
            let kind = symbol.st_type();
            let is_chosen = kind == elf::STT_GNU_IFUNC;
            if (kind != elf::STT_FUNC && !is_chosen) || symbol.st_shndx(endian) == elf::SHN_UNDEF {
                continue;
            }
            let Ok(name) = symbol.name(endian, table.strings()) else {
                continue;
            };
            let symbol = Symbol {
                name,
                vaddr: symbol.st_value(endian),
                size: symbol.st_size(endian),
                is_chosen,
            };
            if !take(&symbol) {
                return None;
            }
        }
    }
    let is_go = sections.section_by_name(endian, b".go.buildinfo").is_some()
        || sections.section_by_name(endian, b".gopclntab").is_some();
    Some(is_go)
}

/// Reads the symbol tables.
pub fn functions(file: &Executable) -> Functions {
    let mut found: BTreeMap<(String, u64), Function> = BTreeMap::new();
    let is_go = each_symbol(file, |symbol| {
        let Some(offset) = file.offset_of_vaddr(symbol.vaddr) else {
            return true;
        };
        let name = String::from_utf8_lossy(&symbol.name[..symbol.name.len().min(MAX_NAME)]);
        // the version is no part of the name
        let name = name.split_once('@').map_or(&*name, |(name, _)| name);
        if !name.is_empty() {
            let function = Function {
                name: name.to_owned(),
                offset,
                size: symbol.size,
                is_chosen: symbol.is_chosen,
            };
            found.entry((name.to_owned(), offset)).or_insert(function);
        }
        true
    });
    let all: Vec<Function> = found.into_values().collect();
    Functions {
        begins: all.iter().map(|function| function.offset).collect(),
        all,
        is_go: is_go.unwrap_or(false),
    }
}

/// Has the file a function of such a name? That takes less than to read all of them.
pub fn has(file: &Executable, is_wanted: impl Fn(&str) -> bool) -> bool {
    let mut has = false;
    each_symbol(file, |symbol| {
        has |= std::str::from_utf8(symbol.name).is_ok_and(&is_wanted);
        !has
    });
    has
}

/// Does an instruction begin so many bytes from the beginning of this function? A breakpoint in the middle of one would
/// change what the program does.
pub fn is_instruction(file: &Executable, function: &Function, offset: u64) -> bool {
    const LONGEST_FUNCTION: u64 = 1 << 20;
    if offset == 0 {
        return true;
    }
    if offset >= function.size.min(LONGEST_FUNCTION) {
        return false;
    }
    let mut code = vec![0; function.size.min(LONGEST_FUNCTION) as usize];
    if file.read_exact_at(&mut code, function.offset).is_err() {
        return false;
    }
    let mut decoder = Decoder::new(64, &code, DecoderOptions::NONE);
    while decoder.can_decode() && (decoder.position() as u64) < offset {
        if decoder.decode().is_invalid() {
            return false;
        }
    }
    decoder.position() as u64 == offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of_ourselves() -> (Executable, Functions) {
        let file = Executable::open_path(Path::new("/proc/self/exe")).unwrap();
        let functions = functions(&file);
        (file, functions)
    }

    #[test]
    fn functions_of_a_program_are_where_they_are_in_its_file() {
        let (file, functions) = of_ourselves();
        let main = functions
            .all
            .iter()
            .find(|function| function.name == "main")
            .unwrap();
        let address = of_nm("main");
        assert_eq!(file.vaddr_of_offset(main.offset), Some(address));
        assert!(!functions.is_go);
    }

    fn of_nm(name: &str) -> u64 {
        let output = std::process::Command::new("nm")
            .arg(format!("/proc/{}/exe", std::process::id()))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text
            .lines()
            .find(|line| line.ends_with(&format!(" {name}")))
            .unwrap();
        u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
    }

    #[test]
    fn only_the_first_byte_of_an_instruction_can_be_probed() {
        let (file, functions) = of_ourselves();
        let main = functions
            .all
            .iter()
            .find(|function| function.name == "main")
            .unwrap();
        let begins: Vec<u64> = (0..main.size)
            .filter(|&at| is_instruction(&file, main, at))
            .collect();
        assert_eq!(begins[0], 0);
        assert!(
            begins.len() > 1 && (begins.len() as u64) < main.size,
            "{begins:?}"
        );
        assert!(!is_instruction(&file, main, main.size));
    }
}
