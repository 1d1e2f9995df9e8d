//! The command while it runs: what it says, signals, and its memory.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::recording::{command, wait_until_it_measures};
use super::{Run, wait_until};

/// A command that runs for longer hangs: it is killed, so that the test tells what it said.
const PATIENCE: Duration = Duration::from_secs(120);

/// The command, running; killed and waited for when dropped.
pub struct Background {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
    /// The watchdog ends when this is dropped.
    _is_wanted: Sender<()>,
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
        let (is_wanted, watchdog) = channel();
        let pid = pid_of(&child);
        std::thread::spawn(move || {
            if watchdog.recv_timeout(PATIENCE) == Err::<(), _>(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self {
            stderr: BufReader::new(child.stderr.take().unwrap()),
            child,
            said: String::new(),
            _is_wanted: is_wanted,
        }
    }

    /// Waits until it measures.
    pub fn wait_until_it_measures(&mut self) {
        wait_until_it_measures(&mut self.child);
    }

    /// Waits until it says a line with these words.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        self.wait_for_any(&[words]);
    }

    /// Waits until an interval is over: it records. There may be a file: a thread that is late to wait for the word to begin
    /// is seen waiting in each interval.
    #[track_caller]
    pub fn wait_for_interval(&mut self) {
        self.wait_for_any(&["no file for", "wrote "]);
    }

    #[track_caller]
    fn wait_for_any(&mut self, words: &[&str]) {
        loop {
            let mut line = String::new();
            if self.stderr.read_line(&mut line).unwrap() == 0 {
                panic!("it ended and never said {words:?}: {}", self.said);
            }
            self.said += &line;
            if words.iter().any(|words| line.contains(words)) {
                return;
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.child), signal).unwrap();
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

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
