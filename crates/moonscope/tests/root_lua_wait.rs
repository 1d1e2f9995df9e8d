//! Where requests wait.
//!
//! The truth: how long each request took, as nginx writes it into its log ($request_time), of requests that do nothing but
//! wait (`tests/luajit/waits/waits.lua`); and what a C program says that resumes coroutines after a sleep
//! (`tests/luajit/host/calls.c`), with either object model of LuaJIT.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use common::container::Container;
use common::lua::lua_hosts;
use common::lua_nginx::LuaNginx;
use common::{Profile, Program, Sample, moonscope_while, repository, root, tool, wait_until};

/// The Lua function in which a request of this place waits, and what it calls there.
const PLACES: [(&str, &str, &str); 6] = [
    ("sleep", "wait.sleep", "sleep"),
    ("receive", "wait.receive", "receive"),
    ("semaphore", "wait.semaphore", "wait"),
    ("thread", "wait.thread", "wait"),
    ("capture", "wait.capture", "capture"),
    ("slow", "waits.slow", "sleep"),
];

/// Requests to each place, all at the same time.
const EACH: usize = 8;

/// Seconds of waits and their number, by whom they are.
fn waits(profile: &Profile, is_of: impl Fn(&Sample) -> bool) -> (f64, u64) {
    let time = profile.sum("lua_wait", &is_of) as f64 / 1e9;
    (time, profile.sum("lua_waits", &is_of))
}

fn record(target: &str, args: &[&str], something: impl FnOnce()) -> (Profile, String) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope_while(
        &[
            &["record", target, "-e", "lua-wait", "-o", json.to_str().unwrap()],
            args,
        ]
        .concat(),
        something,
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
    assert!(
        run.stderr.starts_with("lua-wait: probes are set in LuaJIT"),
        "{}",
        run.stderr
    );
    (Profile::read(&json), run.stderr)
}

#[test]
fn root_waits_of_requests_add_up_to_the_times_in_the_log() {
    if !root() || tool("nginx").is_none() {
        return;
    }
    let Some(server) = LuaNginx::start("waits") else {
        return;
    };
    let (profile, words) = record(&server.target(), &[], || {
        let asked = ["sleep", "receive", "semaphore", "thread", "capture"];
        let requests: Vec<_> = (0..EACH)
            .flat_map(|_| asked.map(|place| server.ask(place)))
            .collect();
        for mut request in requests {
            request.read_to_string(&mut String::new()).unwrap();
        }
    });
    let mut times = BTreeMap::<String, f64>::new();
    for line in server.log() {
        let words: Vec<&str> = line.split(' ').collect();
        *times
            .entry(words[0].trim_start_matches('/').to_owned())
            .or_default() += words[1].parse::<f64>().unwrap();
    }
    // a subrequest is in no log
    let slow = times.get_mut("slow").unwrap();
    *slow *= 2.0;
    for (place, function, call) in PLACES {
        let is_of = |sample: &Sample| sample.has(function);
        let (time, count) = waits(&profile, is_of);
        let truth = times[place];
        println!("{place}: {time:.3} s in {count} waits, {truth:.3} s in the log");
        // nginx counts milliseconds, from accepting to the last byte
        assert!(
            (time - truth).abs() <= 0.04 * truth + 0.002 * EACH as f64,
            "{place}: {time:.3} s in {count} waits, {truth:.3} s in the log\n{words}"
        );
        let longest = profile.samples.iter().filter(|sample| is_of(sample));
        let longest = longest.max_by_key(|sample| sample.values[0]).unwrap();
        assert_eq!(
            longest.labels.get("lua-wait").map(String::as_str),
            Some(call),
            "{place}: {longest}"
        );
    }
    // whatever resumed them before: the first time their request, then an event
    let stacks: BTreeSet<String> = profile
        .samples
        .iter()
        .filter(|sample| sample.has("wait.sleep"))
        .map(ToString::to_string)
        .map(|text| text.split_once(':').unwrap().1.to_owned())
        .collect();
    assert_eq!(stacks.len(), 1, "{stacks:#?}");
    profile.assert_all("the outermost frame is Lua", |sample| {
        sample.stack[0].kind == "lua-interpreted"
    });
}

#[test]
fn root_what_waits_still_when_the_recording_ends_has_its_time() {
    if !root() || tool("nginx").is_none() {
        return;
    }
    let Some(server) = LuaNginx::start("waits") else {
        return;
    };
    let mut requests = Vec::new();
    let mut began = std::time::Instant::now();
    let (profile, _) = record(&server.target(), &[], || {
        began = std::time::Instant::now();
        requests.extend((0..EACH).map(|_| server.ask("long")));
        wait_until("all of them wait", || {
            server.answer("waiting").ends_with(&format!("\n{EACH}\n"))
        });
    });
    let (time, count) = waits(&profile, |sample| sample.has("waits.long"));
    assert_eq!(count, EACH as u64);
    assert!(
        time > 0.0 && time < began.elapsed().as_secs_f64() * EACH as f64,
        "{time}"
    );
}

#[test]
fn root_both_ways_to_yield_are_seen_with_either_object_model() {
    if !root() {
        return;
    }
    let hosts = [("upstream-gc64", "host"), ("openresty-gc32", "stripped/host")];
    for host in hosts
        .iter()
        .flat_map(|(variant, program)| lua_hosts(variant, &[program]))
    {
        let script = repository("tests/luajit/waits/coroutines.lua");
        let mut program = Program::spawn(&mut host.command(&script, true));
        let mut said = Vec::new();
        let target = format!("--pid={}", program.pid());
        let (profile, words) = record(&target, &[], || {
            program.tell();
            said = program.hear("done");
        });
        for (name, function) in [("c", "nested"), ("builtin", "body")] {
            let truth = said
                .iter()
                .find_map(|line| line.strip_prefix(&format!("truth {name} ")));
            let truth: f64 = truth.unwrap().parse().unwrap();
            let is_leaf = |sample: &Sample| {
                let lua = sample.user().filter(|frame| frame.kind == "lua-interpreted");
                lua.last().is_some_and(|frame| frame.name() == function)
            };
            let (time, count) = waits(&profile, is_leaf);
            assert_eq!(count, 20, "{} {name}\n{words}", host.name);
            assert!(
                (time - truth).abs() <= 0.02 * truth + 0.005,
                "{} {name}: {time:.4} s, {truth:.4} s in truth",
                host.name
            );
        }
        // fifty yields each time that only Lua waits for
        assert_eq!(
            waits(&profile, |sample| sample.has("yields")).1,
            0,
            "{}",
            host.name
        );
    }
}

/// nginx, LuaJIT and the C library of another Debian release, at paths at which this one has other files.
#[test]
fn root_requests_in_a_container_wait_where_they_do() {
    if !root() {
        return;
    }
    let Some(container) = Container::start("/usr/sbin/nginx", "waits", "on") else {
        return;
    };
    let target = format!("--container={}", container.name());
    let (profile, words) = record(&target, &[], || {
        container.answer("sleep");
        container.answer("receive");
    });
    for (function, least) in [("wait.sleep", 0.25), ("wait.receive", 0.25)] {
        let (time, count) = waits(&profile, |sample| sample.has(function));
        assert!(
            count >= 1 && time >= least && time < 2.0,
            "{function}: {time} {count}\n{words}"
        );
    }
}
