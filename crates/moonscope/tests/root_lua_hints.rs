//! Functions whose source cannot be read are called what their callers call them, and that is marked as a hint.
//!
//! The truth: what `debug.getinfo` says inside the program (`tests/luajit/names/hints.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::lua::lua_hosts;
use common::{Program, record_at, repository, root};

/// Names by the line of the definition, from `truth hint LINE NAME`.
fn truth(lines: &[String]) -> BTreeMap<u64, String> {
    let words = lines.iter().filter_map(|line| line.strip_prefix("truth hint "));
    words
        .map(|words| {
            let (line, name) = words.split_once(' ').unwrap();
            (line.parse().unwrap(), name.to_owned())
        })
        .collect()
}

fn check(variant: &str, is_compiled: bool) {
    for host in lua_hosts(variant, &["host"]) {
        let mut command = host.command(&repository("tests/luajit/names/hints.lua"), is_compiled);
        let program = Program::spawn(command.arg("30"));
        let truth = truth(&program.said);
        assert_eq!(truth.len(), 3, "{:?}", program.said);
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "2"]);
        let mut shown = BTreeMap::<u64, BTreeSet<String>>::new();
        for frame in recording.profile.json["frames"].as_array().unwrap() {
            let is_of_text = frame["file"]
                .as_str()
                .is_some_and(|file| file.contains("local names, say"));
            if is_of_text && let Some(line) = frame["defined_at"].as_u64() {
                let name = frame["function"].as_str().unwrap_or("without a name").to_owned();
                shown.entry(line).or_default().insert(name);
            }
        }
        for (line, name) in &truth {
            let names = shown
                .get(line)
                .unwrap_or_else(|| panic!("no function of line {line} in {shown:?}"));
            assert_eq!(
                names,
                &BTreeSet::from([format!("{name}?")]),
                "{variant} compiled {is_compiled}: the function of line {line}"
            );
        }
    }
}

#[test]
fn root_functions_of_a_text_are_called_what_their_callers_call_them() {
    if !root() {
        return;
    }
    for variant in ["upstream-gc64", "openresty-gc32"] {
        check(variant, true);
        check(variant, false);
    }
}
