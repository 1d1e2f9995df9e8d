//! What one executable file can tell a profiler: unwind tables, symbols, debug information.

use super::debug_file::{self, Search};
use super::lua::{self, LuaInFile, NgxLua};
use moonscope_process::Executable;
use moonscope_symbols::{Coverage, SymbolOptions, Symbolizer};
use moonscope_unwind::{RuleSet, Table, TableStats};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SegmentFlags, SymbolKind};
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
    /// LuaJIT in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) lua: Vec<LuaInFile>,
    /// lua-nginx-module in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ngx_lua: Option<NgxLua>,
    /// What is damaged, too large, or not the file that it should be; a sentence each. Not escaped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<String>,
}

/// How stacks get through the code of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Unwind {
    pub(super) kind: UnwindKind,
    /// How many functions the tables describe.
    pub(super) functions: usize,
    /// Bytes of the code that they describe; the rest has only frame pointers, if any.
    pub(super) described_bytes: u64,
    /// Bytes of all code.
    pub(super) code_bytes: u64,
}

impl Unwind {
    /// How much of the code the tables describe, in percent.
    pub(super) fn covers(&self) -> Option<u64> {
        let described = self.described_bytes.min(self.code_bytes);
        (described * 100).checked_div(self.code_bytes)
    }
}

/// Where unwind tables come from, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnwindKind {
    EhFrame,
    DebugFrame,
    /// The function table of a Go program.
    Go,
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

/// Looks into a file. Damaged parts count as not there, and are told of.
pub(super) fn examine(executable: &Executable) -> Result<FileReport, moonscope_process::ProcessError> {
    let data = executable.data()?;
    let mut report = FileReport {
        path: executable.path().to_string_lossy().into_owned(),
        processes: 0,
        build_id: executable.build_id().map(ToString::to_string),
        unwind: Unwind::default(),
        symbols: Symbols::default(),
        debug: Debug::None,
        lua: lua::in_file(&data),
        ngx_lua: None,
        problems: Vec::new(),
    };
    let mut stats = TableStats::default();
    let table = Table::build_counting(&data, &mut RuleSet::new(), &mut stats);
    report.problems.extend(stats.damage());
    report
        .problems
        .extend(table.as_ref().err().map(ToString::to_string));
    let table = table.ok().flatten();
    report.unwind = table.as_ref().map(unwind).unwrap_or_default();
    let coverage = coverage(executable);
    report.problems.extend(coverage.problems.iter().cloned());
    let elf = match object::File::parse(&**data) {
        Ok(elf) => elf,
        Err(err) => {
            report.problems.push(format!("damaged headers: {err}"));
            report.symbols = readable_symbols(&coverage);
            return Ok(report);
        }
    };
    report.symbols = symbols(&elf);
    report.unwind.code_bytes = code_bytes(&elf);
    report.ngx_lua = lua::ngx_lua(&elf);
    if has_debug_info(&elf) {
        report.debug = Debug::InFile;
    }
    if let Some(Search { path, data }) = debug_file::find(executable, &elf) {
        let separate = object::File::parse(&*data).ok();
        if let Some(separate) = separate {
            // the whole table of symbols tells more
            report.ngx_lua = lua::ngx_lua(&separate).or(report.ngx_lua);
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
    if let (Some(ngx_lua), Some(table)) = (&mut report.ngx_lua, &table) {
        let function_at = |vaddr| table.function_at(vaddr);
        ngx_lua.names_timers =
            ngx_lua.names_timers || !moonscope_nginx::timer_handlers(&data, &function_at).is_empty();
    }
    Ok(report)
}

/// What recording finds where it looks for names, lines and inlined functions.
fn coverage(executable: &Executable) -> Coverage {
    let options = SymbolOptions {
        inline: true,
        lines: true,
        ..SymbolOptions::default()
    };
    Symbolizer::new(options).coverage(executable)
}

/// What can be read of a file of which not all can.
fn readable_symbols(coverage: &Coverage) -> Symbols {
    let kinds = [
        (SymbolKinds::Symtab, coverage.symtab),
        (SymbolKinds::Separate, coverage.debug_file_symbols),
        (SymbolKinds::Mini, coverage.mini_debug_info),
        (SymbolKinds::Dynsym, coverage.dynsym),
    ];
    let best = kinds.into_iter().find(|&(_, functions)| functions > 0);
    best.map_or_else(Symbols::default, |(kind, functions)| Symbols { kind, functions })
}

/// Of the very table that recording makes: what it cannot use counts as not there.
fn unwind(table: &Table) -> Unwind {
    let stats = &table.stats;
    let kinds = [
        (UnwindKind::EhFrame, stats.eh_frame_entries),
        (UnwindKind::DebugFrame, stats.debug_frame_entries),
        (UnwindKind::Go, stats.go_functions),
    ];
    match kinds.into_iter().find(|&(_, functions)| functions > 0) {
        Some((kind, _)) => Unwind {
            kind,
            functions: kinds.iter().map(|&(_, functions)| functions as usize).sum(),
            described_bytes: stats.described_bytes,
            code_bytes: 0,
        },
        None => Unwind::default(),
    }
}

/// Bytes of all executable sections; of the segments, where no sections are left, which may have data too.
pub(crate) fn code_bytes(elf: &object::File<'_>) -> u64 {
    let sections: u64 = elf
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .map(|section| section.size())
        .sum();
    let is_executable = |segment: &object::Segment<'_, '_>| match segment.flags() {
        SegmentFlags::Elf { p_flags, .. } => p_flags & object::elf::PF_X == object::elf::PF_X,
        _ => false,
    };
    let segments = elf.segments().filter(is_executable).map(|segment| segment.size());
    if sections > 0 { sections } else { segments.sum() }
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
        // all but what starts a program
        assert!((40..300).contains(&report.unwind.described_bytes), "{report:?}");
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
    fn tables_of_a_part_of_the_code_are_told_from_those_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let more = "int large(int x) { __asm__(\".skip 4096, 0x90\"); return x; }";
        std::fs::write(dir.path().join("more.c"), more).unwrap();
        let without = [
            "-fno-asynchronous-unwind-tables",
            "-fno-unwind-tables",
            "-c",
            "more.c",
        ];
        if compiled(dir.path(), &[]).is_none() {
            return;
        }
        run("cc", &without, dir.path());
        let object = dir.path().join("more.o");
        let report = compiled(dir.path(), &["-s", object.to_str().unwrap()]).unwrap();
        assert_eq!(report.unwind.kind, UnwindKind::EhFrame);
        assert!(report.unwind.covers() < Some(20), "{report:?}");
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
        let functions = |report: &FileReport| (report.unwind.kind, report.unwind.functions);
        assert_eq!(functions(&after), functions(&before));
        assert!(after.unwind.covers().is_some(), "{after:?}");
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

    /// `.eh_frame_hdr` still says how many functions there once were.
    #[test]
    fn damaged_unwind_tables_are_none() {
        let dir = tempfile::tempdir().unwrap();
        if compiled(dir.path(), &[]).is_none() {
            return;
        }
        // what a random generator could have made, and every word a length beyond the end
        std::fs::write(dir.path().join("noise"), [0x8b; 4096]).unwrap();
        run(
            "objcopy",
            &["--update-section", ".eh_frame=noise", "p", "damaged"],
            dir.path(),
        );
        let report = examine(&Executable::open_path(&dir.path().join("damaged")).unwrap()).unwrap();
        assert_eq!(
            (report.unwind.kind, report.unwind.functions),
            (UnwindKind::None, 0)
        );
        assert!(report.symbols.functions >= 2, "{report:?}");
        assert!(
            matches!(&report.problems[..], [problem] if problem.contains("unwind information is damaged")),
            "{report:?}"
        );
    }

    /// Names that do not go with the symbols, lines that are noise.
    #[test]
    fn damaged_names_and_lines_are_told_of_and_sound_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let Some(report) = compiled(dir.path(), &["-g", "-O0"]) else {
            return;
        };
        assert_eq!(report.problems, Vec::<String>::new());
        std::fs::write(dir.path().join("noise"), [0x8b; 4096]).unwrap();
        run(
            "objcopy",
            &["--update-section", ".debug_info=noise", "p", "no-lines"],
            dir.path(),
        );
        // e_shoff, and the section header table with it
        let path = dir.path().join("no-symbols");
        let mut bytes = std::fs::read(dir.path().join("p")).unwrap();
        bytes[40..48].copy_from_slice(&0x7fff_ffff_u64.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        for (file, words) in [("no-lines", "DWARF"), ("no-symbols", "damaged")] {
            let report = examine(&Executable::open_path(&dir.path().join(file)).unwrap()).unwrap();
            assert!(
                report.problems.iter().any(|problem| problem.contains(words)),
                "{file}: {report:?}"
            );
        }
    }
}
