//! The command while it runs: what it says, signals, and its memory.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use super::recording::command;
use super::{Run, wait_until};

/// The command, running; killed and waited for when dropped.
pub struct Background {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Background {
    /// Starts it with these arguments.
    pub fn start(args: &[&str]) -> Self {
        let mut child = command()
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stderr: BufReader::new(child.stderr.take().unwrap()),
            child,
            said: String::new(),
        }
    }

    /// Waits until it says a line with these words.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        loop {
            let mut line = String::new();
            if self.stderr.read_line(&mut line).unwrap() == 0 {
                panic!("it ended and never said {words:?}: {}", self.said);
            }
            self.said += &line;
            if line.contains(words) {
                return;
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Bytes of anonymous memory that it has resident (RssAnon, proc_pid_status(5)): what grows when something leaks.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
        kibibytes.parse::<u64>().unwrap() << 10
    }

    /// Waits until a folder has so many files.
    pub fn wait_for_files(&mut self, dir: &Path, count: usize) {
        wait_until("files are written", || {
            std::fs::read_dir(dir).unwrap().count() >= count || self.child.try_wait().unwrap().is_some()
        });
    }

    /// Waits until it ends.
    pub fn wait(mut self) -> Run {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        self.said += &rest;
        let status = self.child.wait().unwrap();
        Run {
            code: status.code().unwrap_or(-1),
            stdout: String::new(),
            stderr: std::mem::take(&mut self.said),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
