//! A real nginx under load from wrk, on a free loopback port.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{tool, wait_until};

/// An nginx with two workers, and a wrk that asks it for pages. Both end when dropped.
pub struct Nginx {
    master: Child,
    wrk: Option<Child>,
    port: u16,
    dir: tempfile::TempDir,
}

const CONFIGURATION: &str = "\
worker_processes 2;
daemon off;
error_log DIR/error.log;
pid DIR/nginx.pid;
events { worker_connections 256; }
http {
    access_log DIR/access.log;
    client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
    gzip on; gzip_min_length 0; gzip_types *;
    server { listen 127.0.0.1:PORT; root DIR/www; location /hello { return 200 'hello'; } }
}
";

impl Nginx {
    /// Starts both; skips the test if they are not installed.
    pub fn start() -> Option<Self> {
        let (nginx, wrk) = (tool("nginx")?, tool("wrk")?);
        // Somebody else may take the port before nginx does.
        for _ in 0..5 {
            if let Some(mut nginx) = Self::serve(&nginx) {
                nginx.load(&wrk);
                return Some(nginx);
            }
        }
        panic!("nginx does not start");
    }

    fn serve(program: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let www = dir.path().join("www");
        std::fs::create_dir(&www).unwrap();
        std::fs::write(
            www.join("index.html"),
            "<p>Some text that is worth compressing.</p>\n".repeat(400),
        )
        .unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let text = CONFIGURATION
            .replace("DIR", dir.path().to_str().unwrap())
            .replace("PORT", &port.to_string());
        let file = dir.path().join("nginx.conf");
        // The workers run as nobody and serve files of this directory.
        let user = if rustix::process::geteuid().is_root() {
            "user root;\n"
        } else {
            ""
        };
        std::fs::write(&file, format!("{user}{text}")).unwrap();
        let mut master = Command::new(program);
        master
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let mut nginx = Self {
            master: master.spawn().unwrap(),
            wrk: None,
            port,
            dir,
        };
        let mut ended = false;
        wait_until("nginx answers", || {
            ended = nginx.master.try_wait().unwrap().is_some();
            ended || nginx.answers()
        });
        (!ended).then_some(nginx)
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let asked = stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n");
        let mut answer = String::new();
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.ends_with("hello")
    }

    fn load(&mut self, wrk: &Path) {
        let url = format!("http://127.0.0.1:{}/index.html", self.port);
        let mut wrk = Command::new(wrk);
        wrk.args(["-t1", "-c16", "-d600", "-H", "Accept-Encoding: gzip", &url]);
        self.wrk = Some(wrk.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let log = self.dir.path().join("access.log");
        wait_until("wrk got answers", || {
            std::fs::read_to_string(&log)
                .is_ok_and(|text| text.lines().filter(|line| line.contains("index")).count() > 100)
        });
    }

    /// The file with the master's pid.
    pub fn pid_file(&self) -> String {
        self.dir.path().join("nginx.pid").to_str().unwrap().to_owned()
    }

    /// Master first, then its workers.
    pub fn pids(&self) -> Vec<u32> {
        let master = self.master.id();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(master).chain(children).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(wrk) = &mut self.wrk {
            let _ = wrk.kill();
            let _ = wrk.wait();
        }
        // SIGTERM, so that the master ends its workers.
        if let Some(pid) = rustix::process::Pid::from_raw(self.master.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.master.wait();
    }
}
