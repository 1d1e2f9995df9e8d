//! Programs built for a test, the tools that tell the truth about them, and small shorthands.
#![allow(dead_code)] // each test file uses a part of it

use moonscope_process::Executable;
use moonscope_symbols::{Symbol, SymbolOptions, Symbolizer};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A temporary directory with the files of one test.
pub struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs a command line of words in the directory; it must succeed.
    pub fn run(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        run_in(self.dir.path(), words[0], &words[1..])
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    run_in(Path::new("/"), program, args)
}

fn run_in(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Options that look nowhere outside of the file.
pub fn alone() -> SymbolOptions {
    SymbolOptions {
        debug_dirs: Vec::new(),
        ..SymbolOptions::default()
    }
}

pub fn open(path: &Path) -> Executable {
    Executable::open_path(path).unwrap()
}

/// Names at addresses.
pub fn symbols(path: &Path, options: SymbolOptions, vaddrs: &[u64]) -> Vec<Vec<Symbol>> {
    Symbolizer::new(options).native(&open(path), vaddrs)
}

/// The name of the function at one address, or nothing.
pub fn function(path: &Path, options: SymbolOptions, vaddr: u64) -> Option<String> {
    symbols(path, options, &[vaddr])[0]
        .first()
        .map(|symbol| symbol.function.to_string())
}

/// A function as binutils see it.
#[derive(Clone, Debug)]
pub struct NmSymbol {
    pub start: u64,
    pub size: u64,
    pub name: String,
}

/// Functions that `readelf -Ws` lists in a table: FUNC, IFUNC and NOTYPE in the sections with code.
pub fn functions_of(path: &Path, table: &str) -> Vec<NmSymbol> {
    let code = code_sections(path);
    let text = run("readelf", &["-Ws", path.to_str().unwrap()]);
    let header = format!("Symbol table '{table}'");
    let lines = text.lines().skip_while(|line| !line.starts_with(&header)).skip(2);
    lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, start, size, kind, _, _, index, name, ..] = fields[..] else {
                return None;
            };
            let start = u64::from_str_radix(start, 16).unwrap();
            let size = size
                .strip_prefix("0x")
                .map_or_else(|| size.parse(), |hex| u64::from_str_radix(hex, 16));
            let in_code = code
                .iter()
                .any(|(number, section)| number == index && section.contains(&start));
            let name = name.split_once('@').map_or(name, |(name, _)| name).to_owned();
            (["FUNC", "IFUNC", "NOTYPE"].contains(&kind) && in_code).then(|| NmSymbol {
                start,
                size: size.unwrap(),
                name,
            })
        })
        .collect()
}

/// Number and addresses of the sections with code.
pub fn code_sections(path: &Path) -> Vec<(String, std::ops::Range<u64>)> {
    sections(path)
        .into_iter()
        .filter(|(_, _, _, code)| *code)
        .map(|(n, _, range, _)| (n, range))
        .collect()
}

/// Addresses of a section.
pub fn section(path: &Path, wanted: &str) -> std::ops::Range<u64> {
    sections(path)
        .into_iter()
        .find(|(_, name, _, _)| name == wanted)
        .unwrap()
        .2
}

fn sections(path: &Path) -> Vec<(String, String, std::ops::Range<u64>, bool)> {
    let text = run("readelf", &["-SW", path.to_str().unwrap()]);
    text.lines()
        .filter_map(|line| {
            let (number, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
            let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
            let [name, _, addr, _, size, _, flags, ..] = fields[..] else {
                return None;
            };
            let (addr, size) = (
                u64::from_str_radix(addr, 16).ok()?,
                u64::from_str_radix(size, 16).ok()?,
            );
            Some((
                number.trim().to_owned(),
                name.to_owned(),
                addr..addr + size,
                flags.contains('X'),
            ))
        })
        .collect()
}

pub fn libc() -> PathBuf {
    PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")
        .canonicalize()
        .unwrap()
}

pub fn libcrypto() -> PathBuf {
    PathBuf::from("/usr/lib/x86_64-linux-gnu/libcrypto.so.3")
        .canonicalize()
        .unwrap()
}
