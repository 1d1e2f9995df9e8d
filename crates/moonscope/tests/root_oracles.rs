//! Other tools say the same of the same process: gdb of a stack, perf of shares.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::recording::record_while;
use common::{Frame, Program, Recording, program, record, root, tool};

/// Names of the functions of a thread as gdb shows them, root first, from `main` on.
fn backtrace(gdb: &Path, pid: &str) -> Vec<String> {
    let mut command = Command::new(gdb);
    command.args([
        "-nx",
        "-batch",
        "-ex",
        "set width 0",
        "-ex",
        &format!("attach {pid}"),
        "-ex",
        "bt -1000",
    ]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // #3  0x0000557d09a6a1f5 in chain_03 ()
    let name = |line: &str| {
        let rest = line
            .strip_prefix('#')?
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start();
        let rest = rest.split_once(" in ").map_or(rest, |(_, rest)| rest);
        Some(rest.split(" (").next()?.to_owned())
    };
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.reverse();
    let main = names.iter().position(|name| name == "main");
    names.split_off(main.unwrap_or_else(|| panic!("no main in {text}")))
}

/// What gdb sees at some moment is among the stacks that were recorded. The C library and what is below it is left
/// out: gdb may stop anywhere in it.
fn gdb_sees_recorded_stacks(name: &str, args: &[&str], functions: &[&str]) {
    if !root() {
        return;
    }
    let (Some(path), Some(gdb)) = (program(name), tool("gdb")) else {
        return;
    };
    let program = Program::start(&path, &[&["60"], args].concat());
    let recording = record(&["-p", &program.pid_text(), "-d", "1500ms", "--max-depth", "1024"]);
    let ours = |names: &[String]| -> Vec<String> {
        let is_ours = |name: &&String| functions.iter().any(|prefix| name.starts_with(prefix));
        names.iter().take_while(is_ours).cloned().collect()
    };
    let recorded: BTreeSet<Vec<String>> = recording
        .profile
        .samples
        .iter()
        .filter_map(|sample| {
            Some(
                sample
                    .below_main()?
                    .into_iter()
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        })
        .map(|names| ours(&names))
        .collect();
    for _ in 0..3 {
        let seen = ours(&backtrace(&gdb, &program.pid_text()));
        assert!(seen.len() > 1, "gdb sees {seen:?}");
        assert!(
            recorded.contains(&seen),
            "gdb sees {seen:?}, recorded are {recorded:?}"
        );
    }
}

#[test]
fn root_gdb_sees_the_same_chain() {
    gdb_sees_recorded_stacks("chain-O2", &["30"], &["main", "chain_"]);
}

#[test]
fn root_gdb_sees_the_same_shares() {
    gdb_sees_recorded_stacks("shares", &[], &["main", "one_round", "share_"]);
}

#[test]
fn root_gdb_sees_the_same_realigned_frames() {
    let functions = ["main", "vla_frame", "drap_frame", "avx_frame", "realign_leaf"];
    gdb_sees_recorded_stacks("realign", &[], &functions);
}

#[test]
fn root_gdb_sees_the_same_deep_stack() {
    gdb_sees_recorded_stacks("deep", &["300"], &["main", "descend", "deep_leaf"]);
}

/// How many samples end in a function, and how many go through it. A function without a name counts as its module.
#[derive(Default)]
struct Counts {
    total: u64,
    leaf: BTreeMap<String, u64>,
    through: BTreeMap<String, u64>,
}

/// The two print names of C++ with and without arguments, and versions of symbols or not.
fn plain(name: &str) -> String {
    let name = name.split_once('(').map_or(name, |(name, _)| name);
    // the return type of a template
    let name = name.strip_prefix("void ").unwrap_or(name);
    match name.split_once('@') {
        Some((name, "plt")) => format!("{name}@plt"),
        Some((name, _)) => name.to_owned(),
        None => name.to_owned(),
    }
}

impl Counts {
    /// `names` leaf first.
    fn add(&mut self, names: &[String], count: u64) {
        self.total += count;
        if let Some(leaf) = names.first() {
            *self.leaf.entry(leaf.clone()).or_default() += count;
        }
        for name in names
            .iter()
            .filter(|name| !name.starts_with('['))
            .collect::<BTreeSet<_>>()
        {
            *self.through.entry(name.clone()).or_default() += count;
        }
    }

    fn of_recording(recording: &Recording) -> Self {
        let mut counts = Self::default();
        for sample in &recording.profile.samples {
            let name = |frame: &std::rc::Rc<Frame>| match &frame.function {
                Some(name) => plain(name),
                None => format!("[{}]", frame.file_name()),
            };
            counts.add(
                &sample.stack.iter().rev().map(name).collect::<Vec<_>>(),
                sample.count,
            );
        }
        counts
    }

    /// What `perf script -F ip,sym,dso` prints: a line `address symbol (path)` for each frame, leaf first, and an
    /// empty one after each sample.
    fn of_perf(text: &str) -> Self {
        let mut counts = Self::default();
        for sample in text.split("\n\n").filter(|sample| !sample.trim().is_empty()) {
            let name = |line: &str| {
                let (name, module) = line.trim().split_once(' ')?.1.trim().rsplit_once(" (")?;
                let module = module.trim_end_matches(')').rsplit('/').next()?;
                Some(if name == "[unknown]" {
                    format!("[{module}]")
                } else {
                    plain(name)
                })
            };
            counts.add(&sample.lines().filter_map(name).collect::<Vec<_>>(), 1);
        }
        counts
    }
}

/// Two samplings of one process at one time differ by chance only: by five standard deviations of the difference of
/// two binomial counts at most, and half a percent for what the one saw before or after the other.
#[track_caller]
fn assert_like_perf(
    what: &str,
    ours: &BTreeMap<String, u64>,
    our_total: u64,
    perf: &BTreeMap<String, u64>,
    total: u64,
) {
    let mut compared = 0;
    for (name, &count) in perf {
        let share = count as f64 / total as f64;
        if share < 0.03 {
            continue;
        }
        let found = ours.get(name).copied().unwrap_or(0) as f64 / our_total as f64;
        let sigma = (share * (1.0 - share) * (1.0 / total as f64 + 1.0 / our_total as f64)).sqrt();
        assert!(
            (found - share).abs() <= 5.0 * sigma + 0.005,
            "{what} {name}: {found:.4}, by perf {share:.4}, standard deviation {sigma:.4}"
        );
        compared += 1;
    }
    assert!(compared > 0, "{what}: nothing to compare in {perf:?}");
}

struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn perf_agrees(command: &mut Command) {
    let Some(perf) = tool("perf") else { return };
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let busy = Busy(command.spawn().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("perf.data");
    let pid = busy.0.id().to_string();
    let mut beside = Command::new(&perf);
    beside.args([
        "record",
        "-q",
        "-e",
        "cpu-clock",
        "-F",
        "1499",
        "--call-graph",
        "dwarf,32768",
        "-p",
        &pid,
        "-o",
    ]);
    beside
        .arg(&data)
        .args(["--", "sleep", "3"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut perf_record = None;
    let recording = record_while("1499", &["-p", &pid, "-d", "3s"], || {
        perf_record = Some(beside.spawn().unwrap())
    });
    assert!(perf_record.unwrap().wait().unwrap().success());
    let mut script = Command::new(&perf);
    script
        .args(["script", "--no-inline", "-F", "ip,sym,dso", "-i"])
        .arg(&data);
    let output = script
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let theirs = Counts::of_perf(&String::from_utf8_lossy(&output.stdout));
    let ours = Counts::of_recording(&recording);
    assert!(theirs.total > 300, "perf has {} samples", theirs.total);
    assert_like_perf("leaf", &ours.leaf, ours.total, &theirs.leaf, theirs.total);
    assert_like_perf(
        "through",
        &ours.through,
        ours.total,
        &theirs.through,
        theirs.total,
    );
}

#[test]
fn root_perf_sees_the_same_shares_in_openssl() {
    let Some(openssl) = root().then(|| tool("openssl")).flatten() else {
        return;
    };
    perf_agrees(Command::new(openssl).args(["speed", "-seconds", "60", "rsa2048"]));
}

#[test]
fn root_perf_sees_the_same_shares_in_gzip() {
    let Some(gzip) = root().then(|| tool("gzip")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("letters");
    // half a minute of work for gzip -9
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters: Vec<u8> = (0..128 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b'a' + (state >> 60) as u8
        })
        .collect();
    std::fs::write(&file, letters).unwrap();
    perf_agrees(Command::new(gzip).args(["-9", "-c"]).arg(&file));
}

#[test]
fn root_perf_sees_the_same_shares_in_a_program_of_known_shares() {
    let Some(path) = root().then(|| program("shares_cpp")).flatten() else {
        return;
    };
    perf_agrees(Command::new(path).arg("60"));
}
