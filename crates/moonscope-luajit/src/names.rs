//! Names of Lua functions as people see them: `access@plugins/limit-count.lua:87`.
//!
//! The name is that of the definition in the source file ([`crate::source`]), read in the root of the process.
//! It is left out where it is not certain: no file, no function with exactly these lines and parameters, or several. Then the
//! place alone is shown. A file that changed after the process had started may have been loaded before or after that: the name
//! that a function has in it is a hint (`name?`), and only if the text of that function has all variables and strings that the
//! one in memory has.

use crate::chunk::Chunk;
use crate::prototype::Prototype;
use crate::source::{MAIN_CHUNK, MAX_SOURCE, SourceFile};
use moonscope_process::{Pid, StartTime, open_in_root};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// Source files that are kept, those that could not be used included. A gateway has about a thousand.
const MAX_FILES: usize = 8192;

/// How much earlier than the last change of its files a process may seem to have started: its start is counted in ticks
/// of 10 ms, rounded down, and two clocks are compared.
const START_SLACK: Duration = Duration::from_millis(20);

/// Functions that are kept in all files together, some 100 bytes each.
const MAX_KEPT_FUNCTIONS: usize = 1 << 19;

/// What kind of function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// What stands in a file outside of all functions.
    MainChunk,
    /// A function.
    Function,
    /// From bytecode without lines: it may be either.
    Stripped,
    /// One of those that LuaJIT brings as bytecode.
    Builtin,
}

/// A function as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FunctionName {
    /// Its name; `None` where it is not certain.
    pub name: Option<String>,
    /// Where it was defined: the complete path as the process has it, or what stands for it.
    pub file: String,
    /// The file as it is shown: see [`Chunk::short_file`].
    pub short_file: String,
    /// First line of the definition; 0 for a main chunk, and where it is not known.
    pub line_defined: u32,
    /// What kind of function it is.
    pub kind: FunctionKind,
}

impl FunctionName {
    /// `access@plugins/limit-count.lua:87`, or without a name `plugins/limit-count.lua:87`. `line`: the current
    /// line; where there is none, that of the definition is shown if there is one.
    pub fn display(&self, line: Option<u32>) -> impl fmt::Display {
        let line = line.filter(|line| *line != 0).unwrap_or(self.line_defined);
        let name = self
            .name
            .as_deref()
            .map_or(String::new(), |name| format!("{name}@"));
        match (self.kind, line) {
            (FunctionKind::Builtin, _) => self.name.clone().unwrap_or_default(),
            (_, 0) => format!("{name}{}", self.short_file),
            _ => format!("{name}{}:{line}", self.short_file),
        }
    }
}

/// A function that LuaJIT brings as bytecode, with the table that it is in: those of `LJLIB_LUA` in lib_math.c, lib_string.c and
/// lib_table.c.
fn in_library(name: &str) -> String {
    match name {
        "deg" | "rad" => format!("math.{name}"),
        "len" => format!("string.{name}"),
        "foreachi" | "foreach" | "getn" | "remove" | "move" => format!("table.{name}"),
        _ => name.to_owned(),
    }
}

/// Names of the functions of one process.
#[derive(Debug)]
pub struct LuaNames {
    root: Option<Pid>,
    started: SystemTime,
    directory: Option<PathBuf>,
    /// Those that were looked at.
    files: HashMap<PathBuf, Looked>,
    /// Functions in `files`.
    kept: usize,
}

/// A file as it was when it was looked at last.
#[derive(Clone, Debug)]
struct Looked {
    version: Version,
    /// `None`: it is of no use.
    source: Option<Rc<SourceFile>>,
    /// It changed after the process had started.
    is_late: bool,
}

/// What changes with the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    content: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            content: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// True if the file was changed, or put in its place, after `started`. The time of the last change of content
    /// is what package managers and `rsync -a` set back to what it was elsewhere; that of the inode is not.
    fn is_younger(&self, started: SystemTime) -> Option<bool> {
        let at = |(seconds, nanoseconds): (i64, i64)| {
            let at = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
            SystemTime::UNIX_EPOCH.checked_add(at)
        };
        Some(at(self.content)?.max(at(self.changed)?) > started + START_SLACK)
    }
}

impl LuaNames {
    /// Names of the functions of process `pid`, which started at `started` (see [`wall_clock`]). `directory`:
    /// what relative paths start from, seen from its root; without it they stay without names.
    pub fn new(pid: Pid, started: SystemTime, directory: Option<PathBuf>) -> Self {
        Self {
            root: Some(pid),
            started,
            directory,
            files: HashMap::new(),
            kept: 0,
        }
    }

    /// Names without any sources: places only.
    pub fn without_sources() -> Self {
        Self {
            root: None,
            started: SystemTime::UNIX_EPOCH,
            directory: None,
            files: HashMap::new(),
            kept: 0,
        }
    }

    /// The name of a function, if that needs no look at its body.
    pub fn name_of(&mut self, prototype: &Prototype) -> FunctionName {
        self.name_with(prototype, || None)
    }

    /// The name of a function. `words`: what its text must have in it (`words_of`), if it is asked for.
    pub fn name_with(
        &mut self,
        prototype: &Prototype,
        words: impl FnOnce() -> Option<Vec<Vec<u8>>>,
    ) -> FunctionName {
        let identity = &prototype.identity;
        let chunk = Chunk::parse(&prototype.chunkname.bytes, identity.firstline);
        let kind = match () {
            () if prototype.is_builtin() => FunctionKind::Builtin,
            () if prototype.is_stripped() => FunctionKind::Stripped,
            () if identity.firstline == 0 => FunctionKind::MainChunk,
            () => FunctionKind::Function,
        };
        let name = match (kind, &chunk) {
            (FunctionKind::Builtin, Chunk::Builtin(name)) => Some(in_library(name)),
            (FunctionKind::MainChunk, _) => Some(MAIN_CHUNK.to_owned()),
            (FunctionKind::Function, Chunk::File(path)) => self.in_source(path, prototype, words),
            _ => None,
        };
        FunctionName {
            name,
            file: chunk.file(),
            short_file: chunk.short_file(),
            line_defined: if kind == FunctionKind::Builtin {
                0
            } else {
                identity.firstline
            },
            kind,
        }
    }

    fn in_source(
        &mut self,
        path: &Path,
        prototype: &Prototype,
        words: impl FnOnce() -> Option<Vec<Vec<u8>>>,
    ) -> Option<String> {
        let identity = &prototype.identity;
        let (first_line, params) = (identity.firstline, identity.numparams.into());
        let last_line = first_line.checked_add(identity.numline)?;
        let Looked { source, is_late, .. } = self.look(path)?;
        let source = source?;
        let name = source.name_of(first_line, last_line, params, identity.is_vararg)?;
        match is_late {
            false => Some(name.to_owned()),
            true => source
                .has_words(first_line..=last_line, &words()?)
                .then(|| format!("{name}?")),
        }
    }

    /// The file as it is now.
    fn look(&mut self, path: &Path) -> Option<Looked> {
        let whole = match path.is_absolute() {
            true => path.to_owned(),
            false => self.directory.as_ref()?.join(path),
        };
        let file = open_in_root(self.root?, &whole).ok()?;
        let version = Version::of(&file)?;
        if let Some(known) = self.files.get(path).filter(|known| known.version == version) {
            return Some(known.clone());
        }
        if self.files.len() >= MAX_FILES || self.kept >= MAX_KEPT_FUNCTIONS {
            self.files.clear();
            self.kept = 0;
        }
        let is_late = version.is_younger(self.started)?;
        let source = read(file, is_late).map(Rc::new);
        self.kept += source.as_ref().map_or(0, |source| source.functions().len());
        let looked = Looked {
            version,
            source,
            is_late,
        };
        self.files.insert(path.to_owned(), looked.clone());
        Some(looked)
    }
}

fn read(file: File, is_late: bool) -> Option<SourceFile> {
    let mut text = Vec::new();
    file.take(MAX_SOURCE as u64 + 1).read_to_end(&mut text).ok()?;
    match is_late {
        false => SourceFile::parse(&text).ok(),
        true => SourceFile::parse_with_words(&text).ok(),
    }
}

/// When a process started, by the clock on the wall. `now`: the two clocks at one moment (`CLOCK_BOOTTIME`,
/// which [`StartTime`] counts in, and the system's time); `ticks_per_second`: `sysconf(_SC_CLK_TCK)`.
pub fn wall_clock(
    start: StartTime,
    now: (Duration, SystemTime),
    ticks_per_second: u32,
) -> Option<SystemTime> {
    let rate = u64::from(ticks_per_second).max(1);
    let since_boot =
        Duration::from_secs(start.0 / rate) + Duration::from_secs(start.0 % rate) / ticks_per_second.max(1);
    now.1.checked_sub(now.0.checked_sub(since_boot)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_on_the_wall_says_when_this_process_started() {
        // Booted 1000 s ago, started 12.34 s after that.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5000);
        let clocks = (Duration::from_secs(1000), now);
        let started = wall_clock(StartTime(1234), clocks, 100).unwrap();
        assert_eq!(started, SystemTime::UNIX_EPOCH + Duration::from_millis(4_012_340));
        assert_eq!(wall_clock(StartTime(u64::MAX), clocks, 100), None);
        assert_eq!(wall_clock(StartTime(100_001), clocks, 100), None, "after now");
    }
}
