//! An nginx with Lua under load, as `demo/server` starts it, with one of the configurations of `tests/luajit`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{repository, skip, tool};

/// nginx and a wrk that asks it for one location. Both end when dropped.
pub struct LuaServer {
    server: Child,
    wrk: Child,
    dir: tempfile::TempDir,
}

impl LuaServer {
    /// Starts both with `tests/luajit/FOLDER/nginx.conf.in`; skips the test if they are not installed.
    pub fn start(folder: &str, location: &str) -> Option<Self> {
        let wrk = tool("wrk")?;
        tool("nginx")?;
        let module = ["/usr/lib", "/usr/share", "/usr/lib64"].iter().any(|dir| {
            std::path::Path::new(dir)
                .join("nginx/modules/ngx_http_lua_module.so")
                .exists()
        });
        if !module {
            skip("nginx has no Lua module");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut server = Command::new(repository("demo/server"))
            .arg(dir.path())
            .arg(repository("tests/luajit").join(folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(server.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let url = line
            .strip_prefix("ready ")
            .unwrap_or_else(|| panic!("demo/server says {line:?}"))
            .trim();
        let wrk = Command::new(wrk)
            .args(["-t1", "-c4", "-d600"])
            .arg(format!("{url}{location}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { server, wrk, dir })
    }

    /// What makes moonscope record it.
    pub fn target(&self) -> String {
        format!("--nginx={}", self.dir.path().join("nginx.pid").display())
    }
}

impl Drop for LuaServer {
    fn drop(&mut self) {
        let _ = self.wrk.kill();
        let _ = self.wrk.wait();
        // the end of its standard input tells it to stop nginx
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
