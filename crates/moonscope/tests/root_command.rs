//! `record -- COMMAND`: what is recorded of it, and what is told of its end.
//!
//! The truth is what the command is, and what the test itself did to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use common::recording::{command, wait_until_it_measures};
use common::{Profile, Run, moonscope, program, root};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Before it becomes the command the new process is a copy of moonscope, and the kernel takes a while to look at so many
/// arguments.
#[test]
fn root_nothing_of_moonscope_is_in_the_profile_of_a_command() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let long = "x".repeat(120_000);
    let arguments = vec![long.as_str(); 12];
    let mut seen = 0;
    for _ in 0..8 {
        let mut args = vec![
            "record",
            "-F",
            "4999",
            "-f",
            "-o",
            json.to_str().unwrap(),
            "--",
            "true",
        ];
        args.extend(&arguments);
        let run = moonscope(&args);
        // it may end before the next tick
        assert!([0, 5].contains(&run.code), "{}", run.stderr);
        if run.code == 5 {
            continue;
        }
        assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
        let profile = Profile::read(&json);
        profile.samples.iter().for_each(|sample| {
            let is_ours = sample.user().any(|frame| frame.file_name() == "moonscope");
            assert!(
                sample.comm == "true" && sample.thread == "true" && !is_ours,
                "{sample}"
            );
        });
        seen += profile.total();
    }
    assert!(seen > 0);
}

/// Records a command until a signal comes, to it as well if `to_all`.
fn interrupted(argv: &[&str], to_all: bool) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command()
        .args([
            "record",
            "-F",
            "99",
            "-o",
            dir.path().join("x.json").to_str().unwrap(),
            "--",
        ])
        .args(argv)
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_measures(&mut child);
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    let used = || std::fs::read_to_string(format!("/proc/{}/task/{}/children", pid, pid)).unwrap();
    common::wait_until("the command runs", || {
        let is_it = |child: &str| {
            std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm != "moonscope\n")
        };
        used().split_whitespace().any(is_it)
    });
    // a few ticks
    std::thread::sleep(std::time::Duration::from_millis(300));
    match to_all {
        true => kill_process_group(pid, Signal::INT).unwrap(),
        false => kill_process(pid, Signal::INT).unwrap(),
    }
    child.wait_with_output().unwrap().into()
}

#[test]
fn root_how_a_command_ended_at_ctrl_c_is_told() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let run = interrupted(&[path.to_str().unwrap(), "60"], true);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let told = "(interrupted; shares was ended by SIGINT (signal 2))";
    assert!(run.stderr.contains(told), "{}", run.stderr);

    // one that ends in its own way, and one that did nothing
    let run = interrupted(&["sh", "-c", "trap 'exit 7' INT; while :; do :; done"], true);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stderr.contains("(interrupted; sh exited with status 7)"),
        "{}",
        run.stderr
    );
}

#[test]
fn root_a_command_that_goes_on_after_ctrl_c_is_left_alone_and_told() {
    if !root() {
        return;
    }
    // nothing of it holds the pipe that the test reads
    let script = "exec timeout 30 sh -c 'while :; do :; done' 2> /dev/null";
    let run = interrupted(&["sh", "-c", script], false);
    let (_, rest) = run
        .stderr
        .split_once("(interrupted; sh runs on as process ")
        .unwrap();
    let (pid, _) = rest.split_once(')').unwrap();
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let _ = kill_process(pid, Signal::TERM);
    assert_eq!(comm.unwrap(), "timeout\n");
    assert_eq!(run.code, 0, "{}", run.stderr);
}
