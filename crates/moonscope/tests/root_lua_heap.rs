//! `moonscope lua` shows what a VM knows of its own memory.
//!
//! The truth: `collectgarbage "count"`, the VM's own counter, and how many objects of each type a program has made
//! (`tests/luajit/heap`), in every LuaJIT that can be had.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::lua::{LuaHost, lua_hosts};
use common::stack::list;
use common::{Program, moonscope, repository, root};
use serde_json::Value;

const VARIANTS: [&str; 9] = [
    "openresty-gc64",
    "openresty-gc32",
    "upstream-gc64",
    "upstream-gc32",
    "no-unwind",
    "debian",
    "debian-source",
    "bullseye-gc32",
    "trixie",
];

/// What a VM has that is on no list: the state of the FFI (`CTState`), and a few words.
const NOT_LISTED: i64 = 1024;

fn script(name: &str) -> String {
    let path = repository("tests/luajit/heap").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// For each LuaJIT that can be had: in a library, and linked into a program without symbols.
fn in_each_luajit(each: impl Fn(&LuaHost, &str)) {
    if !root() {
        return;
    }
    for variant in VARIANTS {
        for host in lua_hosts(variant, &["host", "stripped/edge"]) {
            each(&host, &host.name);
        }
    }
}

/// Runs a script of `tests/luajit/heap` until it stands still.
fn start(host: &LuaHost, name: &str, factor: u32) -> Program {
    let mut command = host.command(Path::new(&script(name)), true);
    Program::spawn(command.env("FACTOR", factor.to_string()))
}

fn vms(pid: u32, args: &[&str]) -> Vec<Value> {
    let pid = pid.to_string();
    let run = moonscope(&[&["lua"], args, &["--json", "-p", &pid]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["version"], 1);
    list(&document, "vms").to_vec()
}

/// The only VM of a program.
fn vm(program: &Program, args: &[&str]) -> Value {
    let all = vms(program.pid(), args);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Objects by type that a program has made, and where they are all that was made, their bytes.
fn made(program: &Program) -> BTreeMap<String, (i64, Option<i64>)> {
    let mut all: BTreeMap<String, (i64, Option<i64>)> = BTreeMap::new();
    for line in &program.said {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["more", kind, count, rest @ ..] = &words[..] {
            let bytes: Option<i64> = rest.first().map(|bytes| bytes.parse().unwrap());
            let of = all.entry((*kind).to_owned()).or_insert((0, Some(0)));
            of.0 += count.parse::<i64>().unwrap();
            of.1 = of.1.zip(bytes).map(|(sum, bytes)| sum + bytes);
        }
    }
    all
}

#[test]
fn root_a_collector_counts_what_the_program_counts_in_every_luajit() {
    in_each_luajit(|host, name| {
        let program = start(host, "holds.lua", 1);
        let gc = vm(&program, &["gc"]);
        let total: i64 = program.said("total").parse().unwrap();
        assert_eq!(number(&gc["total_bytes"]), total, "{name}");
        let settings = format!("{} {}", gc["pause_percent"], gc["stepmul_percent"]);
        assert_eq!(settings, program.said("settings"), "{name}");
        assert_eq!(gc["phase"], "pause", "{name}: after a full collection");
        assert_eq!(
            (&gc["is_stopped"], &gc["threshold_bytes"]),
            (&true.into(), &Value::Null)
        );
        assert_eq!(gc["hooks"], Value::Array(Vec::new()), "{name}");
        let bits = if name.contains("gc32") { 32 } else { 64 };
        assert_eq!(gc["reference_bits"], bits, "{name}");
        // it sleeps, called by Lua
        assert_eq!(gc["is_running"], true, "{name}");
    });
}

#[test]
fn root_objects_are_as_many_and_as_large_as_the_program_has_made_in_every_luajit() {
    in_each_luajit(|host, name| {
        let (once, twice) = (start(host, "holds.lua", 1), start(host, "holds.lua", 2));
        let (small, large) = (vm(&once, &["objects"]), vm(&twice, &["objects"]));
        for vm in [&small, &large] {
            assert_eq!(vm["end"], "complete", "{name}");
            assert_eq!(number(&vm["torn"]), 0, "{name}");
            assert_eq!(vm["types"]["strings"]["count"], vm["strings_counted"], "{name}");
            // all that there is adds up to the VM's own counter
            let types: i64 = vm["types"]
                .as_object()
                .unwrap()
                .values()
                .map(|of| number(&of["bytes"]))
                .sum();
            let own: i64 = vm["own_bytes"].as_object().unwrap().values().map(number).sum();
            let rest = number(&vm["total_bytes"]) - types - own;
            assert_eq!(rest, number(&vm["unexplained_bytes"]), "{name}");
            assert!((0..NOT_LISTED).contains(&rest), "{name}: {rest} in {vm:#}");
        }
        assert_eq!(
            number(&small["total_bytes"]),
            once.said("total").parse::<i64>().unwrap()
        );
        let (one, two) = (made(&once), made(&twice));
        let kinds: Vec<&str> = one.keys().map(String::as_str).collect();
        for kind in [
            "strings",
            "tables",
            "functions",
            "threads",
            "userdata",
            "prototypes",
            "upvalues",
        ] {
            assert!(kinds.contains(&kind), "{name}: no {kind}");
        }
        for (kind, (count, bytes)) in &one {
            let more = two[kind].0 - count;
            let of = |vm: &Value, what: &str| number(&vm["types"][kind][what]);
            assert_eq!(of(&large, "count") - of(&small, "count"), more, "{name}: {kind}");
            if let (Some(bytes), Some(more)) = (bytes, two[kind].1) {
                let found = of(&large, "bytes") - of(&small, "bytes");
                assert_eq!(found, more - bytes, "{name}: bytes of {kind}");
            }
        }
    });
}

#[test]
fn root_compiled_code_and_hooks_are_those_that_the_vm_has_in_every_luajit() {
    in_each_luajit(|host, name| {
        let program = start(host, "compiled.lua", 1);
        let gc = vm(&program, &["gc"]);
        assert_eq!(gc["hooks"], serde_json::json!(["return", "count"]), "{name}");
        let traces = gc["traces"].clone();
        let said = program.said("traces");
        assert_eq!(
            format!("{} {}", traces["count"], traces["machine_code_bytes"]),
            said,
            "{name}"
        );
        assert!(number(&traces["count"]) > 3, "{name}: {said}");
        let objects = vm(&program, &["objects"]);
        assert_eq!(objects["types"]["traces"]["count"], traces["count"], "{name}");
        let rest = number(&objects["unexplained_bytes"]);
        assert!((0..NOT_LISTED).contains(&rest), "{name}: {rest}");
    });
}

#[test]
fn root_holders_are_named_and_data_is_not_shown() {
    in_each_luajit(|host, name| {
        let program = start(host, "held.lua", 1);
        let truth: BTreeMap<String, i64> = program
            .said
            .iter()
            .filter_map(|line| {
                let mut words = line.strip_prefix("holds ")?.split(' ');
                Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
            })
            .collect();
        let found = |args: &[&str]| {
            let vm = vm(&program, &[&["objects", "--who"], args].concat());
            assert_eq!(vm["who"]["end"], "complete", "{name}");
            assert_eq!(number(&vm["who"]["torn"]), 0, "{name}");
            vm
        };
        let vm = found(&[]);
        let who = &vm["who"];
        let held = |holder: &str| {
            let found = list(who, "holders").iter().find(|each| each["holder"] == holder);
            let found = found.unwrap_or_else(|| panic!("{name}: no {holder} in {who:#}"));
            number(&found["held_bytes"])
        };
        // the counter grew by the table of strings too, and by strings that were put together
        let is_about = |held: i64, what: &str, off: f64| {
            let share = held as f64 / truth[what] as f64;
            assert!(
                (1.0 - off..=1.01).contains(&share),
                "{name}: {what} {held} of {}",
                truth[what]
            );
        };
        is_about(held("package.loaded[\"held.store\"].users"), "users", 0.2);
        is_about(
            held("package.loaded[\"held.store\"].lookup<upvalue cache>"),
            "cache",
            0.01,
        );
        is_about(held("_G.queue"), "global", 0.5);
        is_about(held("(registry).held_waiting<stack>"), "coroutine", 0.01);
        let garbage = number(&who["not_reached_bytes"]);
        assert!(garbage >= truth["garbage"], "{name}: {garbage}");
        assert!(
            !who.to_string().contains("alice"),
            "{name}: keys that are data are hidden: {who:#}"
        );
        let shown = found(&["--show-values", "--holders", "100000"]);
        assert!(shown["who"].to_string().contains(".users.alice_"), "{name}");
    });
}

#[test]
fn root_the_table_of_strings_has_what_the_vm_counts() {
    in_each_luajit(|host, name| {
        let program = start(host, "holds.lua", 3);
        let strings = vm(&program, &["strings"]);
        assert_eq!(strings["count"], strings["counted"], "{name}");
        let chains: Vec<i64> = list(&strings, "chains").iter().map(number).collect();
        let in_chains: i64 = chains.iter().zip(1..).map(|(count, length)| count * length).sum();
        assert_eq!(in_chains, number(&strings["count"]), "{name}");
        let buckets: i64 = chains.iter().sum::<i64>() + number(&strings["empty_buckets"]);
        assert_eq!(buckets, number(&strings["buckets"]), "{name}");
        assert_eq!(chains.len() as i64, number(&strings["longest_chain"]), "{name}");
        assert!(number(&strings["count"]) > 3000, "{name}: {strings}");
    });
}

#[test]
fn root_each_vm_of_a_process_is_shown() {
    if !root() {
        return;
    }
    for host in lua_hosts("upstream-gc64", &["host"]) {
        let mut command = host.in_threads(3, Path::new(&script("holds.lua")));
        let program = Program::spawn(&mut command);
        let mut said: Vec<i64> = program
            .said
            .iter()
            .filter_map(|line| line.strip_prefix("total ")?.parse().ok())
            .collect();
        let found = vms(program.pid(), &["gc"]);
        let mut found: Vec<i64> = found.iter().map(|vm| number(&vm["total_bytes"])).collect();
        said.sort_unstable();
        found.sort_unstable();
        assert_eq!((found.len(), &found), (3, &said));
    }
}

#[test]
fn root_a_vm_that_works_is_read_without_a_failure() {
    if !root() {
        return;
    }
    for variant in ["openresty-gc64", "upstream-gc32"] {
        for host in lua_hosts(variant, &["host"]) {
            let program = start(&host, "busy.lua", 1);
            for _ in 0..5 {
                let vm = vm(&program, &["objects", "--who"]);
                let end = vm["end"].as_str().unwrap().to_owned();
                assert!(["complete", "changed"].contains(&end.as_str()), "{end}");
                if end == "complete" {
                    assert!(number(&vm["types"]["tables"]["count"]) >= 20_000, "{vm:#}");
                }
                let who = &vm["who"];
                assert!(number(&who["reached_count"]) > 0, "{vm:#}");
                let gc = self::vm(&program, &["gc"]);
                assert!(number(&gc["total_bytes"]) > 20_000 * 56, "{gc}");
            }
        }
    }
}

#[test]
fn root_old_names_and_words_are_understood_and_who_has_no_lua_is_told_so() {
    if !root() {
        return;
    }
    let own = std::process::id().to_string();
    let run = moonscope(&["lua", "gc", "-p", &own]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("there is no LuaJIT in it"), "{}", run.stderr);
    for host in lua_hosts("upstream-gc64", &["host"]) {
        let mut command = host.command(Path::new(&script("holds.lua")), true);
        let program = Program::spawn(&mut command);
        let run = moonscope(&["lua", "lj-gc", "--format", "orig", "-p", &program.pid_text()]);
        assert_eq!(
            run.stdout,
            format!("Total GC count: {} bytes\n", program.said("total")),
            "{}",
            run.stderr
        );
        let run = moonscope(&["lua", "ngx-lj-gc-objs", "--who", "-p", &program.pid_text()]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        for word in ["(the VM itself)", "cdata", "HOLDER", "package.loaded"] {
            assert!(run.stdout.contains(word), "{}", run.stdout);
        }
    }
}
