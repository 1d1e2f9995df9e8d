//! What cannot be done is said in one line, with what to do and the right exit code, and nothing is left behind.
//!
//! Exit codes: `docs/exit-codes.md`. Those tests that get as far as the kernel need root and are named `root_*`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::recording::command;
use common::{Program, Run, moonscope, program, root, skip, wait_until};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 3;
const NO_TARGET: i32 = 4;
const NO_SAMPLES: i32 = 5;

/// The error is one line that begins with our name and has these words; what follows is indented advice.
#[track_caller]
fn assert_fails(run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.code, code, "{}", run.stderr);
    let errors: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("moonscope: "))
        .collect();
    assert_eq!(errors.len(), 1, "{}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "no {word:?} in {}", run.stderr);
    }
    assert_eq!(run.stdout, "");
    assert!(
        !run.stderr.contains("panicked") && !run.stderr.contains("Error {"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.chars().all(|c| c == '\n' || !c.is_control()),
        "{:?}",
        run.stderr
    );
}

/// What the argument parser refuses: one line that begins with the verb and says where help is, exit code 2.
#[track_caller]
fn assert_usage(run: &Run, verb: &str, words: &[&str]) {
    assert_eq!(run.code, USAGE, "{}", run.stderr);
    assert_eq!(run.stdout, "");
    let line = run.stderr.strip_suffix('\n').unwrap();
    assert!(
        line.starts_with(&format!("{verb}: ")) && line.ends_with(&format!("; see {verb} --help")),
        "{line}"
    );
    assert!(!line.contains(char::is_control), "{line:?}");
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
}

#[track_caller]
fn assert_empty(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// `record` of this process into a file of `dir`.
fn record_into(dir: &Path, file: &str, more: &[&str]) -> Run {
    let path = dir.join(file);
    let pid = std::process::id().to_string();
    let mut args = vec!["record", "-o", path.to_str().unwrap()];
    if !more.contains(&"-d") {
        args.extend(["-d", "200ms"]);
    }
    if more.is_empty() {
        args.extend(["-p", &pid]);
    }
    args.extend(more);
    moonscope(&args)
}

#[test]
fn no_target_is_a_usage_error_with_examples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.svg");
    let run = moonscope(&["record", "-o", path.to_str().unwrap()]);
    assert_fails(&run, USAGE, &["no target", "-p PID", "--nginx"]);
    assert_empty(dir.path());
}

#[test]
fn what_is_no_number_is_answered_with_what_is_expected() {
    let process = "a whole number is expected, such as 4321";
    let depth = "a whole number from 1 to 1024 is expected, such as 127";
    for (line, expected) in [
        (
            "record -F 3.5",
            "a whole number from 1 to 1000000 is expected, such as 99",
        ),
        (
            "record -F 0",
            "a whole number from 1 to 1000000 is expected, such as 99",
        ),
        ("record -p abc", process),
        ("record -p 1,,2", process),
        ("record --pid 99999999999", process),
        ("record -d x", "a time looks like 10, 10s, 500ms, 2m"),
        ("record --max-depth q", depth),
        (
            "record --keep 0",
            "a whole number of at least 1 is expected, such as 60",
        ),
        (
            "record --trigger-count -",
            "a whole number of at least 1 is expected, such as 3",
        ),
        ("top --max-depth 0", depth),
        ("stack --max-depth 1025", depth),
        ("doctor -p nginx", process),
        ("convert --pid x", process),
        ("convert --tid 1.0", process),
        (
            "nginx shdict --limit all",
            "a whole number of at least 0 is expected, such as 1000",
        ),
        (
            "lua objects --holders few",
            "a whole number of at least 0 is expected, such as 40",
        ),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let verb = words.iter().take_while(|word| !word.starts_with('-'));
        let verb = verb.fold("moonscope".to_owned(), |all, word| format!("{all} {word}"));
        assert_usage(&moonscope(&words), &verb, &["invalid value '", expected]);
    }
}

#[test]
fn two_kinds_of_target_are_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    assert_fails(
        &record_into(dir.path(), "x.svg", &["-a", "-p", "1"]),
        USAGE,
        &["--pid", "--all"],
    );
    assert_empty(dir.path());
}

#[test]
fn a_pid_that_nobody_has_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // above the largest pid_max there can be (PID_MAX_LIMIT, 4 Mi)
    let run = record_into(dir.path(), "x.svg", &["-p", "4194305"]);
    assert_fails(&run, NO_TARGET, &["no process 4194305"]);
    assert_empty(dir.path());
}

#[test]
fn a_pid_of_a_process_that_ended_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    // it stays a zombie until it is waited for
    let stat = format!("/proc/{}/stat", child.id());
    wait_until("it has ended", || {
        std::fs::read_to_string(&stat).unwrap().contains(") Z ")
    });
    let run = record_into(dir.path(), "x.svg", &["-p", &child.id().to_string()]);
    assert_fails(&run, NO_TARGET, &["has ended"]);
    child.wait().unwrap();
    let run = record_into(dir.path(), "x.svg", &["-p", &child.id().to_string()]);
    assert_fails(&run, NO_TARGET, &["no process"]);
    assert_empty(dir.path());
}

#[test]
fn a_kernel_thread_is_told() {
    let is_kthreadd = std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
    if !is_kthreadd {
        return skip("no kernel thread is visible here");
    }
    let dir = tempfile::tempdir().unwrap();
    let run = record_into(dir.path(), "x.svg", &["-p", "2"]);
    assert_fails(
        &run,
        NO_TARGET,
        &["process 2 (kthreadd) is a kernel thread", "use -a"],
    );
    assert_empty(dir.path());
}

#[test]
fn names_that_nobody_has_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for (option, value, words) in [
        ("--comm", "no-such-name", "no process named no-such-name"),
        ("--exe", "/no/such/file", "no process running /no/such/file"),
        ("--cgroup", "/no/such/group", "no control group /no/such/group"),
        ("--container", "no-such-container", "no-such-container"),
        ("--nginx=/no/such/file", "", "/no/such/file"),
    ] {
        let args: Vec<&str> = [option, value]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        assert_fails(&record_into(dir.path(), "x.svg", &args), NO_TARGET, &[words]);
    }
    assert_empty(dir.path());
}

#[test]
fn a_command_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let run = record_into(dir.path(), "x.svg", &["--", "no-such-command-here"]);
    assert_fails(&run, NO_TARGET, &["no-such-command-here: command not found"]);
    let run = record_into(dir.path(), "x.svg", &["--", "/etc/passwd"]);
    assert_fails(&run, NO_TARGET, &["/etc/passwd: not an executable file"]);
    assert_empty(dir.path());
}

/// An executable that the kernel refuses only when it is started.
#[test]
fn root_a_command_that_cannot_be_executed_is_told() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    std::fs::write(&broken, b"\x7fELF of nothing").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let run = record_into(out.path(), "x.svg", &["--", broken.to_str().unwrap()]);
    assert_fails(&run, NO_TARGET, &["broken: cannot execute", "xec format error"]);
    assert_empty(out.path());
}

#[test]
fn times_and_rates_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.svg");
    let path = path.to_str().unwrap();
    for (args, words) in [
        (["-d", "0"], "at least 1ms"),
        (["-d", "10y"], "no unit of time"),
        (["-d", "soon"], "a time looks like"),
        (["-d", "9999h"], "at most a week"),
        (["-F", "0"], "from 1 to 1000000 "),
        (["-F", "-1"], "-1"),
        (["-F", "many"], "many"),
        (["--max-depth", "0"], "0"),
        (["--max-depth", "99999"], "from 1 to 1024 "),
        (["-e", "nonsense"], "there are cpu, offcpu"),
        (["-p", "nobody"], "nobody"),
        (["--no-such-option", "x"], "--no-such-option"),
    ] {
        let run = moonscope(&[&["record", "-o", path, "-a"][..], &args[..]].concat());
        match words {
            // of what there is only the kernel's side knows
            "there are cpu, offcpu" => assert_fails(&run, USAGE, &[words]),
            words => assert_usage(&run, "moonscope record", &[words]),
        }
    }
    assert_empty(dir.path());
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_in_one_line() {
    for (args, verb, words) in [
        (
            vec!["record", "--forse"],
            "moonscope record",
            vec!["'--forse'", "'--force'"],
        ),
        (
            vec!["record", "--a\nb\x1b[31m"],
            "moonscope record",
            vec!["unexpected argument"],
        ),
        (
            vec!["record", "-d"],
            "moonscope record",
            vec!["a value is required for '--duration <TIME>'"],
        ),
        (
            vec!["record", "--by", "moon"],
            "moonscope record",
            vec!["'moon'", "comm, pid, tid"],
        ),
        (
            vec!["record", "--keep", "3"],
            "moonscope record",
            vec!["--interval <TIME>"],
        ),
        (
            vec!["convert"],
            "moonscope convert",
            vec!["--output <FILE>", "<IN>..."],
        ),
        (vec!["diff", "a"], "moonscope diff", vec!["--output <FILE>, <B>"]),
        (
            vec!["list", "moons"],
            "moonscope list",
            vec!["targets, events, formats"],
        ),
        (
            vec!["nginx", "requests", "--foo"],
            "moonscope nginx requests",
            vec!["'--foo'"],
        ),
        (vec!["recrod"], "moonscope", vec!["'recrod'", "'record'"]),
    ] {
        assert_usage(&moonscope(&args), verb, &words);
    }
    // nothing at all is a question, and help the answer
    let run = moonscope::<&str>(&[]);
    assert_eq!(run.code, USAGE);
    assert!(
        run.stderr.contains("Usage: moonscope <COMMAND>"),
        "{}",
        run.stderr
    );
}

#[test]
fn directories_with_debug_files_that_are_not_there_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (debug_dir, words) in [
        ("/no/such/directory", "there is no such directory"),
        (file.to_str().unwrap(), "is not a directory"),
    ] {
        let run = record_into(
            dir.path(),
            "x.svg",
            &["--debug-dir", debug_dir, "-p", &std::process::id().to_string()],
        );
        assert_fails(&run, USAGE, &[debug_dir, words]);
    }
    std::fs::remove_file(&file).unwrap();
    assert_empty(dir.path());
}

/// The kernel has a limit of its own, `perf_event_max_sample_rate`.
#[test]
fn root_a_rate_above_the_kernels_limit_is_refused_with_the_limit() {
    if !root() {
        return;
    }
    let limit = std::fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate").unwrap();
    let limit = limit.trim();
    let above = (limit.parse::<u64>().unwrap() + 1).to_string();
    let dir = tempfile::tempdir().unwrap();
    let run = record_into(dir.path(), "x.svg", &["-a", "-F", &above]);
    assert_fails(&run, USAGE, &[limit, "perf_event_max_sample_rate"]);
    assert_empty(dir.path());
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_anything_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    // endings
    for (file, code) in [("x.xyz", USAGE), ("x", USAGE), ("no/such/dir/x.svg", FAILED)] {
        let run = record_into(dir.path(), file, &[]);
        assert_fails(&run, code, &[file]);
    }
    assert_empty(dir.path());
    // an existing file stays as it is
    let existing = dir.path().join("x.svg");
    std::fs::write(&existing, "precious").unwrap();
    assert_fails(
        &record_into(dir.path(), "x.svg", &[]),
        FAILED,
        &["exists already", "--force"],
    );
    assert_eq!(std::fs::read_to_string(&existing).unwrap(), "precious");
    // a directory
    std::fs::create_dir(dir.path().join("d.svg")).unwrap();
    assert_fails(
        &record_into(dir.path(), "d.svg", &[]),
        FAILED,
        &["is a directory"],
    );
    // one place for two formats
    let path = dir.path().join("y.svg");
    let path = path.to_str().unwrap();
    let run = moonscope(&["record", "-a", "-d", "1s", "-o", path, "-o", path]);
    assert_fails(&run, USAGE, &["given twice"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn root_an_existing_file_is_replaced_when_forced() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.json"), "precious").unwrap();
    let run = record_into(
        dir.path(),
        "x.json",
        &["-f", "-F", "999", "-d", "1s", "-p", &program.pid_text()],
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(common::Profile::read(&dir.path().join("x.json")).total() > 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A directory that others may use as far as `mode` says.
fn open_dir(mode: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    dir
}

/// Runs as `nobody`, with no capability.
fn as_nobody(args: &[&str]) -> Run {
    // nobody may not look into the build directory
    let dir = open_dir(0o755);
    let copy = dir.path().join("moonscope");
    std::fs::copy(env!("CARGO_BIN_EXE_moonscope"), &copy).unwrap();
    let mut command = Command::new(copy);
    command
        .args(args)
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .stdin(Stdio::null());
    command.output().unwrap().into()
}

#[test]
fn root_without_privilege_the_remedy_is_told() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let dir = open_dir(0o777);
    let file = dir.path().join("x.svg");
    let file = file.to_str().unwrap();
    // a process of root, and the whole machine
    let run = as_nobody(&["record", "-d", "1s", "-o", file, "-p", &program.pid_text()]);
    assert_fails(&run, NOT_PERMITTED, &[&program.pid_text(), "sudo", "setcap"]);
    let run = as_nobody(&["record", "-d", "1s", "-o", file, "-a"]);
    assert_fails(&run, NOT_PERMITTED, &["sudo"]);
    // a command of nobody's own: BPF is what is missing
    let run = as_nobody(&["record", "-d", "1s", "-o", file, "--", "sleep", "5"]);
    assert_fails(&run, NOT_PERMITTED, &["sudo"]);
    // doctor says the same and does not fail to run
    let run = as_nobody(&["doctor"]);
    assert_eq!(run.code, NOT_PERMITTED, "{}\n{}", run.stdout, run.stderr);
    assert_empty(dir.path());
    // nobody's own files are all that counts where no privilege is needed
    let run = as_nobody(&["list", "formats"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn root_an_idle_target_gives_no_samples_and_the_reason() {
    if !root() {
        return;
    }
    // it reads from a pipe that stays open
    let mut idle = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pid = idle.id().to_string();
    // once it waits for input it stays so
    let wchan = format!("/proc/{pid}/stat");
    wait_until("it waits", || {
        std::fs::read_to_string(&wchan).unwrap().contains("(cat) S ")
    });
    let run = record_into(dir.path(), "x.svg", &["-p", &pid]);
    assert_fails(
        &run,
        NO_SAMPLES,
        &["no samples of process", "a process that waits has no CPU profile"],
    );
    assert_empty(dir.path());
    idle.kill().unwrap();
    idle.wait().unwrap();
}

/// It lives for some milliseconds after it was found, or a bit longer: the recording ends when it does, and says so.
/// Without `-d`, so that a recording which misses the end would never come back.
#[test]
fn root_a_recording_of_a_process_that_ends_at_once_ends_too() {
    if !root() {
        return;
    }
    for pause in ["0", "0.01", "0.02", "0.03", "0.05", "0.2"] {
        let mut child = Command::new("sleep")
            .arg(pause)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // it must end for others too: a zombie has not
        let pid = child.id().to_string();
        let reaper = std::thread::spawn(move || child.wait());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let run = moonscope(&["record", "-o", path.to_str().unwrap(), "-p", &pid]);
        reaper.join().unwrap().unwrap();
        assert!([0, NO_TARGET].contains(&run.code), "{}: {}", run.code, run.stderr);
        if run.code != 0 {
            assert_fails(&run, run.code, &[]);
            assert_empty(dir.path());
        }
    }
}

#[test]
fn files_that_are_no_profiles_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.svg");
    let out = out.to_str().unwrap();
    for (name, content) in [
        (
            "x.json",
            &b"{\"format\": \"moonscope-profile\", \"version\": 1}"[..],
        ),
        ("y.json", b"{"),
        ("z.json", b"{\"format\": \"moonscope-profile\", \"version\": 999}"),
        ("x.pb.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00garbage"),
        ("x.folded", b"main;work\n"),
        ("x.unknown", b"\x00\x01\x02\x03"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let run = moonscope(&["convert", path.to_str().unwrap(), "-o", out]);
        assert_fails(&run, FAILED, &[name]);
    }
    let run = moonscope(&["convert", "/no/such/file.json", "-o", out]);
    assert_fails(
        &run,
        FAILED,
        &["/no/such/file.json: cannot open: no such file or directory\n"],
    );
    std::fs::write(dir.path().join("empty.folded"), "").unwrap();
    let empty = dir.path().join("empty.folded");
    let run = moonscope(&["convert", empty.to_str().unwrap(), "-o", out]);
    assert_fails(&run, NO_SAMPLES, &["no samples"]);
    assert!(!Path::new(out).exists());
}

/// A reader that closes the pipe early is no error, and a full one is.
#[test]
fn a_closed_pipe_is_quiet_and_a_full_device_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.folded");
    std::fs::write(&file, "main;work 1\n").unwrap();
    let mut convert = command();
    convert.arg("convert").arg(&file).args(["-o", "-", "--to", "txt"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run: Run = convert.stdout(full).output().unwrap().into();
    assert_fails(&run, FAILED, &["stdout"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut convert = command();
    convert.arg("convert").arg(&file).args(["-o", "-", "--to", "txt"]);
    let run: Run = convert.stdout(writer).output().unwrap().into();
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn the_help_says_how_many_frames_can_be_asked_for() {
    for verb in ["record", "stack", "top"] {
        let run = moonscope(&[verb, "--max-depth", "99999999", "-a"]);
        assert_eq!(run.code, 2, "{}", run.stderr);
        let (_, limit) = run.stderr.split_once("from 1 to ").unwrap();
        let limit: String = limit.chars().take_while(char::is_ascii_digit).collect();
        let help = moonscope(&[verb, "--help"]).stdout;
        assert!(
            help.contains(&format!("at most, up to {limit};")),
            "{verb}: {help}"
        );
    }
}
