//! What one executable file can tell a profiler: unwind tables, symbols, debug information.

use super::debug_file::{self, Search};
use moonscope_process::Executable;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use serde::Serialize;

/// Facts about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FileReport {
    /// As the process sees it. Not escaped.
    pub(super) path: String,
    /// How many processes of the target map it.
    pub(super) processes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) build_id: Option<String>,
    pub(super) unwind: Unwind,
    pub(super) symbols: Symbols,
    pub(super) debug: Debug,
}

/// How stacks get through the code of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Unwind {
    pub(super) kind: UnwindKind,
    /// How many functions the tables describe.
    pub(super) functions: usize,
}

/// Where unwind tables come from, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnwindKind {
    EhFrame,
    DebugFrame,
    /// Only frame pointers can be followed.
    #[default]
    None,
}

/// Where names of functions come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Symbols {
    pub(super) kind: SymbolKinds,
    /// Functions in the best table that could be read.
    pub(super) functions: usize,
}

/// The tables of names, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SymbolKinds {
    /// All functions, in the file.
    Symtab,
    /// All functions, in a separate debug file.
    Separate,
    /// Exported functions, and a compressed table of the others (`.gnu_debugdata`).
    Mini,
    /// Exported functions only.
    Dynsym,
    #[default]
    None,
}

/// Where file names, lines and inlined functions come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "path")]
pub(super) enum Debug {
    InFile,
    Separate(String),
    #[default]
    None,
}

/// Looks into a file. Damaged parts count as not there.
pub(super) fn examine(executable: &Executable) -> Result<FileReport, moonscope_process::ProcessError> {
    let data = executable.data()?;
    let mut report = FileReport {
        path: executable.path().to_string_lossy().into_owned(),
        processes: 0,
        build_id: executable.build_id().map(ToString::to_string),
        unwind: Unwind::default(),
        symbols: Symbols::default(),
        debug: Debug::None,
    };
    let Ok(elf) = object::File::parse(&**data) else {
        return Ok(report);
    };
    report.unwind = unwind(&elf);
    report.symbols = symbols(&elf);
    if has_debug_info(&elf) {
        report.debug = Debug::InFile;
    }
    if let Some(Search { path, data }) = debug_file::find(executable, &elf) {
        let separate = object::File::parse(&*data).ok();
        if let Some(separate) = separate {
            let better = symbols(&separate);
            if better.kind == SymbolKinds::Symtab && report.symbols.kind != SymbolKinds::Symtab {
                report.symbols = Symbols {
                    kind: SymbolKinds::Separate,
                    ..better
                };
            }
            if report.debug == Debug::None && has_debug_info(&separate) {
                report.debug = Debug::Separate(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(report)
}

fn unwind(elf: &object::File<'_>) -> Unwind {
    let functions = |name: &str, cie_id: u32| {
        let data = elf
            .section_by_name(name)
            .and_then(|section| section.uncompressed_data().ok());
        data.map_or(0, |data| count_descriptions(&data, cie_id))
    };
    // In `.eh_frame` a common entry has the id 0, in `.debug_frame` all ones (DWARF 5, 6.4.1).
    for (kind, name, cie_id) in [
        (UnwindKind::EhFrame, ".eh_frame", 0),
        (UnwindKind::DebugFrame, ".debug_frame", u32::MAX),
    ] {
        let functions = functions(name, cie_id);
        if functions > 0 {
            return Unwind { kind, functions };
        }
    }
    // Without section headers the search table of the program headers still tells how many there are.
    match functions_in_search_table(elf) {
        Some(functions) if functions > 0 => Unwind {
            kind: UnwindKind::EhFrame,
            functions,
        },
        _ => Unwind::default(),
    }
}

/// Counts the entries of call frame information that describe a function.
fn count_descriptions(mut data: &[u8], cie_id: u32) -> usize {
    let mut count = 0;
    loop {
        let Some((length, rest)) = split_u32(data) else {
            return count;
        };
        let (length, rest) = match length {
            // The end of `.eh_frame`; linkers may leave one in the middle, which ends it for everybody.
            0 => return count,
            u32::MAX => match split_u32(rest).and_then(|(low, rest)| Some((low, split_u32(rest)?))) {
                Some((low, (high, rest))) => (u64::from(high) << 32 | u64::from(low), rest),
                None => return count,
            },
            length => (u64::from(length), rest),
        };
        let Some(entry) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
            return count;
        };
        match split_u32(entry) {
            Some((id, _)) if id != cie_id => count += 1,
            Some(_) => {}
            None => return count,
        }
        data = &rest[entry.len()..];
    }
}

fn split_u32(data: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = data.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// The number of functions in `.eh_frame_hdr` (LSB 5.0, core, 10.6.2), in the form that all linkers write.
fn functions_in_search_table(elf: &object::File<'_>) -> Option<usize> {
    use object::read::elf::ProgramHeader;
    /// Version 1, pointer relative to itself in 4 bytes, count in 4 bytes.
    const USUAL: [u8; 3] = [1, 0x1b, 0x03];
    let object::File::Elf64(elf) = elf else {
        return None;
    };
    let endian = elf.endian();
    let header = elf
        .elf_program_headers()
        .iter()
        .find(|header| header.p_type(endian) == object::elf::PT_GNU_EH_FRAME)?;
    let table = header.data(endian, elf.data()).ok()?;
    let rest = table.strip_prefix(&USUAL)?.get(5..)?;
    split_u32(rest).map(|(count, _)| count as usize)
}

fn symbols(elf: &object::File<'_>) -> Symbols {
    let functions = |symbols: object::SymbolIterator<'_, '_>| {
        symbols
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .count()
    };
    let (all, exported) = (functions(elf.symbols()), functions(elf.dynamic_symbols()));
    let mini = elf.section_by_name(".gnu_debugdata").is_some();
    match (all, mini, exported) {
        (1.., ..) => Symbols {
            kind: SymbolKinds::Symtab,
            functions: all,
        },
        (0, true, _) => Symbols {
            kind: SymbolKinds::Mini,
            functions: exported,
        },
        (0, false, 1..) => Symbols {
            kind: SymbolKinds::Dynsym,
            functions: exported,
        },
        (0, false, 0) => Symbols::default(),
    }
}

fn has_debug_info(elf: &object::File<'_>) -> bool {
    [".debug_info", ".zdebug_info"].into_iter().any(|name| {
        // A file that was split keeps the name of the section without its contents.
        elf.section_by_name(name)
            .is_some_and(|section| section.file_range().is_some_and(|(_, size)| size > 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use std::process::Command;

    const PROGRAM: &str = "int one(int x) { return x + 1; } int main(void) { return one(2); }";

    /// Compiles the program with these options and looks at it.
    fn compiled(dir: &Path, options: &[&str]) -> Option<FileReport> {
        let (source, program) = (dir.join("p.c"), dir.join("p"));
        std::fs::write(&source, PROGRAM).unwrap();
        let built = Command::new("cc")
            .args(options)
            .arg("-o")
            .arg(&program)
            .arg(&source)
            .status();
        if !built.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no C compiler here");
            return None;
        }
        Some(examine(&Executable::open_path(&program).unwrap()).unwrap())
    }

    fn run(program: &str, args: &[&str], dir: &Path) {
        assert!(
            Command::new(program)
                .args(args)
                .current_dir(dir)
                .status()
                .unwrap()
                .success()
        );
    }

    #[test]
    fn a_debug_build_has_everything_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let Some(report) = compiled(dir.path(), &["-g", "-O0"]) else {
            return;
        };
        assert_eq!(report.unwind.kind, UnwindKind::EhFrame);
        assert!(report.unwind.functions >= 2, "{report:?}");
        assert_eq!(report.symbols.kind, SymbolKinds::Symtab);
        assert!(report.symbols.functions >= 2);
        assert_eq!(report.debug, Debug::InFile);
    }

    #[test]
    fn a_stripped_program_still_has_unwind_tables() {
        let dir = tempfile::tempdir().unwrap();
        let Some(report) = compiled(dir.path(), &["-s"]) else {
            return;
        };
        assert_eq!(report.unwind.kind, UnwindKind::EhFrame);
        assert_eq!(
            (report.symbols.kind, report.debug),
            (SymbolKinds::None, Debug::None)
        );
    }

    #[test]
    fn without_section_headers_the_search_table_counts() {
        let dir = tempfile::tempdir().unwrap();
        let Some(before) = compiled(dir.path(), &["-s"]) else {
            return;
        };
        let path = dir.path().join("p");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40..48].fill(0); // e_shoff
        bytes[58..64].fill(0); // e_shentsize, e_shnum, e_shstrndx
        std::fs::write(&path, bytes).unwrap();
        let after = examine(&Executable::open_path(&path).unwrap()).unwrap();
        assert_eq!(after.unwind, before.unwind);
    }

    #[test]
    fn a_separate_debug_file_is_found_by_its_link_if_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        // No build id: then the checksum must agree.
        if compiled(dir.path(), &["-g", "-O0", "-Wl,--build-id=none"]).is_none() {
            return;
        }
        run("objcopy", &["--only-keep-debug", "p", "p.debug"], dir.path());
        run("strip", &["p"], dir.path());
        run("objcopy", &["--add-gnu-debuglink=p.debug", "p"], dir.path());
        let program = dir.path().join("p");
        let report = examine(&Executable::open_path(&program).unwrap()).unwrap();
        let debug = dir.path().join("p.debug");
        assert_eq!(report.debug, Debug::Separate(debug.to_str().unwrap().to_owned()));
        assert_eq!(report.symbols.kind, SymbolKinds::Separate);
        let mut bytes = std::fs::read(&debug).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&debug, bytes).unwrap();
        let report = examine(&Executable::open_path(&program).unwrap()).unwrap();
        assert_eq!(
            report.debug,
            Debug::None,
            "another file of that name is not taken"
        );
    }

    proptest! {
        #[test]
        fn hostile_tables_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200), cie in any::<u32>()) {
            prop_assert!(count_descriptions(&data, cie) <= data.len() / 4);
        }
    }
}
