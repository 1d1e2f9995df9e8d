//! The face of the crate, and the cache of executables behind it.

use crate::kernel::{Kernel, KernelSymbols};
use crate::limits::{CACHE_BYTES, CACHE_BYTES_WITH_DWARF, CACHE_FILES, MAX_ALL_PROBLEMS};
use crate::module::Module;
use crate::perf_map;
use moonscope_process::{Executable, ExecutableKey, visible};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// What to look for.
#[derive(Clone, Debug)]
pub struct SymbolOptions {
    /// Also the functions that were inlined at an address (`--inline`); needs debug information.
    pub inline: bool,
    /// Also source files and lines (`--lines`); needs debug information.
    pub lines: bool,
    /// C++ and Rust names as people write them.
    pub demangle: bool,
    /// Where separate debug files are; each is looked at in the root of the process and on the host.
    pub debug_dirs: Vec<PathBuf>,
}

impl Default for SymbolOptions {
    fn default() -> Self {
        Self {
            inline: false,
            lines: false,
            demangle: true,
            debug_dirs: vec!["/usr/lib/debug".into()],
        }
    }
}

/// A name for an address. Names and paths come from files that anybody may have made: any character but
/// NUL can be in them, at most 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The function.
    pub function: Arc<str>,
    /// Where the function starts, in the same address space as the address asked for. `None` for inlined
    /// functions, and where only debug information knows the function.
    pub start: Option<u64>,
    /// Source file, with the directory it was compiled in; only with [`SymbolOptions::lines`].
    pub file: Option<Arc<str>>,
    /// Line in that file, from 1. Of a function with inlined ones in it, the line of the call.
    pub line: Option<u32>,
    /// Was it inlined into the frame before it?
    pub inlined: bool,
    /// Kernel only: the module, or `bpf` for BPF programs; `None` for the kernel itself.
    pub module: Option<Arc<str>>,
}

/// What was found about an executable, for messages. The counts are of functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// In the file's own `.symtab`.
    pub symtab: usize,
    /// In the symbol table of the separate debug file.
    pub debug_file_symbols: usize,
    /// In `.gnu_debugdata`.
    pub mini_debug_info: usize,
    /// In `.dynsym`.
    pub dynsym: usize,
    /// PLT stubs that could be named.
    pub plt_stubs: usize,
    /// Names in use, each place once.
    pub functions: usize,
    /// The separate debug file, in the root of the process or on the host.
    pub debug_file: Option<PathBuf>,
    /// The file that dwz moved common debug information to; only looked for when DWARF is read.
    pub supplementary_file: Option<PathBuf>,
    /// Is there DWARF (in the file or its debug file), for inlined functions?
    pub dwarf: bool,
    /// And are there line tables?
    pub lines: bool,
    /// What was damaged, too large or not the file it should be; a sentence each.
    pub problems: Vec<String>,
}

/// Gives names to addresses, and remembers what it read. Can be moved to another thread.
#[derive(Debug)]
pub struct Symbolizer {
    options: SymbolOptions,
    modules: FxHashMap<ExecutableKey, Cached>,
    clock: u64,
    kernel: Kernel,
    problems: BTreeSet<String>,
}

#[derive(Debug)]
struct Cached {
    module: Module,
    used: u64,
}

impl Symbolizer {
    /// A symbolizer that has read nothing yet.
    pub fn new(options: SymbolOptions) -> Self {
        Self {
            options,
            modules: FxHashMap::default(),
            clock: 0,
            kernel: Kernel::default(),
            problems: BTreeSet::new(),
        }
    }

    /// What is looked for.
    pub fn options(&self) -> &SymbolOptions {
        &self.options
    }

    /// What was damaged, too large or not the file it should be, of all executables so far: a sentence each that begins with
    /// the path of the executable, fit for a terminal.
    pub fn problems(&self) -> &BTreeSet<String> {
        &self.problems
    }

    /// Names of code of an executable, by addresses of the file (ELF virtual addresses; the caller has
    /// already moved return addresses into their call). For each address the frames from the function
    /// that contains it to the innermost inlined one; empty if nothing covers the address.
    pub fn native(&mut self, exe: &Executable, vaddrs: &[u64]) -> Vec<Vec<Symbol>> {
        self.with_module(exe, |module, options| {
            let symbols = vaddrs
                .iter()
                .map(|&vaddr| module.symbolize(vaddr, options))
                .collect();
            module.note_damage();
            symbols
        })
    }

    /// What is known about an executable, and from where.
    pub fn coverage(&mut self, exe: &Executable) -> Coverage {
        self.with_module(exe, |module, options| module.coverage(exe, options))
    }

    /// Names of kernel addresses: functions of the kernel, its modules and BPF programs.
    pub fn kernel(&mut self, addrs: &[u64]) -> Vec<Option<Symbol>> {
        self.kernel.resolve(addrs, self.options.demangle)
    }

    /// Can kernel addresses be named here, and if not, why and what helps?
    pub fn kernel_status(&self) -> KernelSymbols {
        self.kernel.status()
    }

    /// Names of generated code, from the map that the process's runtime wrote (addresses of the process). The latest entry
    /// for an address counts.
    pub fn perf_map(&mut self, map: &File, addrs: &[u64]) -> Vec<Option<Symbol>> {
        perf_map::resolve(map, addrs, self.options.demangle)
    }

    /// Gives all memory back; everything is read again when it is needed.
    pub fn forget(&mut self) {
        self.modules = FxHashMap::default();
        self.kernel = Kernel::default();
    }

    /// Memory that the caches hold, in bytes, roughly.
    pub fn memory(&self) -> usize {
        self.modules.values().map(|cached| cached.module.bytes()).sum()
    }

    fn with_module<T>(&mut self, exe: &Executable, work: impl FnOnce(&mut Module, &SymbolOptions) -> T) -> T {
        self.clock += 1;
        let options = &self.options;
        let cached = self.modules.entry(exe.key().clone()).or_insert_with(|| Cached {
            module: Module::load(exe, options),
            used: 0,
        });
        cached.used = self.clock;
        let result = work(&mut cached.module, options);
        for problem in cached.module.problems() {
            if self.problems.len() < MAX_ALL_PROBLEMS {
                self.problems
                    .insert(format!("{}: {}", visible(exe.path()), visible(problem)));
            }
        }
        self.evict();
        result
    }

    /// Drops what has not been used for longest until the limits hold; never the one just used.
    fn evict(&mut self) {
        let limit = match self.options.inline || self.options.lines {
            true => CACHE_BYTES_WITH_DWARF,
            false => CACHE_BYTES,
        };
        while self.modules.len() > 1 && (self.modules.len() > CACHE_FILES || self.memory() > limit) {
            let oldest = self
                .modules
                .iter()
                .min_by_key(|(_, cached)| cached.used)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.modules.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SymbolOptions, Symbolizer};
    use crate::limits::CACHE_FILES;
    use moonscope_process::Executable;

    #[test]
    fn a_symbolizer_can_move_to_another_thread() {
        fn check<T: Send>() {}
        check::<Symbolizer>();
    }

    #[test]
    fn the_cache_keeps_what_was_used_last() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("prog.s"), ".globl _start\n_start: nop\n").unwrap();
        let args = [
            "-nostdlib",
            "-static",
            "-Wl,--build-id=none",
            "-o",
            "prog",
            "prog.s",
        ];
        let built = std::process::Command::new("gcc")
            .args(args)
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(built.success());
        let image = std::fs::read(dir.path().join("prog")).unwrap();
        // Without build id, each copy is a file of its own.
        let open = |number: usize| {
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, &image).unwrap();
            Executable::open_path(&path).unwrap()
        };
        let first = open(0);
        let mut symbolizer = Symbolizer::new(SymbolOptions::default());
        for number in 0..CACHE_FILES + 50 {
            symbolizer.native(&open(number + 1), &[1]);
            symbolizer.native(&first, &[1]);
        }
        assert_eq!(symbolizer.modules.len(), CACHE_FILES);
        assert!(symbolizer.modules.contains_key(first.key()));
        symbolizer.forget();
        assert_eq!(symbolizer.memory(), 0);
    }
}
