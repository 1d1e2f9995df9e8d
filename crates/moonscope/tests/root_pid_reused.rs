//! A pid that belongs to one process and then to another within a recording: every stack is of the program that
//! ran at that moment, and under its name.
//!
//! The truth is the kernel's: the name of a thread, which each tick takes, is that of the program it runs. The
//! programs lie at fixed addresses, so that an address of the one is an address of the other too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::recording::{RATE, command};
use common::{Program, Recording, Sample, program, record_at, record_while, root, skip, wait_until};

/// A pid that nobody has, and that nobody gets soon: the kernel gives them out in turn.
fn free_pid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = |path: &str| -> u32 {
        let text = std::fs::read_to_string(path).unwrap();
        text.trim().parse().unwrap()
    };
    let max = number("/proc/sys/kernel/pid_max");
    let last = number("/proc/sys/kernel/ns_last_pid");
    loop {
        // half way round, and others than the tests beside this one use
        let step = NEXT.fetch_add(1, Ordering::Relaxed) * 97 + std::process::id() % 89;
        let pid = (last + max / 2 + step) % max;
        if pid > 1000 && !Path::new(&format!("/proc/{pid}")).exists() {
            return pid;
        }
    }
}

/// The programs of these tests.
struct Programs {
    with_pid: PathBuf,
    shares: PathBuf,
    chain: PathBuf,
}

impl Programs {
    /// Skips the test if they cannot run here.
    fn build() -> Option<Self> {
        let programs = root().then(|| {
            Some(Self {
                with_pid: program("with_pid")?,
                shares: program("shares-nopie")?,
                chain: program("chain-nopie")?,
            })
        })??;
        let can = programs.under(free_pid(), Path::new("true"), &[]);
        if can != Some(0) {
            skip("a pid cannot be chosen here (clone3 with set_tid, Linux 5.5)");
            return None;
        }
        Some(programs)
    }

    /// Runs a program under this pid, and gives its exit code.
    fn under(&self, pid: u32, program: &Path, args: &[&str]) -> Option<i32> {
        let mut command = Command::new(&self.with_pid);
        command.arg(pid.to_string()).arg(program).args(args);
        command.stdout(Stdio::null()).status().unwrap().code()
    }

    /// The same, which must succeed.
    #[track_caller]
    fn run_under(&self, pid: u32, program: &Path, args: &[&str]) {
        assert_eq!(
            self.under(pid, program, args),
            Some(0),
            "{pid} {}",
            program.display()
        );
    }

    /// Records a shell script. It knows `with_pid` as $0, the pid as $1, and the programs as $2 and so on.
    #[track_caller]
    fn record_script(&self, rate: &str, script: &str, pid: u32, programs: &[&Path]) -> Recording {
        let pid = pid.to_string();
        let mut args = vec!["--", "sh", "-c", script, self.with_pid.to_str().unwrap(), &pid];
        args.extend(programs.iter().map(|path| path.to_str().unwrap()));
        record_at(rate, &args)
    }

    /// Starts a program under this pid and waits until it is ready.
    fn start_under(&self, pid: u32, program: &Path, args: &[&str]) -> Program {
        let mut command = Command::new(&self.with_pid);
        Program::spawn(command.arg(pid.to_string()).arg(program).args(args))
    }
}

/// Samples of this pid with this name, all of them, and those of them that are cut.
fn named(recording: &Recording, pid: u32, name: &str) -> (u64, u64) {
    let of = |sample: &&Sample| sample.pid == pid && sample.comm == name;
    let samples = || recording.profile.samples.iter().filter(of);
    let cut = samples().filter(|sample| sample.is_truncated());
    (
        samples().map(|sample| sample.count).sum(),
        cut.map(|sample| sample.count).sum(),
    )
}

/// Each sample of this pid is under the name that its thread had, and has frames of no other program's file.
#[track_caller]
fn assert_each_is_of_its_program(recording: &Recording, pid: u32, programs: &[&str]) {
    for sample in recording
        .profile
        .samples
        .iter()
        .filter(|sample| sample.pid == pid)
    {
        // while the kernel loads a program, the thread has the new name and the registers of the old one
        // (of a tick in a thunk the kernel's own unwinder tells nothing but that)
        let mut kernel = sample.kernel().map(|frame| frame.name()).peekable();
        let is_in_thunk =
            kernel.peek().is_some() && kernel.all(|name| name.starts_with("__x86_indirect_thunk"));
        let is_in_execve = sample.kernel().any(|frame| frame.name().ends_with("_execve"));
        let is_loading = is_in_execve || is_in_thunk;
        assert!(sample.comm == sample.thread || is_loading, "{sample}");
        assert!(programs.contains(&sample.comm.as_str()), "{sample}");
        for frame in sample.user() {
            let is_other = programs.contains(&frame.file_name()) && frame.file_name() != sample.comm;
            assert!(!is_other, "{sample}");
        }
    }
}

#[track_caller]
fn assert_complete(recording: &Recording, pid: u32, name: &str, least: u64) {
    let (all, cut) = named(recording, pid, name);
    assert!(all >= least, "{all} samples of {name}");
    assert!(
        cut as f64 <= 0.03 * all as f64,
        "{cut} of {all} stacks of {name} are cut"
    );
}

#[track_caller]
fn assert_four_programs(recording: &Recording, pid: u32) {
    assert_each_is_of_its_program(
        recording,
        pid,
        &["with_pid", "shares-nopie", "chain-nopie", "shares_cpp"],
    );
    for (name, function) in [
        ("shares-nopie", "one_round"),
        ("chain-nopie", "chain_leaf"),
        ("shares_cpp", "main"),
        ("with_pid", "no_exec_work"),
    ] {
        assert_complete(recording, pid, name, 20);
        let right = recording
            .profile
            .count(|sample| sample.pid == pid && sample.comm == name && sample.has(function));
        let (all, _) = named(recording, pid, name);
        assert!(
            right as f64 >= 0.9 * all as f64,
            "{right} of {all} samples of {name} have {function}"
        );
    }
}

/// Their parents are no targets and mostly not known: nothing tells of their forks.
#[test]
fn root_programs_with_the_same_pid_have_each_their_own_stacks() {
    let Some(programs) = Programs::build() else { return };
    let Some(cpp) = program("shares_cpp") else { return };
    let pid = free_pid();
    let recording = record_while("499", &["-a", "-d", "9s"], || {
        programs.run_under(pid, &programs.shares, &["1.2"]);
        programs.run_under(pid, &programs.chain, &["1.2"]);
        programs.run_under(pid, &cpp, &["1.2"]);
        // no exec: it goes on in with_pid's own memory
        programs.run_under(pid, Path::new("-"), &["0.4"]);
    });
    assert_four_programs(&recording, pid);
}

/// The same below a command: each fork and exec is told of.
#[test]
fn root_children_with_the_same_pid_have_each_their_own_stacks() {
    let Some(programs) = Programs::build() else { return };
    let Some(cpp) = program("shares_cpp") else { return };
    let pid = free_pid();
    let script = r#"set -e; "$0" $1 "$2" 0.5; "$0" $1 "$3" 0.5; "$0" $1 "$4" 0.5; "$0" $1 - 0.2"#;
    let recording = programs.record_script(RATE, script, pid, &[&programs.shares, &programs.chain, &cpp]);
    assert_four_programs(&recording, pid);
}

/// The programs last 4 ms: mostly one has ended before its mappings could be read, and the next one runs.
#[test]
fn root_a_pid_that_changes_hands_all_the_time_never_mixes_programs() {
    let Some(programs) = Programs::build() else { return };
    let pid = free_pid();
    let script = r#"set -e; i=0; while [ $i -lt 80 ]; do i=$((i+1))
        "$0" $1 "$2" 0.004; "$0" $1 "$3" 0.004; "$0" $1 - 0.002; done"#;
    let recording = programs.record_script("4999", script, pid, &[&programs.shares, &programs.chain]);
    assert_each_is_of_its_program(&recording, pid, &["with_pid", "shares-nopie", "chain-nopie"]);
    for (name, least) in [("shares-nopie", 200), ("chain-nopie", 200), ("with_pid", 100)] {
        let (all, cut) = named(&recording, pid, name);
        println!("{name}: {all} samples, {cut} cut");
        assert!(all >= least, "{all} samples of {name}");
    }
}

#[test]
fn root_a_pid_that_changes_hands_before_the_recording_begins_is_not_taken_for_the_target() {
    let Some(programs) = Programs::build() else { return };
    for delay in [20, 60, 120] {
        let pid = free_pid();
        let target = programs.start_under(pid, &programs.shares, &["60"]);
        let args = ["record", "-p", &pid.to_string(), "-d", "2s"];
        let recording = command().args(args).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let number = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(number, rustix::process::Signal::KILL).unwrap();
        // whoever started it has waited for it
        wait_until("the pid is free", || !Path::new(&format!("/proc/{pid}")).exists());
        drop(target);
        let _stranger = programs.start_under(pid, &programs.chain, &["60"]);
        let output = recording.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // whoever was the target: what was recorded in two seconds is the stranger
        let is_for_two_seconds = said.lines().any(|line| line.contains("for 2."));
        assert!(
            !is_for_two_seconds || !said.contains("(shares-nopie)"),
            "{delay} ms: {said}"
        );
    }
}

#[test]
fn root_a_stranger_with_the_pid_of_a_target_that_ended_is_not_recorded() {
    let Some(programs) = Programs::build() else { return };
    let Some(beside) = program("shares") else { return };
    let pid = free_pid();
    let beside = Program::start(&beside, &["60"]);
    let target = programs.start_under(pid, &programs.shares, &["4"]);
    let (one, two) = (pid.to_string(), beside.pid_text());
    let recording = record_while(RATE, &["-p", &one, "-p", &two, "-d", "8s"], || {
        target.wait();
        programs.run_under(pid, &programs.chain, &["1"]);
        programs.run_under(pid, Path::new("-"), &["0.3"]);
    });
    assert_each_is_of_its_program(&recording, pid, &["shares-nopie"]);
    assert_complete(&recording, pid, "shares-nopie", 200);
    let others = recording
        .profile
        .count(|sample| ![pid, beside.pid()].contains(&sample.pid));
    assert_eq!(others, 0);
    assert_complete(&recording, beside.pid(), "shares", 200);
}
