//! Tracepoints by group and name, as tracefs lists them.
//!
//! Where it is not mounted a mount of our own is made that nobody else sees: fsmount(2) gives a file descriptor and puts
//! it nowhere (Linux 5.2, CAP_SYS_ADMIN).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The folder `events` of tracefs.
pub struct Tracefs {
    events: PathBuf,
    _mount: Option<OwnedFd>,
}

/// A tracepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracepoint {
    /// `sched`
    pub group: String,
    /// `sched_switch`
    pub name: String,
}

impl Tracepoint {
    /// `sched:sched_switch`
    pub fn full_name(&self) -> String {
        format!("{}:{}", self.group, self.name)
    }
}

const MOUNTED: [&str; 2] = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];

impl Tracefs {
    /// Where it is mounted, or a mount of our own; `None`: neither.
    pub fn open() -> Option<Self> {
        for events in MOUNTED.map(PathBuf::from) {
            if events.join("sched").is_dir() {
                return Some(Self { events, _mount: None });
            }
        }
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&context).ok()?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()?;
        let events = PathBuf::from(format!("/proc/self/fd/{}/events", mount.as_raw_fd()));
        events.is_dir().then_some(Self {
            events,
            _mount: Some(mount),
        })
    }

    /// All there are, in order.
    pub fn all(&self) -> Vec<Tracepoint> {
        let folders = |path: PathBuf| -> Vec<String> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let mut names: Vec<String> = folders
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect();
            names.sort();
            names
        };
        let mut all = Vec::new();
        for group in folders(self.events.clone()) {
            for name in folders(self.events.join(&group)) {
                all.push(Tracepoint {
                    group: group.clone(),
                    name,
                });
            }
        }
        all
    }

    /// The number by which perf events know it.
    pub fn number(&self, tracepoint: &Tracepoint) -> Option<u64> {
        let file = self
            .events
            .join(&tracepoint.group)
            .join(&tracepoint.name)
            .join("id");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }
}
