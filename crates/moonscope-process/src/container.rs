//! Containers: which ones run, what they are called, which processes are in them.
//!
//! A container is known by the 64 hexadecimal digits that its runtime puts into the name of its control
//! group; how the rest of the name looks depends on the runtime and on who manages the groups
//! ([`ids_in_path`] knows the spellings). What people call it stands in the state files of the runtimes
//! ([`names`]). A process whose groups are hidden from us is in no container as far as we can say.

mod names;

use crate::cgroup::{self, Cgroup, CgroupMounts, Hierarchy, Membership};
use crate::{Pid, ProcessError, list, visible};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

pub use names::StateFiles;

/// Who runs a container, as far as the name of its control group says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// Docker (`/docker/ID`, `docker-ID.scope`).
    Docker,
    /// containerd (`cri-containerd-ID.scope`, `nerdctl-ID.scope`).
    Containerd,
    /// CRI-O (`crio-ID.scope`).
    CriO,
    /// podman (`libpod-ID.scope`, `libpod-ID`).
    Podman,
    /// The name does not say (`/kubepods/…/ID`).
    Unknown,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Unknown => "container",
        })
    }
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Who runs it.
    pub runtime: Runtime,
    /// What it is called, the shortest name first; empty if no state file tells.
    pub names: Vec<String>,
    /// Its control groups, one for each tree.
    pub cgroups: Vec<Membership>,
    /// Its processes, also those in control groups and containers inside it.
    pub pids: BTreeSet<Pid>,
}

impl Container {
    /// The id as `docker ps` shows it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Its name, else its short id.
    pub fn label(&self) -> &str {
        self.names.first().map_or_else(|| self.short_id(), String::as_str)
    }

    /// Its control group of version 2, if it has one of its own.
    pub fn v2_cgroup(&self, mounts: &CgroupMounts) -> Option<Cgroup> {
        let place = self
            .cgroups
            .iter()
            .find(|place| place.hierarchy == Hierarchy::V2)?;
        Some(mounts.cgroup(place))
    }
}

/// Why no container was chosen.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// None has this id or name; these ones run.
    #[error("no running container is called {}", visible(query))]
    NotFound {
        /// What was asked for.
        query: String,
        /// All running containers.
        running: Vec<Container>,
    },
    /// Several have this name or begin of an id.
    #[error("{} means {} containers", visible(query), candidates.len())]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// Those that it can mean.
        candidates: Vec<Container>,
    },
    /// The processes cannot be listed.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// All containers that have a process we can see, by id.
pub fn running() -> Result<Vec<Container>, ProcessError> {
    let places = list::processes()?.into_iter().filter_map(|process| {
        let places = cgroup::memberships(process.pid).ok()?;
        Some((process.pid, places))
    });
    let mut containers = group(places);
    let files = StateFiles::new();
    for container in &mut containers {
        container.names = files.names(container);
    }
    Ok(containers)
}

/// The container that `query` means: an id, the begin of one (4 digits or more), or a name.
pub fn resolve(query: &str) -> Result<Container, ContainerError> {
    choose(running()?, query)
}

/// A full id is most certain, then a name, then the begin of an id: nobody means a container's id by
/// typing another one's name.
fn choose(running: Vec<Container>, query: &str) -> Result<Container, ContainerError> {
    let is_name = |container: &Container| container.names.iter().any(|name| name == query);
    let is_begin = query.len() >= 4 && query.bytes().all(|byte| byte.is_ascii_hexdigit());
    let begin = query.to_ascii_lowercase();
    let tests: [&dyn Fn(&Container) -> bool; 3] =
        [&|container| container.id == begin, &is_name, &|container| {
            is_begin && container.id.starts_with(&begin)
        }];
    let query = query.to_owned();
    for test in tests {
        let mut candidates: Vec<Container> = running.iter().filter(|c| test(c)).cloned().collect();
        match (candidates.len(), candidates.pop()) {
            (1, Some(container)) => return Ok(container),
            (_, Some(last)) => {
                candidates.push(last);
                return Err(ContainerError::Ambiguous { query, candidates });
            }
            (_, None) => {}
        }
    }
    Err(ContainerError::NotFound { query, running })
}

/// Puts processes with their control groups together to containers.
fn group(processes: impl IntoIterator<Item = (Pid, Vec<Membership>)>) -> Vec<Container> {
    let mut containers: BTreeMap<String, Container> = BTreeMap::new();
    for (pid, places) in processes {
        for place in places {
            for found in ids_in_path(&place.path) {
                let container = containers.entry(found.id.clone()).or_insert_with(|| Container {
                    id: found.id,
                    runtime: found.runtime,
                    names: Vec::new(),
                    cgroups: Vec::new(),
                    pids: BTreeSet::new(),
                });
                if container.runtime == Runtime::Unknown {
                    container.runtime = found.runtime;
                }
                let at = Membership {
                    hierarchy: place.hierarchy.clone(),
                    path: found.path,
                };
                if !container.cgroups.contains(&at) {
                    container.cgroups.push(at);
                }
                container.pids.insert(pid);
            }
        }
    }
    containers.into_values().collect()
}

/// A container found in the path of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundId {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Who runs it, if the path says.
    pub runtime: Runtime,
    /// The path up to the container's own group.
    pub path: PathBuf,
}

/// The containers that a control group belongs to, the outermost first (a container can run in another).
pub fn ids_in_path(path: &Path) -> Vec<FoundId> {
    let mut found = Vec::new();
    let mut at = PathBuf::new();
    let mut above: Option<String> = None;
    for component in path.components() {
        at.push(component);
        let Component::Normal(name) = component else {
            continue;
        };
        let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
        if let Some((id, runtime)) = id_in_name(&name, above.as_deref()) {
            found.push(FoundId {
                id,
                runtime,
                path: at.clone(),
            });
        }
        above = Some(name);
    }
    found
}

/// The id in the name of one group, below a group called `above`.
fn id_in_name(name: &str, above: Option<&str>) -> Option<(String, Runtime)> {
    const ID_DIGITS: usize = 64;
    // `SLICE:PREFIX:ID` is how systemd's names look when the groups are managed without systemd.
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = match name.len().checked_sub(ID_DIGITS) {
        Some(at) => (name.get(..at)?, name.get(at..)?),
        None => return None,
    };
    if !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let who = prefix.strip_suffix(['-', ':']).unwrap_or(prefix);
    let who = who.rsplit(':').next().unwrap_or(who);
    let runtime = match who {
        "docker" => Runtime::Docker,
        "cri-containerd" | "containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::CriO,
        "libpod" | "libpod-payload" => Runtime::Podman,
        "" => match above {
            Some("docker") => Runtime::Docker,
            Some("libpod_parent") => Runtime::Podman,
            _ => Runtime::Unknown,
        },
        // The monitor of a container runs outside of it: `crio-conmon-ID.scope`, `libpod-conmon-ID.scope`.
        who if who.ends_with("conmon") => return None,
        _ => Runtime::Unknown,
    };
    Some((id.to_owned(), runtime))
}

#[cfg(test)]
mod tests;
