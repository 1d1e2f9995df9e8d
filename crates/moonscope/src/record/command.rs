//! A command that is started for the recording: it waits until sampling runs, so that its first
//! instruction is seen.

use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use moonscope_process::Pid;
use rustix::process::{WaitOptions, WaitStatus};

use crate::exit::{Code, Failure};

/// What a command reads from and writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// What we do.
    Ours,
    /// Nothing where ours is a terminal, which something else is drawn on.
    NoTerminal,
}

/// A child process that has not yet become the command, or has.
pub struct Command {
    pid: rustix::process::Pid,
    name: String,
    /// One byte lets it go; closed without one, it ends.
    go: Option<std::fs::File>,
    /// The error number of a failed exec; closed without a word by a successful one.
    failure: std::fs::File,
    status: Option<WaitStatus>,
}

impl Command {
    /// Makes the child process, which waits.
    ///
    /// Must run before any other thread is started: only then may the child allocate.
    pub fn start(program: &Path, argv: &[OsString], files: Files) -> Result<Self, Failure> {
        let cannot = |err: io::Error| {
            Failure::new(
                Code::Failed,
                format!("{}: cannot start: {err}", program.display()),
            )
        };
        let as_c = |bytes: &[u8]| CString::new(bytes).map_err(|err| cannot(err.into()));
        let path = as_c(program.as_os_str().as_bytes())?;
        let args = argv
            .iter()
            .map(|arg| as_c(arg.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let (wait, go) = pipe().map_err(cannot)?;
        let (failure, report) = pipe().map_err(cannot)?;

        // SAFETY: no other thread runs yet, and the child only reads, writes, and executes.
        match unsafe { libc::fork() } {
            -1 => Err(cannot(io::Error::last_os_error())),
            0 => {
                drop((go, failure));
                if files == Files::NoTerminal {
                    leave_terminal();
                }
                // SAFETY: the arguments are NUL-terminated and live; `become_command` does not return.
                unsafe { become_command(&path, &pointers, &wait, &report) }
            }
            pid => {
                let Some(pid) = rustix::process::Pid::from_raw(pid) else {
                    return Err(cannot(io::ErrorKind::InvalidData.into()));
                };
                let name = program
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Ok(Self {
                    pid,
                    name,
                    go: Some(go.into()),
                    failure: failure.into(),
                    status: None,
                })
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks it to end, as Ctrl-C does.
    pub fn interrupt(&self) {
        // until it was waited for, nothing else has its number
        if self.status.is_none() {
            let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::INT);
        }
    }

    /// Lets it become the command.
    pub fn go(&mut self) -> Result<(), Failure> {
        if let Some(mut go) = self.go.take() {
            go.write_all(&[1])?;
        }
        let mut errno = [0; 4];
        if self.failure.read_exact(&mut errno).is_ok() {
            let err = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            return Err(Failure::new(
                Code::NoTarget,
                format!("{}: cannot execute: {err}", self.name),
            ));
        }
        Ok(())
    }

    /// How it ended, or that it did not.
    pub fn fate(&mut self) -> Result<String, Failure> {
        let runs_on = format!("{} runs on as process {}", self.name, self.pid());
        Ok(self.ended()?.unwrap_or(runs_on))
    }

    /// How it ended, if it did: `gzip exited with status 1`.
    pub fn ended(&mut self) -> Result<Option<String>, Failure> {
        if self.status.is_none() {
            self.status = match rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG) {
                Ok(waited) => waited.map(|(_, status)| status),
                Err(rustix::io::Errno::INTR) => None,
                Err(err) => return Err(io::Error::from(err).into()),
            };
        }
        Ok(self.status.map(
            |status| match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("{} exited with status {code}", self.name),
                (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
                    Some(name) => format!("{} was ended by {name} (signal {signal})", self.name),
                    None => format!("{} was ended by signal {signal}", self.name),
                },
                (None, None) => format!("{} ended", self.name),
            },
        ))
    }
}

/// Puts the null device in the place of each standard file that is a terminal. That it is not there leaves all as it is.
fn leave_terminal() {
    for fd in 0..=2 {
        // SAFETY: these take numbers and a string that lives.
        unsafe {
            if libc::isatty(fd) == 1 {
                let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
                if null >= 0 {
                    libc::dup2(null, fd);
                    libc::close(null);
                }
            }
        }
    }
}

/// The child's side: waits for the word, then executes. Ends the process if either fails.
///
/// # Safety
///
/// `argv` must end with a null pointer, its strings must be NUL-terminated and live.
unsafe fn become_command(
    path: &CString,
    argv: &[*const libc::c_char],
    wait: &OwnedFd,
    report: &OwnedFd,
) -> ! {
    let mut word = [0u8; 1];
    // SAFETY: reads one byte into one byte; then the contract of this function; `report` is open.
    unsafe {
        // the Rust runtime ignores the one, we ignore the other, and that would outlive the exec
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
        if libc::read(wait.as_raw_fd(), word.as_mut_ptr().cast(), 1) == 1 {
            libc::execv(path.as_ptr(), argv.as_ptr());
            let errno = io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)
                .to_ne_bytes();
            libc::write(report.as_raw_fd(), errno.as_ptr().cast(), errno.len());
        }
        libc::_exit(127)
    }
}

/// A pipe, reading end first; both ends close on exec.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}
