//! All that is known about one executable, from all the files that belong to it.

use crate::debug_files::{DebugFile, Search};
use crate::demangle;
use crate::dwarf::{self, Dwarf, DwarfFrame};
use crate::elf_file::{ElfError, ElfFile};
use crate::limits::MAX_PROBLEMS;
use crate::symtab::Candidates;
use crate::table::SymbolTable;
use crate::{Coverage, Symbol, SymbolOptions, mini_debuginfo, plt};
use moonscope_process::Executable;
use object::elf;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Symbols, DWARF and what they were made of.
#[derive(Debug, Default)]
pub(crate) struct Module {
    table: SymbolTable,
    dwarf: Option<Dwarf>,
    coverage: Coverage,
    /// Has the separate debug file been looked for?
    searched: bool,
    /// Names and paths from DWARF, each once.
    texts: FxHashMap<Vec<u8>, Arc<str>>,
    text_bytes: usize,
}

impl Module {
    /// Reads whatever sources there are. What is damaged is left out and told in the coverage.
    pub(crate) fn load(exe: &Executable, options: &SymbolOptions) -> Self {
        let mut module = Self::default();
        if let Err(err) = module.read(exe, options) {
            module.coverage.problem(err.to_string());
        }
        module
    }

    fn read(&mut self, exe: &Executable, options: &SymbolOptions) -> Result<(), ElfError> {
        let elf = ElfFile::from_executable(exe)?;
        let mut candidates = Candidates::default();
        self.coverage.symtab = self.add(&mut candidates, &elf, elf::SHT_SYMTAB, "symbol table");
        let wants_dwarf = options.inline || options.lines;
        let mut debug_file = None;
        if self.coverage.symtab == 0 || (wants_dwarf && !dwarf::has_info(&elf)) {
            debug_file = self.search(exe, options, &elf);
        }
        // A symbol table in the file itself is complete; one in the debug file as well.
        if self.coverage.symtab == 0 {
            if let Some(file) = &debug_file {
                let what = "symbol table of the debug file";
                self.coverage.debug_file_symbols =
                    self.add(&mut candidates, &file.elf, elf::SHT_SYMTAB, what);
            }
            if self.coverage.debug_file_symbols == 0 {
                self.add_mini(&mut candidates, &elf);
            }
        }
        self.coverage.dynsym = self.add(&mut candidates, &elf, elf::SHT_DYNSYM, "dynamic symbol table");
        self.add_plt(&mut candidates, &elf);
        if !candidates.is_empty() {
            self.table = SymbolTable::new(candidates);
        }
        if self.table.dropped > 0 {
            self.coverage
                .problem(format!("{} names too many", self.table.dropped));
        }
        self.coverage.functions = self.table.len();
        self.look_for_dwarf(&elf, debug_file.as_ref());
        if wants_dwarf {
            self.load_dwarf(exe, options, &elf, debug_file);
        }
        Ok(())
    }

    fn add(
        &mut self,
        candidates: &mut Candidates,
        elf: &ElfFile,
        kind: elf::SectionType,
        what: &'static str,
    ) -> usize {
        let mut count = 0;
        for table in elf
            .sections
            .iter()
            .filter(|section| section.is_kind(kind) && section.has_bytes())
        {
            match candidates.add_table(elf, table) {
                Ok(added) => count += added,
                Err(err) => self.coverage.problem(format!("{what}: {err}")),
            }
        }
        count
    }

    fn add_mini(&mut self, candidates: &mut Candidates, elf: &ElfFile) {
        match mini_debuginfo::read(elf) {
            Ok(Some(mini)) => {
                let what = "mini debug information";
                self.coverage.mini_debug_info = self.add(candidates, &mini, elf::SHT_SYMTAB, what);
            }
            Ok(None) => {}
            Err(err) => self.coverage.problem(format!("mini debug information: {err}")),
        }
    }

    fn add_plt(&mut self, candidates: &mut Candidates, elf: &ElfFile) {
        let stubs = plt::stubs(elf, candidates);
        match stubs.and_then(|stubs| candidates.add_own(&stubs).map(|()| stubs.len())) {
            Ok(count) => self.coverage.plt_stubs = count,
            Err(err) => self.coverage.problem(format!("PLT: {err}")),
        }
    }

    fn search(&mut self, exe: &Executable, options: &SymbolOptions, elf: &ElfFile) -> Option<DebugFile> {
        self.searched = true;
        let mut search = Search {
            exe,
            debug_dirs: &options.debug_dirs,
            refused: Vec::new(),
        };
        let found = search.debug_file(elf);
        search
            .refused
            .into_iter()
            .for_each(|refused| self.coverage.problem(refused));
        self.coverage.debug_file = found.as_ref().map(|file| file.path.clone());
        found
    }

    fn look_for_dwarf(&mut self, elf: &ElfFile, debug_file: Option<&DebugFile>) {
        let mut files = [Some(elf), debug_file.map(|file| &file.elf)]
            .into_iter()
            .flatten();
        if let Some(elf) = files.find(|elf| dwarf::has_info(elf)) {
            self.coverage.dwarf = true;
            self.coverage.lines = dwarf::has_lines(elf);
        }
    }

    fn load_dwarf(
        &mut self,
        exe: &Executable,
        options: &SymbolOptions,
        elf: &ElfFile,
        debug_file: Option<DebugFile>,
    ) {
        let debug_file = debug_file.filter(|file| !dwarf::has_info(elf) && dwarf::has_info(&file.elf));
        let with_info = debug_file.as_ref().map_or(elf, |file| &file.elf);
        if !dwarf::has_info(with_info) {
            return;
        }
        // Mapping the executable guards against truncated mappings for good (`moonscope_process::sigbus`).
        if let Err(err) = exe.data() {
            self.coverage.problem(err.without_path());
            return;
        }
        let mut search = Search {
            exe,
            debug_dirs: &options.debug_dirs,
            refused: Vec::new(),
        };
        let supplementary = search.supplementary(with_info, debug_file.as_ref());
        if supplementary.is_none() && with_info.section(".gnu_debugaltlink").is_some() {
            let refused = search.refused.into_iter().next();
            let why = refused.unwrap_or_else(|| "not found: some inlined functions have no names".to_owned());
            self.coverage.problem(format!("supplementary debug file: {why}"));
        }
        self.coverage.supplementary_file = supplementary.as_ref().map(|file| file.path.clone());
        match Dwarf::load(with_info, supplementary.as_ref().map(|file| &file.elf)) {
            Ok(dwarf) => self.dwarf = Some(dwarf),
            Err(err) => self.coverage.problem(err),
        }
    }

    /// What was found, after looking for what was not needed so far.
    pub(crate) fn coverage(&mut self, exe: &Executable, options: &SymbolOptions) -> Coverage {
        if !self.searched
            && let Ok(elf) = ElfFile::from_executable(exe)
        {
            let found = self.search(exe, options, &elf);
            self.look_for_dwarf(&elf, found.as_ref());
        }
        if let Some(dwarf) = &mut self.dwarf {
            dwarf.check();
        }
        self.note_damage();
        self.coverage.clone()
    }

    /// The frames at an address, outermost first.
    pub(crate) fn symbolize(&mut self, vaddr: u64, options: &SymbolOptions) -> Vec<Symbol> {
        let symbol = self.table.find(vaddr);
        let frames = self
            .dwarf
            .as_mut()
            .map(|dwarf| dwarf.frames(vaddr))
            .unwrap_or_default();
        let mut frames = frames.into_iter();
        let outermost = frames.next().unwrap_or_default();
        // The function whose code this is: its symbol tells copies apart (`.cold`, `.constprop.0`), which
        // its description does not.
        let function = match symbol {
            Some(symbol) => Some(
                self.table
                    .name(symbol, |raw| demangle::show(raw, options.demangle)),
            ),
            None => outermost.name.as_deref().map(|raw| self.name(raw, options)),
        };
        let Some(function) = function.filter(|name| !name.is_empty()) else {
            return Vec::new();
        };
        let start = symbol.and_then(|symbol| self.table.start(symbol));
        let (file, line) = self.location(&outermost, options);
        let mut symbols = vec![Symbol {
            function,
            start,
            file,
            line,
            inlined: false,
            module: None,
        }];
        for frame in frames.filter(|_| options.inline) {
            let Some(raw) = frame.name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let function = self.name(raw, options);
            let (file, line) = self.location(&frame, options);
            symbols.push(Symbol {
                function,
                start: None,
                file,
                line,
                inlined: true,
                module: None,
            });
        }
        symbols
    }

    fn location(&mut self, frame: &DwarfFrame, options: &SymbolOptions) -> (Option<Arc<str>>, Option<u32>) {
        if !options.lines {
            return (None, None);
        }
        let file = frame
            .file
            .as_deref()
            .map(|file| self.text(file.as_bytes(), || file.to_owned()));
        (file, frame.line)
    }

    fn name(&mut self, raw: &[u8], options: &SymbolOptions) -> Arc<str> {
        self.text(raw, || demangle::show(raw, options.demangle))
    }

    fn text(&mut self, raw: &[u8], make: impl FnOnce() -> String) -> Arc<str> {
        if let Some(text) = self.texts.get(raw) {
            return Arc::clone(text);
        }
        let text: Arc<str> = make().into();
        self.text_bytes += raw.len() + text.len() + 96;
        self.texts.insert(raw.to_vec(), Arc::clone(&text));
        text
    }

    /// Memory in use, without what is mapped.
    pub(crate) fn bytes(&self) -> usize {
        self.table.bytes() + self.text_bytes + self.dwarf.as_ref().map_or(0, Dwarf::bytes)
    }

    /// What was damaged or too large so far.
    pub(crate) fn problems(&self) -> &[String] {
        &self.coverage.problems
    }

    /// Was the DWARF of this file damaged where it was read, or did it cost more than any honest one?
    pub(crate) fn note_damage(&mut self) {
        if let Some(damage) = self.dwarf.as_mut().and_then(Dwarf::take_damage) {
            let what = format!("damaged DWARF: {damage}: lines and inlined functions are missing");
            self.coverage.problem(what);
        }
        if self.dwarf.as_ref().is_some_and(Dwarf::is_exhausted) {
            self.dwarf = None;
            self.coverage
                .problem("DWARF needs more work than any honest file: not used any more".into());
        }
    }
}

impl Coverage {
    /// Takes note of something that is wrong with the file, in words without its path.
    fn problem(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&what) {
            self.problems.push(what);
        }
    }
}
