use super::*;
use proptest::prelude::*;

/// A hybrid machine as systemd sets it up, with podman (cgroupfs driver) on it.
const HYBRID: &[u8] = b"9:name=systemd:/libpod_parent/libpod-ab\n\
    4:memory:/libpod_parent/libpod-ab\n\
    2:cpu,cpuacct:/libpod_parent/libpod-ab\n\
    0::/libpod_parent/libpod-ab\n";

const MOUNTS: &[u8] = b"\
30 23 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
31 30 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
34 30 0:29 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";

fn mounts() -> CgroupMounts {
    CgroupMounts::from_mounts(mountinfo::parse(MOUNTS))
}

fn v1(controllers: &[&str], path: &str) -> Membership {
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    Membership {
        hierarchy: Hierarchy::V1(controllers),
        path: path.into(),
    }
}

fn v2(path: &str) -> Membership {
    Membership {
        hierarchy: Hierarchy::V2,
        path: path.into(),
    }
}

#[test]
fn a_hybrid_machine_gives_one_place_in_each_tree() {
    let places = parse_memberships(HYBRID);
    let path = "/libpod_parent/libpod-ab";
    let expected = [
        v1(&["name=systemd"], path),
        v1(&["memory"], path),
        v1(&["cpu", "cpuacct"], path),
        v2(path),
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_colon_in_a_path_stays_in_the_path() {
    let places = parse_memberships(b"0::/a/system.slice:docker:ff\n");
    assert_eq!(places, [v2("/a/system.slice:docker:ff")]);
}

#[test]
fn a_removed_group_is_known_by_its_old_path() {
    assert_eq!(parse_memberships(b"0::/gone (deleted)\n"), [v2("/gone")]);
}

#[test]
fn below_means_whole_names_and_the_same_tree() {
    let group = v2("/a/b");
    assert!(v2("/a/b").is_within(&group));
    assert!(v2("/a/b/c").is_within(&group));
    assert!(!v2("/a/bc").is_within(&group));
    assert!(!v1(&["cpu"], "/a/b").is_within(&group));
    assert!(v2("/a").is_within(&v2("/")));
}

#[test]
fn directories_follow_the_mounts_wherever_they_are() {
    let mounts = mounts();
    let directory = |place: &Membership| mounts.cgroup(place).directory;
    assert_eq!(directory(&v2("/a")), Some("/sys/fs/cgroup/unified/a".into()));
    assert_eq!(
        directory(&v1(&["cpu", "cpuacct"], "/a")),
        Some("/sys/fs/cgroup/cpu,cpuacct/a".into())
    );
    assert_eq!(
        directory(&v1(&["name=systemd"], "/")),
        Some("/sys/fs/cgroup/systemd".into())
    );
    // Only a part of the memory tree is mounted here.
    assert_eq!(
        directory(&v1(&["memory"], "/docker/abc/x")),
        Some("/sys/fs/cgroup/memory/x".into())
    );
    assert_eq!(directory(&v1(&["memory"], "/other")), None);
    assert_eq!(directory(&v2("/../outside")), None);
}

#[test]
fn only_version_2_has_a_level() {
    let mounts = mounts();
    if in_initial_cgroup_namespace() {
        assert_eq!(mounts.cgroup(&v2("/")).v2_level, Some(0));
        assert_eq!(mounts.cgroup(&v2("/a/b")).v2_level, Some(2));
    }
    assert_eq!(mounts.cgroup(&v1(&["memory"], "/a/b")).v2_level, None);
    assert_eq!(mounts.cgroup(&v2("/../a")).v2_level, None);
}

#[test]
fn our_own_group_is_found_and_we_are_in_it() {
    let me = std::process::id();
    let places = memberships(me).unwrap();
    let mounts = CgroupMounts::find().unwrap();
    for place in &places {
        let group = mounts.cgroup(place);
        assert!(group.pids().unwrap().contains(&me), "{place:?}");
        if let Some(directory) = group.directory.filter(|directory| directory.is_dir()) {
            let found = mounts.candidates(&directory);
            assert!(
                found.iter().any(|group| group.at == *place),
                "{place:?} {directory:?} {found:?}"
            );
        }
    }
}

#[test]
fn root_a_new_group_is_found_with_its_number_and_processes() {
    let mounts = CgroupMounts::find().unwrap();
    let Some(tree) = mounts.0.iter().find(|tree| tree.hierarchy == Hierarchy::V2) else {
        return eprintln!("SKIPPED: no cgroup v2 tree is mounted here");
    };
    let name = format!("moonscope-test-{}", std::process::id());
    let directory = tree.mount.point.join(&name).join("inner");
    if let Err(err) = std::fs::create_dir_all(&directory) {
        return eprintln!("SKIPPED: cannot make a control group ({err}): run as root");
    }
    let mut child = std::process::Command::new("/bin/sleep")
        .arg("60")
        .spawn()
        .unwrap();
    std::fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    let by_name = mounts.lookup(Path::new(&name)).unwrap();
    let by_path = mounts.lookup(&tree.mount.point.join(&name)).unwrap();
    let pids = by_name.pids().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir(&directory).unwrap();
    std::fs::remove_dir(directory.parent().unwrap()).unwrap();
    assert_eq!(by_name, by_path);
    assert_eq!(pids, BTreeSet::from([child.id()]));
    assert!(by_name.v2_id.is_some_and(|id| id > 1));
    assert_eq!(mounts.lookup(Path::new("moonscope-no-such-group")), None);
}

proptest! {
    #[test]
    fn parsing_never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_memberships(&text);
    }

    #[test]
    fn odd_paths_never_panic_or_leave_the_tree(path in "[/.a]{0,20}") {
        let group = mounts().cgroup(&v2(&format!("/{path}")));
        if let Some(directory) = group.directory {
            prop_assert!(plain(&directory));
        }
    }
}
