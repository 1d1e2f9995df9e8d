//! Lua memory that is wrong: a thread's own state, stack and frame are overwritten while it runs
//! (`tests/luajit/cases/31-corrupted.lua`). Its stacks are right or say that something is missing; looking at it ends.
//!
//! The truth is the program: in `host_burn_over` memory is wrong, in `host_burn` it is as it should be. And programs with
//! more VMs than the kernel side knows of a process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::{LuaHost, lua_hosts};
use common::{Program, Sample, moonscope, record, repository, root};

const SCRIPT: &str = "tests/luajit/cases/31-corrupted.lua";

/// The Lua functions of a stack, root first.
fn lua_functions(sample: &Sample) -> Vec<&str> {
    let is_lua = |frame: &&common::Frame| frame.kind.starts_with("lua");
    let frames = sample.user().filter(is_lua);
    frames.map(|frame| frame.name()).collect()
}

/// Samples that have this C function of the host.
fn inside<'a>(samples: &'a [Sample], function: &str) -> Vec<&'a Sample> {
    samples.iter().filter(|sample| sample.has(function)).collect()
}

fn total<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> u64 {
    samples.into_iter().map(|sample| sample.count).sum()
}

fn check(host: &LuaHost, is_compiled: bool) {
    let mut command = host.command(&repository(SCRIPT), is_compiled);
    let program = Program::spawn(command.arg("30"));
    let pid = program.pid_text();
    let stack = moonscope(&["stack", "-p", &pid]);
    assert_eq!(stack.code, 0, "{}", stack.stderr);
    let recording = record(&["-p", &pid, "-d", "2"]);
    let samples = &recording.profile.samples;
    let what = format!("{} compiled {is_compiled}", host.name);

    let sound = inside(samples, "host_burn");
    let wrong: Vec<_> = sound
        .iter()
        .filter(|sample| sample.lacks_frames() || lua_functions(sample) != ["main chunk", "sound"])
        .collect();
    let (all, of_them) = (
        total(sound.iter().copied()),
        total(wrong.iter().map(|sample| **sample)),
    );
    assert!(all >= 200, "{what}: only {all} samples of sound memory");
    // the program may be preempted for long on a busy machine, and be between two ticks anywhere
    assert!(of_them * 100 <= all, "{what}: {of_them} of {all}: {wrong:#?}");

    let damaged = inside(samples, "host_burn_over");
    let marked = total(damaged.iter().copied().filter(|sample| sample.lacks_frames()));
    let all = total(damaged.iter().copied());
    assert!(all >= 200, "{what}: only {all} samples of wrong memory");
    // some of it does not matter, or is what C functions under lua_cpcall look like
    assert!(
        marked * 2 > all,
        "{what}: {marked} of {all} stacks say that something is missing"
    );
    for sample in damaged {
        // native frames are not Lua's, and must not suffer
        let native = sample.below_main().unwrap_or_default();
        assert!(
            native.starts_with(&["main", "run_script", "lua_pcall"]),
            "{what}: {native:?}"
        );
        let functions = lua_functions(sample);
        let is_possible = functions.len() <= 2
            && functions.first().is_none_or(|first| *first == "main chunk")
            || sample.lacks_frames();
        assert!(
            is_possible && !functions.contains(&"sound"),
            "{what}: {functions:?}"
        );
    }
}

#[test]
fn root_lua_memory_that_is_wrong_is_said_to_be_wrong() {
    if !root() {
        return;
    }
    for (variant, program) in [("upstream-gc64", "edge"), ("openresty-gc32", "host")] {
        for host in lua_hosts(variant, &[program]) {
            for is_compiled in [true, false] {
                check(&host, is_compiled);
            }
        }
    }
}

#[test]
fn root_of_a_process_with_more_vms_than_are_looked_for_this_is_told() {
    if !root() {
        return;
    }
    for host in lua_hosts("upstream-gc64", &["host"]) {
        for (count, is_told) in [(3, false), (20, true)] {
            let mut command = host.in_threads(count, &repository("tests/luajit/cases/06-pcall.lua"));
            let program = Program::spawn(command.arg("30"));
            let recording = record(&["-p", &program.pid_text(), "-d", "1"]);
            let words = &recording.run.stderr;
            assert!(
                words.contains(&format!("Lua: {count} VMs of 1 process")),
                "{words}"
            );
            assert_eq!(
                words.contains("more Lua VMs than are looked for"),
                is_told,
                "{words}"
            );
        }
    }
}
