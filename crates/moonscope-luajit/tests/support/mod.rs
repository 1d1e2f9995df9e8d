//! A LuaJIT program as a child, stopped at random moments: its registers, and where its VM is.
//!
//! Nothing of the code under test is used to find the VM: live memory alone says where it is.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod annotations;
pub mod vm;

use moonscope_process::ProcessMemory;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Says that a test cannot run here.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(
        std::env::var_os("MOONSCOPE_NO_SKIP").is_none_or(|value| value != "1"),
        "skipped, and MOONSCOPE_NO_SKIP=1: {why}"
    );
}

/// The LuaJIT programs to test with: those in `MOONSCOPE_LUAJITS` (separated by colons), or those
/// installed here.
pub fn luajits() -> Vec<PathBuf> {
    let given = std::env::var_os("MOONSCOPE_LUAJITS");
    let found: Vec<_> = match &given {
        Some(list) => std::env::split_paths(list).collect(),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let named = |name: &str| {
                let mut files = std::env::split_paths(&path).map(|dir| dir.join(name));
                files.find(|file| file.is_file())
            };
            ["luajit", "luajit2"].into_iter().filter_map(named).collect()
        }
    };
    if found.is_empty() {
        skip("luajit is not installed");
    }
    found
}

/// Stops of each program: `MOONSCOPE_STOPS`, or a few.
pub fn stops() -> usize {
    let given = std::env::var("MOONSCOPE_STOPS").ok();
    given.and_then(|count| count.parse().ok()).unwrap_or(400)
}

/// A Lua program that runs until it is dropped.
pub struct Program {
    child: Child,
    pub pid: i32,
    pub memory: ProcessMemory,
}

impl Program {
    /// Starts it, and returns when it has printed a line.
    pub fn start(luajit: &Path, script: &str, options: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/lua")
            .join(script);
        let mut child = Command::new(luajit)
            .args(options)
            .arg(script)
            .stdout(Stdio::piped())
            .spawn()
            .expect("luajit starts");
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let pid = child.id().cast_signed();
        let program = Self {
            child,
            pid,
            memory: ProcessMemory::new(pid.cast_unsigned()),
        };
        program.ptrace(libc::PTRACE_SEIZE, 0);
        program
    }

    /// Stops it, looks at it, and lets it go on.
    pub fn stopped<T>(&self, look: impl FnOnce(&libc::user_regs_struct) -> T) -> T {
        self.ptrace(libc::PTRACE_INTERRUPT, 0);
        let seen = look(&self.stop());
        self.ptrace(libc::PTRACE_CONT, 0);
        seen
    }

    /// Looks at it between all of this many instructions, then lets it go on.
    pub fn stepped(&self, steps: usize, mut look: impl FnMut(&libc::user_regs_struct)) {
        self.stopped(|_| {
            for _ in 0..steps {
                self.ptrace(libc::PTRACE_SINGLESTEP, 0);
                look(&self.stop());
            }
        });
    }

    /// Waits until it stops, and reads its registers.
    fn stop(&self) -> libc::user_regs_struct {
        let mut status = 0;
        // SAFETY: our own child, and a place for its status.
        let waited = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
        assert_eq!(waited, self.pid);
        assert!(libc::WIFSTOPPED(status), "the program ended: {status:#x}");
        // SAFETY: plain numbers, for which zeros are valid.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        self.ptrace(libc::PTRACE_GETREGS, &raw mut regs as usize);
        regs
    }

    fn ptrace(&self, request: libc::c_uint, data: usize) {
        // SAFETY: our own child; `data` is 0 or the address of what the request fills in.
        let result = unsafe { libc::ptrace(request, self.pid, 0, data) };
        assert!(result >= 0, "ptrace: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
