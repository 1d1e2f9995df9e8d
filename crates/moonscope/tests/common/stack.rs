//! What `moonscope stack --json` says (docs/formats.md), beside what LuaJIT itself says (`tests/luajit/stack`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::moonscope;

/// Looks at a process; the report of it.
pub fn look(pid: u32) -> Value {
    reports(&["-p", &pid.to_string()])[0].clone()
}

/// Looks at all processes of a target.
pub fn reports(target: &[&str]) -> Vec<Value> {
    let run = moonscope(&[&["stack", "--json"], target].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&json["format"], &json["version"]),
        (&"moonscope-stack".into(), &1.into())
    );
    list(&json, "processes").to_vec()
}

/// A list in a report.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list {key} in {value}"))
}

/// The Lua part of a stack in the words of `tests/luajit/stack`: `FILE:LINE:DEFINED`, or `[C]`.
pub fn lua_part(stack: &Value) -> Vec<String> {
    let text = |frame: &Value| match frame["kind"].as_str().unwrap() {
        "lua-interpreted" | "lua-compiled" => {
            let file = frame["file"].as_str().unwrap().rsplit('/').next().unwrap();
            let number = |key: &str| frame[key].as_u64().unwrap_or(0);
            format!("{file}:{}:{}", number("line"), number("defined_at"))
        }
        _ => "[C]".to_owned(),
    };
    list(stack, "stack").iter().map(text).collect()
}

/// `truth NAME STATUS STACK` lines: how many there are of each name, status and stack.
pub fn truth<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<(String, String, Vec<String>), usize> {
    let mut all = BTreeMap::new();
    for line in lines.filter(|line| line.starts_with("truth ")) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let stack = words[3].split(';').map(str::to_owned).collect();
        *all.entry((words[1].to_owned(), words[2].to_owned(), stack))
            .or_default() += 1;
    }
    assert!(!all.is_empty(), "the program has said nothing");
    all
}

/// How many coroutines have this status and stack.
pub fn count(vm: &Value, status: &str, stack: &[String]) -> u64 {
    list(vm, "coroutines")
        .iter()
        .filter(|group| group["status"] == status && lua_part(group) == stack)
        .map(|group| group["count"].as_u64().unwrap())
        .sum()
}

/// Names of the frames of a thread's stack, innermost first.
pub fn names(thread: &Value) -> Vec<String> {
    let name = |frame: &Value| frame["text"].as_str().unwrap().to_owned();
    list(thread, "stack").iter().map(name).collect()
}

/// Every request that waits is shown as LuaJIT's debug library says of it, and nothing runs. `said` are the lines of
/// `/truth` (`tests/luajit/stack/waiting.lua`), when all requests waited.
#[track_caller]
pub fn assert_requests_wait(worker: &Value, said: &str) {
    let vm = &worker["vms"][0];
    assert_eq!((&vm["list"], &vm["running"]), (&"complete".into(), &false.into()));
    let truth = truth(said.lines());
    assert_eq!(truth.len(), 7, "{said}");
    let mut stacks: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for ((_, status, stack), many) in truth {
        assert_eq!(status, "suspended");
        *stacks.entry(stack).or_default() += many;
    }
    for (stack, many) in &stacks {
        assert_eq!(count(vm, "suspended", stack), *many as u64, "{stack:?}\n{vm:#}");
    }
    let names = names(&worker["threads"][0]);
    // since version 2.41 glibc has functions of its own around what can be cancelled
    assert!(
        names[..3].iter().any(|name| name.contains("epoll_wait")),
        "{names:?}"
    );
    assert!(names.iter().any(|name| name.contains("main")), "{names:?}");
}
