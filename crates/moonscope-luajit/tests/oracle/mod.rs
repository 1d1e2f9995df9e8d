//! LuaJIT itself as the judge: `lua/oracle.lua` run by every LuaJIT here, read from outside.

use moonscope_luajit::{GcMode, StrLayout};
use moonscope_process::ProcessMemory;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Says why a test does nothing.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("MOONSCOPE_NO_SKIP").is_none_or(|no| no != "1"),
        "{why}"
    );
    eprintln!("SKIPPED: {why}");
}

/// Commands that run LuaJIT: those in `MOONSCOPE_LUAJITS` (separated by colons), or `luajit` and `luajit2`.
pub fn interpreters() -> Vec<PathBuf> {
    let given = std::env::var("MOONSCOPE_LUAJITS").unwrap_or_else(|_| "luajit:luajit2".to_owned());
    let runs = |command: &&str| {
        let tried = Command::new(command)
            .args(["-e", "require('jit.vmdef')"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    };
    given.split(':').filter(runs).map(PathBuf::from).collect()
}

/// Lua files of this machine: libraries of the distribution.
pub fn library_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let roots = std::env::var("MOONSCOPE_LUA_FILES").unwrap_or_else(|_| {
        "/usr/share/lua/5.1:/usr/share/luajit-2.1.0-beta3:/usr/local/openresty".to_owned()
    });
    let mut folders: Vec<PathBuf> = roots.split(':').map(PathBuf::from).collect();
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lua"));
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() && !path.is_symlink() => folders.push(path),
                path if path.extension().is_some_and(|ending| ending == "lua") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// What LuaJIT says of one prototype.
#[derive(Clone, Debug)]
pub struct Truth {
    pub address: u64,
    pub first_line: u32,
    pub last_line: u32,
    pub params: u32,
    pub is_vararg: bool,
    pub chunkname: Vec<u8>,
    /// Line of each instruction; `None` if it was stripped.
    pub lines: Vec<Option<u32>>,
}

/// A call whose name LuaJIT told.
#[derive(Clone, Debug)]
pub struct CallTruth {
    pub caller: u64,
    pub position: u32,
    /// `global`, `method`, …; empty if there is no name.
    pub kind: String,
    pub name: String,
}

/// A running oracle and what it said.
pub struct Oracle {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub memory: ProcessMemory,
    pub mode: GcMode,
    pub strings: StrLayout,
    pub thread: u64,
    pub prototypes: Vec<Truth>,
    pub short: HashMap<u64, String>,
    pub texts: Vec<(u64, Vec<u8>)>,
    pub builtins: Vec<(u8, String)>,
    pub opcodes: Vec<String>,
    pub calls: Vec<CallTruth>,
}

impl Oracle {
    pub fn start(interpreter: &Path, files: &[PathBuf]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lua/oracle.lua");
        let mut child = Command::new(interpreter)
            .arg(script)
            .args(files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let memory = ProcessMemory::new(child.id());
        let mut oracle = Self {
            commands: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
            memory,
            mode: GcMode::Gc64,
            strings: StrLayout::with_sid(GcMode::Gc64),
            thread: 0,
            prototypes: Vec::new(),
            short: HashMap::new(),
            texts: Vec::new(),
            builtins: Vec::new(),
            opcodes: Vec::new(),
            calls: Vec::new(),
        };
        oracle.listen();
        let layout = |mode| StrLayout::of_thread(&oracle.memory, mode, oracle.thread).ok();
        let found: Vec<_> = [GcMode::Gc64, GcMode::Gc32]
            .into_iter()
            .filter_map(layout)
            .collect();
        assert_eq!(found.len(), 1, "exactly one layout of strings fits: {found:?}");
        oracle.strings = found[0];
        oracle.mode = found[0].mode();
        oracle
    }

    /// Frees the generated chunks and loads others.
    pub fn collect(&mut self) {
        self.prototypes.clear();
        writeln!(self.commands, "collect").unwrap();
        self.listen();
    }

    fn listen(&mut self) {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.answers.read_line(&mut line).unwrap(),
                0,
                "the oracle ended early"
            );
            let words: Vec<_> = line.trim_end_matches('\n').split(' ').collect();
            match words[..] {
                ["ready"] => return,
                ["proto", at, first, last, params, vararg, bytecodes, name, lines] => {
                    let lines: Vec<_> = lines.split(',').map(|line| line.parse().ok()).collect();
                    assert_eq!(lines.len(), bytecodes.parse::<usize>().unwrap());
                    self.prototypes.push(Truth {
                        address: address(at),
                        first_line: number(first),
                        last_line: number(last),
                        params: number(params),
                        is_vararg: vararg == "1",
                        chunkname: hex(name),
                        lines,
                    });
                }
                ["short", at, name] => _ = self.short.insert(address(at), text(name)),
                ["string", at, bytes] => self.texts.push((address(at), hex(bytes))),
                ["ffid", ffid, name] => self.builtins.push((ffid.parse().unwrap(), name.to_owned())),
                ["opcodes", names] => {
                    let names = text(names);
                    let names = names
                        .as_bytes()
                        .chunks(6)
                        .map(|name| String::from_utf8_lossy(name).trim().to_owned());
                    self.opcodes = names.collect();
                }
                ["thread", at] => self.thread = address(at),
                ["call", caller, position, kind, name] => self.calls.push(CallTruth {
                    caller: address(caller),
                    position: number(position),
                    kind: kind[1..].to_owned(),
                    name: text(name),
                }),
                _ => panic!("the oracle says {line:?}"),
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn address(word: &str) -> u64 {
    u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap()
}

/// Lines of LuaJIT's own bytecode are -1 here.
fn number(word: &str) -> u32 {
    word.parse::<i64>().unwrap() as u32
}

fn hex(word: &str) -> Vec<u8> {
    let digits = word.strip_prefix('x').unwrap().as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn text(word: &str) -> String {
    String::from_utf8_lossy(&hex(word)).into_owned()
}
