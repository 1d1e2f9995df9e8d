//! Every way to say who is recorded finds those, and nobody else.
//!
//! The truth is which processes the test started itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::recording::RATE;
use common::{
    Profile, Program, Recording, moonscope, moonscope_while, program, record, record_while, repository, root,
    skip,
};

/// Pids that samples are of.
fn pids(recording: &Recording) -> BTreeSet<u32> {
    recording
        .profile
        .samples
        .iter()
        .map(|sample| sample.pid)
        .collect()
}

/// A copy of a test program under a name that no other process has.
struct Named {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Named {
    fn new(program: &Path, what: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // comm keeps 15 bytes
        let path = dir.path().join(format!("{what}-{}", std::process::id()));
        std::fs::copy(program, &path).unwrap();
        Self { dir, path }
    }

    fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }
}

#[test]
fn root_two_processes_by_pid() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let programs = [(); 3].map(|()| Program::start(&path, &["60"]));
    let (one, two) = (programs[0].pid_text(), programs[1].pid_text());
    let recording = record(&["-p", &one, "-p", &two, "-d", "1500ms"]);
    assert_eq!(
        pids(&recording),
        BTreeSet::from([programs[0].pid(), programs[1].pid()])
    );
    let list = record(&["-p", &format!("{one},{two}"), "-d", "500ms"]);
    assert_eq!(pids(&list), pids(&recording));
}

#[test]
fn root_processes_by_name_also_those_that_start_later() {
    let Some(path) = root().then(|| program("short")).flatten() else {
        return;
    };
    let named = Named::new(&path, "byname");
    let first = Program::start(&named.path, &["60"]);
    // nobody of the target's is the parent of these
    let mut shell = Command::new("sh");
    let script = format!("echo ready; while :; do {} --child; done", named.path.display());
    let later = Program::spawn(shell.args(["-c", &script]));
    let Some(other) = program("shares") else {
        return;
    };
    let beside = Program::start(&other, &["60"]);
    let recording = record(&["--comm", named.name(), "--no-inherit", "-d", "2s"]);
    let seen = pids(&recording);
    assert!(seen.len() > 3, "{seen:?}");
    assert!(
        !seen.contains(&beside.pid()) && !seen.contains(&later.pid()),
        "{seen:?}"
    );
    recording
        .profile
        .assert_all("has the name", |sample| sample.comm == named.name());
    assert!(recording.profile.with("short_work") > 50);
    drop((first, later));
}

/// A process is one of the target from the moment on at which it takes the name, and stays one under another name.
#[test]
fn root_a_process_that_takes_the_name_later_is_recorded_from_then_on() {
    let Some(path) = root().then(|| program("renames")).flatten() else {
        return;
    };
    // somebody must have the name, or there is nothing to record
    let mut first = Program::start(&path, &["60"]);
    first.tell();
    first.wait_for("named");
    let mut later = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let args = [
        "record",
        "-F",
        RATE,
        "--comm",
        "wanted-name",
        "-o",
        json.to_str().unwrap(),
    ];
    let run = moonscope_while(&args, || {
        for word in ["named", "renamed", "done"] {
            later.tell();
            later.wait_for(word);
        }
    });
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&json);
    let of_later = |function: &str| profile.count(|sample| sample.pid == later.pid() && sample.has(function));
    assert_eq!(of_later("before_name"), 0);
    // 1.5 s of CPU time in it, of which a second may be missing
    let rate: u64 = RATE.parse().unwrap();
    let seen = of_later("with_name");
    assert!(seen > rate * 4 / 10, "{seen}");
    assert!(of_later("after_name") > 0);
    assert!(profile.count(|sample| sample.pid == first.pid()) > 0);
}

#[test]
fn root_processes_by_program() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let named = Named::new(&path, "byexe");
    let program = Program::start(&named.path, &["60"]);
    let beside = Program::start(&path, &["60"]);
    let link = named.dir.path().join("link");
    std::os::unix::fs::symlink(&named.path, &link).unwrap();
    for way in [named.path.to_str().unwrap(), link.to_str().unwrap(), named.name()] {
        let recording = record(&["--exe", way, "-d", "700ms"]);
        assert_eq!(pids(&recording), BTreeSet::from([program.pid()]), "--exe {way}");
    }
    drop(beside);
}

/// A control group that the test made; its processes are gone when it is dropped, since they are dropped earlier.
struct Group(PathBuf);

impl Group {
    /// In this hierarchy; skips the test if there is none or it is read-only.
    fn make(hierarchy: &str, name: &str) -> Option<Self> {
        let dir = Path::new(hierarchy).join(format!("moonscope-{name}-{}", std::process::id()));
        match std::fs::create_dir_all(&dir) {
            Ok(()) => Some(Self(dir)),
            Err(err) => {
                skip(&format!("{}: {err}", dir.display()));
                None
            }
        }
    }

    fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn below(&self, name: &str) -> Self {
        std::fs::create_dir(self.0.join(name)).unwrap();
        Self(self.0.join(name))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // the kernel takes a moment to forget the last process
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Where a version of control groups is mounted.
fn hierarchy(kind: &str, option: &str) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2] == kind && fields[3].split(',').any(|one| one == option || option.is_empty()))
            .then(|| fields[1].to_owned())
    });
    if mount.is_none() {
        skip(&format!("no {kind} hierarchy is mounted ({option})"));
    }
    mount
}

fn by_cgroup(kind: &str, option: &str) {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(group) = hierarchy(kind, option).and_then(|mount| Group::make(&mount, kind)) else {
        return;
    };
    let below = group.below("below");
    let (inside, deeper, beside) = (
        Program::start(&path, &["60"]),
        Program::start(&path, &["60"]),
        Program::start(&path, &["60"]),
    );
    group.add(inside.pid());
    below.add(deeper.pid());
    let recording = record(&["--cgroup", group.path(), "-d", "2s"]);
    assert_eq!(pids(&recording), BTreeSet::from([inside.pid(), deeper.pid()]));
    recording
        .profile
        .assert_most(0.9, "has its names", |sample| sample.has("one_round"));
    // by the path that /proc/PID/cgroup shows
    let shown = format!("/{}/below", group.0.file_name().unwrap().to_str().unwrap());
    let recording = record(&["--cgroup", &shown, "-d", "1s"]);
    assert_eq!(pids(&recording), BTreeSet::from([deeper.pid()]));
    drop((inside, deeper, beside));
    drop(below);
}

#[test]
fn root_a_control_group_of_version_2() {
    by_cgroup("cgroup2", "");
}

#[test]
fn root_a_control_group_of_version_1() {
    by_cgroup("cgroup", "freezer");
}

/// An empty one may be filled yet; if it is not, that is told.
#[test]
fn root_a_control_group_of_nobody_is_told_at_once_and_at_the_end() {
    let Some(group) = root()
        .then(|| hierarchy("cgroup2", "").and_then(|mount| Group::make(&mount, "nobody")))
        .flatten()
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.svg");
    let args = [
        "record",
        "--cgroup",
        group.path(),
        "-d",
        "200ms",
        "-o",
        file.to_str().unwrap(),
    ];
    let run = moonscope(&args);
    // docs/exit-codes.md: no such target
    assert_eq!(run.code, 4, "{}", run.stderr);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(
        lines[0].starts_with("no process is in control group "),
        "{}",
        run.stderr
    );
    assert!(
        lines[1].starts_with("moonscope: no samples of control group "),
        "{}",
        run.stderr
    );
    assert!(lines[2].starts_with("  no process was in it"), "{}", run.stderr);
    assert!(!file.exists());
}

/// A process that enters a control group while it is recorded.
#[test]
fn root_a_control_group_is_joined_later() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(group) = hierarchy("cgroup2", "").and_then(|mount| Group::make(&mount, "later")) else {
        return;
    };
    let first = Program::start(&path, &["60"]);
    group.add(first.pid());
    let second = Program::start(&path, &["60"]);
    let pid = second.pid();
    let recording = record_while(RATE, &["--cgroup", group.path(), "-d", "2s"], || group.add(pid));
    assert_eq!(pids(&recording), BTreeSet::from([first.pid(), pid]));
    assert!(
        recording
            .profile
            .count(|sample| sample.pid == pid && sample.has("one_round"))
            > 100
    );
    drop((first, second));
}

/// The functions of the two programs in the container's files, none of those on the host.
#[track_caller]
fn assert_names_of_the_container(recording: &Recording, shares: u32, chain: u32) {
    recording.assert_complete(0.99);
    let of = |pid: u32| recording.profile.count(|sample| sample.pid == pid);
    assert!(
        of(shares) > 100 && of(chain) > 100,
        "{} {}",
        of(shares),
        of(chain)
    );
    recording
        .profile
        .assert_most(0.99, "has the names of the container's files", |sample| {
            let names = sample.below_main().unwrap_or_default();
            match sample.pid {
                // a path that does not exist on the host
                pid if pid == shares => names.starts_with(&["main", "one_round"]),
                // a path that is another file on the host
                pid if pid == chain => names.starts_with(&["main", "chain_08", "chain_07"]),
                _ => false,
            }
        });
    let module = |path: &str| {
        recording.profile.json["modules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["path"] == path)
    };
    assert!(
        module("/opt/edge/edge-shares") && module("/usr/bin/env"),
        "{}",
        recording.profile.json["modules"]
    );
}

fn container(kind: &str) -> Option<Program> {
    root().then_some(())?;
    common::tool("busybox")?;
    program("shares")?;
    program("chain-O2")?;
    let script = repository(&format!("tests/containers/{kind}"));
    match Program::try_spawn(Command::new(script).arg("120")) {
        (container, None) => Some(container),
        (_, Some(3)) => {
            skip(&format!("this host cannot run tests/containers/{kind}"));
            None
        }
        (container, code) => panic!("tests/containers/{kind}: {code:?} {:?}", container.said),
    }
}

fn pid_of(container: &Program, name: &str) -> u32 {
    container.said(&format!("pid {name}")).parse().unwrap()
}

#[test]
fn root_programs_in_namespaces_of_their_own_get_their_own_names() {
    let Some(container) = container("namespaces") else {
        return;
    };
    let (shares, chain) = (pid_of(&container, "edge-shares"), pid_of(&container, "env"));
    let recording = record(&[
        "-p",
        &shares.to_string(),
        "-p",
        &chain.to_string(),
        "-d",
        "1500ms",
    ]);
    assert_names_of_the_container(&recording, shares, chain);
    // a program asked for by its path inside; the host's /usr/bin/env is another
    let recording = record(&["--exe", "/opt/edge/edge-shares", "-d", "700ms"]);
    assert!(pids(&recording).contains(&shares));
}

#[test]
fn root_a_container_by_id_and_by_name() {
    let Some(container) = container("podman") else {
        return;
    };
    let (shares, chain) = (pid_of(&container, "edge-shares"), pid_of(&container, "env"));
    let id = container.said("id");
    for query in [&id[..12], &id, &container.said("name")] {
        let recording = record(&["--container", query, "-d", "1500ms"]);
        assert_names_of_the_container(&recording, shares, chain);
        // a shell waits in it; nobody from outside is in the profile
        assert!(pids(&recording).len() <= 3, "{:?}", pids(&recording));
        assert!(
            recording.run.stderr.contains("container "),
            "{}",
            recording.run.stderr
        );
    }
}

#[test]
fn root_the_whole_machine() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(other) = program("chain-static") else {
        return;
    };
    let (one, two) = (Program::start(&path, &["60"]), Program::start(&other, &["60"]));
    let recording = record(&["-a", "-d", "2s"]);
    assert_eq!(recording.accounting.filtered, 0);
    let of = |pid, function| {
        recording
            .profile
            .count(|sample| sample.pid == pid && sample.has(function))
    };
    assert!(of(one.pid(), "one_round") > 100);
    assert!(of(two.pid(), "chain_leaf") > 100);
    // names of one program never appear in the other
    assert_eq!(of(one.pid(), "chain_leaf") + of(two.pid(), "one_round"), 0);
}
