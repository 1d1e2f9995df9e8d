//! `moonscope stack` of an nginx, here and in a container: where its requests wait.
//!
//! The truth: LuaJIT's own debug library, asked inside the worker about the coroutines that then stand still
//! (`tests/luajit/stack/waiting.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpStream;

use common::container::Container;
use common::lua_nginx::LuaNginx;
use common::stack::{assert_requests_wait, look, reports};
use common::{root, tool, wait_until};

/// Where requests can wait.
const PLACES: [&str; 5] = ["sleep", "spawn", "coroutine", "socket", "access"];

/// What `/truth` answers as soon as so many requests wait at each place.
fn when_all_wait(each: usize, ask: impl Fn() -> String) -> String {
    // spawn and coroutine have two coroutines each
    let waiting = each * (PLACES.len() + 2);
    let mut said = String::new();
    wait_until("all requests wait", || {
        said = ask();
        said.lines().filter(|line| line.starts_with("truth ")).count() == waiting
    });
    said
}

#[test]
fn root_requests_of_nginx_wait_where_lua_itself_says() {
    if !root() || tool("nginx").is_none() || tool("curl").is_none() {
        return;
    }
    let Some(server) = LuaNginx::start("stack") else {
        return;
    };
    const EACH: usize = 20;
    let _requests: Vec<TcpStream> = PLACES
        .iter()
        .flat_map(|place| (0..EACH).map(|_| server.ask(place)))
        .collect();
    let said = when_all_wait(EACH, || server.answer("truth"));
    assert_requests_wait(&look(server.worker()), &said);
}

/// nginx, LuaJIT and the C library of another Debian release, at paths at which this one has other files.
#[test]
fn root_requests_in_a_container_wait_where_lua_itself_says() {
    if !root() {
        return;
    }
    let Some(container) = Container::start("/usr/sbin/nginx", "stack", "on") else {
        return;
    };
    const EACH: usize = 4;
    let _requests = container.ask(&PLACES.repeat(EACH));
    let said = when_all_wait(EACH, || container.answer("truth"));
    let all = reports(&["--container", &container.name()]);
    let of = |pid: u32| all.iter().find(|report| report["pid"] == pid);
    assert_eq!(all.len(), 2, "the master and its worker: {all:#?}");
    let worker = of(container.worker()).unwrap_or_else(|| panic!("no worker in {all:#?}"));
    assert_requests_wait(worker, &said);
    assert_requests_wait(&look(container.worker()), &said);
    // the master waits too; its VM, in which the configuration was read, is the one that the worker got a copy of
    let master = of(container.master()).unwrap();
    assert_eq!(master["vms"][0]["running"], false, "{master:#}");
}
