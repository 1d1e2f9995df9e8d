//! Lua in a container of another Debian release, with another LuaJIT: stacks, names and lines are those of its own files.
//!
//! The truth: the grammars of `tests/luajit/nginx`, the order in which nginx's source calls its functions, and build ids as
//! binutils read them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::container::Container;
use common::lua::check;
use common::{Recording, Sample, moonscope, record, repository, root, tool};
use serde_json::Value;

/// Those of `tests/luajit/nginx` that burn CPU time.
const LOCATIONS: [&str; 6] = ["inline", "coroutine", "thread", "timer", "regex", "phases"];

/// How long a recording takes: longer ones if the machine is so busy that there are too few samples.
const DURATIONS: [&str; 3] = ["1s", "4s", "16s"];

/// Samples that a verdict needs.
const ENOUGH: u64 = 200;

/// The file of the container in which most of them do it, which is nowhere else.
const SOURCE: &str = "/opt/edge/work.lua";

#[test]
fn root_a_program_that_only_the_container_has() {
    record_all("/opt/edge/edge-proxy", "on");
}

#[test]
fn root_a_program_that_is_another_file_on_the_host() {
    record_all("/usr/sbin/nginx", "off");
}

fn record_all(program: &str, jit: &str) {
    if !root() || tool("readelf").is_none() {
        return;
    }
    let Some(container) = Container::start(program, "nginx", jit) else {
        return;
    };
    let (mut samples, mut complete) = (0, 0);
    for location in LOCATIONS {
        let Some(_load) = container.load(location) else {
            return;
        };
        let recording = record_enough(&container);
        let what = format!("{program} /{location}, compiler {jit}");
        recording.profile.assert_all("is of the container", |sample| {
            [container.worker(), container.master()].contains(&sample.pid)
        });
        let grammar = repository("tests/luajit/nginx").join(location);
        let verdict = check(&grammar, &[&recording.file("x.json")]);
        println!("{what}: {}", verdict.words.lines().last().unwrap_or_default());
        // of some hundred samples chance may take two; the sum below is stricter
        let few = 2 + verdict.samples / 100;
        assert!(
            verdict.samples >= ENOUGH
                && verdict.unmarked <= 1
                && verdict.wrong - verdict.unmarked <= few
                && verdict.complete + few >= verdict.samples
                && verdict.shares_are_right,
            "{what}: {}",
            verdict.words
        );
        samples += verdict.samples;
        complete += verdict.complete;
        let with_lua = recording.profile.count(is_in_a_request);
        assert!(10 * with_lua > 8 * verdict.samples, "{what}: {with_lua}");
        // what a grammar cannot see: where the native frames are, and of which file a line is
        recording.profile.assert_most(0.99, &what, |sample| {
            !is_in_a_request(sample) || is_entered_by_nginx(sample)
        });
        assert_modules(&recording.profile.json["modules"], &container.tree(), program);
    }
    assert!(100 * complete >= 99 * samples, "{complete} of {samples} complete");
    assert_doctor_knows_its_files(&container, program);
}

fn record_enough(container: &Container) -> Recording {
    let record_for = |duration: &&str| record(&["--container", &container.name(), "-d", duration]);
    let mut recording = record_for(&DURATIONS[0]);
    for duration in &DURATIONS[1..] {
        if recording.profile.total() < ENOUGH {
            recording = record_for(duration);
        }
    }
    recording
}

fn is_in_a_request(sample: &Sample) -> bool {
    sample.user().any(|frame| frame.file.as_deref() == Some(SOURCE))
}

/// nginx's event loop, then ngx_lua, then Lua, with lines of the container's source.
fn is_entered_by_nginx(sample: &Sample) -> bool {
    let place = |name: &str| sample.user().position(|frame| frame.name() == name);
    let order = [
        place("ngx_master_process_cycle"),
        place("ngx_process_events_and_timers"),
        sample
            .user()
            .position(|frame| frame.file.as_deref() == Some(SOURCE)),
    ];
    order.is_sorted() && order[0].is_some()
}

/// The build id of a file of the release, as binutils read it; `path` is where the container has it.
fn build_id(tree: &Path, path: &str, program: &str) -> Option<String> {
    let inside = if path == program { "/usr/sbin/nginx" } else { path };
    let file = tree.join(inside.trim_start_matches('/'));
    let output = Command::new("readelf").arg("-n").arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.map(str::to_owned)
}

/// Every file that is named is one of the container's.
#[track_caller]
fn assert_modules(modules: &Value, tree: &Path, program: &str) {
    let mut seen = BTreeSet::new();
    for module in modules.as_array().unwrap() {
        let path = module["path"].as_str().unwrap();
        if path.starts_with('/') {
            assert_eq!(
                module["build_id"].as_str(),
                build_id(tree, path, program).as_deref(),
                "{path}"
            );
            seen.insert(path.to_owned());
        }
    }
    let has = |name: &str| seen.iter().any(|path| path.contains(name));
    assert!(
        seen.contains(program) && has("ngx_http_lua_module.so") && has("libc.so.6"),
        "{seen:?}"
    );
}

#[track_caller]
fn assert_doctor_knows_its_files(container: &Container, program: &str) {
    let run = moonscope(&["doctor", "--container", &container.name(), "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let target = &json["target"];
    assert_eq!(target["processes"], 2, "{target:#}");
    assert_eq!(target["problems"], Value::Array(Vec::new()), "{target:#}");
    assert_modules(&target["files"], &container.tree(), program);
}
