//! nginx with Lua of another Debian release, in a container (`tests/containers/nginx`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Program, repository, skip, tool, wait_until};

/// The container; it is removed when dropped.
pub struct Container(Program);

/// Somebody who asks it something; killed when dropped.
pub struct Client(Child);

impl Container {
    /// Starts it: with nginx at this path, `tests/luajit/FOLDER`, and LuaJIT's compiler `on` or `off`. Skips the test where
    /// that is not possible.
    pub fn start(program: &str, folder: &str, jit: &str) -> Option<Self> {
        let mut command = Command::new(repository("tests/containers/nginx"));
        command
            .arg(program)
            .arg(repository("tests/luajit").join(folder))
            .arg(jit);
        match Program::try_spawn(&mut command) {
            (container, None) => Some(Self(container)),
            (container, Some(3)) => {
                skip(&format!(
                    "tests/containers/nginx cannot {}",
                    container.said("cannot")
                ));
                None
            }
            (container, code) => panic!("tests/containers/nginx: {code:?} {:?}", container.said),
        }
    }

    /// What podman calls it.
    pub fn name(&self) -> String {
        self.0.said("name")
    }

    /// nginx's master process.
    pub fn master(&self) -> u32 {
        self.0.said("pid master").parse().unwrap()
    }

    /// nginx's worker process.
    pub fn worker(&self) -> u32 {
        self.0.said("pid worker").parse().unwrap()
    }

    /// Where the files of the release are on this machine.
    pub fn tree(&self) -> PathBuf {
        PathBuf::from(self.0.said("tree"))
    }

    /// A program of this machine, in the container's network.
    fn client(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let master = self.master().to_string();
        command.args(["-t", &master, "-n"]).arg(program);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn url(&self, location: &str) -> String {
        format!("{}/{location}", self.0.said("url"))
    }

    /// Asks for a location again and again, and waits until the worker is busy with it: what is to be compiled then is.
    /// Skips the test if there is no wrk.
    pub fn load(&self, location: &str) -> Option<Client> {
        let mut wrk = self.client(&tool("wrk")?);
        wrk.args(["-t1", "-c4", "-d600"]).arg(self.url(location));
        let client = Client(wrk.stdout(Stdio::null()).spawn().unwrap());
        let before = cpu_time(self.worker());
        wait_until("the worker is busy", || {
            cpu_time(self.worker()) > before + Duration::from_millis(300)
        });
        Some(client)
    }

    /// Asks for all of these locations at the same time, and waits for the answers.
    pub fn ask(&self, locations: &[&str]) -> Client {
        let mut curl = self.client(Path::new("curl"));
        curl.args([
            "-s",
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "200",
        ]);
        curl.args(locations.iter().map(|location| self.url(location)));
        Client(curl.stdout(Stdio::null()).spawn().unwrap())
    }

    /// The answer to one request.
    pub fn answer(&self, location: &str) -> String {
        let output = self
            .client(Path::new("curl"))
            .arg("-sS")
            .arg(self.url(location))
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}

/// What a process with one thread has used.
fn cpu_time(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
