//! LuaJIT builds to test with, and a program that runs them.
//!
//! Builds are those of the directory that `MOONSCOPE_LUAJIT` names (where tests/luajit/build puts them), however
//! deep, and those that are installed. What is a LuaJIT is told by its version text.
#![allow(dead_code)] // each test file uses a part of it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use moonscope_luajit::{GcMode, Layout, VmText, decode_layout, find_vms};
use moonscope_process::{Mapping, Pid, read_maps};
use object::{Object, ObjectSegment, ObjectSymbol};

pub struct Build {
    pub path: PathBuf,
    pub file: Vec<u8>,
}

pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(
        std::env::var_os("MOONSCOPE_NO_SKIP").is_none_or(|value| value != "1"),
        "skipped, and MOONSCOPE_NO_SKIP=1: {why}"
    );
}

/// All builds; if there are none the test is skipped.
pub fn builds() -> Vec<Build> {
    let mut paths = Vec::new();
    if let Some(dir) = std::env::var_os("MOONSCOPE_LUAJIT") {
        files(Path::new(&dir), &mut paths);
    }
    paths.extend(["/usr/lib/x86_64-linux-gnu/libluajit-5.1.so.2", "/usr/bin/luajit"].map(PathBuf::from));
    paths.sort();
    let builds: Vec<Build> = paths
        .into_iter()
        .filter_map(|path| {
            let file = std::fs::read(&path).ok()?;
            is_luajit(&file).then_some(Build { path, file })
        })
        .collect();
    if builds.is_empty() {
        skip("no LuaJIT here: tests/luajit/build makes some, MOONSCOPE_LUAJIT names their directory");
    }
    builds
}

fn files(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), paths),
            Ok(kind) if kind.is_file() => paths.push(entry.path()),
            _ => {}
        }
    }
}

/// A linked ELF file of x86-64 with LuaJIT's version text, which does not take LuaJIT from a library.
fn is_luajit(file: &[u8]) -> bool {
    let linked = file.starts_with(b"\x7fELF\x02\x01") && matches!(file.get(16), Some(2 | 3));
    linked
        && file.get(18) == Some(&62)
        && memchr::memmem::find(file, b"LuaJIT 2.1").is_some()
        && object::File::parse(file).is_ok_and(|elf| {
            let mut symbols = elf.dynamic_symbols();
            !symbols.any(|symbol| symbol.name() == Ok("luaL_newstate") && symbol.is_undefined())
        })
}

impl Build {
    pub fn vm(&self) -> VmText {
        let vms = find_vms(&self.file).unwrap();
        assert_eq!(vms.len(), 1, "{}: {vms:x?}", self.path.display());
        vms.into_iter().next().unwrap()
    }

    /// The address of the byte at this offset of the file.
    pub fn address_of_offset(&self, offset: u64) -> Option<u64> {
        let elf = object::File::parse(self.file.as_slice()).ok()?;
        elf.segments().find_map(|segment| {
            let (start, len) = segment.file_range();
            (start..start + len)
                .contains(&offset)
                .then(|| segment.address() + (offset - start))
        })
    }

    pub fn layout(&self) -> Layout {
        decode_layout(&self.file, &self.vm()).unwrap_or_else(|err| panic!("{}: {err}", self.path.display()))
    }

    /// Address of a symbol, if the file is not stripped.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let elf = object::File::parse(self.file.as_slice()).unwrap();
        elf.symbols()
            .find(|symbol| symbol.name() == Ok(name))
            .map(|symbol| symbol.address())
    }

    pub fn has_debug_info(&self) -> bool {
        let elf = object::File::parse(self.file.as_slice()).unwrap();
        elf.section_by_name(".debug_info").is_some()
    }

    pub fn is_library(&self) -> bool {
        let elf = object::File::parse(self.file.as_slice()).unwrap();
        elf.dynamic_symbols()
            .any(|symbol| symbol.name() == Ok("luaL_newstate") && symbol.is_definition())
            && self.path.to_string_lossy().contains(".so")
    }
}

/// `tests/common/host.c`, built and running one LuaJIT library.
pub struct Host {
    _dir: tempfile::TempDir,
    pub child: Child,
    stdin: Option<ChildStdin>,
    /// Addresses of the VMs' `global_State`, sorted.
    pub g: Vec<u64>,
}

impl Host {
    pub fn start(build: &Build, vms: usize) -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common");
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("host");
        let built = Command::new("cc")
            .args(["-O1", "-o"])
            .arg(&program)
            .arg(here.join("host.c"))
            .arg("-ldl")
            .status();
        if !built.is_ok_and(|status| status.success()) {
            skip("no C compiler");
            return None;
        }
        let reference = match build.vm().mode {
            GcMode::Gc64 => "8",
            GcMode::Gc32 => "4",
        };
        let mut child = Command::new(&program)
            .arg(&build.path)
            .args([reference])
            .arg(here.join("every_way.lua"))
            .arg(vms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut g: Vec<u64> = lines
            .map(Result::unwrap)
            .take_while(|line| line != "ready")
            .map(|line| u64::from_str_radix(&line, 16).unwrap())
            .collect();
        g.sort_unstable();
        let host = Self {
            _dir: dir,
            child,
            stdin,
            g,
        };
        // another system's library may need a newer libc
        if host.g.is_empty() {
            eprintln!("{} cannot be loaded here: left out", build.path.display());
            return None;
        }
        Some(host)
    }

    pub fn pid(&self) -> Pid {
        self.child.id()
    }

    /// Runs the script: the host stops itself before and after it.
    pub fn go(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Runs the script to its end.
    pub fn run_script(&mut self) {
        let pid = libc::pid_t::try_from(self.pid()).unwrap();
        self.go();
        for _ in 0..2 {
            let mut status = 0;
            // SAFETY: waits for our child, and wakes it
            unsafe {
                assert_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
                assert!(libc::WIFSTOPPED(status), "{status:#x}");
                libc::kill(pid, libc::SIGCONT);
            }
        }
    }

    /// What to add to addresses of the build's file to get those of the process.
    pub fn bias(&self, build: &Build) -> (u64, Vec<Mapping>) {
        let maps = read_maps(self.pid()).unwrap();
        let name = std::fs::canonicalize(&build.path).unwrap();
        let first = maps
            .iter()
            .find(|map| map.path() == Some(&name) && map.offset == 0)
            .unwrap();
        let elf = object::File::parse(build.file.as_slice()).unwrap();
        let lowest = elf
            .segments()
            .map(|segment| segment.address() & !4095)
            .min()
            .unwrap();
        (first.start - lowest, maps)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
