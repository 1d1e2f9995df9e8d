//! One thread as it is right now, without stopping it: `/proc/PID/task/TID/{stat,status,syscall}`.
//!
//! A thread that waits in the kernel has its user registers saved there, and `syscall` (proc(5); fs/proc/base.c,
//! `proc_pid_syscall`) shows the stack pointer and the instruction pointer of them. Not the others: what a walk
//! needs of those must come from the stack.

use crate::bytes::{self, decimal, hex};
use crate::process_state::Stat;
use crate::{Pid, ProcessError};

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It runs on a processor, or waits for one: its registers are not to be had without stopping it.
    Running,
    /// It waits in the kernel.
    Waiting {
        /// The system call; `None`: it was interrupted elsewhere (a page fault, a stop).
        call: Option<u32>,
        /// Its stack pointer in user space.
        sp: u64,
        /// Its instruction pointer there: behind the system call instruction.
        pc: u64,
    },
    /// It has no user part, or not any more.
    NoUserCode,
    /// The kernel does not tell: not permitted, or it has no such file.
    Unknown,
}

/// A thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub tid: Pid,
    /// Its name, at most 15 bytes of its own choice; not UTF-8 is replaced.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, … (proc(5)).
    pub state: char,
    /// How often it was taken off a processor. A thread in which this has not changed has not run meanwhile.
    pub switches: u64,
    /// Where it is.
    pub place: Place,
}

impl Thread {
    /// Looks at a thread of a process.
    pub fn read(pid: Pid, tid: Pid) -> Result<Self, ProcessError> {
        let read = |file: &str| {
            bytes::read_file(&format!("/proc/{pid}/task/{tid}/{file}"))
                .map_err(|err| ProcessError::from_proc(tid, "cannot read the status", err))
        };
        let stat = Stat::parse(&read("stat")?).ok_or(ProcessError::Exited { pid: tid })?;
        let switches = switches(&read("status")?);
        let place = match read("syscall") {
            Ok(text) => parse_place(&text).unwrap_or(Place::Unknown),
            Err(err @ ProcessError::Exited { .. }) => return Err(err),
            Err(_) => Place::Unknown,
        };
        let place = match stat.is_dead() {
            true => Place::NoUserCode,
            false => place,
        };
        Ok(Self {
            tid,
            comm: String::from_utf8_lossy(&stat.comm).into_owned(),
            state: char::from(stat.state),
            switches,
            place,
        })
    }

    /// True if the thread has not run between these two looks at it.
    pub fn stood_still(&self, later: &Self) -> bool {
        self.switches == later.switches
            && self.place == later.place
            && matches!(self.place, Place::Waiting { .. })
    }
}

/// `voluntary_ctxt_switches` and `nonvoluntary_ctxt_switches`, added.
fn switches(status: &[u8]) -> u64 {
    status
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let (name, value) = line.split_at_checked(line.iter().position(|&byte| byte == b':')?)?;
            name.ends_with(b"voluntary_ctxt_switches")
                .then(|| decimal(value.get(1..)?.trim_ascii()))?
        })
        .fold(0, u64::wrapping_add)
}

/// `running`, or the number of the call with its arguments, sp and pc, or `-1` with sp and pc.
fn parse_place(text: &[u8]) -> Option<Place> {
    let text = text.trim_ascii();
    if text == b"running" {
        return Some(Place::Running);
    }
    let mut words = text.split(|&byte| byte == b' ');
    let number = words.next()?;
    let call = match number {
        b"-1" => None,
        number => Some(u32::try_from(decimal(number)?).ok()?),
    };
    let mut last = words.rev().map(|word| hex(word.strip_prefix(b"0x")?));
    let (pc, sp) = (last.next()??, last.next()??);
    Some(match sp {
        0 => Place::NoUserCode,
        _ => Place::Waiting { call, sp, pc },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_the_line_are_understood() {
        assert_eq!(parse_place(b"running\n"), Some(Place::Running));
        let line = b"232 0x8 0x55d0 0x200 0xffffffff 0x0 0x1 0x7ffd0010 0x7f0123\n";
        let waiting = |call, sp, pc| Some(Place::Waiting { call, sp, pc });
        assert_eq!(parse_place(line), waiting(Some(232), 0x7ffd_0010, 0x7f_0123));
        assert_eq!(
            parse_place(b"-1 0x7ffd0010 0x401000\n"),
            waiting(None, 0x7ffd_0010, 0x40_1000)
        );
        assert_eq!(parse_place(b"-1 0x0 0x0\n"), Some(Place::NoUserCode));
        for bad in [&b""[..], b"x", b"232", b"232 0x1", b"-1 1 2", b"-2 0x1 0x2"] {
            assert_eq!(parse_place(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn both_kinds_of_context_switches_count() {
        let status = b"Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(switches(status), 157);
        assert_eq!(switches(b""), 0);
    }

    #[test]
    fn a_thread_that_waits_stands_still_and_we_run() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("waits\x1b".into());
        let thread = thread
            .spawn(move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero().get())
                    .unwrap();
                receiver.recv().unwrap_err();
            })
            .unwrap();
        let tid = told.recv().unwrap().cast_unsigned();
        let us = std::process::id();
        let look = || Thread::read(us, tid).unwrap();
        assert_eq!(look().comm, "waits\x1b");
        // on its way to where it waits it may wait elsewhere
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while look().place != Place::Unknown && !look().stood_still(&look()) {
            assert!(std::time::Instant::now() < patience, "{:?}", look());
        }
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        assert!(!matches!(Thread::read(us, own).unwrap().place, Place::NoUserCode));
        drop(sender);
        thread.join().unwrap();
        assert!(Thread::read(us, tid).is_err_and(|err| err.is_gone()));
    }
}
