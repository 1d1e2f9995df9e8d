//! `/proc/PID/maps`: what is mapped where in a process.
//!
//! One line each: `start-end perms offset major:minor inode   name` (fs/proc/task_mmu.c,
//! `show_map_vma`). The kernel writes a newline in a name as `\012` and nothing else escaped, and it
//! appends ` (deleted)` to the name of an unlinked file; a file whose real name contains these texts
//! cannot be told apart, so names serve people, and files are opened through [`crate::Executable::open`].

use crate::bytes::{self, decimal, hex};
use crate::process_state::{self, Presence, id_with_memory};
use crate::{Pid, ProcessError};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mapping: a line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Where in the file the mapping starts, in bytes. 0 for anonymous memory.
    pub offset: u64,
    /// Readable.
    pub readable: bool,
    /// Writable.
    pub writable: bool,
    /// Executable.
    pub executable: bool,
    /// Shared (`MAP_SHARED`), not private.
    pub shared: bool,
    /// Major and minor number of the file's device; (0, 0) for anonymous memory.
    pub device: (u32, u32),
    /// Inode number of the file; 0 for anonymous memory.
    pub inode: u64,
    /// What is mapped.
    pub name: MappingName,
}

/// What a mapping maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingName {
    /// A file.
    File {
        /// Its path in the root of the process, without the ` (deleted)` mark.
        path: PathBuf,
        /// The file was unlinked (or is a memfd, which never had a link).
        deleted: bool,
    },
    /// The kernel's code page for user space.
    Vdso,
    /// The legacy page at a fixed address.
    Vsyscall,
    /// The `brk` heap.
    Heap,
    /// The stack of the main thread.
    Stack,
    /// Anonymous memory without a name.
    Anonymous,
    /// Anything else, as the kernel names it: `[vvar]`, `[anon:name]`, `anon_inode:[perf_event]`.
    Other(String),
}

impl Mapping {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// A mapping is never empty; here for completeness.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Does this address lie in the mapping?
    pub fn contains(&self, addr: u64) -> bool {
        (self.start..self.end).contains(&addr)
    }

    /// Offset in the mapped file of an address in this mapping.
    pub fn file_offset(&self, addr: u64) -> Option<u64> {
        self.contains(addr)
            .then(|| self.offset.wrapping_add(addr - self.start))
    }

    /// Path of the mapped file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.name {
            MappingName::File { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// All mappings of a process, in the order of their addresses.
///
/// A list of a running process is never atomic: the kernel gives it page by page. Every line is right
/// at the moment it is made.
pub fn read_maps(pid: Pid) -> Result<Vec<Mapping>, ProcessError> {
    let maps = read_maps_of(pid, pid)?;
    if maps.is_empty() {
        let other = id_with_memory(pid);
        if other != pid {
            return read_maps_of(pid, other);
        }
        // A kernel thread and a zombie have an empty list, and no error.
        match process_state::presence(pid) {
            Presence::KernelThread => return Err(ProcessError::KernelThread { pid }),
            Presence::Dead => return Err(ProcessError::Exited { pid }),
            Presence::Alive => {}
        }
    }
    Ok(maps)
}

/// The mappings of `pid` as those of its thread `id`.
fn read_maps_of(pid: Pid, id: Pid) -> Result<Vec<Mapping>, ProcessError> {
    let text = bytes::read_file(&format!("/proc/{id}/maps"))
        .map_err(|err| ProcessError::from_proc(pid, "cannot read the mappings", err))?;
    Ok(parse_maps(&text))
}

/// Parses the text of a `maps` file. Lines that are not mappings are left out.
pub fn parse_maps(text: &[u8]) -> Vec<Mapping> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// Parses one line (without its newline).
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let begin = rest.iter().position(|&byte| byte != b' ')?;
        let end = rest[begin..]
            .iter()
            .position(|&byte| byte == b' ')
            .map_or(rest.len(), |n| begin + n);
        let word = &rest[begin..end];
        rest = &rest[end..];
        Some(word)
    };
    let (start, end) = pair(word()?, b'-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let perms = word()?;
    let offset = hex(word()?)?;
    let (major, minor) = pair(word()?, b':')?;
    let device = (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?);
    let inode = decimal(word()?)?;
    if end <= start || perms.len() != 4 {
        return None;
    }
    // Names may end in blanks, so only the padding before the name goes.
    let name = rest
        .iter()
        .position(|&byte| byte != b' ')
        .map_or(&b""[..], |begin| &rest[begin..]);
    Some(Mapping {
        start,
        end,
        offset,
        readable: perms[0] == b'r',
        writable: perms[1] == b'w',
        executable: perms[2] == b'x',
        shared: perms[3] == b's',
        device,
        inode,
        name: MappingName::parse(name),
    })
}

fn pair(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

impl MappingName {
    fn parse(name: &[u8]) -> Self {
        match name {
            b"" => Self::Anonymous,
            b"[vdso]" => Self::Vdso,
            b"[vsyscall]" => Self::Vsyscall,
            b"[heap]" => Self::Heap,
            b"[stack]" => Self::Stack,
            // The kernel's own names never begin with a slash, and every path of a file does.
            [b'/', ..] => {
                let (path, deleted) = match name.strip_suffix(b" (deleted)") {
                    Some(path) => (path, true),
                    None => (name, false),
                };
                Self::File {
                    path: unescape(path),
                    deleted,
                }
            }
            other => Self::Other(String::from_utf8_lossy(other).into_owned()),
        }
    }
}

/// Turns `\012` back into a newline.
fn unescape(name: &[u8]) -> PathBuf {
    const NEWLINE: &[u8] = br"\012";
    if !name.windows(NEWLINE.len()).any(|window| window == NEWLINE) {
        return PathBuf::from(OsStr::from_bytes(name));
    }
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(&byte) = rest.first() {
        if let Some(after) = rest.strip_prefix(NEWLINE) {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(byte);
            rest = &rest[1..];
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests;
