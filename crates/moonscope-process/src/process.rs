//! What `/proc/PID` says of a process: who it is, who its parent is, which namespaces it lives in.

use crate::bytes::{self, decimal};
use crate::process_state::{Stat, id_with_memory};
use crate::{Pid, ProcessError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// When a process started, in clock ticks after boot. A pid with another start time is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartTime(pub u64);

/// A process as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id: that of the thread group.
    pub pid: Pid,
    /// Name of the main thread, at most 15 bytes of the process's choice; not UTF-8 is replaced.
    pub comm: String,
    /// Who started it, or who adopted it. 0: nobody that we can see.
    pub parent: Pid,
    /// Distinguishes it from a later process with the same pid.
    pub start: StartTime,
    /// It is a thread of the kernel: no user memory, no executable.
    pub is_kernel_thread: bool,
    /// It ended, but its parent has not asked yet.
    pub is_zombie: bool,
    /// Effective user id, in our user namespace.
    pub uid: u32,
    /// How long it was on a CPU, with all its threads, in clock ticks.
    pub cpu_ticks: u64,
    /// Its pid in each pid namespace from ours to its own; the last one is what it knows itself.
    pub ns_pids: Vec<Pid>,
}

/// Inode numbers of namespaces; equal numbers are the same namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// Pid namespace.
    pub pid: u64,
    /// Mount namespace.
    pub mnt: u64,
}

/// Inode number of the first pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

impl Process {
    /// Looks at the process that this id belongs to. A thread's id is taken too: compare `pid`.
    pub fn find(id: Pid) -> Result<Self, ProcessError> {
        let status = read(id, "status", "cannot read the status")?;
        let status = Status::parse(&status).ok_or_else(|| malformed(id, "status"))?;
        let stat = read(status.tgid, "stat", "cannot read the status")?;
        let stat = Stat::parse(&stat).ok_or_else(|| malformed(id, "stat"))?;
        Ok(Self {
            pid: status.tgid,
            is_kernel_thread: stat.is_kernel_thread(),
            is_zombie: stat.is_dead() && id_with_memory(status.tgid) == status.tgid,
            comm: String::from_utf8_lossy(&stat.comm).into_owned(),
            parent: stat.parent,
            start: StartTime(stat.start_ticks),
            uid: status.uid,
            cpu_ticks: stat.cpu_ticks,
            ns_pids: status.ns_pids,
        })
    }

    /// Has it ended? True too if another process has its pid now.
    pub fn has_exited(&self) -> bool {
        match Self::find(self.pid) {
            Ok(now) => now.start != self.start || now.is_zombie,
            Err(err) => err.is_gone(),
        }
    }

    /// Path of its executable in its own root, without the ` (deleted)` mark; see [`exe`].
    pub fn exe(&self) -> Result<PathBuf, ProcessError> {
        exe(self.pid)
    }

    /// Its pid as it knows it itself.
    pub fn pid_inside(&self) -> Pid {
        self.ns_pids.last().copied().unwrap_or(self.pid)
    }
}

/// Path of the executable of a process in its own root, for people: open it by
/// [`crate::Executable::open`]. The mark of an unlinked file is taken off.
pub fn exe(pid: Pid) -> Result<PathBuf, ProcessError> {
    let id = id_with_memory(pid);
    let path = std::fs::read_link(format!("/proc/{id}/exe")).map_err(|err| {
        // ENOENT has two meanings here: no process, and a process without an executable.
        match err.kind() == io::ErrorKind::NotFound && Path::new(&format!("/proc/{pid}")).exists() {
            true => ProcessError::KernelThread { pid },
            false => ProcessError::from_proc(pid, "cannot read the executable", err),
        }
    })?;
    Ok(
        match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
            Some(path) => PathBuf::from(path),
            None => path,
        },
    )
}

/// The arguments of a process, each without its final 0. Processes may have overwritten them
/// (`setproctitle`); a kernel thread and a zombie have none.
pub fn cmdline(pid: Pid) -> Result<Vec<Vec<u8>>, ProcessError> {
    let text = read(pid, "cmdline", "cannot read the arguments")?;
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(text.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect())
}

/// Ids of the threads of a process.
pub fn threads(pid: Pid) -> Result<Vec<Pid>, ProcessError> {
    let what = "cannot list the threads";
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|err| ProcessError::from_proc(pid, what, err))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// Namespaces of a process. Needs the right to ptrace it.
pub fn namespaces(pid: Pid) -> Result<Namespaces, ProcessError> {
    let inode = |name: &str| {
        let metadata = std::fs::metadata(format!("/proc/{pid}/ns/{name}"));
        metadata
            .map(|m| m.ino())
            .map_err(|err| ProcessError::from_proc(pid, "cannot read the namespaces", err))
    };
    Ok(Namespaces {
        pid: inode("pid")?,
        mnt: inode("mnt")?,
    })
}

/// Does moonscope run in the first pid namespace of the machine? There it sees all processes, by the
/// pids that the kernel's own tracing uses.
pub fn in_initial_pid_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == INITIAL_PID_NAMESPACE)
}

fn read(pid: Pid, file: &str, what: &'static str) -> Result<Vec<u8>, ProcessError> {
    bytes::read_file(&format!("/proc/{pid}/{file}")).map_err(|err| ProcessError::from_proc(pid, what, err))
}

fn malformed(pid: Pid, file: &str) -> ProcessError {
    ProcessError::Io {
        what: format!("/proc/{pid}/{file}"),
        cause: io::ErrorKind::InvalidData.into(),
    }
}

/// The lines of `/proc/PID/status` that are used. The kernel escapes newlines in the name there.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    tgid: Pid,
    uid: u32,
    ns_pids: Vec<Pid>,
}

impl Status {
    fn parse(text: &[u8]) -> Option<Self> {
        let (mut tgid, mut uid, mut ns_pids) = (None, None, Vec::new());
        for line in text.split(|&byte| byte == b'\n') {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else {
                continue;
            };
            let mut numbers = line[colon + 1..]
                .split(u8::is_ascii_whitespace)
                .filter_map(|word| u32::try_from(decimal(word)?).ok());
            match &line[..colon] {
                b"Tgid" => tgid = numbers.next(),
                // real, effective, saved, of the file system
                b"Uid" => uid = numbers.nth(1),
                b"NSpid" => ns_pids = numbers.collect(),
                _ => {}
            }
        }
        Some(Self {
            tgid: tgid?,
            uid: uid?,
            ns_pids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_state::Stat;
    use proptest::prelude::*;

    #[test]
    fn a_name_with_parentheses_and_newlines_does_not_shift_the_fields() {
        let text = b"42 (a) R 1 (\n) S 7 42 42 0 -1 2097216 1 2 3 4 5 6 7 8 20 0 1 0 987654 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.comm, b"a) R 1 (\n");
        assert_eq!((stat.state, stat.parent, stat.start_ticks), (b'S', 7, 987654));
        assert!(stat.is_kernel_thread());
    }

    #[test]
    fn status_of_a_container_process_lists_its_pids_from_outside_in() {
        let text = b"Name:\tnginx\nTgid:\t693\nPPid:\t680\nUid:\t33\t34\t33\t33\nNSpid:\t693\t12\n";
        let status = Status::parse(text).unwrap();
        assert_eq!(
            status,
            Status {
                tgid: 693,
                uid: 34,
                ns_pids: vec![693, 12]
            }
        );
    }

    #[test]
    fn we_see_ourselves() {
        let me = Process::find(std::process::id()).unwrap();
        assert_eq!(me.pid, std::process::id());
        assert!(!me.is_kernel_thread && !me.is_zombie && !me.has_exited());
        assert_eq!(me.exe().unwrap(), std::env::current_exe().unwrap());
        assert!(threads(me.pid).unwrap().contains(&me.pid));
        assert_eq!(cmdline(me.pid).unwrap().len(), std::env::args_os().count());
    }

    #[test]
    fn the_id_of_a_thread_finds_its_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            let _ = wait.recv();
        });
        let tid = receive.recv().unwrap().cast_unsigned();
        assert_ne!(tid, std::process::id());
        assert_eq!(Process::find(tid).unwrap().pid, std::process::id());
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_was_never_there_is_no_such_process() {
        // Larger than any pid_max (4,194,304).
        assert!(matches!(
            Process::find(4_294_967_295),
            Err(ProcessError::NoSuchProcess { .. })
        ));
        assert!(matches!(
            crate::read_maps(4_200_000),
            Err(ProcessError::NoSuchProcess { .. })
        ));
    }

    #[test]
    fn an_exited_child_has_exited_even_before_it_is_waited_for() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::find(child.id()).unwrap();
        assert!(!process.has_exited());
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !process.has_exited() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(process.has_exited());
        assert!(matches!(
            crate::read_maps(process.pid),
            Err(ProcessError::Exited { .. })
        ));
        child.wait().unwrap();
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Stat::parse(&text), Status::parse(&text));
        }
    }
}
