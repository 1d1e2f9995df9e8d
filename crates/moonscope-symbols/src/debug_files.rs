//! Finding the separate debug file of an executable, and the supplementary file of a debug file.
//!
//! Where tools put them (GDB manual, "Debugging Information in Separate Files"; dwz(1)):
//! by build id as `DIR/.build-id/ab/cdef….debug`, and by the name in `.gnu_debuglink` next to the file, in
//! `.debug/` next to it, and as `DIR/path/of/the/file/NAME`. Each place is looked at in the root of the
//! process first (links are resolved inside, see `moonscope_process::Executable::open_beside`), then on the
//! host, where only the debug directories are looked at for a file of another root.
//!
//! A file found is used only if it proves to belong: its build id must be the one searched for, or the
//! checksum in the debug link must be the file's. Names alone prove nothing: distributions update libraries
//! and debug packages at different times.

use crate::elf_file::{ElfFile, u32_at};
use crate::limits::MAX_CHECKSUMMED;
use moonscope_process::Executable;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// In whose root a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Of the process the executable was seen in.
    Process,
    /// Ours.
    Host,
}

/// A file that belongs to the executable.
#[derive(Debug)]
pub(crate) struct DebugFile {
    pub(crate) elf: ElfFile,
    /// As it was found.
    pub(crate) path: PathBuf,
    place: Place,
}

/// Looks for files that belong to one executable.
pub(crate) struct Search<'a> {
    pub(crate) exe: &'a Executable,
    pub(crate) debug_dirs: &'a [PathBuf],
    /// Files that were there but did not belong, for messages.
    pub(crate) refused: Vec<String>,
}

impl Search<'_> {
    /// The separate debug file of the executable; `elf` is the executable itself.
    pub(crate) fn debug_file(&mut self, elf: &ElfFile) -> Option<DebugFile> {
        let id = elf.build_id();
        let by_id = id.as_deref().and_then(|id| self.by_build_id(id, elf));
        by_id.or_else(|| self.by_debug_link(elf, id.as_deref()))
    }

    /// The supplementary file that `.gnu_debugaltlink` names (dwz(1)): its path, absolute or relative to
    /// the file that refers to it, and its build id. `from` is the debug file, or `None` if the executable
    /// itself refers.
    pub(crate) fn supplementary(&mut self, elf: &ElfFile, from: Option<&DebugFile>) -> Option<DebugFile> {
        let section = elf.section(".gnu_debugaltlink")?;
        let link = elf.raw(section, 1 << 16, "debug link").ok()?;
        let (name, id) = link.split_at_checked(link.iter().position(|&byte| byte == 0)?)?;
        let id = id.get(1..).filter(|id| !id.is_empty())?;
        let name = Path::new(OsStr::from_bytes(name));
        let (place, path) = match from {
            Some(file) => (file.place, file.path.clone()),
            None => (Place::Process, self.exe.path_in_root(self.exe.path())),
        };
        // A build-id path may be a link to where the debug file really is; relative means from there.
        let real = elf
            .file()
            .and_then(|file| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok())
            .map(|real| match place {
                Place::Process => self.exe.path_in_root(&real),
                Place::Host => real,
            });
        let beside = [Some(path), real]
            .into_iter()
            .flatten()
            .filter_map(|path| Some(path.parent()?.join(name)));
        for path in beside {
            if let Some(found) = self.open(place, &path, Proof::BuildId(id), elf) {
                return Some(found);
            }
        }
        self.by_build_id(id, elf)
    }

    fn by_build_id(&mut self, id: &[u8], elf: &ElfFile) -> Option<DebugFile> {
        let (first, rest) = id.split_first()?;
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!(".build-id/{first:02x}/{rest}.debug");
        [Place::Process, Place::Host].into_iter().find_map(|place| {
            let dirs = self.debug_dirs;
            dirs.iter()
                .find_map(|dir| self.open(place, &dir.join(&name), Proof::BuildId(id), elf))
        })
    }

    fn by_debug_link(&mut self, elf: &ElfFile, id: Option<&[u8]>) -> Option<DebugFile> {
        let section = elf.section(".gnu_debuglink")?;
        let link = elf.raw(section, 1 << 16, "debug link").ok()?;
        let end = link.iter().position(|&byte| byte == 0)?;
        let name = Path::new(OsStr::from_bytes(&link[..end]));
        // A file name, not a way to somewhere else.
        if !matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(only)] if only == name) {
            return None;
        }
        let checksum_at = (end + 1).next_multiple_of(4);
        link.get(checksum_at..checksum_at + 4)?;
        let proof = Proof::Checksum {
            checksum: u32_at(&link, checksum_at),
            build_id: id,
        };
        let own = self.exe.path_in_root(self.exe.path());
        let dir = own.parent()?;
        let mut paths = vec![
            (Place::Process, dir.join(name)),
            (Place::Process, dir.join(".debug").join(name)),
        ];
        // after a chroot it has a path of the host, too
        let on_host = self.exe.path().parent()?;
        let on_host = (on_host != dir).then_some((Place::Host, on_host));
        let dirs = [(Place::Process, dir), (Place::Host, dir)];
        for (place, dir) in dirs.into_iter().chain(on_host) {
            let Some(below) = dir.strip_prefix("/").ok().filter(|dir| is_plain(dir)) else {
                continue;
            };
            let in_dir = |debug_dir: &PathBuf| (place, debug_dir.join(below).join(name));
            paths.extend(self.debug_dirs.iter().map(in_dir));
        }
        paths
            .into_iter()
            .find_map(|(place, path)| self.open(place, &path, proof, elf))
    }

    fn open(
        &mut self,
        place: Place,
        path: &Path,
        proof: Proof<'_>,
        referring: &ElfFile,
    ) -> Option<DebugFile> {
        let file = match place {
            Place::Process => self.exe.open_beside(path).ok()?,
            Place::Host => open_on_host(path)?,
        };
        if referring.file().is_some_and(|other| same_file(&file, other)) {
            return None;
        }
        match verified(file, proof) {
            Ok(elf) => Some(DebugFile {
                elf,
                path: path.to_owned(),
                place,
            }),
            Err(why) => {
                self.refused.push(format!("{}: {why}", path.display()));
                None
            }
        }
    }
}

/// What a file must show to be believed.
#[derive(Clone, Copy)]
enum Proof<'a> {
    BuildId(&'a [u8]),
    Checksum {
        checksum: u32,
        build_id: Option<&'a [u8]>,
    },
}

fn verified(mut file: File, proof: Proof<'_>) -> Result<ElfFile, String> {
    if let Proof::Checksum { checksum, build_id } = proof {
        let elf = ElfFile::from_file(file.try_clone().map_err(|err| err.to_string())?);
        let elf = elf.map_err(|err| err.to_string())?;
        // Cheaper than the checksum, and sure.
        if let (Some(wanted), Some(found)) = (build_id, elf.build_id())
            && wanted != found
        {
            return Err("another build id".into());
        }
        return match crc32(&mut file) {
            Some(found) if found == checksum => Ok(elf),
            _ => Err("another checksum than the debug link says".into()),
        };
    }
    let elf = ElfFile::from_file(file).map_err(|err| err.to_string())?;
    match proof {
        Proof::BuildId(id) if elf.build_id().as_deref() != Some(id) => Err("another build id".into()),
        _ => Ok(elf),
    }
}

/// The CRC of the whole file, as `.gnu_debuglink` has it (the CRC-32 of IEEE 802.3).
fn crc32(file: &mut File) -> Option<u32> {
    if file.metadata().ok()?.len() > MAX_CHECKSUMMED {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut chunk = vec![0; 1 << 16];
    let mut left = MAX_CHECKSUMMED;
    loop {
        let read = file.read(&mut chunk).ok()?;
        if read == 0 {
            return Some(hasher.finalize());
        }
        hasher.update(&chunk[..read]);
        left = left.checked_sub(read as u64)?;
    }
}

fn open_on_host(path: &Path) -> Option<File> {
    let kind = FileType::from_raw_mode(rustix::fs::stat(path).ok()?.st_mode);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty());
    (kind == FileType::RegularFile).then_some(file.ok()?.into())
}

fn same_file(a: &File, b: &File) -> bool {
    let id = |file: &File| {
        file.metadata()
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .ok()
    };
    id(a).is_some() && id(a) == id(b)
}

fn is_plain(path: &Path) -> bool {
    path.components()
        .all(|component| matches!(component, Component::Normal(_)))
}
