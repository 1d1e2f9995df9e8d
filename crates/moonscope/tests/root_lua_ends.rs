//! What is known of Lua functions does not go with their VM: one that closes is recorded to its last instruction.
//!
//! The truth: the text of the program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Write;

use common::lua::lua_hosts;
use common::{Frame, Sample, record_at, root};

/// Functions `f0`, `f1`, ... of ten lines each; the first is on line 2.
const FUNCTIONS: u64 = 60;
const LINES: u64 = 10;

/// Many functions, so that some stacks are new when the VM closes.
fn work() -> String {
    let mut text = "local F, stop = {}, os.clock() + 1\n".to_owned();
    for number in 0..FUNCTIONS {
        let body = "  local s = 0\n  for i = 1, n do\n    s = s + i % 7\n    s = s * 2 % 1000\n    s = s + 1\n  end\n";
        writeln!(text, "function F.f{number}(n)\n{body}  return s\nend\n").unwrap();
    }
    text += "while os.clock() < stop do\n";
    for number in 0..FUNCTIONS {
        writeln!(text, "  F.f{number}(1000)").unwrap();
    }
    text + "end\n"
}

fn is_lua(frame: &Frame) -> bool {
    ["lua-interpreted", "lua-compiled"].contains(&frame.kind.as_str())
}

#[test]
fn root_lines_are_known_up_to_the_end_of_a_vm() {
    if !root() {
        return;
    }
    for host in ["openresty-gc64", "upstream-gc32"]
        .iter()
        .flat_map(|variant| lua_hosts(variant, &["host"]))
    {
        let dir = tempfile::tempdir().unwrap();
        let (work_file, main_file) = (dir.path().join("work.lua"), dir.path().join("main.lua"));
        std::fs::write(&work_file, work()).unwrap();
        // what is made last is freed first, and the rest takes a while
        let heap = "local keep = {} for i = 1, 1e6 do keep[i] = {i} end";
        let text = format!(
            "{heap} host.ready() loadfile({:?})()",
            work_file.to_str().unwrap()
        );
        std::fs::write(&main_file, text).unwrap();
        let command = host.command(&main_file, false);
        let mut args = vec![
            "--".to_owned(),
            command.get_program().to_str().unwrap().to_owned(),
        ];
        args.extend(command.get_args().map(|arg| arg.to_str().unwrap().to_owned()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let recording = record_at("1999", &args);
        let (mut lines, mut without) = (0, 0);
        for sample in &recording.profile.samples {
            if sample.stack.iter().any(|frame| frame.kind == "marker") {
                continue;
            }
            let mut callee = None;
            for frame in sample.stack.iter().rev().filter(|frame| is_lua(frame)) {
                // the innermost one may be between two instructions
                assert!(
                    frame.line.is_some() || callee.is_none(),
                    "{}: {} has no line: {sample:?}",
                    host.name,
                    frame.name()
                );
                if let Some(number) = frame.name().strip_prefix("F.f") {
                    let first = 2 + LINES * number.parse::<u64>().unwrap();
                    let is_inside = |line: u64| (first..first + LINES - 1).contains(&line);
                    assert!(frame.line.is_none_or(is_inside), "{}: {frame:?}", host.name);
                }
                lines += sample.count;
                without += sample.count * u64::from(frame.line.is_none());
                callee = Some(frame);
            }
        }
        assert!(
            without * 200 <= lines,
            "{}: {without} of {lines} without a line",
            host.name
        );
        assert!(lines >= 200, "{}: only {lines} frames", host.name);
        let said = &recording.run.stderr;
        assert!(
            said.contains("Lua: 1 VM of 1 process, in "),
            "{}: {said}",
            host.name
        );
    }
}

/// More VMs one after another than moonscope remembers at a time (`MAX_LUA_VMS`), at other addresses each: those that were
/// closed take no place, neither in its own memory nor in the kernel's list (16).
#[test]
fn root_vms_that_come_and_go_do_not_use_up_places() {
    if !root() {
        return;
    }
    const INNER: &str = "local function work(deadline)
  local x = 0
  repeat
    for i = 1, 1000 do x = (x + i * 3) % 1021 end
  until host.clock() >= deadline
  return x
end
function inner_entry(deadline)
  local x = work(deadline)
  return x
end
";
    const MAIN: &str = "host.ready()
local function in_new_vm(seconds)
  host.inner(INNER, jit.status())
  host.nested('inner_entry', host.clock() + seconds)
  host.close_inner()
end
local function early() in_new_vm(0.003) return end
local function late() in_new_vm(0.2) return end
for i = 1, 270 do early() end
for i = 1, 12 do late() end
";
    for host in ["openresty-gc32", "upstream-gc64"]
        .iter()
        .flat_map(|variant| lua_hosts(variant, &["host"]))
    {
        let dir = tempfile::tempdir().unwrap();
        let (inner, main) = (dir.path().join("inner.lua"), dir.path().join("main.lua"));
        std::fs::write(&inner, INNER).unwrap();
        let inner = format!("{:?}", inner.to_str().unwrap());
        std::fs::write(&main, MAIN.replace("INNER", &inner)).unwrap();
        let command = host.command(&main, true);
        let program = command.get_program().to_str().unwrap().to_owned();
        let args = command.get_args().map(|arg| arg.to_str().unwrap().to_owned());
        let args: Vec<String> = ["--".to_owned(), program].into_iter().chain(args).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let recording = record_at("999", &args);
        let profile = &recording.profile;
        let is_whole = |sample: &Sample| {
            let names = sample.names();
            let at = |wanted: &str| names.iter().position(|name| *name == wanted);
            let order = [
                at("main"),
                at("late"),
                at("in_new_vm"),
                at("host_nested"),
                at("inner_entry"),
                at("work"),
            ];
            order.is_sorted() && order[0].is_some()
        };
        // 2.4 of 3.21 seconds, and the making of the VMs; each is met some milliseconds after it has begun
        let (whole, all) = (profile.count(is_whole), profile.total());
        assert!(
            whole * 10 >= all * 6,
            "{}: {whole} of {all}\n{}",
            host.name,
            recording.run.stderr
        );
    }
}
