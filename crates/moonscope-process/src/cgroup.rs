//! Control groups: which ones a process is in, and which processes are in one.
//!
//! Version 1 has a tree for each controller, version 2 one tree, and a hybrid machine has both. What a
//! process is in stands in `/proc/PID/cgroup` (cgroups(7)), one line for each tree: `ID:CONTROLLERS:PATH`
//! with no controllers for version 2. Paths count from the root of *our* cgroup namespace; what lies
//! outside of it begins with `/..`.

use crate::bytes;
use crate::mountinfo::{self, Mount};
use crate::{Pid, ProcessError, list};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// One of the trees of control groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hierarchy {
    /// Version 2, the unified one.
    V2,
    /// Version 1, with these controllers (`cpu,cpuacct`, `name=systemd`).
    V1(Vec<String>),
}

/// A place in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Membership {
    /// Which tree.
    pub hierarchy: Hierarchy,
    /// Path in it, beginning with `/`.
    pub path: PathBuf,
}

/// A control group that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Where it is.
    pub at: Membership,
    /// Its directory, if its tree is mounted somewhere.
    pub directory: Option<PathBuf>,
    /// Its number as BPF sees it (`bpf_get_current_cgroup_id`, `bpf_get_current_ancestor_cgroup_id`);
    /// version 2 only.
    pub v2_id: Option<u64>,
    /// How many levels it is below the root (level 0); version 2 only. `None` if our cgroup namespace
    /// hides the levels above.
    pub v2_level: Option<u32>,
}

/// Control groups of a process, one for each tree.
pub fn memberships(pid: Pid) -> Result<Vec<Membership>, ProcessError> {
    let text = bytes::read_file(&format!("/proc/{pid}/cgroup"))
        .map_err(|err| ProcessError::from_proc(pid, "cannot read the control groups", err))?;
    Ok(parse_memberships(&text))
}

/// The control group that tells most of a process: of all its trees the deepest place, and of equal ones that of
/// version 2. A machine with both has its services in one of them only.
pub fn deepest(pid: Pid) -> Result<PathBuf, ProcessError> {
    let deepest = memberships(pid)?
        .into_iter()
        .max_by_key(|at| (at.path.components().count(), at.hierarchy == Hierarchy::V2));
    Ok(deepest.map(|at| at.path).unwrap_or_default())
}

/// Parses the text of a `cgroup` file. Lines of another form are left out.
pub fn parse_memberships(text: &[u8]) -> Vec<Membership> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.splitn(3, |&byte| byte == b':');
            let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            // A group that was removed while processes were in it (zombies, mostly).
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
            if !path.starts_with(b"/") {
                return None;
            }
            let hierarchy = match controllers {
                b"" => Hierarchy::V2,
                names => Hierarchy::V1(
                    String::from_utf8_lossy(names)
                        .split(',')
                        .map(str::to_owned)
                        .collect(),
                ),
            };
            Some(Membership {
                hierarchy,
                path: PathBuf::from(OsStr::from_bytes(path)),
            })
        })
        .collect()
}

impl Membership {
    /// Is this the place `other`, or below it?
    pub fn is_within(&self, other: &Self) -> bool {
        self.hierarchy == other.hierarchy && self.path.starts_with(&other.path)
    }
}

/// The trees that are mounted in our mount namespace, wherever that is.
#[derive(Clone, Debug, Default)]
pub struct CgroupMounts(Vec<Tree>);

#[derive(Clone, Debug)]
struct Tree {
    hierarchy: Hierarchy,
    mount: Mount,
}

impl CgroupMounts {
    /// Looks at `/proc/self/mountinfo`.
    pub fn find() -> Result<Self, ProcessError> {
        Ok(Self::from_mounts(mountinfo::read()?))
    }

    fn from_mounts(mounts: Vec<Mount>) -> Self {
        let tree = |mount: Mount| {
            let hierarchy = match mount.kind.as_str() {
                "cgroup2" => Hierarchy::V2,
                "cgroup" => Hierarchy::V1(controllers(&mount.super_options)),
                _ => return None,
            };
            Some(Tree { hierarchy, mount })
        };
        Self(mounts.into_iter().filter_map(tree).collect())
    }

    /// Looks up what a user calls a control group: a directory (`/sys/fs/cgroup/system.slice/x.service`),
    /// or a path as in `/proc/PID/cgroup` with or without its first slash.
    ///
    /// On a hybrid machine a path can name a group in several trees; the one of version 2 is taken
    /// unless it is empty and another is not. `None` if there is no such group.
    pub fn lookup(&self, name: &Path) -> Option<Cgroup> {
        let candidates = self.candidates(name);
        let first = candidates.first()?;
        let occupied = candidates.iter().find(|group| group.is_populated());
        Some(occupied.unwrap_or(first).clone())
    }

    /// The same in one tree only.
    pub fn lookup_in(&self, name: &Path, hierarchy: &Hierarchy) -> Option<Cgroup> {
        let mut candidates = self.candidates(name).into_iter();
        candidates.find(|group| group.at.hierarchy == *hierarchy)
    }

    /// All groups that the name can mean, version 2 first.
    fn candidates(&self, name: &Path) -> Vec<Cgroup> {
        let mut found = Vec::new();
        let directory = name.canonicalize().ok();
        for tree in &self.0 {
            let below = directory
                .as_deref()
                .and_then(|path| path.strip_prefix(&tree.mount.point).ok());
            let path = match below {
                Some(below) => join(&tree.mount.root, below),
                None if plain(name) => join(Path::new("/"), name.strip_prefix("/").unwrap_or(name)),
                None => continue,
            };
            let group = self.cgroup(&Membership {
                hierarchy: tree.hierarchy.clone(),
                path,
            });
            if group
                .directory
                .as_ref()
                .is_some_and(|directory| directory.is_dir())
                && !found.contains(&group)
            {
                found.push(group);
            }
        }
        found.sort_by(|a, b| a.at.hierarchy.cmp(&b.at.hierarchy));
        found
    }

    /// What is known of the group at this place.
    pub fn cgroup(&self, at: &Membership) -> Cgroup {
        let directory = self
            .0
            .iter()
            .filter(|tree| tree.hierarchy == at.hierarchy)
            .find_map(|tree| {
                let below = at.path.strip_prefix(&tree.mount.root).ok()?;
                plain(below).then(|| join(&tree.mount.point, below))
            });
        let is_v2 = at.hierarchy == Hierarchy::V2;
        Cgroup {
            v2_id: directory
                .as_ref()
                .filter(|_| is_v2)
                .and_then(|path| Some(path.metadata().ok()?.ino())),
            v2_level: (is_v2 && plain(&at.path) && in_initial_cgroup_namespace()).then(|| depth(&at.path)),
            directory,
            at: at.clone(),
        }
    }
}

impl Cgroup {
    /// All processes in it and in the groups below it, without kernel threads.
    pub fn pids(&self) -> Result<BTreeSet<Pid>, ProcessError> {
        let inside =
            |pid: &Pid| memberships(*pid).is_ok_and(|all| all.iter().any(|place| place.is_within(&self.at)));
        Ok(list::processes()?
            .into_iter()
            .map(|process| process.pid)
            .filter(inside)
            .collect())
    }

    fn is_populated(&self) -> bool {
        self.pids().is_ok_and(|pids| !pids.is_empty())
    }
}

/// Of the options of a version 1 mount, those that are controllers (or the name of a tree without any),
/// in the order in which the kernel gives them, which is that of `/proc/PID/cgroup` too.
fn controllers(super_options: &str) -> Vec<String> {
    const NOT_CONTROLLERS: [&str; 6] = [
        "rw",
        "ro",
        "noprefix",
        "clone_children",
        "cpuset_v2_mode",
        "xattr",
    ];
    let is_controller = |option: &&str| {
        !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent=") && !option.is_empty()
    };
    super_options
        .split(',')
        .filter(is_controller)
        .map(str::to_owned)
        .collect()
}

/// Inode number of the first cgroup namespace (`PROC_CGROUP_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;

fn in_initial_cgroup_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/cgroup").is_ok_and(|metadata| metadata.ino() == INITIAL_CGROUP_NAMESPACE)
}

/// No `..` in it.
fn plain(path: &Path) -> bool {
    !path
        .components()
        .any(|component| component == Component::ParentDir)
}

fn depth(path: &Path) -> u32 {
    let names = path
        .components()
        .filter(|component| matches!(component, Component::Normal(_)));
    u32::try_from(names.count()).unwrap_or(u32::MAX)
}

/// `base/below` without a final slash when `below` is empty.
fn join(base: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() {
        base.to_owned()
    } else {
        base.join(below)
    }
}

#[cfg(test)]
mod tests;
