use super::*;
use crate::cgroup::parse_memberships;
use proptest::prelude::*;

const ID: &str = "4f1c2a9be0d37785aa0112233445566778899aabbccddeeff0011223344556677";

fn id() -> String {
    ID[..64].to_owned()
}

fn other_id() -> String {
    "b".repeat(64)
}

/// The ids and runtimes in the path of one control group.
fn found(path: &str) -> Vec<(String, Runtime)> {
    ids_in_path(Path::new(path))
        .into_iter()
        .map(|found| (found.id, found.runtime))
        .collect()
}

/// Paths as the runtimes make them: their documentation, and what `cat /proc/PID/cgroup` showed.
#[test]
fn every_spelling_of_every_runtime_is_known() {
    let id = id();
    let spellings = [
        (format!("/docker/{id}"), Runtime::Docker),
        (format!("/system.slice/docker-{id}.scope"), Runtime::Docker),
        (format!("/kubepods/burstable/pod0a1b/{id}"), Runtime::Unknown),
        (
            format!("/kubepods.slice/kubepods-besteffort.slice/x.slice/docker-{id}.scope"),
            Runtime::Docker,
        ),
        (
            format!("/kubepods.slice/x.slice/cri-containerd-{id}.scope"),
            Runtime::Containerd,
        ),
        (
            format!("/system.slice/kubepods-pod1.slice:cri-containerd:{id}"),
            Runtime::Containerd,
        ),
        (format!("/system.slice/nerdctl-{id}.scope"), Runtime::Containerd),
        (format!("/default/{id}"), Runtime::Unknown),
        (format!("/kubepods.slice/x.slice/crio-{id}.scope"), Runtime::CriO),
        (format!("/machine.slice/libpod-{id}.scope"), Runtime::Podman),
        (
            format!("/machine.slice/libpod-{id}.scope/container"),
            Runtime::Podman,
        ),
        (format!("/libpod_parent/libpod-{id}"), Runtime::Podman),
        (
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
            Runtime::Podman,
        ),
        (
            format!("/system.slice/web.service/libpod-payload-{id}"),
            Runtime::Podman,
        ),
        (format!("/../{id}"), Runtime::Unknown),
    ];
    for (path, runtime) in spellings {
        assert_eq!(found(&path), [(id.clone(), runtime)], "{path}");
    }
}

#[test]
fn what_is_not_a_container_is_not_one() {
    let id = id();
    let paths = [
        "/".to_owned(),
        "/system.slice/nginx.service".to_owned(),
        format!("/machine.slice/libpod-conmon-{id}.scope"),
        format!("/kubepods.slice/x.slice/crio-conmon-{id}.scope"),
        format!("/docker/{}", &id[..63]),
        format!("/docker/{}", id.to_uppercase()),
        format!("/docker/é{}", &id[..62]),
    ];
    for path in paths {
        assert_eq!(found(&path), [], "{path}");
    }
}

#[test]
fn a_container_in_a_container_is_found_as_both() {
    let (outer, inner) = (id(), other_id());
    let path = format!("/docker/{outer}/docker/{inner}/init.scope");
    let ids = ids_in_path(Path::new(&path));
    assert_eq!(ids.len(), 2);
    assert_eq!(
        (ids[0].id.as_str(), ids[0].path.to_str().unwrap()),
        (&*outer, &*format!("/docker/{outer}"))
    );
    assert_eq!(ids[1].id, inner);
    let processes = [(7, parse_memberships(format!("0::{path}\n").as_bytes()))];
    let containers = group(processes);
    assert!(
        containers
            .iter()
            .all(|container| container.pids == BTreeSet::from([7]))
    );
}

#[test]
fn all_trees_and_processes_of_a_container_come_together() {
    let id = id();
    let text =
        format!("4:memory:/docker/{id}\n2:cpu,cpuacct:/docker/{id}\n0::/system.slice/docker.service\n");
    let places = parse_memberships(text.as_bytes());
    let containers = group([
        (7, places.clone()),
        (8, places),
        (9, parse_memberships(b"0::/\n")),
    ]);
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0].pids, BTreeSet::from([7, 8]));
    assert_eq!(containers[0].cgroups.len(), 2);
}

fn container(id: &str, names: &[&str]) -> Container {
    Container {
        id: id.to_owned(),
        runtime: Runtime::Docker,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        cgroups: Vec::new(),
        pids: BTreeSet::new(),
    }
}

#[test]
fn a_container_is_chosen_by_id_name_or_begin_of_an_id() {
    let (a, b) = (id(), other_id());
    let running = || {
        vec![
            container(&a, &["web", "shop/web-1/web"]),
            container(&b, &["web", "bbbb"]),
        ]
    };
    let chosen = |query: &str| choose(running(), query).map(|container| container.id);
    assert_eq!(chosen(&a).unwrap(), a);
    assert_eq!(chosen(&a[..4]).unwrap(), a);
    assert_eq!(chosen(&a[..12].to_uppercase()).unwrap(), a);
    assert_eq!(chosen("shop/web-1/web").unwrap(), a);
    assert_eq!(chosen("bbbb").unwrap(), b);
    assert!(
        matches!(chosen("web"), Err(ContainerError::Ambiguous { candidates, .. }) if candidates.len() == 2)
    );
    assert!(matches!(chosen(&a[..3]), Err(ContainerError::NotFound { running, .. }) if running.len() == 2));
    assert!(matches!(chosen(""), Err(ContainerError::NotFound { .. })));
}

#[test]
fn names_are_read_from_the_state_files_of_all_runtimes() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: String, text: String| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let id_of = |digit: &str| digit.repeat(64);
    let [docker, podman, cri, crio, rootless] = ["1", "2", "3", "4", "5"].map(id_of);
    write(
        "etc/docker/daemon.json".into(),
        r#"{"data-root":"/srv/docker"}"#.into(),
    );
    write(
        format!("srv/docker/containers/{docker}/config.v2.json"),
        r#"{"Name":"/gateway"}"#.into(),
    );
    write(
        "var/lib/containers/storage/overlay-containers/containers.json".into(),
        format!(r#"[{{"id":"{docker}","names":["no"]}},{{"id":"{podman}","names":["burn-runc"],"x":1}}]"#),
    );
    write(
        format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{cri}/config.json"),
        r#"{"annotations":{"io.kubernetes.cri.container-name":"apisix","io.kubernetes.cri.sandbox-name":"apisix-7d9",
            "io.kubernetes.cri.sandbox-namespace":"edge"}}"#
            .into(),
    );
    write(
        format!("run/containers/storage/overlay-containers/{crio}/userdata/config.json"),
        r#"{"annotations":{"io.kubernetes.container.name":"web","io.kubernetes.cri-o.Name":"k8s_web_pod_ns_1_0"}}"#.into(),
    );
    write(
        "etc/passwd".into(),
        "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n".into(),
    );
    write(
        "home/ann/.local/share/containers/storage/overlay-containers/volatile-containers.json".into(),
        format!(r#"[{{"id":"{rootless}","names":["mine"]}}]"#),
    );
    let files = StateFiles::below(root.path());
    let names = |id: &str| files.names(&container(id, &[]));
    assert_eq!(names(&podman), ["burn-runc"]);
    assert_eq!(names(&cri), ["apisix", "edge/apisix-7d9/apisix"]);
    assert_eq!(names(&crio), ["web", "k8s_web_pod_ns_1_0"]);
    assert_eq!(names(&id_of("9")), Vec::<String>::new());
    // Both docker and podman know the first one; that is how the list of podman is seen to be searched.
    assert_eq!(names(&docker), ["no", "gateway"]);
    let path = format!("0::/user.slice/user-1000.slice/user@1000.service/libpod-{rootless}.scope\n");
    let own = Container {
        cgroups: parse_memberships(path.as_bytes()),
        ..container(&rootless, &[])
    };
    assert_eq!(files.names(&own), ["mine"]);
    assert_eq!(
        names(&rootless),
        Vec::<String>::new(),
        "only below that user's slice"
    );
}

#[test]
fn damaged_state_files_give_no_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(format!("var/lib/docker/containers/{}", id()));
    std::fs::create_dir_all(&dir).unwrap();
    for text in ["", "{", "[]", r#"{"Name":7}"#, r#"{"Name":"/"}"#] {
        std::fs::write(dir.join("config.v2.json"), text).unwrap();
        assert_eq!(
            StateFiles::below(root.path()).names(&container(&id(), &[])),
            Vec::<String>::new()
        );
    }
}

#[test]
fn the_machine_can_be_listed() {
    running().unwrap();
}

proptest! {
    #[test]
    fn odd_paths_never_panic(path in "(/|[a-f0-9]{60,66}|-|:|é|\\.scope|docker|libpod|\\.\\.){0,12}") {
        for found in ids_in_path(Path::new(&path)) {
            prop_assert_eq!(found.id.len(), 64);
        }
    }
}
