//! What containers are called: the state files of the runtimes, read as they lie on the disk.
//!
//! No daemon is asked and no socket is opened. The files belong to the runtimes and may look different
//! tomorrow: whatever does not fit gives no name, never an error.

use super::Container;
use crate::cgroup::Membership;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// Larger state files are not read; a `config.json` with many mounts has some 100 KiB.
const MAX_FILE: u64 = 8 << 20;
/// Names longer than this are not names (Kubernetes allows 253 characters for a pod).
const MAX_NAME: usize = 512;

/// Where the state files of the runtimes are.
#[derive(Clone, Debug)]
pub struct StateFiles {
    root: PathBuf,
}

impl Default for StateFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl StateFiles {
    /// Those of this machine (as far as our mount namespace shows them).
    pub fn new() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }

    /// Those below another root directory, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All that this container is called, the shortest first.
    pub fn names(&self, container: &Container) -> Vec<String> {
        let id = container.id.as_str();
        let mut names = self.docker(id);
        names.extend(self.podman(&self.root.join("var/lib/containers/storage"), id));
        names.extend(
            self.rootless_storage(&container.cgroups)
                .into_iter()
                .flat_map(|at| self.podman(&at, id)),
        );
        names.extend(self.containerd(id));
        names.extend(self.crio(id));
        names.retain(|name| !name.is_empty() && name.len() <= MAX_NAME);
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names.dedup();
        names
    }

    /// Docker: `config.v2.json` of each container, with `"Name": "/web"`.
    fn docker(&self, id: &str) -> Vec<String> {
        let settings = json(&self.root.join("etc/docker/daemon.json"));
        let data_root = settings
            .as_ref()
            .and_then(|settings| settings["data-root"].as_str());
        let data_root = data_root.unwrap_or("/var/lib/docker").trim_start_matches('/');
        let config = json(
            &self
                .root
                .join(data_root)
                .join("containers")
                .join(id)
                .join("config.v2.json"),
        );
        let name = config.as_ref().and_then(|config| config["Name"].as_str());
        name.map(|name| name.trim_start_matches('/').to_owned())
            .into_iter()
            .collect()
    }

    /// podman (and everything on containers/storage): one list of all containers, and one of those that
    /// do not outlive a reboot (`podman run --transient-store`).
    fn podman(&self, storage: &Path, id: &str) -> Vec<String> {
        let list = |file: &str| {
            let list = json(&storage.join("overlay-containers").join(file))?;
            let entry = list
                .as_array()?
                .iter()
                .find(|entry| entry["id"].as_str() == Some(id))?;
            let names = entry["names"].as_array()?;
            Some(
                names
                    .iter()
                    .filter_map(|name| name.as_str().map(str::to_owned))
                    .collect::<Vec<_>>(),
            )
        };
        ["containers.json", "volatile-containers.json"]
            .into_iter()
            .filter_map(list)
            .flatten()
            .collect()
    }

    /// Where a user's own podman keeps its state: the control groups are below `user-UID.slice`, and the
    /// home of that user stands in `/etc/passwd` (read here: a static program has no name service).
    fn rootless_storage(&self, cgroups: &[Membership]) -> Option<PathBuf> {
        let uid = cgroups.iter().find_map(|place| {
            place.path.components().find_map(|component| {
                let Component::Normal(name) = component else {
                    return None;
                };
                name.to_str()?
                    .strip_prefix("user-")?
                    .strip_suffix(".slice")?
                    .parse::<u32>()
                    .ok()
            })
        })?;
        let passwd = read(&self.root.join("etc/passwd"))?;
        let passwd = String::from_utf8_lossy(&passwd).into_owned();
        let home = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
        })?;
        Some(
            self.root
                .join(home.trim_start_matches('/'))
                .join(".local/share/containers/storage"),
        )
    }

    /// containerd: the OCI configuration of each task, with what Kubernetes or nerdctl wrote into it.
    fn containerd(&self, id: &str) -> Vec<String> {
        let tasks = self.root.join("run/containerd/io.containerd.runtime.v2.task");
        let Ok(namespaces) = tasks.read_dir() else {
            return Vec::new();
        };
        let configs = namespaces
            .flatten()
            .filter_map(|namespace| json(&namespace.path().join(id).join("config.json")));
        configs
            .flat_map(|config| names_in_annotations(&config["annotations"]))
            .collect()
    }

    /// CRI-O: the OCI configuration of each container.
    fn crio(&self, id: &str) -> Vec<String> {
        let file = Path::new("overlay-containers")
            .join(id)
            .join("userdata/config.json");
        let config = json(&self.root.join("run/containers/storage").join(file));
        config
            .map(|config| names_in_annotations(&config["annotations"]))
            .unwrap_or_default()
    }
}

/// The names that the annotations of an OCI configuration give: the container's own, and
/// `NAMESPACE/POD/CONTAINER` of Kubernetes, which is unique.
fn names_in_annotations(annotations: &Value) -> Vec<String> {
    let get = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| annotations[*key].as_str())
            .map(str::to_owned)
    };
    let name = get(&[
        "io.kubernetes.cri.container-name",
        "io.kubernetes.container.name",
        "nerdctl/name",
    ]);
    let pod = get(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
    let namespace = get(&[
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.pod.namespace",
    ]);
    let mut names: Vec<String> = name.iter().cloned().collect();
    if let (Some(name), Some(pod), Some(namespace)) = (name, pod, namespace) {
        names.push(format!("{namespace}/{pod}/{name}"));
    }
    names.extend(get(&["io.kubernetes.cri-o.Name"]));
    names
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&read(path)?).ok()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    // Not waiting for a pipe that a user put in the place of a file of his.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).ok()?;
    Some(text)
}
