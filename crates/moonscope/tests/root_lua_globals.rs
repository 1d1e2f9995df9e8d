//! A VM whose main thread has no globals: its functions have their names all the same.
//!
//! The truth: the program (`tests/luajit/names/sandbox.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::lua_hosts;
use common::{Program, record_at, repository, root};

#[test]
fn root_functions_have_names_where_the_main_thread_has_no_globals() {
    if !root() {
        return;
    }
    for variant in [
        "openresty-gc64",
        "openresty-gc32",
        "upstream-gc64",
        "bullseye-gc32",
    ] {
        for host in lua_hosts(variant, &["host"]) {
            let mut command = host.command(&repository("tests/luajit/names/sandbox.lua"), false);
            let program = Program::spawn(command.arg("30"));
            let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
            let profile = &recording.profile;
            let named = profile.count(|sample| {
                ["pcall", "work", "string.rep"]
                    .iter()
                    .all(|name| sample.has(name))
            });
            let all = profile.count(|sample| sample.stack.iter().any(|frame| frame.kind.starts_with("lua")));
            let unread = profile.count(|sample| sample.has("[unknown]"));
            assert!(all > 50, "{variant}: {all} samples of Lua");
            assert_eq!(unread, 0, "{variant}: of {all}, functions that could not be read");
            assert!(
                named * 10 > all * 9,
                "{variant}: {named} of {all} in work, called by pcall, and string.rep"
            );
        }
    }
}
