//! C functions that compiled code calls through the FFI stand below the Lua function that calls them, at its line.
//!
//! The truth: the program, in which each C function is called by one Lua function alone (`tests/luajit/names/ffi.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::lua_hosts;
use common::{Program, Sample, record_at, repository, root};

/// C functions, and who calls them, in forms that OpenResty's own library has.
const CALLERS: [(&str, &str); 5] = [
    ("memfrob", "direct"),
    ("swab", "wrapped"),
    ("strverscmp", "variable"),
    ("argz_count", "branches"),
    ("wcsspn", "returning"),
];

/// The C library has some of its functions under a second name with underscores.
fn is_in(sample: &Sample, function: &str) -> bool {
    let mut names = sample.stack.iter().map(|frame| frame.name());
    names.any(|name| name.trim_start_matches('_') == function)
}

/// Lines with `-- @NAME`.
fn lines_of(name: &str) -> Vec<u64> {
    let source = std::fs::read_to_string(repository("tests/luajit/names/ffi.lua")).unwrap();
    let mark = format!("-- @{name}");
    let numbered = (1..).zip(source.lines());
    numbered
        .filter_map(|(number, line)| line.ends_with(&mark).then_some(number))
        .collect()
}

/// The innermost frame of Lua, or the mark inside of it.
fn innermost(sample: &Sample) -> (&str, Option<u64>) {
    let is_of_lua = |name: &str| name == "[inlined frames unknown]" || name == "outer";
    let callers = CALLERS.map(|(_, caller)| caller);
    let frame = sample.stack.iter().rev().find(|frame| {
        let name = frame.name();
        is_of_lua(name) || ["quarter", "shared"].contains(&name) || callers.contains(&name)
    });
    frame.map_or(("", None), |frame| (frame.name(), frame.line))
}

#[test]
fn root_a_c_function_stands_below_the_call_in_compiled_code() {
    if !root() {
        return;
    }
    for (variant, hosts) in [
        // LuaJIT as a library is as near as the C library; linked into the program it is far from it
        ("upstream-gc64", ["host", "edge"].as_slice()),
        ("openresty-gc32", &["host"]),
    ] {
        for host in lua_hosts(variant, hosts) {
            let mut command = host.command(&repository("tests/luajit/names/ffi.lua"), true);
            let program = Program::spawn(command.arg("30"));
            let recording = record_at("997", &["-p", &program.pid_text(), "-d", "3", "--no-kernel"]);
            for (function, caller) in CALLERS {
                let lines = lines_of(caller);
                let below = |is_so: &dyn Fn(&str, Option<u64>) -> bool| {
                    recording.profile.count(|sample| {
                        let (name, line) = innermost(sample);
                        is_in(sample, function) && is_so(name, line)
                    })
                };
                let all = below(&|_, _| true);
                let right =
                    below(&|name, line| name == caller && line.is_some_and(|line| lines.contains(&line)));
                let marked = below(&|name, _| name == "[inlined frames unknown]");
                assert!(all > 20, "{variant}: {function} has {all} samples");
                assert_eq!(right + marked, all, "{variant}: {function} is not below {caller}");
                // compiled anew now and then, and until the first look at a trace
                assert!(
                    marked <= 1 + all / 50,
                    "{variant}: {marked} of {all} of {function} are marked"
                );
            }
            // a function that it also calls is below both: a quarter and three quarters, where that is told at all
            let share = |caller: &str| {
                let of_function = |sample: &Sample| is_in(sample, "envz_entry");
                let below = |sample: &Sample| of_function(sample) && innermost(sample).0 == caller;
                recording.profile.count(below) as f64 / recording.profile.count(of_function) as f64
            };
            let (quarter, shared) = (share("quarter"), share("shared"));
            assert!(
                quarter < 0.35,
                "{variant}: {quarter:.3} of envz_entry is below quarter"
            );
            assert!(
                shared < 0.85,
                "{variant}: {shared:.3} of envz_entry is below shared"
            );
        }
    }
}
