//! Turns of nginx's event loop that take too long, and which line of Lua it was.
//!
//! The truth: how long the handlers say that they blocked their worker (`tests/luajit/waits/waits.lua`), by the clock on
//! the wall.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua_nginx::LuaNginx;
use common::{Profile, Sample, moonscope_while, repository, root, tool};

/// How often each handler blocks the worker.
const TIMES: u64 = 7;

/// What blocks in them.
const BLOCKING: [&str; 3] = ["block.burn", "block.execute", "block.popen"];

/// The lines of a file that end in this comment.
fn lines(label: &str) -> Vec<u64> {
    let source = std::fs::read_to_string(repository("tests/luajit/waits/waits.lua")).unwrap();
    let label = format!("-- @{label}");
    let lines = source.lines().zip(1..);
    lines
        .filter(|(line, _)| line.ends_with(&label))
        .map(|(_, nr)| nr)
        .collect()
}

#[test]
fn root_each_handler_that_blocks_is_found_with_its_duration_and_line() {
    if !root() || tool("nginx").is_none() {
        return;
    }
    let Some(server) = LuaNginx::start("waits") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let mut said = String::new();
    let args = [
        "record",
        &server.target(),
        "-e",
        "lua-loop",
        "-o",
        json.to_str().unwrap(),
    ];
    let run = moonscope_while(&args, || {
        for _ in 0..TIMES {
            for place in ["burn", "quick", "execute", "popen"] {
                said += &server.answer(place);
            }
        }
    });
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
    let profile = Profile::read(&json);
    for name in ["burn", "execute", "popen"] {
        let truth: f64 = said
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("truth {name} ")))
            .map(|seconds| seconds.parse::<f64>().unwrap())
            .sum();
        let function = format!("block.{name}");
        let is_of = |sample: &Sample| sample.has(&function);
        let all = || {
            profile
                .samples
                .iter()
                .map(|sample| format!("{:?} {sample}\n", sample.values))
        };
        assert_eq!(
            profile.sum("loop_turns", is_of),
            TIMES,
            "{name}\n{}{}",
            all().collect::<String>(),
            run.stderr
        );
        let found = profile.sum("loop_time", is_of) as f64 / 1e9;
        // A look behind the handler has its last milliseconds, a quarter of the threshold at most; more where it had to wait for
        // a CPU then, but no more than what is found behind all handlers. And the turn has accepting and answering in it too.
        let quarters = TIMES as f64 * 0.005;
        let behind = profile.sum("loop_time", |sample| {
            !BLOCKING.iter().any(|name| sample.has(name))
        }) as f64
            / 1e9;
        assert!(
            (truth - quarters - behind..1.1 * truth + 0.02).contains(&found),
            "{name}: {found:.3} s found, {truth:.3} s in truth, {behind:.3} s behind the handlers\n{}",
            run.stderr
        );
        // and the line is the first that a reader sees of it
        let places = lines(name);
        let at_line = |sample: &Sample| {
            let mut lua = sample.user().filter(|frame| frame.kind.starts_with("lua-"));
            lua.any(|frame| frame.name() == function && frame.line.is_some_and(|line| places.contains(&line)))
        };
        let there = profile.sum("loop_time", at_line) as f64 / 1e9;
        let elsewhere = profile
            .samples
            .iter()
            .filter(|sample| is_of(sample) && !at_line(sample));
        let lua = |sample: &Sample| {
            let frames = sample
                .user()
                .filter(|frame| frame.kind.starts_with("lua-") || frame.kind == "marker");
            frames
                .map(|frame| format!("{}:{:?};", frame.name(), frame.line))
                .collect::<String>()
        };
        assert!(
            there >= 0.8 * found,
            "{name}: {there:.3} of {found:.3} s at {places:?}, not {:#?}",
            elsewhere.map(lua).collect::<Vec<_>>()
        );
        let table = run
            .stderr
            .lines()
            .skip_while(|line| !line.ends_with("EVENT LOOP BLOCKED BY"));
        let mut rows = table.skip(1).take(10);
        let is_row = |line: &str| {
            places
                .iter()
                .any(|place| line.ends_with(&format!("waits.lua:{place}")))
        };
        assert!(rows.any(is_row), "{name}\n{}", run.stderr);
    }
    // quick ones are no turns that are asked for, unless another program had the CPU
    assert!(!run.stderr.contains(" 0 filtered"), "{}", run.stderr);
}
