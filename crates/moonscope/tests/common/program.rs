//! Programs with known truth (`tests/programs`): built, started, waited for, ended.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{repository, tool};

/// Builds a program of `tests/programs`; skips the test if its compiler is not installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let compiler = match name {
        _ if name.contains("_rs") => "rustc",
        _ if name.contains("_go") => "go",
        _ if name.contains("_cpp") => "g++",
        _ if name.contains("-clang") => "clang",
        _ if name.contains("-musl") => "musl-gcc",
        _ => "gcc",
    };
    tool(compiler)?;
    let output = Command::new(repository("tests/programs/build"))
        .arg(name)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tests/programs/build {name}: {words}");
    let dir = String::from_utf8(output.stdout).unwrap();
    Some(Path::new(dir.trim_end()).join(name))
}

/// Where the functions of a file begin, as binutils say.
pub fn nm(file: &Path) -> BTreeMap<String, u64> {
    let output = Command::new("nm")
        .arg("--defined-only")
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "nm {}", file.display());
    let text = String::from_utf8(output.stdout).unwrap();
    let symbol = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((words.nth(1)?.to_owned(), start))
    };
    text.lines().filter_map(symbol).collect()
}

/// A running child process; killed and waited for when dropped.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Lines before `ready`.
    pub said: Vec<String>,
}

/// What a program said at its end.
#[derive(Debug)]
pub struct Truth {
    /// Share of the CPU time of each function with what it calls, by the kernel's CPU clock.
    pub shares: BTreeMap<String, f64>,
    /// All lines.
    pub lines: Vec<String>,
}

impl Program {
    /// Starts a program of `tests/programs` and waits for its `ready`.
    pub fn start(path: &Path, args: &[&str]) -> Self {
        Self::spawn(Command::new(path).args(args))
    }

    /// Starts whatever prints `ready`; its standard input stays open until it is dropped.
    pub fn spawn(command: &mut Command) -> Self {
        let (program, how) = Self::try_spawn(command);
        assert!(how.is_none(), "{command:?} ended before it was ready: {how:?}");
        program
    }

    /// The same for something that may be unable to run here: gives its exit code then.
    pub fn try_spawn(command: &mut Command) -> (Self, Option<i32>) {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        let mut program = Self {
            child,
            stdin,
            stdout,
            said: Vec::new(),
        };
        loop {
            let mut line = String::new();
            if program.stdout.read_line(&mut line).unwrap() == 0 {
                let code = program.child.wait().unwrap().code();
                return (program, Some(code.unwrap_or(-1)));
            }
            match line.trim_end() {
                "ready" => return (program, None),
                other => program.said.push(other.to_owned()),
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its process id as an argument.
    pub fn pid_text(&self) -> String {
        self.child.id().to_string()
    }

    /// The value after the words of a line that it said before it was ready: `said("pid env")`.
    pub fn said(&self, key: &str) -> String {
        let value = |line: &String| Some(line.strip_prefix(key)?.strip_prefix(' ')?.to_owned());
        self.said
            .iter()
            .find_map(value)
            .unwrap_or_else(|| panic!("no {key} in {:?}", self.said))
    }

    /// Lets a program begin that waits for it on its standard input.
    pub fn go(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits until it says this.
    pub fn wait_for(&mut self, words: &str) {
        let mut line = String::new();
        while line.trim_end() != words {
            line.clear();
            let bytes = self.stdout.read_line(&mut line).unwrap();
            assert!(bytes > 0, "it ended and never said {words:?}");
        }
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Says a line to it: what it waits for.
    pub fn tell(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// What it says until it says this word.
    pub fn hear(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended before it said {last}: {lines:?}");
            match line.trim_end() {
                word if word == last => return lines,
                other => lines.push(other.to_owned()),
            }
        }
    }

    /// Waits until it ends by itself, and gives what it says then.
    pub fn wait(mut self) -> Truth {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        Truth::read(&text)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A container script cleans up when its input ends; the programs themselves are killed.
        self.stdin = None;
        if !self.said.iter().any(|line| line.starts_with("pid ")) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Truth {
    /// Takes the `truth` lines out of what a program printed.
    pub fn read(text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let share = |line: &String| {
            let mut words = line.strip_prefix("truth ")?.split(' ');
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        Self {
            shares: lines.iter().filter_map(share).collect(),
            lines,
        }
    }

    /// The numbers of a line: `numbers("same-place")`.
    pub fn numbers(&self, key: &str) -> Vec<f64> {
        let line = self.lines.iter().find_map(|line| line.strip_prefix(key));
        let words = line.unwrap_or_else(|| panic!("no {key} in {:?}", self.lines));
        words
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }
}
