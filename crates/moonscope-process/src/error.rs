//! Why something about a process could not be read, told so that callers can decide and people can act.

use crate::{Pid, visible};
use std::io;
use std::path::PathBuf;

/// What went wrong; each is one sentence, the object first, then the cause.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no process with this id in our pid namespace.
    #[error("no process {pid}")]
    NoSuchProcess {
        /// The id that was asked for.
        pid: Pid,
    },
    /// The id belongs to a thread of the kernel, which has no user memory and no executable.
    #[error("process {pid} is a kernel thread: it has no user code")]
    KernelThread {
        /// The id that was asked for.
        pid: Pid,
    },
    /// The kernel refused; usually another user's process, or a missing capability.
    #[error("{what} of process {pid}: {}", reason(cause))]
    NotPermitted {
        /// The process.
        pid: Pid,
        /// What was wanted, as the beginning of a sentence: `cannot read the mappings`.
        what: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The process was there but ended while it was being read.
    #[error("process {pid} exited meanwhile")]
    Exited {
        /// The process.
        pid: Pid,
    },
    /// The file of a mapping cannot be reached: deleted and not openable through `map_files`, or
    /// another file stands at its path now.
    #[error("{}: {}", visible(path), self.without_path())]
    FileGone {
        /// The process.
        pid: Pid,
        /// The path as the process sees it.
        path: PathBuf,
        /// What was found instead.
        reason: &'static str,
    },
    /// The file cannot be opened or read.
    #[error("{}: {}", visible(path), self.without_path())]
    CannotOpen {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The file has another content than when it was first seen.
    #[error("{}: {}", visible(path), self.without_path())]
    FileChanged {
        /// The path.
        path: PathBuf,
    },
    /// The file is not an ELF file that this machine could run, or its headers are damaged.
    #[error("{}: {}", visible(path), self.without_path())]
    BadElf {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Memory of the process is not there (not mapped, or not readable).
    #[error("memory at {addr:#x} is not readable")]
    Unreadable {
        /// Where reading had to stop.
        addr: u64,
    },
    /// Anything else that the kernel answers.
    #[error("{what}: {}", reason(cause))]
    Io {
        /// What was being done or read.
        what: String,
        /// The kernel's answer.
        cause: io::Error,
    },
}

impl ProcessError {
    /// The same without the path that it begins with, for those who say themselves which file it is.
    pub fn without_path(&self) -> String {
        match self {
            Self::FileGone { pid, reason, .. } => {
                format!("the file that process {pid} maps is gone: {reason}")
            }
            Self::CannotOpen { cause, .. } => reason(cause),
            Self::FileChanged { .. } => "it was written to since it was first seen".to_owned(),
            Self::BadElf { reason, .. } => (*reason).to_owned(),
            other => other.to_string(),
        }
    }

    /// True if the process is not there (any more): the caller should forget it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoSuchProcess { .. } | Self::Exited { .. })
    }

    /// True if more privilege would help.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::NotPermitted { .. } => true,
            Self::CannotOpen { cause, .. } | Self::Io { cause, .. } => {
                cause.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }

    /// True if it could not be opened because too many files are open (`ulimit -n`, or fs.file-max).
    pub fn is_file_limit(&self) -> bool {
        match self {
            Self::CannotOpen { cause, .. } | Self::Io { cause, .. } => {
                matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            _ => false,
        }
    }

    /// True if the process, or what it maps, changed at the very moment: a second look will see something else.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::FileGone { reason, .. } => *reason == REMAPPED,
            // the vDSO of a program that has just ended
            Self::Unreadable { .. } => true,
            _ => self.is_gone(),
        }
    }

    /// Sorts an error of reading below `/proc/PID`; `what` as in [`ProcessError::NotPermitted`].
    pub(crate) fn from_proc(pid: Pid, what: &'static str, cause: io::Error) -> Self {
        match cause.raw_os_error() {
            Some(libc::ENOENT) => Self::NoSuchProcess { pid },
            // The file was open already: the process was there and is not any more.
            Some(libc::ESRCH) => Self::Exited { pid },
            Some(libc::EACCES | libc::EPERM) => Self::NotPermitted { pid, what, cause },
            _ => Self::Io {
                what: format!("{what} of process {pid}"),
                cause,
            },
        }
    }
}

/// Why a file of a mapping is gone, if the mapping is.
pub(crate) const REMAPPED: &str = "something else is mapped there now";

/// The kernel's answer as part of a sentence: lower case, without the number that the standard library
/// adds.
pub fn reason(err: &io::Error) -> String {
    let text = err.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
