//! Runs the command, and checks what is true of every recording whatever was recorded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::{Profile, wait_until};

/// A run of the command that has ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The command, with nothing said yet.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moonscope"));
    command.stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

/// Runs the command with these arguments.
pub fn moonscope<A: AsRef<OsStr>>(args: &[A]) -> Run {
    command().args(args).output().unwrap().into()
}

/// What became of each tick, from the last line of a recording:
/// `1,980 ticks = 12 idle + 0 filtered + 1,960 complete + 8 truncated (no unwind row 8) + 0 lost; unexplained 0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    pub fired: u64,
    pub idle: u64,
    pub filtered: u64,
    pub complete: u64,
    pub truncated: BTreeMap<String, u64>,
    pub lost: BTreeMap<String, u64>,
    pub unexplained: String,
}

impl Accounting {
    /// Takes the line apart.
    pub fn parse(line: &str) -> Self {
        let number = |text: &str| {
            text.replace(',', "")
                .parse::<u64>()
                .unwrap_or_else(|_| panic!("{text:?} in {line:?}"))
        };
        let (fired, rest) = line
            .split_once(" ticks = ")
            .unwrap_or_else(|| panic!("no accounting: {line:?}"));
        let (parts, unexplained) = rest.split_once("; unexplained ").unwrap();
        let mut accounting = Self {
            fired: number(fired),
            unexplained: unexplained.to_owned(),
            ..Self::default()
        };
        for part in parts.split(" + ") {
            let (count, rest) = part.split_once(' ').unwrap();
            let (name, list) = rest.split_once(" (").unwrap_or((rest, ""));
            let reasons = list.trim_end_matches(')').split_terminator(", ").map(|item| {
                let (reason, count) = item.rsplit_once(' ').unwrap();
                (reason.to_owned(), number(count))
            });
            let reasons: BTreeMap<String, u64> = reasons.collect();
            match name {
                "idle" => accounting.idle = number(count),
                "filtered" => accounting.filtered = number(count),
                "complete" => accounting.complete = number(count),
                "truncated" | "lost" => {
                    assert_eq!(reasons.values().sum::<u64>(), number(count), "{line:?}");
                    let field = if name == "lost" {
                        &mut accounting.lost
                    } else {
                        &mut accounting.truncated
                    };
                    *field = reasons;
                }
                other => panic!("{other:?} in {line:?}"),
            }
        }
        accounting
    }

    /// The same from the `.json` file.
    fn from_json(json: &Value) -> Self {
        let number = |key: &str| json[key].as_u64().unwrap();
        let reasons = |key: &str| serde_json::from_value(json[key].clone()).unwrap();
        let (truncated, lost): (BTreeMap<String, u64>, BTreeMap<String, u64>) =
            (reasons("truncated"), reasons("lost"));
        let explained = number("idle")
            + number("filtered")
            + number("complete")
            + truncated.values().chain(lost.values()).sum::<u64>();
        Self {
            fired: number("fired"),
            idle: number("idle"),
            filtered: number("filtered"),
            complete: number("complete"),
            truncated,
            lost,
            unexplained: (i128::from(number("fired")) - i128::from(explained)).to_string(),
        }
    }

    /// Samples that are in the profile.
    pub fn kept(&self) -> u64 {
        self.complete + self.truncated.values().sum::<u64>()
    }
}

/// A recording that succeeded.
pub struct Recording {
    pub run: Run,
    pub accounting: Accounting,
    pub profile: Profile,
    /// Stacks as text, root first, and how often.
    pub folded: Vec<(Vec<String>, u64)>,
    /// Holds `x.json`, `x.folded` and `x.txt`.
    pub dir: tempfile::TempDir,
}

/// Ticks per second. More than the default, so that a recording of two or three seconds is enough.
pub const RATE: &str = "1999";

/// Records with these arguments. That it succeeds, loses nothing, explains every tick, and says the same in
/// all files is checked here.
#[track_caller]
pub fn record(args: &[&str]) -> Recording {
    record_at(RATE, args)
}

/// The same at another rate.
#[track_caller]
pub fn record_at(rate: &str, args: &[&str]) -> Recording {
    record_while(rate, args, || ())
}

/// The same, and does something while the recording measures.
#[track_caller]
pub fn record_while(rate: &str, args: &[&str], something: impl FnOnce()) -> Recording {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let mut command = command();
    command.args(["record", "-F", rate]);
    for name in ["x.json", "x.folded", "x.txt"] {
        command.arg("-o").arg(file(name));
    }
    let mut child = command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_measures(&mut child);
    something();
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.code, 0, "record {args:?}: {}", run.stderr);

    let profile = Profile::read(&file("x.json"));
    let accounting = Accounting::parse(run.stderr.lines().last().unwrap_or_default());
    assert_eq!(accounting, Accounting::from_json(&profile.json["accounting"]));
    assert_eq!(accounting.unexplained, "0", "{}", run.stderr);
    assert_eq!(accounting.lost, BTreeMap::new(), "{}", run.stderr);
    assert_eq!(accounting.kept(), profile.total(), "{}", run.stderr);
    let folded = read_folded(&file("x.folded"));
    assert_eq!(
        folded.iter().map(|(_, count)| count).sum::<u64>(),
        profile.total()
    );
    Recording {
        run,
        accounting,
        profile,
        folded,
        dir,
    }
}

/// Waits until a recording has begun, or has ended.
pub fn wait_until_it_measures(child: &mut Child) {
    // it polls for samples from the moment on at which it measures, and not before
    let call = format!("/proc/{}/syscall", child.id());
    let polls = [libc::SYS_poll, libc::SYS_ppoll].map(|number| number.to_string());
    wait_until("the recording has begun", || {
        let has_ended = child.try_wait().unwrap().is_some();
        let text = std::fs::read_to_string(&call).unwrap_or_default();
        let number = text.split(' ').next().unwrap_or_default();
        has_ended || polls.iter().any(|poll| poll == number)
    });
}

/// Runs a recording without an end, does something while it measures, and ends it as Ctrl-C does.
pub fn moonscope_while(args: &[&str], something: impl FnOnce()) -> Run {
    let mut child = command()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_measures(&mut child);
    something();
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
    child.wait_with_output().unwrap().into()
}

/// Reads folded stacks as every program that draws flame graphs does.
pub fn read_folded(path: &std::path::Path) -> Vec<(Vec<String>, u64)> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let (stack, count) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("no count: {line:?}"));
        let count = count.parse().unwrap_or_else(|_| panic!("no count: {line:?}"));
        (stack.split(';').map(str::to_owned).collect(), count)
    };
    text.split_terminator('\n').map(line).collect()
}

impl Recording {
    /// A file of the recording.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// At least this part of the stacks reaches its outermost frame.
    #[track_caller]
    pub fn assert_complete(&self, part: f64) {
        let Accounting {
            complete, truncated, ..
        } = &self.accounting;
        let kept = self.accounting.kept();
        assert!(
            *complete as f64 >= part * kept as f64,
            "{complete} of {kept} stacks are complete; the others: {truncated:?}"
        );
    }
}
