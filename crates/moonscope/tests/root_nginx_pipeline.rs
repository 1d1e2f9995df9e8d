//! `moonscope nginx filters` and `phases` name what a request runs through, in that order.
//!
//! The truth: gdb stops the worker at each address that was named while one request runs, and says in which order it came
//! there. The nginx is a stripped one, of this machine or of another Debian release in a container.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use common::container::Container;
use common::lua_nginx::LuaNginx;
use common::stack::list;
use common::{moonscope, root, tool};
use serde_json::Value;

fn view(worker: u32, view: &str) -> Value {
    let run = moonscope(&["nginx", view, "--json", "-p", &worker.to_string()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    list(&document, "workers")[0].clone()
}

fn address(function: &Value) -> u64 {
    let text = function["address"].as_str().unwrap();
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

/// The functions of one part: their addresses, and the modules that they are said to be of.
fn part(worker: &Value, parts: &str, key: &str, name: &str, functions: &str) -> Vec<(u64, String)> {
    let part = list(worker, parts).iter().find(|part| part[key] == name);
    let functions = list(part.unwrap_or_else(|| panic!("no {name} in {worker}")), functions);
    let module = |function: &Value| function["module"].as_str().unwrap_or("?").to_owned();
    functions
        .iter()
        .map(|function| (address(function), module(function)))
        .collect()
}

/// gdb that says when the process comes to one of these addresses, until it came to the last one.
struct Debugger {
    child: Child,
    lines: Receiver<String>,
}

impl Debugger {
    fn attach(pid: u32, addrs: &BTreeSet<u64>, last: u64) -> Option<Self> {
        let gdb = tool("gdb")?;
        let mut script = String::from("set confirm off\nset pagination off\nset width 0\n");
        // no symbols are needed, and those of a container would be this machine's
        script += "set auto-solib-add off\nset sysroot /nowhere\n";
        let _ = writeln!(script, "attach {pid}");
        script += "handle all nostop noprint pass\n";
        for addr in addrs {
            let end = if *addr == last { "detach\nquit" } else { "continue" };
            let _ = writeln!(
                script,
                "break *{addr:#x}\ncommands\nsilent\necho hit {addr:#x}\\n\n{end}\nend"
            );
        }
        script += "echo ready\\n\ncontinue\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let mut child = Command::new(gdb)
            .args(["-nx", "-batch", "-x"])
            .arg(file.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // the script is read while gdb runs
            let _file = file;
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let debugger = Self { child, lines };
        while debugger.line().expect("gdb attaches to the worker") != "ready" {}
        Some(debugger)
    }

    fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(Duration::from_secs(60)) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("gdb says nothing for a minute"),
        }
    }

    /// Where it came to, in order, up to the end.
    fn hits(self) -> Vec<u64> {
        let lines = std::iter::from_fn(|| self.line());
        let hits = lines.filter_map(|line| {
            let addr = line.strip_prefix("hit 0x")?.to_owned();
            u64::from_str_radix(&addr, 16).ok()
        });
        hits.collect()
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        // a debugger that ends lets go of the process
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first time of each.
fn first(addrs: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    addrs.into_iter().filter(|addr| seen.insert(*addr)).collect()
}

fn addrs(functions: &[(u64, String)]) -> Vec<u64> {
    functions.iter().map(|(addr, _)| *addr).collect()
}

fn of_lua(functions: &[(u64, String)]) -> Vec<usize> {
    let places = functions.iter().enumerate();
    let lua = places.filter(|(_, (_, module))| module == "ngx_http_lua_module");
    lua.map(|(place, _)| place).collect()
}

/// What is said of this worker is what a request runs through; `ask` sends it one for `/nginx.pid`.
fn assert_a_request_runs_through<T>(worker: u32, ask: impl FnOnce() -> T) {
    let filters = view(worker, "filters");
    let chain = |name: &str| part(&filters, "chains", "chain", name, "filters");
    let (header, body) = (chain("header"), chain("body"));
    let phases = view(worker, "phases");
    let phase = |name: &str| part(&phases, "phases", "phase", name, "handlers");
    let all: Vec<(u64, String)> = list(&phases, "phases")
        .iter()
        .flat_map(|one| phase(one["phase"].as_str().unwrap()))
        .collect();

    // nginx's own order of modules, and what is known of ngx_lua
    let last = |functions: &[(u64, String)]| functions.last().unwrap().1.clone();
    assert_eq!(last(&header), "ngx_http_header_filter_module");
    assert_eq!(last(&body), "ngx_http_write_filter_module");
    assert_eq!(last(&phase("content")), "ngx_http_static_module");
    assert_eq!(last(&phase("log")), "ngx_http_log_module");
    assert_eq!(chain("request_body").last().unwrap().1, "ngx_http_core_module");
    assert_eq!(
        of_lua(&header).len(),
        2,
        "its own and that of subrequests: {header:?}"
    );
    assert_eq!(of_lua(&body).len(), 2, "{body:?}");
    // it moved to the end when the first request came
    assert_eq!(last(&phase("rewrite")), "ngx_http_lua_module");
    assert_eq!(last(&phase("access")), "ngx_http_lua_module");
    assert!(
        all.iter()
            .chain(&header)
            .chain(&body)
            .all(|(_, module)| module != "?")
    );

    let stops: BTreeSet<u64> = [&all, &header, &body]
        .into_iter()
        .flat_map(|part| addrs(part))
        .collect();
    let Some(debugger) = Debugger::attach(worker, &stops, all.last().unwrap().0) else {
        return;
    };
    let _answer = ask();
    let hits = debugger.hits();
    let of = |part: &[(u64, String)]| {
        let part: BTreeSet<u64> = part.iter().map(|(addr, _)| *addr).collect();
        hits.iter().copied().filter(move |addr| part.contains(addr))
    };
    assert_eq!(
        of(&all).collect::<Vec<_>>(),
        addrs(&all),
        "handlers of {phases:#}"
    );
    assert_eq!(
        of(&header).collect::<Vec<_>>(),
        addrs(&header),
        "filters of {filters:#}"
    );
    // called once for each part of a body; before that, the last one for the header
    let begins = |addr: &u64| *addr == body[0].0;
    let of_body = of(&body).skip_while(|addr| !begins(addr));
    assert_eq!(first(of_body), addrs(&body), "filters of {filters:#}");
}

#[test]
fn root_a_request_runs_through_filters_and_handlers_as_they_are_shown() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaNginx::start("pipeline") else {
        return;
    };
    assert_a_request_runs_through(nginx.worker(), || nginx.ask("nginx.pid"));
}

#[test]
fn root_a_request_in_a_container_runs_through_them_too() {
    if !root() {
        return;
    }
    let Some(container) = Container::start("/usr/sbin/nginx", "pipeline", "on") else {
        return;
    };
    assert_a_request_runs_through(container.worker(), || container.ask(&["nginx.pid"]));
}

#[test]
fn root_old_names_show_one_chain_or_the_phases_in_the_old_words() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaNginx::start("pipeline") else {
        return;
    };
    let master = nginx.master().to_string();
    let old = |name: &str| {
        let run = moonscope(&["nginx", name, "-p", &master, "--format", "orig"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let header = old("ngx-header-filters");
    assert!(header.starts_with("~ngx_http_slice_filter_module"), "{header}");
    assert!(!header.contains("ngx_http_write_filter"), "{header}");
    let body = old("ngx-body-filters");
    assert!(body.ends_with("ngx_http_write_filter\n"), "{body}");
    let phases = old("ngx-phase-handlers");
    let access = phases
        .find("pre-access phase\n    ~ngx_http_realip_module")
        .unwrap();
    let log = phases.find("log phase\n    ngx_http_lua_log_handler\n").unwrap();
    assert!(access < log, "{phases}");
    // a table for people
    let run = moonscope(&["nginx", "filters", "--chain", "body", "-p", &master]);
    assert!(run.stdout.starts_with("CHAIN"), "{}", run.stdout);
    assert!(
        run.stdout.lines().skip(1).all(|line| line.starts_with("body ")),
        "{}",
        run.stdout
    );
}
