//! Files that cannot be written, and pipes: what was recorded is not lost, and the last lines say what became of it.
//!
//! Exit codes: `docs/exit-codes.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::recording::command;
use common::{Accounting, Program, Run, moonscope, program, root, skip, tool};

const FAILED: i32 = 1;
const PARTIAL: i32 = 6;

/// What failed and what to do is told, and then what was recorded, where it is, and what became of each tick.
#[track_caller]
fn assert_told(run: &Run, failed: &str, remedy: &str, written: &Path) {
    let lines: Vec<&str> = run.stderr.lines().collect();
    let place = |what: &dyn Fn(&str) -> bool| {
        let at = lines.iter().position(|line| what(line));
        at.unwrap_or_else(|| panic!("{}", run.stderr))
    };
    let error = place(&|line| line.starts_with("moonscope: ") && line.contains(failed));
    let remedy = place(&|line| line.starts_with("  ") && line.contains(remedy));
    let recorded = place(&|line| line.starts_with("recorded process "));
    let wrote = format!("wrote {} (", written.display());
    let wrote = place(&|line| line.starts_with(&wrote));
    assert!(
        error < remedy && remedy < recorded && recorded < wrote,
        "{}",
        run.stderr
    );
    let accounting = Accounting::parse(lines.last().unwrap());
    assert!(accounting.kept() > 0, "{}", run.stderr);
    assert_eq!(run.stdout, "");
    // nothing of it is missing
    if written.extension().is_some_and(|ending| ending == "json") {
        assert_eq!(common::Profile::read(written).total(), accounting.kept());
    }
}

/// Records into a file system with room for less than an SVG, with these outputs more; `None` if none can be mounted.
/// Temporary files go to `elsewhere`.
fn record_on_a_full_disk(elsewhere: &Path, more: &[&Path]) -> Option<Run> {
    record_on_a_full_disk_with(elsewhere, more, &[])
}

fn record_on_a_full_disk_with(elsewhere: &Path, more: &[&Path], options: &[&str]) -> Option<Run> {
    let program = Program::start(&program("chain-O2")?, &["60", "60"]);
    let small = tempfile::tempdir().unwrap();
    // what `ls` prints goes to stdout, which must be empty
    let script = "small=$1; binary=$2; pid=$3; shift 3; mount -t tmpfs -o size=8k tmpfs \"$small\" || exit 99
        \"$binary\" record -p \"$pid\" -F 1999 -d 300ms -o \"$small/x.svg\" \"$@\"; code=$?
        ls -A \"$small\"; exit $code";
    let mut command = Command::new(tool("unshare")?);
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([small.path(), Path::new(env!("CARGO_BIN_EXE_moonscope"))])
        .arg(program.pid_text())
        .env("TMPDIR", elsewhere)
        .stdin(Stdio::null());
    for path in more {
        command.arg("-o").arg(path);
    }
    let run: Run = command.args(options).output().unwrap().into();
    if run.code == 99 {
        skip("cannot mount a tmpfs");
        return None;
    }
    Some(run)
}

/// Nothing is half-written, and what fits elsewhere is written there.
#[test]
fn root_a_full_disk_leaves_no_half_file() {
    let elsewhere = tempfile::tempdir().unwrap();
    let json = elsewhere.path().join("x.json");
    let Some(run) = root()
        .then(|| record_on_a_full_disk(elsewhere.path(), &[&json]))
        .flatten()
    else {
        return;
    };
    assert_eq!(run.code, PARTIAL, "{}", run.stderr);
    assert_told(&run, "x.svg: cannot write", "free some space", &json);
}

/// When nothing could be written where it was asked for, the recording is kept in the temporary directory.
#[test]
fn root_a_full_disk_loses_no_recording() {
    let elsewhere = tempfile::tempdir().unwrap();
    let Some(run) = root()
        .then(|| record_on_a_full_disk(elsewhere.path(), &[]))
        .flatten()
    else {
        return;
    };
    assert_eq!(run.code, FAILED, "{}", run.stderr);
    let files: Vec<_> = std::fs::read_dir(elsewhere.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert_told(&run, "x.svg: cannot write", "nothing is lost", file);
}

/// The same of each interval.
#[test]
fn root_a_full_disk_loses_no_interval() {
    let elsewhere = tempfile::tempdir().unwrap();
    let Some(run) = root()
        .then(|| record_on_a_full_disk_with(elsewhere.path(), &[], &["--interval", "100ms"]))
        .flatten()
    else {
        return;
    };
    assert_eq!(run.code, FAILED, "{}", run.stderr);
    assert_eq!(run.stdout, "", "{}", run.stderr);
    let files: Vec<_> = std::fs::read_dir(elsewhere.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() > 1, "{files:?}: {}", run.stderr);
    let saved: u64 = files.iter().map(|file| common::Profile::read(file).total()).sum();
    let accounting = Accounting::parse(run.stderr.lines().last().unwrap_or_default());
    assert_eq!(saved, accounting.kept(), "{}", run.stderr);
}

/// A graph that fits has not all of the recording: that is kept too, and the graph is told to be whole.
#[test]
fn root_a_full_disk_keeps_the_recording_beside_a_file_that_has_a_part_of_it() {
    let (elsewhere, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folded = other.path().join("x.folded");
    let Some(run) = root()
        .then(|| record_on_a_full_disk(elsewhere.path(), &[&folded]))
        .flatten()
    else {
        return;
    };
    assert_eq!(run.code, PARTIAL, "{}", run.stderr);
    let complete = format!("complete: {}", folded.display());
    assert!(run.stderr.contains(&complete), "{}", run.stderr);
    let files: Vec<_> = std::fs::read_dir(elsewhere.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert_told(&run, "x.svg: cannot write", "nothing is lost", file);
}

/// A directory that is taken away while the recording goes on; the other file is written.
#[test]
fn root_a_directory_that_is_gone_at_the_end_does_not_hide_what_was_recorded() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let kept = dir.path().join("x.json");
    let args = [
        "record".as_ref(),
        "-F".as_ref(),
        "999".as_ref(),
        "-p".as_ref(),
        program.pid_text().as_ref(),
        "-o".as_ref(),
        gone.join("x.svg").as_os_str(),
        "-o".as_ref(),
        kept.as_os_str(),
    ]
    .map(std::ffi::OsStr::to_os_string);
    let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
    let run = common::moonscope_while(&args, || {
        std::fs::remove_dir(&gone).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    });
    assert_eq!(run.code, PARTIAL, "{}", run.stderr);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(
        lines[0].starts_with("moonscope: ")
            && lines[0].ends_with("x.svg: cannot write: no such file or directory"),
        "{}",
        run.stderr
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with(&format!("wrote {} (", kept.display()))),
        "{}",
        run.stderr
    );
    let accounting = Accounting::parse(lines.last().unwrap());
    assert_eq!(accounting.kept(), common::Profile::read(&kept).total());
}

fn pipe(dir: &Path) -> PathBuf {
    let path = dir.join("pipe.folded");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

/// To open a pipe waits until somebody reads it: a recording would never end.
#[test]
fn root_a_pipe_that_nobody_reads_is_refused_at_once() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = pipe(dir.path());
    for force in [&[][..], &["-f"]] {
        let begin = Instant::now();
        let run = moonscope(
            &[
                &["record", "-a", "-d", "60s", "-o", path.to_str().unwrap()][..],
                force,
            ]
            .concat(),
        );
        assert_eq!(run.code, FAILED, "{}", run.stderr);
        assert!(
            run.stderr.contains("pipe.folded: is a pipe that nobody reads"),
            "{}",
            run.stderr
        );
        assert!(begin.elapsed() < Duration::from_secs(50), "it has recorded");
    }
    // it is what it was
    assert!(path.metadata().unwrap().file_type().is_fifo());
}

/// The reader is `cat`, which ends when the pipe is closed: that must not be before the profile went through.
#[test]
fn root_a_pipe_that_somebody_reads_gets_the_whole_profile() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    let fifo = pipe(dir.path());
    let reader = Command::new("cat")
        .arg(&fifo)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stat = format!("/proc/{}/stat", reader.id());
    // it waits in open(2) until there is a writer
    common::wait_until("the reader opens the pipe", || {
        std::fs::read_to_string(&stat).unwrap().contains("(cat) S ")
    });
    let json = dir.path().join("x.json");
    let run: Run = command()
        .args(["record", "-F", "999", "-d", "500ms", "-p", &program.pid_text()])
        .arg("-o")
        .arg(&fifo)
        .arg("-o")
        .arg(&json)
        .output()
        .unwrap()
        .into();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let text = String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap();
    let counts = text.lines().map(|line| line.rsplit_once(' ').unwrap().1);
    let sum: u64 = counts.map(|count| count.parse::<u64>().unwrap()).sum();
    assert_eq!(sum, common::Profile::read(&json).total());
    assert!(sum > 0, "{text}");
}

/// A reader that has seen enough: the recording is kept in the temporary directory.
#[test]
fn root_a_pipe_whose_reader_left_loses_no_recording() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fifo = pipe(dir.path());
    // it opens the pipe, and has gone when the profile comes
    let mut reader = Command::new("sh")
        .args(["-c", "exec 3< \"$1\"; exit 0", "sh"])
        .arg(&fifo)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let stat = format!("/proc/{}/stat", reader.id());
    common::wait_until("the reader opens the pipe", || {
        std::fs::read_to_string(&stat).unwrap().contains("(sh) S ")
    });
    let run: Run = command()
        .env("TMPDIR", elsewhere.path())
        .args([
            "record",
            "-F",
            "999",
            "-d",
            "500ms",
            "-p",
            &program.pid_text(),
            "-o",
        ])
        .arg(&fifo)
        .output()
        .unwrap()
        .into();
    reader.wait().unwrap();
    assert_eq!(run.code, FAILED, "{}", run.stderr);
    let saved = std::fs::read_dir(elsewhere.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_told(
        &run,
        "pipe.folded: cannot write: broken pipe",
        "nothing is lost",
        &saved,
    );
}
