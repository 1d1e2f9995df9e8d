//! One file, one table: whoever maps it, in whatever mount namespace, under whatever path.
//!
//! The truth is the content of the files that the kernel says the processes map.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{MovedPages, Program, program, repository, root, skip};
use moonscope_probe::{EventSettings, Options, Scope, Session, Totals};

fn record(pids: &BTreeSet<u32>, samples_of_each: u64) -> (Totals, Vec<u64>) {
    let options = Options {
        scope: Scope::Processes(pids.clone()),
        events: Vec::new(),
        settings: EventSettings::default(),
        program: None,
        hz: 499,
        max_depth: 127,
        kernel_stacks: false,
        user_stacks: true,
        follow_forks: false,
        report_all_execs: false,
        measure_cost: false,
        always_copy_stack: true,
        coroutine_parents: false,
        force_loop: None,
        limits: None,
    };
    let mut session = Session::prepare(&options).unwrap();
    session.start().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while session.progress().0 < samples_of_each * pids.len() as u64 {
        assert!(Instant::now() < patience, "{:?}", session.progress());
        session.poll(Duration::from_millis(50)).unwrap();
    }
    let (totals, recorded) = session.finish().unwrap();
    let of = |pid: u32| {
        let of_pid = recorded
            .stacks
            .counts()
            .filter(|(_, thread, _)| thread.pid == pid);
        of_pid.map(|(.., count)| count).sum()
    };
    (totals, pids.iter().map(|&pid| of(pid)).collect())
}

/// Contents of the files that these processes map as code, as coreutils see them; the vDSO is one more.
fn distinct_files(pids: &BTreeSet<u32>) -> u64 {
    let mut contents = BTreeSet::new();
    for pid in pids {
        for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .unwrap()
            .lines()
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[1].contains('x') && fields.get(5).is_some_and(|name| name.starts_with('/')) {
                let file = Path::new("/proc")
                    .join(pid.to_string())
                    .join("map_files")
                    .join(fields[0]);
                let output = Command::new("sha256sum").arg(file).output().unwrap();
                assert!(output.status.success());
                contents.insert(output.stdout[..64].to_vec());
            }
        }
    }
    contents.len() as u64 + 1
}

#[track_caller]
fn assert_shared(pids: &BTreeSet<u32>) {
    let moved = MovedPages::now();
    let (totals, samples) = record(pids, 150);
    println!("{:?} of {samples:?} samples", totals.tables);
    assert_eq!(totals.tables.built, distinct_files(pids));
    moved.assert_no_other_cuts(&totals.received.truncated, totals.received.samples());
    assert!(samples.iter().all(|&samples| samples > 50), "{samples:?}");
    let comparison = &totals.received.comparison;
    assert_eq!(
        (comparison.equal_frames, comparison.other_ends),
        (comparison.frames, 0),
        "{}",
        comparison.differences.join("\n")
    );
    assert!(comparison.samples > totals.received.samples() / 2);
}

#[test]
fn root_processes_of_one_program_share_its_table() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let programs = [(); 3].map(|()| Program::start(&path, &["60"]));
    assert_shared(&programs.iter().map(Program::pid).collect());
}

/// Starts `tests/containers/KIND`; its own tree, its own overlay, its own mount and pid namespaces.
fn container(kind: &str, lower: Option<&Path>) -> Option<Program> {
    let mut command = Command::new(repository(&format!("tests/containers/{kind}")));
    command.arg("600");
    if let Some(lower) = lower {
        command.arg(lower);
    }
    match Program::try_spawn(&mut command) {
        (container, None) => Some(container),
        (_, Some(3)) => {
            skip(&format!("this host cannot run tests/containers/{kind}"));
            None
        }
        (container, code) => panic!("tests/containers/{kind}: {code:?} {:?}", container.said),
    }
}

fn pids(containers: &[Program]) -> BTreeSet<u32> {
    let of = |container: &Program| {
        ["pid edge-shares", "pid env"].map(|key| container.said(key).parse::<u32>().unwrap())
    };
    containers.iter().flat_map(of).collect()
}

/// The same lower layer under two overlays: the kernel gives its files other device numbers in each.
#[test]
fn root_containers_with_the_same_lower_layer_share_its_tables() {
    if !root() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    let made = Command::new(repository("tests/containers/tree"))
        .arg(lower.path())
        .status()
        .unwrap();
    assert!(made.success());
    let Some(one) = container("namespaces", Some(lower.path())) else {
        return;
    };
    let Some(other) = container("namespaces", Some(lower.path())) else {
        return;
    };
    assert_shared(&pids(&[one, other]));
}

/// Copies of the same files on different file systems are the same files too.
#[test]
fn root_containers_with_copies_of_the_same_files_share_their_tables() {
    if !root() {
        return;
    }
    let Some(one) = container("namespaces", None) else {
        return;
    };
    let Some(other) = container("namespaces", None) else {
        return;
    };
    // and one outside, which maps the originals
    let Some(path) = program("shares") else { return };
    let outside = Program::start(&path, &["600"]);
    let containers = [one, other];
    let mut all = pids(&containers);
    all.insert(outside.pid());
    assert_shared(&all);
}
