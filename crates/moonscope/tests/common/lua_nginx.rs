//! An nginx with Lua that does nothing but what a test asks it for, as `demo/server` starts it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::{repository, skip, wait_until};

/// `demo/server` with the configuration of a folder of `tests/luajit`. It ends when dropped.
pub struct LuaNginx {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl LuaNginx {
    /// Starts it with `tests/luajit/FOLDER/nginx.conf.in`; skips the test if it does not run here.
    pub fn start(folder: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(repository("demo/server"))
            .arg(dir.path())
            .arg(repository("tests/luajit").join(folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let url = dir.path().join("url");
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
        Some(Self { child, port, dir })
    }

    /// What makes moonscope record it.
    pub fn target(&self) -> String {
        format!("--nginx={}", self.dir.path().join("nginx.pid").display())
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks for a place; whoever gets the answer reads it from there.
    pub fn ask(&self, place: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET /{place} HTTP/1.0\r\n\r\n").unwrap();
        stream
    }

    /// What it answers, headers too.
    pub fn answer(&self, place: &str) -> String {
        let mut text = String::new();
        self.ask(place).read_to_string(&mut text).unwrap();
        text
    }

    /// The lines of its access log.
    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The process that starts those that answer.
    pub fn master(&self) -> u32 {
        let master = std::fs::read_to_string(self.dir.path().join("nginx.pid")).unwrap();
        master.trim().parse().unwrap()
    }

    /// The process that answers.
    pub fn worker(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.master());
        let children = std::fs::read_to_string(children).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for LuaNginx {
    fn drop(&mut self) {
        // the end of its standard input ends it, and nginx with it
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
