//! `moonscope doctor` says what of Lua it finds in a process.
//!
//! The truth: what LuaJIT says of itself (`jit.version`, `jit.util.traceinfo`), and how it was built.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::lua_hosts;
use common::{Program, moonscope, root};
use serde_json::Value;

const SCRIPT: &str = r#"
local util = require "jit.util"
local function work(n) local x = 0 for i = 1, n do x = x + i % 7 end return x end
for i = 1, 100 do work(100) end
jit.off()
local traces = 0
for number = 1, 1000 do traces = traces + (util.traceinfo(number) and 1 or 0) end
host.say("truth version " .. jit.version .. "\n")
host.say("truth traces " .. traces .. "\n")
host.ready()
host.sleep(60)
"#;

fn truth<'a>(program: &'a Program, key: &str) -> &'a str {
    let beginning = format!("truth {key} ");
    let mut said = program.said.iter();
    said.find_map(|line| line.strip_prefix(&beginning)).unwrap()
}

#[test]
fn root_luajit_is_told_with_its_vms_and_its_compiled_code() {
    if !root() {
        return;
    }
    for (variant, bits) in [("openresty-gc64", 64), ("upstream-gc32", 32)] {
        for host in lua_hosts(variant, &["stripped/host"]) {
            let dir = tempfile::tempdir().unwrap();
            let script = dir.path().join("sleeps.lua");
            std::fs::write(&script, SCRIPT).unwrap();
            let program = Program::spawn(&mut host.command(&script, true));
            let pid = program.pid_text();
            let run = moonscope(&["doctor", "--json", "-p", &pid]);
            let json: Value = serde_json::from_str(&run.stdout).unwrap();
            let target = &json["target"];
            let files = target["files"].as_array().unwrap();
            let with_lua: Vec<&Value> = files.iter().filter(|file| file["lua"].is_array()).collect();
            assert_eq!(with_lua.len(), 1, "{variant}: {target:#}");
            let lua = &with_lua[0]["lua"][0];
            assert_eq!(lua["version"], truth(&program, "version"), "{variant}: {lua}");
            assert_eq!(lua["reference_bits"], bits, "{variant}: {lua}");
            assert_eq!(lua["is_openresty"], variant.starts_with("openresty"), "{lua}");
            assert!(lua["refused"].is_null(), "{variant}: {lua}");
            let here = &target["lua"][0];
            assert_eq!(
                (&here["vms"], &here["rejected"]),
                (&1.into(), &0.into()),
                "{here}"
            );
            assert_eq!(here["is_complete"], true, "{variant}: {here}");
            assert_eq!(
                here["traces"].to_string(),
                truth(&program, "traces"),
                "{variant}: {here}"
            );
            assert_eq!(here["knows_inlined"], true, "{variant}: {here}");
            // all of it is LuaJIT's
            assert_eq!(
                target["generated"].as_array().unwrap().len(),
                0,
                "{variant}: {target:#}"
            );
            let text = moonscope(&["doctor", "-p", &pid]).stdout;
            let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("understood"), "{text}");
            assert!(
                words.contains(&format!("process {pid}: 1 VM (its memory agrees")),
                "{text}"
            );
            assert!(!words.contains("frame pointers only"), "{text}");
        }
    }
}
