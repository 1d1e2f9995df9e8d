//! Where a runtime with a JIT (V8, JVM agents, .NET, ...) writes names of its code: `/tmp/perf-PID.map`, held open.
//!
//! The process names the file by its own idea of its pid (in its pid namespace) and writes it in its own root. Anybody can
//! create files in `/tmp`, so it must belong to the user of the process or to root. Format: Linux,
//! tools/perf/Documentation/jit-interface.txt.
//!
//! When the process has ended its root cannot be entered any more, a container's `/tmp` may be gone with its mount namespace,
//! and the file may have been removed. What was opened before can be read all the same, up to its last line.

use crate::root::{Root, open_below};
use crate::{Pid, bytes};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The map of one process: the place where it is, or will be, and the newest file that was there.
#[derive(Debug)]
pub struct PerfMap {
    name: PathBuf,
    owner: Owner,
    root: Root,
    /// `/tmp` itself: where it is a mount of its own it leaves the root when the last process of the namespace ends.
    tmp: Option<OwnedFd>,
    file: Option<Arc<File>>,
}

impl PerfMap {
    /// The map of a process that lives; the file is looked for at once. `None` if the process is gone, or nothing of it may be
    /// seen.
    pub fn of(pid: Pid) -> Option<Self> {
        let owner = Owner::read(pid)?;
        let root = Root::of(pid).ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut map = Self {
            name: PathBuf::from(format!("perf-{}.map", owner.inner_pid)),
            tmp: rustix::fs::openat2(root.fd(), "tmp", flags, Mode::empty(), resolve).ok(),
            owner,
            root,
            file: None,
        };
        map.look();
        Some(map)
    }

    /// Looks whether there is a file now, or another one. Also when the process has just ended: some write it last.
    pub fn look(&mut self) {
        let in_root = self.root.open(&Path::new("/tmp").join(&self.name)).ok();
        let found = in_root.or_else(|| open_below(self.tmp.as_ref()?.as_fd(), &self.name).ok());
        if let Some(file) = found
            && self.owner.wrote(&file)
            && !self.file.as_ref().is_some_and(|held| is_same(held, &file))
        {
            self.file = Some(Arc::new(file));
        }
    }

    /// The newest file that was there.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }
}

fn is_same(one: &File, other: &File) -> bool {
    let id = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// Who the process is: its pid as it sees it, and its users.
#[derive(Debug)]
struct Owner {
    inner_pid: Pid,
    users: Vec<u32>,
}

impl Owner {
    fn read(pid: Pid) -> Option<Self> {
        Self::parse(&bytes::read_file(&format!("/proc/{pid}/status")).ok()?, pid)
    }

    fn parse(status: &[u8], pid: Pid) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.split(|&byte| byte == b'\n');
            let values = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
            let values = String::from_utf8_lossy(values).into_owned();
            Some(
                values
                    .split_ascii_whitespace()
                    .filter_map(|value| value.parse().ok())
                    .collect::<Vec<u32>>(),
            )
        };
        // Real, effective, saved and file system user.
        let users = field("Uid:")?;
        // One number for each pid namespace from ours to its own (since Linux 4.1).
        let inner_pid = field("NSpid:")
            .and_then(|pids| pids.last().copied())
            .unwrap_or(pid);
        Some(Self { inner_pid, users })
    }

    /// May this process, or root, have made the file?
    fn wrote(&self, file: &File) -> bool {
        let may = |user: u32| user == 0 || self.users.contains(&user);
        file.metadata().is_ok_and(|metadata| may(metadata.uid()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;

    fn text_of(map: &PerfMap) -> Option<String> {
        let mut text = String::new();
        map.file()?.as_ref().read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn the_pid_of_the_innermost_namespace_names_the_file() {
        let owner = Owner::parse(
            b"Name:\tx\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t4321\t77\t5\n",
            4321,
        )
        .unwrap();
        assert_eq!((owner.inner_pid, owner.users), (5, vec![1000, 1001, 1000, 1000]));
        assert_eq!(Owner::parse(b"Uid:\t0\t0\t0\t0\n", 42).unwrap().inner_pid, 42);
    }

    #[test]
    fn a_map_that_was_seen_outlives_its_name_and_its_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let path = PathBuf::from(format!("/tmp/perf-{}.map", child.id()));
        let mut map = PerfMap::of(child.id()).unwrap();
        assert!(map.file().is_none());
        std::fs::write(&path, "1 1 first\n").unwrap();
        map.look();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"2 1 last\n"))
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        map.look();
        assert_eq!(text_of(&map).as_deref(), Some("1 1 first\n2 1 last\n"));
    }

    #[test]
    fn a_map_that_is_written_last_is_found_after_the_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let path = PathBuf::from(format!("/tmp/perf-{}.map", child.id()));
        let mut map = PerfMap::of(child.id()).unwrap();
        std::fs::write(&path, "1 1 all\n").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        map.look();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text_of(&map).as_deref(), Some("1 1 all\n"));
        assert!(PerfMap::of(child.id()).is_none());
    }
}
