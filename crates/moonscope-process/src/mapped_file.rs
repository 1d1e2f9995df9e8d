//! Opening the file behind a mapping, and never another one.
//!
//! `/proc/PID/map_files/START-END` leads to the very inode that is mapped: also if it was deleted or
//! replaced since, or is only visible in another mount namespace. Following it needs
//! CAP_CHECKPOINT_RESTORE (Linux 5.9) or CAP_SYS_ADMIN. Without them the path is tried in the root of
//! the process, and what is found there is compared with the mapping.

use crate::elf::ReadAt;
use crate::error::REMAPPED;
use crate::maps::{Mapping, MappingName, read_maps};
use crate::memory::{ProcessMemory, RemoteMemory};
use crate::process_state::id_with_memory;
use crate::root::{Root, open_regular};
use crate::{Pid, ProcessError};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Opens the file of a mapping; `root` is that of the process, if it could be entered.
pub(crate) fn open(
    pid: Pid,
    mapping: &Mapping,
    path: &Path,
    root: Option<&Root>,
) -> Result<File, ProcessError> {
    let first = match open_mapped(pid, mapping, path) {
        Ok(file) => return Ok(file),
        Err(err) => err,
    };
    // EACCES: we may not look at this process at all (proc_map_files_lookup, fs/proc/base.c); where only the capability for
    // `map_files` is missing it is EPERM
    let is_refused = matches!(&first, ProcessError::NotPermitted { cause, .. }
        if cause.raw_os_error() == Some(libc::EACCES));
    open_by_path(pid, mapping, path, root).map_err(|second| match second {
        ProcessError::CannotOpen { .. } if first.is_gone() => first,
        ProcessError::FileGone { .. } if is_refused => first,
        second => second,
    })
}

/// Opens the file of a mapping through `map_files`.
fn open_mapped(pid: Pid, mapping: &Mapping, path: &Path) -> Result<File, ProcessError> {
    let id = id_with_memory(pid);
    let link = format!("/proc/{id}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    let file = open_regular(&link)
        .map_err(|err| ProcessError::from_proc(pid, "cannot open mapped files", err.into()))?;
    if same_inode(&file, mapping) {
        return Ok(file);
    }
    // Overlayfs and btrfs show one inode or device in `maps` and another in stat (and which one depends
    // on the kernel). What must not be: another file was mapped at the same place since.
    match read_maps(pid)?.iter().any(|now| now == mapping) {
        true => Ok(file),
        false => Err(ProcessError::FileGone {
            pid,
            path: path.to_owned(),
            reason: REMAPPED,
        }),
    }
}

/// Opens the file of a mapping by its path in the process's root, if it is the one that is mapped.
pub(crate) fn open_by_path(
    pid: Pid,
    mapping: &Mapping,
    path: &Path,
    root: Option<&Root>,
) -> Result<File, ProcessError> {
    let gone = |reason| ProcessError::FileGone {
        pid,
        path: path.to_owned(),
        reason,
    };
    if matches!(mapping.name, MappingName::File { deleted: true, .. }) {
        return Err(gone(
            "it was deleted, and map_files needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
        ));
    }
    let root = match root {
        Some(root) => root.clone(),
        None => Root::of(pid)?,
    };
    let file = root.open(&root.inside(path))?;
    if same_inode(&file, mapping) {
        return Ok(file);
    }
    // The same inode on a device that only looks different (overlayfs, btrfs): believed if the bytes of
    // the file are those in the process.
    let same_number = file
        .metadata()
        .is_ok_and(|metadata| metadata.ino() == mapping.inode);
    match same_number && same_bytes(pid, mapping, &file) {
        true => Ok(file),
        false => Err(gone("another file has this path now")),
    }
}

fn same_inode(file: &File, mapping: &Mapping) -> bool {
    file.metadata().is_ok_and(|metadata| {
        let device = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        (device, metadata.ino()) == (mapping.device, mapping.inode)
    })
}

/// Are the first bytes of the mapping what the file has there?
fn same_bytes(pid: Pid, mapping: &Mapping, file: &File) -> bool {
    let (mut ours, mut theirs) = ([0; 4096], [0; 4096]);
    ProcessMemory::new(pid)
        .read_exact(mapping.start, &mut theirs)
        .is_ok()
        && ReadAt::read_exact_at(file, &mut ours, mapping.offset).is_ok()
        && ours == theirs
}
