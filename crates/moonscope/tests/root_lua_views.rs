//! What Lua of nginx is split by: phases, plugins, and the parents of coroutines.
//!
//! The truth: how long each phase and plugin works for a request, and which coroutine resumes which, as
//! the configurations and sources in `tests/luajit/nginx` and `tests/luajit/apisix` say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::server::LuaServer;
use common::{Recording, moonscope, record, repository, root};
use serde_json::Value;

/// Part of all samples by the value of a label, read from the `.json` file.
fn shares(json: &Value, key: &str) -> BTreeMap<String, f64> {
    let labels = json["labels"].as_array().unwrap();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for sample in json["samples"].as_array().unwrap() {
        let set = &labels[sample[1].as_u64().unwrap() as usize];
        let value = set.as_array().unwrap().iter().find(|label| label[0] == key);
        let value = value.map_or("none", |label| label[1].as_str().unwrap());
        *counts.entry(value.to_owned()).or_default() += sample[2][0].as_u64().unwrap();
    }
    let total: u64 = counts.values().sum();
    assert!(total >= 200, "only {total} samples");
    counts
        .into_iter()
        .map(|(value, count)| (value, count as f64 / total as f64))
        .collect()
}

/// The table `BY …` of a text file: own and total share by name.
fn table(text: &str) -> BTreeMap<String, (f64, f64)> {
    let lines = text.lines().skip_while(|line| !line.starts_with("BY "));
    let rows = lines.skip(3).take_while(|line| !line.is_empty());
    rows.map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [_, own, _, _, total, _, name] = words[..] else {
            panic!("no row: {row:?}");
        };
        let share = |text: &str| text.parse::<f64>().unwrap() / 100.0;
        (name.to_owned(), (share(own), share(total)))
    })
    .collect()
}

/// Shares may differ by this: what nginx itself does for a request is no part of the truth.
const TOLERANCE: f64 = 0.06;

#[track_caller]
fn assert_near(what: &str, found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= TOLERANCE,
        "{what}: {found:.3}, expected {expected:.3}"
    );
}

#[test]
fn root_each_phase_of_nginx_has_its_share() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("nginx", "/phases") else {
        return;
    };
    let recording = record(&[&nginx.target(), "-d", "3s", "--by", "phase"]);
    // each burns half a millisecond; the filters run inside the content handler's ngx.say
    let labels = shares(&recording.profile.json, "nginx-phase");
    let text = std::fs::read_to_string(recording.file("x.txt")).unwrap();
    let table = table(&text);
    for phase in [
        "rewrite",
        "access",
        "content",
        "header_filter",
        "body_filter",
        "log",
    ] {
        let share = labels.get(phase).copied().unwrap_or(0.0);
        assert_near(phase, share, 1.0 / 6.0);
        let (own, total) = table[phase];
        assert!(
            (own - share).abs() < 0.002,
            "{phase}: {own} in the table, {share} by label"
        );
        let inside = if phase == "content" { 0.5 } else { own };
        assert_near(phase, total, inside);
    }
    assert!(labels.get("none").copied().unwrap_or(0.0) < 0.05, "{labels:?}");
    // the same at the end of the recording, and as the outermost frame
    assert!(
        recording.run.stderr.contains("  header_filter\n"),
        "{}",
        recording.run.stderr
    );
    let is_phase = |stack: &Vec<String>| stack[0].starts_with("[phase: ");
    assert!(recording.folded.iter().all(|(stack, _)| is_phase(stack)));
}

#[test]
fn root_each_plugin_of_an_apisix_has_its_share_and_that_of_what_it_calls() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("apisix", "/") else {
        return;
    };
    let steps = repository("tests/luajit/apisix/steps").canonicalize().unwrap();
    let steps = steps.to_str().unwrap();
    let recording = record(&[
        &nginx.target(),
        "-d",
        "3s",
        "--by",
        "plugin",
        "--plugin-path",
        steps,
    ]);
    let truth = BTreeMap::from([
        ("limit-count", (0.5, 0.5)),
        ("quota", (0.25, 0.25)),
        ("serverless-pre-function", (0.0, 0.25)),
        ("cors", (0.125, 0.125)),
        ("(none)", (0.125, 0.125)),
    ]);
    let text = std::fs::read_to_string(recording.file("x.txt")).unwrap();
    assert_plugins(&text, &truth);
    let labels = shares(&recording.profile.json, "lua-plugin");
    assert_near("limit-count", labels["limit-count"], 0.5);
    let phases = shares(&recording.profile.json, "nginx-phase");
    for (phase, share) in [
        ("access", 0.5),
        ("header_filter", 0.125),
        ("body_filter", 0.125),
        ("log", 0.25),
    ] {
        assert_near(phase, phases[phase], share);
    }

    // offline, from what is written, and from pprof
    let again = |input: &Path, arguments: &[&str]| {
        let input = input.to_str().unwrap();
        let run = moonscope(&[&["convert", input][..], arguments].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let json = recording.file("x.json");
    let pprof = recording.file("x.pb.gz");
    again(&json, &["-o", pprof.to_str().unwrap()]);
    let by_plugin = ["--by", "plugin", "--plugin-path", steps, "-o", "-", "--to", "txt"];
    for file in [&json, &pprof] {
        assert_eq!(
            table(&again(file, &by_plugin)),
            table(&text),
            "{}",
            file.display()
        );
    }
}

#[track_caller]
fn assert_plugins(text: &str, truth: &BTreeMap<&str, (f64, f64)>) {
    let found = table(text);
    assert_eq!(found.len(), truth.len(), "{text}");
    for (plugin, (own, total)) in truth {
        assert_near(&format!("{plugin}, own"), found[*plugin].0, *own);
        assert_near(&format!("{plugin}, total"), found[*plugin].1, *total);
    }
}

#[test]
fn root_a_file_as_handler_has_the_phase_that_nginx_is_in() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("apisix", "/file") else {
        return;
    };
    let recording = record(&[&nginx.target(), "-d", "4s", "--by", "phase"]);
    let labels = shares(&recording.profile.json, "nginx-phase");
    assert!(labels["access"] > 0.9, "{labels:?}");
    // No other phase has Lua there. ngx_lua's log handler is called all the same, to find that there is none.
    let others = labels
        .iter()
        .filter(|(phase, _)| !["access", "none"].contains(&phase.as_str()));
    assert!(others.map(|(_, share)| share).sum::<f64>() < 0.01, "{labels:?}");
}

/// Debian's ngx_lua is stripped, and the function that runs timers is not exported. A request works for 1 ms, its timer for 2.
#[test]
fn root_timers_have_their_phase_where_their_handler_has_no_symbol() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("nginx", "/timer") else {
        return;
    };
    let recording = record(&[&nginx.target(), "-d", "3s"]);
    let labels = shares(&recording.profile.json, "nginx-phase");
    assert_near("timer", labels["timer"], 2.0 / 3.0);
    assert_near("content", labels["content"], 1.0 / 3.0);
}

/// The line of `work.lua` that ends in this comment.
fn lines(label: &str) -> Vec<u64> {
    let source = std::fs::read_to_string(repository("tests/luajit/nginx/work.lua")).unwrap();
    let label = format!("-- @{label}");
    let lines = source.lines().zip(1..);
    lines
        .filter(|(line, _)| line.ends_with(&label))
        .map(|(_, nr)| nr)
        .collect()
}

/// Lua functions with their lines, and markers, root first.
fn lua_part(sample: &common::Sample) -> Vec<Place> {
    let is_of_lua = |kind: &str| kind == "lua-interpreted" || kind == "lua-compiled" || kind == "marker";
    let frames = sample.user().filter(|frame| is_of_lua(&frame.kind));
    frames
        .map(|frame| (frame.name().to_owned(), frame.line.unwrap_or(0)))
        .collect()
}

const PARENT: &str = "[coroutine parent]";

/// A function and its line.
type Place = (String, u64);

/// For each coroutine with a parent: where it is, where the parent waits, and how often.
fn pairs(recording: &Recording) -> Vec<(Place, Place, u64)> {
    let mut pairs = Vec::new();
    for sample in &recording.profile.samples {
        let part = lua_part(sample);
        for (at, (name, _)) in part.iter().enumerate() {
            if name == PARENT {
                pairs.push((part[at + 1].clone(), part[at - 1].clone(), sample.count));
            }
        }
    }
    pairs
}

#[test]
fn root_coroutines_lie_on_the_ones_that_resumed_them() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("nginx", "/coroutine") else {
        return;
    };
    let recording = record(&[&nginx.target(), "-d", "3s", "--coroutine-parents"]);
    let [burn_first, burn_last] = lines("co2_burn")[..] else {
        panic!()
    };
    let [resume_first, resume_last] = lines("co1_resume")[..] else {
        panic!()
    };
    let pairs = pairs(&recording);
    let found: u64 = pairs.iter().map(|(_, _, count)| count).sum();
    assert!(found > 30, "{}", recording.run.stderr);
    for (child, parent, count) in pairs {
        match (child.0.as_str(), parent.0.as_str()) {
            ("co1_body", "work.coroutines") => assert_eq!(vec![parent.1], lines("resume")),
            ("co2_body", "co1_body") if child.1 == burn_first => {
                assert_eq!(parent.1, resume_first, "{count}")
            }
            ("co2_body", "co1_body") if child.1 == burn_last => assert_eq!(parent.1, resume_last, "{count}"),
            ("co2_body", "co1_body") => {}
            other => panic!("{other:?}, {count} times"),
        }
    }
    // whole chains, down to the handler
    let chains = recording.profile.count(|sample| {
        let names: Vec<String> = lua_part(sample).into_iter().map(|(name, _)| name).collect();
        let chain = [
            "main chunk",
            "work.coroutines",
            PARENT,
            "co1_body",
            PARENT,
            "co2_body",
        ];
        names.len() >= chain.len() && names[..chain.len()] == chain
    });
    assert!(chains > 10, "{chains}");
    assert!(
        recording.run.stderr.contains("coroutine parents: above "),
        "{}",
        recording.run.stderr
    );
}

#[test]
fn root_threads_of_ngx_lua_lie_on_the_one_that_spawned_them() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("nginx", "/thread") else {
        return;
    };
    let recording = record(&[&nginx.target(), "-d", "3s", "--coroutine-parents"]);
    let waits = [lines("spawn"), lines("wait")].concat();
    let pairs = pairs(&recording);
    assert!(
        pairs.iter().map(|(_, _, count)| count).sum::<u64>() > 30,
        "{}",
        recording.run.stderr
    );
    for (child, parent, count) in pairs {
        assert_eq!(
            (child.0.as_str(), parent.0.as_str()),
            ("thread_body", "work.threads"),
            "{count}"
        );
        assert!(waits.contains(&parent.1), "{parent:?}, {count} times");
    }
}

#[test]
fn root_without_the_option_coroutines_are_siblings() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("nginx", "/coroutine") else {
        return;
    };
    let recording = record(&[&nginx.target(), "-d", "1s"]);
    assert!(pairs(&recording).is_empty());
    assert!(!recording.run.stderr.contains("coroutine parents"));
}
