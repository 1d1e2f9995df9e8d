//! Recordings that wait for something, and those that have what was before it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::background::Background;
use common::{Profile, Program, moonscope, program, root, skip, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// Starts a recording into a file.
fn record(file: &Path, args: &[&str]) -> Background {
    Background::start(&[&["record", "-F", "499", "-o", file.to_str().unwrap()], args].concat())
}

fn comments(profile: &Profile) -> String {
    profile.json["meta"]["comments"].to_string()
}

struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file() -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    File { _dir: dir, path }
}

#[test]
fn root_a_signal_starts_a_recording() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let (program, file) = (Program::start(&path, &["60"]), file());
    let pid = program.pid_text();
    let mut recording = record(
        &file.path,
        &["-p", &pid, "--trigger", "signal:USR1", "-d", "500ms"],
    );
    recording.wait_for("waiting for signal:USR1");
    assert!(!file.path.exists());
    recording.signal(Signal::USR1);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&file.path);
    assert!(profile.with("one_round") > 0, "{}", run.stderr);
    assert!(
        comments(&profile).contains("triggered by signal USR1"),
        "{}",
        profile.json["meta"]
    );
}

#[test]
fn root_two_triggers_make_two_files() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let (program, dir) = (Program::start(&path, &["60"]), tempfile::tempdir().unwrap());
    let pid = program.pid_text();
    let pattern = dir.path().join("x-%N.json");
    let mut recording = record(
        &pattern,
        &[
            "-p",
            &pid,
            "--trigger",
            "signal:USR2",
            "--trigger-count",
            "2",
            "-d",
            "1s",
        ],
    );
    for _ in 0..2 {
        recording.wait_for("waiting for signal:USR2");
        recording.signal(Signal::USR2);
    }
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    for name in ["x-000001.json", "x-000002.json"] {
        assert!(
            Profile::read(&dir.path().join(name)).with("one_round") > 0,
            "{name}"
        );
    }
}

#[test]
fn root_cpu_use_and_memory_of_the_target_start_recordings() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let pid = program.pid_text();
    for (trigger, reason) in [
        ("cpu>1%/200ms", "triggered by cpu>1%/200ms ("),
        ("rss>100K", "triggered by rss>102400 ("),
    ] {
        let file = file();
        let run = record(&file.path, &["-p", &pid, "--trigger", trigger, "-d", "300ms"]).wait();
        assert_eq!(run.code, 0, "{trigger}: {}", run.stderr);
        assert!(
            comments(&Profile::read(&file.path)).contains(reason),
            "{}",
            run.stderr
        );
    }
    // it never has so much
    let file = file();
    let mut recording = record(&file.path, &["-p", &pid, "--trigger", "rss>1T", "-d", "300ms"]);
    recording.wait_for("waiting for rss>1099511627776");
    recording.signal(Signal::INT);
    let run = recording.wait();
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(!file.path.exists());
}

#[test]
fn root_a_target_that_ends_is_waited_for_no_more() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let (program, file) = (Program::start(&path, &["60"]), file());
    let mut recording = record(
        &file.path,
        &["-p", &program.pid_text(), "--trigger", "rss>1T", "-d", "300ms"],
    );
    recording.wait_for("waiting for");
    drop(program);
    let run = recording.wait();
    assert_eq!(run.code, 4, "{}", run.stderr);
}

#[test]
fn root_pressure_on_the_cpus_starts_a_recording() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    if !Path::new("/proc/pressure/cpu").exists() {
        skip("this kernel does not measure pressure");
        return;
    }
    // two on one CPU: one of them always waits
    let pinned = || {
        let mut command = Command::new("taskset");
        Program::spawn(command.args(["-c", "0"]).arg(&path).arg("60"))
    };
    let (one, _other) = (pinned(), pinned());
    let file = file();
    let run = record(
        &file.path,
        &[
            "-p",
            &one.pid_text(),
            "--trigger",
            "psi:cpu:some:50ms/2s",
            "-d",
            "1s",
        ],
    )
    .wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&file.path);
    assert!(
        comments(&profile).contains("triggered by psi:cpu:some:50ms/2s (some avg10="),
        "{}",
        run.stderr
    );
    assert!(profile.with("one_round") > 0, "{}", run.stderr);
}

#[test]
fn root_pressure_of_a_control_group_starts_a_recording() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    let Some(mount) = mount.map(|fields| fields[1].to_owned()) else {
        skip("no cgroup2 hierarchy is mounted");
        return;
    };
    let group = Path::new(&mount).join(format!("moonscope-psi-{}", std::process::id()));
    if std::fs::create_dir(&group).is_err() || !group.join("cpu.pressure").exists() {
        let _ = std::fs::remove_dir(&group);
        skip("control groups have no pressure here");
        return;
    }
    let pinned = || {
        let mut command = Command::new("taskset");
        let program = Program::spawn(command.args(["-c", "0"]).arg(&path).arg("60"));
        std::fs::write(group.join("cgroup.procs"), program.pid_text()).unwrap();
        program
    };
    let programs = [pinned(), pinned()];
    let file = file();
    let trigger = format!("psi:cpu:some:50ms/2s@{}", group.display());
    let run = record(
        &file.path,
        &[
            "--cgroup",
            group.to_str().unwrap(),
            "--trigger",
            &trigger,
            "-d",
            "300ms",
        ],
    )
    .wait();
    drop(programs);
    // the kernel takes a moment to forget the last process
    wait_until("the group is removed", || std::fs::remove_dir(&group).is_ok());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        comments(&Profile::read(&file.path)).contains("triggered by psi:cpu:some:50ms/2s@"),
        "{}",
        run.stderr
    );
}

#[test]
fn root_a_flight_has_what_ran_only_before_the_trigger() {
    let Some(path) = root().then(|| program("turns")).flatten() else {
        return;
    };
    let (program, file) = (Program::start(&path, &["120"]), file());
    let mut recording = record(
        &file.path,
        &[
            "-p",
            &program.pid_text(),
            "--trigger",
            "signal:USR1",
            "--flight",
            "30s",
            "-d",
            "500ms",
        ],
    );
    recording.wait_for("waiting for signal:USR1");
    let pid = Pid::from_raw(program.pid().cast_signed()).unwrap();
    let ticks = || {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", program.pid())).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let used = |nanoseconds: u64| {
        let before = ticks();
        wait_until("it has worked", || ticks() > before + nanoseconds);
    };
    used(600_000_000);
    kill_process(pid, Signal::USR1).unwrap();
    used(300_000_000);
    recording.signal(Signal::USR1);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&file.path);
    // at 499 Hz: 600 ms, and 300 ms with some of the 500 ms after it
    assert!(
        profile.with("early_work") > 200,
        "{} {}",
        profile.with("early_work"),
        run.stderr
    );
    assert!(
        profile.with("late_work") > 100,
        "{} {}",
        profile.with("late_work"),
        run.stderr
    );
    assert!(comments(&profile).contains("triggered by signal USR1"));
    let seconds = profile.json["meta"]["duration_ns"].as_u64().unwrap() as f64 / 1e9;
    assert!(seconds > 1.4, "{seconds} s");
    assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
}

#[test]
fn root_a_flight_forgets_what_is_older_than_asked_for() {
    let Some(path) = root().then(|| program("turns")).flatten() else {
        return;
    };
    let (mut program, file) = (Program::start(&path, &["120"]), file());
    let mut recording = record(
        &file.path,
        &[
            "-p",
            &program.pid_text(),
            "--trigger",
            "signal:USR1",
            "--flight",
            "500ms",
        ],
    );
    recording.wait_for("waiting for signal:USR1");
    kill_process(Pid::from_raw(program.pid().cast_signed()).unwrap(), Signal::USR1).unwrap();
    program.wait_for("late");
    // a piece is 100 ms long, and a busy machine may be late with some
    std::thread::sleep(std::time::Duration::from_millis(2500));
    recording.signal(Signal::USR1);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&file.path);
    assert_eq!(profile.with("early_work"), 0, "{}", run.stderr);
    assert!(profile.with("late_work") > 0, "{}", run.stderr);
}

#[test]
fn root_triggers_that_cannot_be_are_told_at_once() {
    if !root() {
        return;
    }
    let file = file();
    let out = file.path.to_str().unwrap();
    for (args, words) in [
        (
            &["-a", "--trigger", "psi:cpu:some:50ms/100ms", "-d", "1"][..],
            "use psi:cpu:some:50ms/500ms",
        ),
        (
            &["-a", "--trigger", "psi:cpu:full", "-d", "1"],
            "use psi:cpu:some:300ms/2s",
        ),
        (&["-a", "--trigger", "cpu>80%", "-d", "1"], "psi:cpu"),
        (&["-a", "--trigger", "signal:USR1"], "add -d TIME"),
        (&["-a", "--trigger", "signal:HUP", "-d", "1"], "use signal:USR1"),
        (
            &["-a", "--interval", "1s", "--trigger", "signal:USR1", "-d", "1"],
            "cannot be used together",
        ),
        (&["-a", "--interval", "10ms"], "50ms"),
        (&["-a", "--keep", "3"], "--interval"),
        (
            &["--trigger", "psi:cpu", "-d", "1", "--", "true"],
            "start the command first",
        ),
    ] {
        let run = moonscope(&[&["record", "-o", out], args].concat());
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{args:?}: {}", run.stderr);
    }
    let run = moonscope(&[
        "record",
        "-a",
        "-o",
        out,
        "-d",
        "1",
        "--trigger",
        "psi:io@/no/such/group",
    ]);
    assert_eq!(run.code, 4, "{}", run.stderr);
}
