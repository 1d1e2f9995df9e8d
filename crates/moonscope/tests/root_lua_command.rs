//! A program with Lua that is recorded from its first instruction: where Lua frames are missing, a mark says so.
//!
//! The truth: below `run_script` and `lua_pcall` the program (`tests/luajit/host`) runs Lua, or the VM on its way there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::lua_hosts;
use common::{record_at, repository, root};

/// Its tables come some milliseconds after its first samples: tens of samples of each run.
const RUNS: usize = 5;

#[test]
fn root_the_first_milliseconds_of_a_command_have_lua_or_a_mark() {
    if !root() {
        return;
    }
    let Some(host) = lua_hosts("upstream-gc64", &["host"]).into_iter().next() else {
        return;
    };
    let command = host.command(&repository("tests/luajit/names/sandbox.lua"), true);
    let program = command.get_program().to_str().unwrap();
    let script = command.get_args().map(|arg| arg.to_str().unwrap());
    let args: Vec<&str> = ["--", program].into_iter().chain(script).chain(["1"]).collect();
    for _ in 0..RUNS {
        let recording = record_at("4999", &args);
        let profile = &recording.profile;
        let runs_lua = profile.count(|sample| sample.has("lua_pcall"));
        assert!(runs_lua > 100, "{runs_lua} samples below lua_pcall");
        for sample in &profile.samples {
            let says_it = |kind: &str| kind.starts_with("lua-") || kind == "marker";
            let has_it = sample.stack.iter().any(|frame| says_it(&frame.kind));
            assert!(has_it || !sample.has("lua_pcall"), "{sample}");
        }
    }
}
