//! What Lua allocates, by function, and what its garbage collector costs.
//!
//! The truth: LuaJIT's own counter (`collectgarbage "count"`) inside the program, which tells what a call of each function
//! allocates while the collector is stopped (`tests/luajit/heap/allocates.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::lua::lua_hosts;
use common::{Profile, Program, Sample, moonscope_while, repository, root};

/// What was found and what is true, in bytes.
struct Found {
    profile: Profile,
    truth: BTreeMap<String, f64>,
    counter: f64,
    words: String,
}

impl Found {
    fn bytes(&self, is_wanted: impl Fn(&Sample) -> bool) -> f64 {
        self.profile.sum("lua_alloc", is_wanted) as f64
    }

    fn of(&self, function: &str) -> f64 {
        self.bytes(|sample| sample.has(function))
    }
}

/// Either object model.
const HOSTS: [(&str, &str); 2] = [("upstream-gc64", "host"), ("openresty-gc32", "stripped/host")];

/// Records the program in this mode, with these builds of LuaJIT.
fn record(mode: &str, event: &str, hosts: &[(&str, &str)]) -> Vec<(String, Found)> {
    let hosts = hosts
        .iter()
        .flat_map(|(variant, program)| lua_hosts(variant, &[program]));
    hosts
        .map(|host| {
            let script = repository("tests/luajit/heap/allocates.lua");
            let mut program = Program::spawn(host.command(&script, true).arg(mode));
            let dir = tempfile::tempdir().unwrap();
            let json = dir.path().join("x.json");
            let pid = program.pid_text();
            let args = ["record", "-p", &pid, "-e", event, "-o", json.to_str().unwrap()];
            let mut said = Vec::new();
            let run = moonscope_while(&args, || {
                program.tell();
                said = program.hear("done");
            });
            assert_eq!(run.code, 0, "{}", run.stderr);
            assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
            let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
            let truth = said.iter().filter(|line| line.starts_with("truth "));
            let name = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
            let found = Found {
                profile: Profile::read(&json),
                truth: truth.map(|line| (name(line), number(line))).collect(),
                counter: number(said.iter().find(|line| line.starts_with("counter ")).unwrap()),
                words: run.stderr,
            };
            (format!("{} {mode}", host.name), found)
        })
        .collect()
}

#[track_caller]
fn assert_within(what: &str, part: f64, found: f64, truth: f64) {
    assert!(
        (found - truth).abs() <= part * truth,
        "{what}: {found:.0} found, {truth:.0} in truth ({:+.1} %)",
        100.0 * (found / truth - 1.0)
    );
}

/// A function that allocates three times as much has three times the bytes, though both take the same time.
#[track_caller]
fn assert_shares(name: &str, found: &Found, tolerance: f64) {
    let (three, one) = (found.of("three"), found.of("one"));
    let share = three / (three + one);
    let truth = found.truth["three"] / (found.truth["three"] + found.truth["one"]);
    println!("{name}: {share:.3} of the bytes, {truth:.3} in truth");
    assert!((0.745..0.755).contains(&truth), "{name}: {truth}");
    assert!(
        (share - truth).abs() <= tolerance,
        "{name}: {share:.3} of the bytes, {truth:.3} in truth\n{}",
        found.words
    );
}

#[test]
fn root_bytes_are_those_of_the_counter_of_the_vm_while_nothing_is_collected() {
    if !root() {
        return;
    }
    for (name, found) in record("stopped", "lua-alloc", &HOSTS) {
        // the program's own counter; some of its output is in neither truth
        assert_within(&name, 0.02, found.bytes(|_| true), found.counter);
        assert_shares(&name, &found, 0.06);
        // a whole collection stands before it, and nothing behind
        let gc = found
            .profile
            .sum("lua_gc", |sample| sample.has("three") || sample.has("one"));
        assert_eq!(gc, 0, "{name}");
    }
}

#[test]
fn root_bytes_are_right_although_garbage_is_collected() {
    if !root() {
        return;
    }
    for (name, found) in record("running", "lua-alloc", &HOSTS) {
        let truth: f64 = found.truth.values().sum();
        // far more than the heap has grown by
        assert!(
            truth > 4.0 * found.counter.abs(),
            "{name}: {truth} {}",
            found.counter
        );
        assert_within(&name, 0.05, found.bytes(|_| true), truth);
        assert_shares(&name, &found, 0.06);
        assert!(
            found.profile.sum("lua_gc", |sample| sample.has("three")) > 0,
            "{name}"
        );
    }
}

#[test]
fn root_a_heap_that_is_collected_all_the_time_wants_more_looks_and_says_so() {
    if !root() {
        return;
    }
    for (name, found) in record("small", "lua-alloc:5000", &HOSTS[..1]) {
        let truth: f64 = found.truth.values().sum();
        assert_within(&name, 0.1, found.bytes(|_| true), truth);
        assert!(!found.words.contains("at least"), "{name}: {}", found.words);
    }
    for (name, found) in record("small", "lua-alloc:100", &HOSTS[..1]) {
        let truth: f64 = found.truth.values().sum();
        assert!(found.bytes(|_| true) < 1.1 * truth, "{name}: {}", found.words);
        assert!(found.words.contains("at least"), "{name}: {}", found.words);
    }
}
