//! `moonscope stack` of an nginx, here and in a container: where its requests wait.
//!
//! The truth: LuaJIT's own debug library, asked inside the worker about the coroutines that then stand still
//! (`tests/luajit/stack/waiting.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::container::Container;
use common::stack::{assert_requests_wait, look, reports};
use common::{repository, root, skip, tool, wait_until};

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
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(dir.path()) else {
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

/// `demo/server` with the configuration of `tests/luajit/stack`.
struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    fn start(dir: &Path) -> Option<Self> {
        let mut child = Command::new(repository("demo/server"))
            .arg(dir)
            .arg(repository("tests/luajit/stack"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let url = dir.join("url");
        let mut ended = false;
        wait_until("nginx answers", || {
            ended = child.try_wait().unwrap().is_some();
            ended || std::fs::read_to_string(&url).is_ok_and(|url| url.ends_with('\n'))
        });
        if ended {
            let mut words = String::new();
            child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
            skip(&format!("nginx with Lua does not run here: {words}"));
            return None;
        }
        let url = std::fs::read_to_string(url).unwrap();
        let port = url.trim_end().rsplit(':').next().unwrap().parse().unwrap();
        Some(Self {
            child,
            port,
            dir: dir.to_owned(),
        })
    }

    fn ask(&self, place: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET /{place} HTTP/1.0\r\n\r\n").unwrap();
        stream
    }

    fn answer(&self, place: &str) -> String {
        let mut text = String::new();
        self.ask(place).read_to_string(&mut text).unwrap();
        text
    }

    fn worker(&self) -> u32 {
        let master = std::fs::read_to_string(self.dir.join("nginx.pid")).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", master.trim());
        let children = std::fs::read_to_string(children).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // the end of its standard input ends it, and nginx with it
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
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
