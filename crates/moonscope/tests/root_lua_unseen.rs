//! What compiled code does without a call in the bytecode: nothing that runs inside of a function is taken for that function.
//!
//! The truth: the program (`tests/luajit/names/unseen.lua`), whose functions leave nearly all of their work to operators, and
//! the names that LuaJIT's own symbols give to steps of its garbage collector.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::lua_hosts;
use common::{Program, Recording, Sample, record_at, repository, root};

const MARK: &str = "[inlined frames unknown]";
const VARIANTS: [&str; 2] = ["upstream-gc64", "openresty-gc32"];

fn recording(variant: &str) -> Option<(Recording, Program)> {
    let host = lua_hosts(variant, &["host"]).into_iter().next()?;
    let mut command = host.command(&repository("tests/luajit/names/unseen.lua"), true);
    let program = Program::spawn(command.arg("30"));
    let recording = record_at("997", &["-p", &program.pid_text(), "-d", "3", "--no-kernel"]);
    Some((recording, program))
}

/// The innermost function of the program, or the mark.
fn innermost(sample: &Sample) -> Option<&str> {
    let mut frames = sample.stack.iter().rev();
    let is_of_lua = |kind: &str| kind.starts_with("lua-") && kind != "lua-builtin";
    let frame = frames.find(|frame| frame.name() == MARK || is_of_lua(&frame.kind));
    frame.map(|frame| frame.name())
}

#[test]
fn root_operators_are_not_taken_for_the_function_that_uses_them() {
    if !root() {
        return;
    }
    for variant in VARIANTS {
        let Some((recording, _program)) = recording(variant) else {
            return;
        };
        for function in ["tables", "ctypes"] {
            let all = recording.profile.count(|sample| sample.has(function));
            let own = recording
                .profile
                .count(|sample| innermost(sample) == Some(function));
            assert!(all > 100, "{variant}: {function} has {all} samples");
            // a loop's own instructions, and what is interpreted
            assert!(own * 10 <= all, "{variant}: {own} of {all} are {function}'s own");
        }
    }
}

#[test]
fn root_a_step_of_the_garbage_collector_is_where_the_loop_begins() {
    if !root() {
        return;
    }
    let source = std::fs::read_to_string(repository("tests/luajit/names/unseen.lua")).unwrap();
    let numbered = (1..).zip(source.lines());
    let lines: Vec<u64> = numbered
        .filter_map(|(number, line)| line.ends_with("-- @loop").then_some(number))
        .collect();
    for variant in VARIANTS {
        let Some((recording, _program)) = recording(variant) else {
            return;
        };
        let is_step = |sample: &Sample| sample.has("lj_gc_step_jit") && sample.has("keeps");
        let all = recording.profile.count(is_step);
        let right = recording.profile.count(|sample| {
            let in_loop = sample
                .stack
                .iter()
                .any(|frame| frame.name() == "keeps" && frame.line.is_some_and(|line| lines.contains(&line)));
            is_step(sample) && in_loop && innermost(sample) == Some("keeps")
        });
        assert!(all > 10, "{variant}: {all} samples of the collector");
        assert!(
            right + 1 + all / 50 >= all,
            "{variant}: {right} of {all} are at {lines:?}"
        );
    }
}
