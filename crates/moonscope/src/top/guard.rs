//! A process that gives the terminal back when ours was killed.
//!
//! It waits for the end of a pipe whose other end we have. A shell whose job was killed puts the terminal's modes right by
//! itself, as a rule, but not the screen and the cursor; and it may have begun to edit a line by then. So the modes are
//! changed only if they are still the ones that we set.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::terminal::GIVE_BACK;

/// The word for a terminal that is ours.
pub const OURS: u8 = b'+';
/// The word for one that is not.
pub const NOT_OURS: u8 = b'-';

/// The process, from our side.
pub struct Guard {
    /// Its end, when this is dropped, ends the process too.
    pipe: OwnedFd,
}

impl Guard {
    /// Starts it. No other thread may run yet. `before`: how the terminal is to be.
    pub fn start(before: &libc::termios) -> io::Result<Self> {
        let (read, write) = io::pipe()?;
        let (read, write): (OwnedFd, OwnedFd) = (read.into(), write.into());
        // SAFETY: no other thread runs, so the child may do anything.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(write);
                stand_by(read, before)
            }
            _ => Ok(Self { pipe: write }),
        }
    }

    /// Where it is told whether the terminal is ours.
    pub fn pipe(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

/// The other process: waits for the end of the first one.
fn stand_by(pipe: OwnedFd, before: &libc::termios) -> ! {
    let terminal = libc::STDOUT_FILENO;
    // SAFETY: all of these take numbers, or memory that lives and is as long as is said.
    unsafe {
        // nothing that is sent to the others of our group is meant for it, and it may write from the background
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"moonscope-tty".as_ptr());
        // whoever waits for the end of our other files shall not wait for it
        libc::dup2(pipe.as_raw_fd(), libc::STDIN_FILENO);
        libc::close(libc::STDERR_FILENO);
        libc::close_range(3, libc::c_uint::MAX, 0);
        let pipe = OwnedFd::from_raw_fd(libc::STDIN_FILENO);
        let mut is_ours = false;
        let mut word = [0u8];
        loop {
            match rustix::io::read(&pipe, &mut word) {
                Ok(1) => is_ours = word[0] == OURS,
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
        if is_ours {
            if is_raw(terminal) {
                libc::tcsetattr(terminal, libc::TCSANOW, before);
            }
            // as long as it takes: a terminal that takes nothing now may go on later, or is closed
            libc::write(terminal, GIVE_BACK.as_ptr().cast(), GIVE_BACK.len());
        }
        libc::_exit(0)
    }
}

/// Are these modes that nobody but us sets? Shells that edit lines leave signals and the translation of line feeds on.
fn is_raw(terminal: libc::c_int) -> bool {
    let mut now: MaybeUninit<libc::termios> = MaybeUninit::uninit();
    // SAFETY: it fills what it is given, if it succeeds.
    let now = unsafe {
        match libc::tcgetattr(terminal, now.as_mut_ptr()) {
            0 => now.assume_init(),
            _ => return false,
        }
    };
    now.c_lflag & (libc::ISIG | libc::ICANON | libc::ECHO) == 0 && now.c_oflag & libc::OPOST == 0
}
