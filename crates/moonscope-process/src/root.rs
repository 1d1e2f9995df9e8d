//! Files inside the root of another process, never followed out of it.
//!
//! `/proc/PID/root` leads into the process's mount namespace, but an absolute symbolic link met on the
//! way would be resolved from *our* root (path_resolution(7)): a container could show us any file of the
//! host under the name of its own. `openat2` with `RESOLVE_IN_ROOT` (Linux 5.6) keeps every step inside.

use crate::process_state::id_with_memory;
use crate::{Pid, ProcessError};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A root directory, held open: it can still be searched when its process has exited. Shared by all
/// executables of the same root, so that a machine with many containers costs one descriptor for each.
#[derive(Clone, Debug)]
pub(crate) struct Root(Arc<OwnedFd>);

/// Mount, device and inode tell one root from another; a bind mount of the same directory has another
/// mount id.
type RootId = (u64, u32, u32, u64);

static ROOTS: Mutex<Option<HashMap<RootId, Weak<OwnedFd>>>> = Mutex::new(None);

impl Root {
    /// The root of a process.
    pub(crate) fn of(pid: Pid) -> Result<Self, ProcessError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let id = id_with_memory(pid);
        let fd = rustix::fs::openat(CWD, format!("/proc/{id}/root"), flags, Mode::empty())
            .map_err(|err| ProcessError::from_proc(pid, "cannot enter the root", err.into()))?;
        let mask = StatxFlags::INO | StatxFlags::MNT_ID;
        let Ok(stat) = rustix::fs::statx(&fd, c"", rustix::fs::AtFlags::EMPTY_PATH, mask) else {
            return Ok(Self(Arc::new(fd)));
        };
        let id = (
            stat.stx_mnt_id,
            stat.stx_dev_major,
            stat.stx_dev_minor,
            stat.stx_ino,
        );
        let mut roots = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
        let roots = roots.get_or_insert_default();
        if let Some(known) = roots.get(&id).and_then(Weak::upgrade) {
            return Ok(Self(known));
        }
        roots.retain(|_, root| root.strong_count() > 0);
        let root = Arc::new(fd);
        roots.insert(id, Arc::downgrade(&root));
        Ok(Self(root))
    }

    /// A path to it that works as long as this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// The directory, to open something below it.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A path that `/proc` told, as it is in this root. The kernel names files and roots as whoever asks sees them (`d_path`), so
    /// after a mere chroot, in a mount namespace that has the path of the root too, that path comes first. What is not below
    /// the root (a program that was started before it changed its root) stays as it is.
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        let root = std::fs::read_link(self.path());
        let below = root
            .ok()
            .and_then(|root| Some(path.strip_prefix(root).ok()?.to_owned()));
        below.map_or_else(|| path.to_owned(), |below| Path::new("/").join(below))
    }

    /// Opens a regular file of this root for reading. All links are resolved inside.
    pub(crate) fn open(&self, path: &Path) -> Result<File, ProcessError> {
        open_below(self.0.as_fd(), path).map_err(|err| ProcessError::CannotOpen {
            path: path.to_owned(),
            cause: err.into(),
        })
    }
}

/// Opens a regular file in the root of a process for reading; links are resolved inside that root.
pub fn open_in_root(pid: Pid, path: &Path) -> Result<File, ProcessError> {
    Root::of(pid)?.open(path)
}

/// Is there such a directory in the root of a process? Links are resolved inside that root.
pub fn is_dir_in_root(pid: Pid, path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let is_there =
        |root: Root| rustix::fs::openat2(root.0.as_fd(), path, flags, Mode::empty(), resolve).is_ok();
    Root::of(pid).is_ok_and(is_there)
}

/// Opens a regular file below a directory, as if that were the root.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<File> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    open_regular(&format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Opens what a magic link of `/proc` points to, if it is a regular file. Opening a device can do
/// something and opening a pipe can wait forever, so the kind is looked at before.
pub(crate) fn open_regular(path: &str) -> rustix::io::Result<File> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Err(rustix::io::Errno::NODEV);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Opens a regular file of our own root for reading.
pub(crate) fn open_here(path: &Path) -> Result<File, ProcessError> {
    let cannot = |cause| ProcessError::CannotOpen {
        path: path.to_owned(),
        cause,
    };
    if !path.metadata().map_err(cannot)?.is_file() {
        return Err(cannot(std::io::ErrorKind::InvalidInput.into()));
    }
    File::open(path).map_err(cannot)
}
