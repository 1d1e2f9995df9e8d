//! `moonscope stack` shows what threads and coroutines are doing, as they would say themselves.
//!
//! The truth: LuaJIT's own debug library, asked by the programs about the coroutines that then stand still
//! (`tests/luajit/stack`); for native frames the functions that the host is made of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::stack::{count, list, look, lua_part, names, truth};
use common::{Program, Run, moonscope, repository, root, skip, wait_until};
use serde_json::Value;

/// A VM is built for each of these; every one that is there is tested.
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

/// The hosts of the variants that can be had here.
fn hosts() -> Vec<PathBuf> {
    let output = Command::new(repository("tests/luajit/build"))
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_variant = |dir: &&str| VARIANTS.iter().any(|variant| dir.ends_with(variant));
    let hosts: Vec<PathBuf> = text
        .lines()
        .filter(is_variant)
        .map(|dir| Path::new(dir).join("bin/host"))
        .filter(|host| host.is_file())
        .collect();
    if hosts.is_empty() {
        skip("no LuaJIT can be built here");
    }
    hosts
}

fn script(name: &str) -> String {
    let path = repository("tests/luajit").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn root_coroutines_stand_where_lua_itself_says_in_every_luajit() {
    if !root() {
        return;
    }
    for host in hosts() {
        let program = Program::start(&host, &[&script("stack/suspended.lua"), "60"]);
        let report = look(program.pid());
        let host = host.display();
        let vm = &report["vms"][0];
        assert_eq!(vm["list"], "complete", "{host}: {vm}");
        let bits = if host.to_string().contains("gc32") { 32 } else { 64 };
        assert_eq!(vm["reference_bits"], bits, "{host}");
        for ((name, status, stack), _) in truth(program.said.iter().map(String::as_str)) {
            let expected = if name == "many" { 1000 } else { 1 };
            match status.as_str() {
                "suspended" => assert_eq!(count(vm, "suspended", &stack), expected, "{host}: {name}\n{vm:#}"),
                "dead" => assert_eq!(count(vm, "failed", &stack), expected, "{host}: {name}\n{vm:#}"),
                // these are in the stack of the thread
                _ => {}
            }
        }
        let status = |status: &str| -> u64 {
            let groups = list(vm, "coroutines")
                .iter()
                .filter(|group| group["status"] == status);
            groups.map(|group| group["count"].as_u64().unwrap()).sum()
        };
        assert_eq!(
            (status("running"), status("normal"), status("not-started")),
            (1, 2, 1),
            "{host}"
        );
    }
}

#[test]
fn root_lua_frames_of_nested_coroutines_stand_between_native_ones() {
    if !root() {
        return;
    }
    for host in hosts() {
        let program = Program::start(&host, &[&script("stack/suspended.lua"), "60"]);
        // `ready` comes just before it sleeps
        let mut report = Value::Null;
        wait_until("it sleeps", || {
            report = look(program.pid());
            report["threads"][0]["system_call_name"] == "clock_nanosleep"
        });
        let thread = &report["threads"][0];
        assert_eq!(list(thread, "coroutines").len(), 3, "{thread:#}");
        assert!(thread["cut"].is_null(), "{thread:#}");
        let names = names(thread);
        let text = names.join("\n");
        let place = |what: &str| {
            names
                .iter()
                .position(|name| name.contains(what))
                .unwrap_or_else(|| panic!("no {what} in\n{text}"))
        };
        let inner = place("host_sleep");
        let order = [
            "suspended.lua:86",
            "coroutine.wrap_aux_[b]",
            "suspended.lua:95",
            "coroutine.resume_[b]",
        ];
        for (distance, what) in order.iter().enumerate() {
            assert_eq!(place(what), inner + 1 + distance, "{}:\n{text}", host.display());
        }
        assert_eq!(place("suspended.lua:100"), inner + 5, "{text}");
        assert!(
            place("run_script") > inner + 5 && names.last().is_some_and(|name| name == "_start"),
            "{text}"
        );
        let vm = &report["vms"][0];
        assert_eq!(vm["running"], true);
        assert_eq!(vm["thread"], program.pid());
    }
}

#[test]
fn root_every_vm_is_found_with_the_thread_that_runs_it() {
    if !root() {
        return;
    }
    let Some(host) = hosts().into_iter().next() else {
        return;
    };
    let program = Program::start(&host, &["-t", "3", &script("stack/blocked.lua"), "60"]);
    // `ready` comes just before they block
    let mut report = look(program.pid());
    wait_until("three VMs are blocked", || {
        report = look(program.pid());
        list(&report, "threads")
            .iter()
            .all(|thread| thread["place"] == "waiting")
    });
    let mut threads: Vec<u64> = Vec::new();
    for vm in list(&report, "vms") {
        let tid = vm["thread"].as_u64().unwrap();
        let thread = list(&report, "threads")
            .iter()
            .find(|thread| thread["tid"] == tid)
            .unwrap();
        assert!(thread["comm"].as_str().unwrap().starts_with("vm-"), "{thread}");
        assert_eq!(thread["coroutines"][0], list(vm, "coroutines")[0]["addresses"][0]);
        assert!(
            names(thread).iter().any(|name| name.contains("blocked@")),
            "{:?}",
            names(thread)
        );
        threads.push(tid);
    }
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 3, "{report:#}");
}

#[test]
fn root_a_system_call_from_compiled_code_keeps_its_lua_frames() {
    if !root() {
        return;
    }
    for host in hosts() {
        let program = Program::start(&host, &[&script("stack/compiled.lua"), "60"]);
        let mut shown = Vec::new();
        wait_until("it sleeps in a call from compiled code", || {
            let report = look(program.pid());
            shown = names(&report["threads"][0]);
            shown.iter().any(|name| name.ends_with("_[j]"))
        });
        let text = shown.join("\n");
        let at = |what: &str| shown.iter().position(|name| name.contains(what));
        let (naps, main) = (at("naps@"), at("main chunk@"));
        // the last guard before the call may be in `naps`: then LuaJIT itself does not know that `nap` was called
        assert!(
            at("usleep") < naps && naps < main && main < at("run_script"),
            "{text}"
        );
    }
}

#[test]
fn root_native_frames_that_cannot_be_walked_leave_a_mark_and_lua_behind_it() {
    if !root() {
        return;
    }
    // the interpreter calls through lj_vm_ffi_call, whose frame is found by a register that usleep may change
    for host in hosts() {
        let program = Program::start(&host, &["-joff", &script("stack/compiled.lua"), "60"]);
        let mut shown = Vec::new();
        wait_until("it sleeps", || {
            let report = look(program.pid());
            shown = names(&report["threads"][0]);
            shown.iter().any(|name| name == "usleep")
        });
        let text = shown.join("\n");
        let at = |what: &str| shown.iter().position(|name| name.contains(what));
        let order = [
            "usleep",
            "ffi.meta.__call_[b]",
            "nap@",
            "naps@",
            "main chunk@",
            "lua_pcall",
            "run_script",
        ];
        let places: Vec<Option<usize>> = order.iter().map(|what| at(what)).collect();
        assert!(
            places.is_sorted() && places[0].is_some(),
            "{}\n{text}",
            host.display()
        );
        assert_eq!(shown.last().map(String::as_str), Some("_start"), "{text}");
    }
}

/// No call of C ever stores where the interpreter is: only the thread's registers tell.
#[test]
fn root_a_thread_that_runs_is_caught_with_its_lua_stack() {
    if !root() {
        return;
    }
    for (host, options) in hosts()
        .iter()
        .flat_map(|host| [(host, None), (host, Some("-joff"))])
    {
        let script = script("stack/busy.lua");
        let mut program = Program::start(host, &[options.as_slice(), &[script.as_str(), "60"]].concat());
        let what = format!("{} {options:?}", host.display());
        let truth = truth(program.said.iter().map(String::as_str));
        let ((_, _, callers), _) = truth.first_key_value().unwrap();
        // on a busy machine it may not run while it is waited for
        let mut thread = Value::Null;
        wait_until("it was caught", || {
            thread = look(program.pid())["threads"][0].clone();
            list(&thread, "stack").len() > 4
        });
        // it may be in a helper of the VM, or at a mark
        let lua: Vec<String> = lua_part(&thread)
            .into_iter()
            .skip_while(|frame| frame == "[C]")
            .collect();
        assert!(lua.len() > callers.len(), "{what}: {thread:#}");
        let innermost: Vec<&str> = lua[0].split(':').collect();
        assert_eq!(
            (innermost[0], innermost[2]),
            ("busy.lua", "16"),
            "{what}: {thread:#}"
        );
        let line: u32 = innermost[1].parse().unwrap();
        // compiled code of builds before March 2021 tells no line
        let is_told = line != 0 || !what.contains("bullseye") || options.is_some();
        assert!(!is_told || (16..=26).contains(&line), "{what}: {thread:#}");
        assert_eq!(&lua[1..=callers.len()], callers, "{what}: {thread:#}");
        assert!(
            lua[callers.len() + 1..].iter().all(|frame| frame == "[C]"),
            "{what}"
        );
        let names = names(&thread);
        assert!(names.iter().any(|name| name == "run_script"), "{what}: {names:?}");
        assert_eq!(
            names.last().map(String::as_str),
            Some("_start"),
            "{what}: {names:?}"
        );
        assert_eq!(list(&thread, "coroutines").len(), 1, "{what}: {thread:#}");
        assert!(!program.has_ended(), "{what}");
    }
}

/// What runs changes every few microseconds: a native stack and a Lua stack of two moments would not fit together.
#[test]
fn root_native_and_lua_frames_of_a_thread_that_runs_are_of_one_moment() {
    if !root() {
        return;
    }
    const LOOKS: usize = 12;
    let is_usual = |host: &&PathBuf| {
        let variants = ["upstream-gc64", "openresty-gc32"];
        variants
            .iter()
            .any(|variant| host.to_string_lossy().contains(variant))
    };
    for (host, options) in hosts()
        .iter()
        .filter(is_usual)
        .flat_map(|host| [(host, None), (host, Some("-joff"))])
    {
        let script = script("stack/turns.lua");
        let program = Program::start(host, &[options.as_slice(), &[script.as_str(), "60"]].concat());
        let mut of_one_moment = 0;
        for _ in 0..LOOKS {
            let thread = look(program.pid())["threads"][0].clone();
            let is_certain = thread["uncertain"].is_null() && thread["cut"].is_null();
            if thread["place"] != "running" || !is_certain || thread["changing"] == true {
                continue;
            }
            of_one_moment += 1;
            let what = || format!("{} {options:?}: {thread:#}", host.display());
            let names = names(&thread);
            assert_eq!(names.last().map(String::as_str), Some("_start"), "{}", what());
            // outermost first
            let order: Vec<usize> = ["calls", "host_call", "called", "pcalls", "host_pcall", "pcalled"]
                .into_iter()
                .chain(["resumes", "host_resume", "resumed"])
                .enumerate()
                .filter(|(_, wanted)| names.iter().any(|name| name.split('@').next() == Some(wanted)))
                .map(|(number, _)| number)
                .collect();
            let at = |number: usize| number % 3;
            // one way of three, and nothing of it without what called it
            let is_one_way = order.iter().all(|number| number / 3 == order[0] / 3)
                && order
                    .iter()
                    .enumerate()
                    .all(|(index, &number)| at(number) == index);
            assert!(is_one_way, "{order:?} {}", what());
        }
        // on a busy machine it may be put on a processor again before all was read
        assert!(of_one_moment > 0, "{} {options:?}", host.display());
    }
}

/// A child that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_a_process_without_lua_has_native_stacks_only() {
    if !root() {
        return;
    }
    let sleep = Killed(Command::new("sleep").arg("600").spawn().unwrap());
    let mut run = text_of(sleep.0.id());
    wait_until("it sleeps", || {
        run = text_of(sleep.0.id());
        run.stdout.contains("clock_nanosleep()")
    });
    assert!(run.stdout.contains("0 Lua VMs"), "{}", run.stdout);
    assert!(
        run.stdout.contains("_start") || run.stdout.contains("main"),
        "{}",
        run.stdout
    );
    assert!(!run.stdout.contains("Lua VM 0x"), "{}", run.stdout);
}

fn text_of(pid: u32) -> Run {
    let run = moonscope(&["stack", "-p", &pid.to_string()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run
}

#[test]
fn what_has_no_user_code_or_is_gone_or_not_started_is_refused() {
    // the parent of all kernel threads
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n") {
        let run = moonscope(&["stack", "-p", "2"]);
        assert_eq!(run.code, 4, "{}", run.stderr);
        assert!(run.stderr.contains("kernel thread"), "{}", run.stderr);
    } else {
        skip("kernel threads are not visible here");
    }
    let mut gone = Command::new("true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    let run = moonscope(&["stack", "-p", &pid.to_string()]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(
        run.stderr.contains(&format!("no process {pid}")),
        "{}",
        run.stderr
    );
    let run = moonscope(&["stack", "--", "sleep", "1"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert_eq!(moonscope(&["stack"]).code, 2);
}

#[test]
fn root_hostile_names_of_threads_and_lua_files_are_escaped() {
    if !root() {
        return;
    }
    let Some(host) = hosts().into_iter().next() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evil\x1b[31m\n.lua");
    std::fs::write(
        &path,
        "host.ready() local function wait() host.sleep(60) return 1 end wait()",
    )
    .unwrap();
    let program = Program::start(&host, &[path.to_str().unwrap(), "60"]);
    let mut run = text_of(program.pid());
    wait_until("it sleeps", || {
        run = text_of(program.pid());
        run.stdout.contains("host_sleep")
    });
    assert!(!run.stdout.contains('\x1b'), "{}", run.stdout);
    assert!(run.stdout.contains(r"evil\x1b[31m\n.lua:1"), "{}", run.stdout);
}
