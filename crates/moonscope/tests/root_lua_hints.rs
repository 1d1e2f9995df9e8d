//! Functions whose source cannot be read are called what their callers call them, and that is marked as a hint.
//!
//! The truth: what `debug.getinfo` says inside the program (`tests/luajit/names/hints.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::lua::lua_hosts;
use common::{Program, record_at, repository, root};
use serde_json::Value;

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

/// What `escape` calls back begins on the same line: it has no name, and not that of `escape`.
#[test]
fn root_a_callback_on_the_line_of_its_function_does_not_have_its_name() {
    if !root() {
        return;
    }
    for (host, is_compiled) in lua_hosts("openresty-gc64", &["host"])
        .iter()
        .flat_map(|host| [(host, true), (host, false)])
    {
        let mut command = host.command(&repository("tests/luajit/names/oneline.lua"), is_compiled);
        let program = Program::spawn(command.arg("30"));
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
        let (mut callers, mut callbacks) = (BTreeSet::new(), BTreeSet::new());
        for sample in &recording.profile.samples {
            let lua: Vec<_> = sample
                .stack
                .iter()
                .filter(|frame| frame.kind.starts_with("lua-"))
                .collect();
            let Some(gsub) = lua.iter().position(|frame| frame.name() == "string.gsub") else {
                continue;
            };
            callers.insert(lua[gsub - 1].name());
            callbacks.extend(lua.get(gsub + 1).map(|frame| frame.name()));
        }
        assert_eq!(callers, BTreeSet::from(["escape?"]), "compiled {is_compiled}");
        assert_eq!(callbacks, BTreeSet::from([""]), "compiled {is_compiled}");
    }
}

/// Two places call what they call by different names, and the same function runs: neither is its name.
#[test]
fn root_a_function_that_is_reached_by_tail_calls_has_no_wrong_name() {
    if !root() {
        return;
    }
    for (host, is_compiled) in lua_hosts("openresty-gc64", &["host"])
        .iter()
        .flat_map(|host| [(host, true), (host, false)])
    {
        let mut command = host.command(&repository("tests/luajit/names/tails.lua"), is_compiled);
        let program = Program::spawn(command.arg("30"));
        let said = program.said.iter();
        let truth: Vec<&str> = said.filter_map(|line| line.strip_prefix("truth work ")).collect();
        // both were called before it was ready
        assert_eq!(truth.len(), 2, "{:?}", program.said);
        let line: u64 = truth[0].parse().unwrap();
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
        let frames = recording.profile.json["frames"].as_array().unwrap();
        let of_work: Vec<_> = frames
            .iter()
            .filter(|frame| frame["file"] == "gone" && frame["defined_at"] == line)
            .collect();
        assert!(!of_work.is_empty(), "{} compiled {is_compiled}", host.name);
        for frame in of_work {
            assert!(frame["function"].is_null(), "compiled {is_compiled}: {frame}");
        }
    }
}

/// Those of a program's functions that are meant have no name, whether they are compiled or not.
fn assert_without_name(script: &str, is_meant: impl Fn(&Value) -> bool) {
    for (host, is_compiled) in lua_hosts("openresty-gc64", &["host"])
        .iter()
        .flat_map(|host| [(host, true), (host, false)])
    {
        let mut command = host.command(&repository(script), is_compiled);
        let program = Program::spawn(command.arg("30"));
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
        let frames = recording.profile.json["frames"].as_array().unwrap();
        let meant: Vec<_> = frames.iter().filter(|frame| is_meant(frame)).collect();
        assert!(!meant.is_empty(), "{} compiled {is_compiled}", host.name);
        for frame in meant {
            assert!(frame["function"].is_null(), "compiled {is_compiled}: {frame}");
        }
    }
}

/// What runs is `red`, `green` and `blue` in turn, which are one function by file and line: it has the name of none of them.
#[test]
fn root_functions_of_texts_that_begin_alike_have_no_wrong_name() {
    if !root() {
        return;
    }
    assert_without_name("tests/luajit/names/alike.lua", |frame| {
        let file = frame["file"].as_str();
        frame["defined_at"] == 2 && file.is_some_and(|file| file.starts_with("[string"))
    });
}

/// All functions of a stripped chunk are one: what calls one of them by a name does not name the others.
#[test]
fn root_functions_of_stripped_bytecode_have_no_wrong_name() {
    if !root() {
        return;
    }
    assert_without_name("tests/luajit/names/stripped.lua", |frame| {
        let (kind, file) = (frame["kind"].as_str(), frame["file"].as_str());
        matches!(kind, Some("lua-interpreted" | "lua-compiled"))
            && file.is_none_or(|file| !file.ends_with(".lua"))
    });
}

/// Where LuaJIT has symbols, the native frame of a builtin would say the same again.
#[test]
fn root_a_builtin_stands_once_where_luajit_has_a_symbol_for_it() {
    if !root() {
        return;
    }
    for host in lua_hosts("upstream-gc64", &["host"]) {
        let mut command = host.command(&repository("tests/luajit/names/builtin.lua"), true);
        let program = Program::spawn(command.arg("30"));
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
        let of_builtin = recording.profile.count(|sample| sample.has("string.gsub"));
        assert!(of_builtin > 20, "{of_builtin} samples");
        let twice = recording.profile.count(|sample| sample.has("lj_cf_string_gsub"));
        assert_eq!(twice, 0);
    }
}

/// `require` is a C function, and a stripped program has no symbol for it.
#[test]
fn root_a_c_function_without_a_symbol_is_called_what_lua_calls_it() {
    if !root() {
        return;
    }
    for host in ["openresty-gc64", "upstream-gc32"]
        .iter()
        .flat_map(|variant| lua_hosts(variant, &["stripped/luajit"]))
    {
        let dir = tempfile::tempdir().unwrap();
        let (script, module) = (dir.path().join("main.lua"), dir.path().join("inner.lua"));
        std::fs::write(
            &module,
            "local x = 0 for i = 1, 1e6 do x = x + i % 7 end return x",
        )
        .unwrap();
        let text = format!(
            "package.path = {:?} print(\"ready\") io.flush() local stop = os.clock() + 30\n\
             while os.clock() < stop do package.loaded.inner = nil require(\"inner\") end",
            dir.path().join("?.lua").to_str().unwrap()
        );
        std::fs::write(&script, text).unwrap();
        let program = Program::spawn(&mut host.command(&script, false));
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
        let mut inside = 0;
        for sample in &recording.profile.samples {
            let names = sample.names();
            let Some(at) = sample.user().position(|frame| {
                frame
                    .file
                    .as_deref()
                    .is_some_and(|file| file.ends_with("inner.lua"))
            }) else {
                continue;
            };
            // once, between the two chunks, where its native frame is
            let by_name = names.iter().filter(|name| **name == "require").count();
            assert_eq!(by_name, 1, "{}: {names:?}", host.name);
            assert!(names[..at].contains(&"require"), "{}: {names:?}", host.name);
            inside += sample.count;
        }
        assert!(inside >= 20, "{}: only {inside} samples", host.name);
    }
}

/// One piece of C is several functions, which their upvalues tell apart: each is called what the tables call it, and one that
/// is in no table is not called what another one is.
#[test]
fn root_c_functions_that_share_their_code_have_their_own_names_or_none() {
    if !root() {
        return;
    }
    const TEXT: &str = "tools = { first = host.burner(1), second = host.burner(2) }
local hidden = host.burner(3)
local function to() return host.clock() + 0.002 end
local function plain() host.nameless(to()) return end
local function in_first() tools.first(to()) return end
local function in_second() tools.second(to()) return end
local function in_none() hidden(to()) return end
host.ready()
while true do plain() in_first() in_second() in_none() end
";
    // what follows a function of Lua; the program has no symbols
    const CALLEES: [(&str, Option<&str>); 4] = [
        ("plain", Some("host.nameless")),
        ("in_first", Some("tools.first")),
        ("in_second", Some("tools.second")),
        ("in_none", None),
    ];
    for host in ["openresty-gc64", "openresty-gc32"]
        .iter()
        .flat_map(|variant| lua_hosts(variant, &["stripped/host"]))
    {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("main.lua");
        std::fs::write(&script, TEXT).unwrap();
        let program = Program::spawn(&mut host.command(&script, false));
        let mut counts = [(0, 0); CALLEES.len()];
        // a busy machine may leave it a tenth of a processor
        for _ in 0..10 {
            let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
            for ((caller, callee), (seen, right)) in CALLEES.iter().zip(&mut counts) {
                for sample in &recording.profile.samples {
                    let names = sample.names();
                    let at = names.iter().position(|name| name == caller);
                    let Some(called) = at.and_then(|at| names.get(at + 1)) else {
                        continue;
                    };
                    // it may be on its way there
                    let is_c = called.starts_with("host.n") || called.starts_with("tools.");
                    let is_nameless = called.is_empty();
                    *seen += sample.count * u64::from(is_c || is_nameless);
                    let is_right = callee.map_or(is_nameless, |callee| *called == callee);
                    *right += sample.count * u64::from(is_right);
                    assert!(!is_c || *callee == Some(called), "{}: {names:?}", host.name);
                }
            }
            if counts.iter().all(|(_, right)| *right >= 20) {
                break;
            }
        }
        for ((caller, _), (seen, right)) in CALLEES.iter().zip(counts) {
            assert!(
                right >= 20 && right * 10 >= seen * 9,
                "{} {caller}: {right} of {seen}",
                host.name
            );
        }
    }
}

/// Sources that are written while the program runs: one that is loaded then, as plugins that are updated are, and one that is
/// changed after it was loaded. What the first one calls its functions is a hint; what the second one calls others in the
/// same lines by now is nothing.
#[test]
fn root_sources_written_after_the_start_give_hints_if_they_have_the_text_that_runs() {
    if !root() {
        return;
    }
    const TEXT: &str = "local function write(name, text)
  local file = io.open(DIR .. name, 'w')
  file:write(text)
  file:close()
end
local function module(first, second, variable)
  return (([[local M = {}
local function FIRST(n)
  local SUM = 0
  for i = 1, n do SUM = SUM + i % 7 end
  return SUM
end
function M.SECOND(n)
  local result = FIRST(n)
  return result
end
return M
]]):gsub('%u%u+', { FIRST = first, SECOND = second, SUM = variable }))
end
local stop = os.clock() + 0.2
repeat until os.clock() > stop
write('loaded.lua', module('helper', 'work', 'sum'))
local loaded = dofile(DIR .. 'loaded.lua').work
write('changed.lua', module('before', 'run', 'sum'))
local changed = dofile(DIR .. 'changed.lua').run
write('changed.lua', module('after', 'wrong', 'total'))
host.ready()
while true do loaded(1e4) changed(1e4) end
";
    for host in ["openresty-gc32", "upstream-gc64"]
        .iter()
        .flat_map(|variant| lua_hosts(variant, &["host"]))
    {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("main.lua");
        let text = format!("local DIR = {:?}\n{TEXT}", format!("{}/", dir.path().display()));
        std::fs::write(&script, text).unwrap();
        let program = Program::spawn(&mut host.command(&script, false));
        let mut hints = 0;
        for _ in 0..10 {
            if hints >= 20 {
                break;
            }
            let recording = record_at("499", &["-p", &program.pid_text(), "-d", "1"]);
            for sample in &recording.profile.samples {
                for frame in sample.user() {
                    let of_file = |name: &str| frame.file.as_deref().is_some_and(|file| file.ends_with(name));
                    let name = frame.name();
                    if of_file("/loaded.lua") {
                        assert!(
                            ["helper?", "M.work?"].contains(&name),
                            "{}: {sample:?}",
                            host.name
                        );
                        hints += sample.count;
                    }
                    let is_new = ["after", "wrong"].iter().any(|new| name.contains(new));
                    assert!(!(of_file("/changed.lua") && is_new), "{}: {sample:?}", host.name);
                }
            }
        }
        assert!(hints >= 20, "{}: only {hints} frames", host.name);
    }
}
