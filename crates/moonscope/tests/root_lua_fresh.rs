//! Compiled code that is met before it is known: what is told of its stack later counts for all that is measured there.
//!
//! The truth: the program (`tests/luajit/names/fresh.lua`), in whose loops nothing can be inlined.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::lua_hosts;
use common::{Profile, Program, Sample, moonscope, repository, root};

const MARK: &str = "[inlined frames unknown]";

#[test]
fn root_a_stack_that_is_shipped_before_its_trace_is_known_is_told_when_it_is() {
    if !root() {
        return;
    }
    for variant in ["openresty-gc64", "openresty-gc32"] {
        let Some(host) = lua_hosts(variant, &["host"]).into_iter().next() else {
            return;
        };
        let mut command = host.command(&repository("tests/luajit/names/fresh.lua"), true);
        let program = Program::spawn(command.arg("30"));
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("x.json");
        let pid = program.pid_text();
        let args = [
            "record",
            "-p",
            &pid,
            "-d",
            "5",
            "-e",
            "context-switches",
            "-o",
            json.to_str().unwrap(),
        ];
        let run = moonscope(&args);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let profile = Profile::read(&json);
        let waits = |sample: &Sample| sample.stack.iter().any(|frame| frame.kind == "lua-compiled");
        let all = profile.count(waits);
        let marked = profile.count(|sample| sample.has(MARK));
        assert!(all > 5000, "{variant}: {all} waits in compiled code");
        // one stack of those that are never told has some hundred
        assert!(marked * 2000 <= all, "{variant}: {marked} of {all} are marked");
    }
}
