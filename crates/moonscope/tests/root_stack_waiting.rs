//! The stacks of threads that wait, where a function on them is found by its frame pointer: `/proc` does not tell that, the
//! kernel's copy of the thread's registers does.
//!
//! The truth: gdb, which stops the thread and asks for all registers; and what `tests/programs/naps.c` is made of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::lua_nginx::LuaNginx;
use common::recording::command;
use common::stack::{list, look, names};
use common::{Profile, Program, moonscope, program, root, skip, tool, wait_until};
use serde_json::Value;

/// The program's own part of the stack, innermost first.
const TRUTH: [&str; 4] = ["nap", "middle", "outer", "main"];

/// With a frame of unknown size; with frame pointers everywhere; not optimized.
const PROGRAMS: [&str; 3] = ["naps", "naps-fp", "naps-O0"];

/// Milliseconds of a nap from which it does not wake before a test is over.
const LONG: &str = "1000000";

/// One that sleeps in its long nap.
fn sleeper(name: &str) -> Option<Program> {
    let program = Program::start(&program(name)?, &["60", LONG]);
    // `ready` comes just before it sleeps
    wait_until("it sleeps", || {
        look(program.pid())["threads"][0]["system_call_name"] == "clock_nanosleep"
    });
    Some(program)
}

/// Where gdb sees the frames of a thread, innermost first: each with its name, `??` without one.
fn backtrace(gdb: &Path, pid: u32) -> Vec<String> {
    let attach = format!("attach {pid}");
    let mut command = Command::new(gdb);
    command.args(["-nx", "-batch"]);
    for what in [
        "set width 0",
        "set backtrace past-main on",
        "set backtrace past-entry on",
        &attach,
        "bt",
    ] {
        command.args(["-ex", what]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // #3  0x0000557d09a6a1f5 in chain_03 ()
    let name = |line: &str| {
        let rest = line.strip_prefix('#')?;
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let rest = rest.split_once(" in ").map_or(rest, |(_, rest)| rest);
        Some(rest.split(" (").next()?.to_owned())
    };
    let names: Vec<String> = text.lines().filter_map(name).collect();
    assert!(!names.is_empty(), "{text}");
    names
}

fn is_ours(name: &&String) -> bool {
    TRUTH.contains(&name.as_str())
}

#[test]
fn root_waiting_threads_with_frame_pointers_have_the_stacks_that_gdb_sees() {
    let Some(gdb) = root().then(|| tool("gdb")).flatten() else {
        return;
    };
    for name in PROGRAMS {
        let Some(program) = sleeper(name) else { return };
        let report = look(program.pid());
        let thread = &report["threads"][0];
        let gdb = backtrace(&gdb, program.pid());
        let shown = names(thread);
        assert!(thread["cut"].is_null(), "{name}: {thread:#}");
        assert_eq!(gdb.iter().filter(is_ours).collect::<Vec<_>>(), TRUTH, "{name}");
        assert_eq!(shown.iter().filter(is_ours).collect::<Vec<_>>(), TRUTH, "{name}");
        assert_eq!(shown.len(), gdb.len(), "{name}: {shown:?}, gdb sees {gdb:?}");
        assert_eq!(shown.last().map(String::as_str), Some("_start"), "{name}");
    }
}

#[test]
fn root_a_waiting_worker_of_nginx_has_the_stack_that_gdb_sees() {
    let (true, Some(gdb)) = (root() && tool("nginx").is_some(), tool("gdb")) else {
        return;
    };
    let Some(server) = LuaNginx::start("stack") else {
        return;
    };
    let mut thread = Value::Null;
    wait_until("the worker waits", || {
        thread = look(server.worker())["threads"][0].clone();
        thread["system_call_name"] == "epoll_wait"
    });
    assert!(thread["cut"].is_null(), "{thread:#}");
    let (shown, gdb) = (names(&thread), backtrace(&gdb, server.worker()));
    assert_eq!(shown.len(), gdb.len(), "{shown:?}, gdb sees {gdb:?}");
    for (ours, theirs) in shown.iter().zip(&gdb) {
        // what has no symbol is the module here; the C library has several names for a function
        assert!(
            theirs == "??" || ours == theirs || theirs.contains("epoll") || theirs.contains("libc_start"),
            "{shown:?}, gdb sees {gdb:?}"
        );
    }
}

/// Registers of one nap with the stack of another would lead anywhere.
#[test]
fn root_a_thread_that_wakes_all_the_time_has_whole_stacks_or_is_said_to_change() {
    if !root() {
        return;
    }
    let Some(path) = program("naps") else { return };
    let program = Program::start(&path, &["60", "1"]);
    let mut whole = 0;
    for _ in 0..40 {
        let report = look(program.pid());
        let thread = &report["threads"][0];
        if thread["system_call_name"] != "clock_nanosleep" || thread["changing"] == true {
            continue;
        }
        let shown = names(thread);
        if shown.iter().any(|name| name == "nap") {
            assert_eq!(
                shown.iter().filter(is_ours).collect::<Vec<_>>(),
                TRUTH,
                "{thread:#}"
            );
            assert!(thread["cut"].is_null(), "{thread:#}");
            whole += 1;
        }
    }
    assert!(whole > 0, "it was never seen asleep");
}

#[test]
fn root_a_wait_that_lasts_to_the_end_of_a_recording_has_its_whole_stack() {
    if !root() {
        return;
    }
    for name in PROGRAMS {
        let Some(program) = sleeper(name) else { return };
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("x.json");
        let args = [
            "record",
            "-p",
            &program.pid_text(),
            "-e",
            "offcpu",
            "-d",
            "300ms",
            "-o",
        ];
        let run = moonscope(&[&args[..], &[json.to_str().unwrap()]].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        let profile = Profile::read(&json);
        let [sample] = &profile.samples[..] else {
            panic!("{name}: {:?}", profile.samples)
        };
        let below: Vec<&str> = sample.below_main().unwrap_or_default();
        assert_eq!(
            below.iter().take(4).rev().copied().collect::<Vec<_>>(),
            TRUTH,
            "{name}"
        );
        assert!(!sample.is_truncated(), "{name}: {sample:?}");
    }
}

#[test]
fn root_without_bpf_the_stack_is_cut_and_says_why() {
    let Some(setpriv) = root().then(|| tool("setpriv")).flatten() else {
        return;
    };
    let Some(program) = sleeper("naps") else { return };
    let mut limited = Command::new(setpriv);
    limited.args([
        "--bounding-set=-bpf,-perfmon,-sys_admin",
        "--inh-caps=-bpf,-perfmon,-sys_admin",
    ]);
    limited.arg(command().get_program());
    limited.args(["stack", "--json", "-p", &program.pid_text()]);
    let output = limited.stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let thread = &list(&json, "processes")[0]["threads"][0];
    let cut = thread["cut"].as_str();
    let Some(cut) = cut else {
        return skip("BPF is permitted here without CAP_BPF");
    };
    assert!(
        cut.contains("register not saved") && cut.contains("CAP_BPF"),
        "{cut}"
    );
    assert_eq!(names(thread).last().map(String::as_str), Some("nap"));
}
