//! Processes that come, change and go while they are recorded: every stack is named by the program
//! that ran at that moment.
//!
//! The truth is what each program of `tests/programs` says that it ran, and for how long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{
    Frame, Program, Sample, Truth, assert_share, program, record, record_at, repository, root, wait_until,
};

/// Each turn opens libalpha, works, closes it, and does the same with libbeta at the same place.
#[test]
fn root_a_library_at_the_place_of_another_gets_its_own_names() {
    let Some(path) = root().then(|| program("dlopen")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["4"]);
    let recording = record(&["-p", &program.pid_text()]);
    let truth = program.wait();
    let same_place = truth.numbers("same-place");
    assert!(
        same_place[0] >= 0.5 * same_place[1],
        "the libraries are not at one place: {same_place:?}"
    );
    // What ran just after a change, before it was known, is cut above the frame that may be wrong. Nothing else is.
    recording.assert_complete(0.9);
    let others: u64 = recording
        .accounting
        .truncated
        .iter()
        .filter(|(why, _)| !why.contains("mapping"))
        .map(|(_, n)| n)
        .sum();
    assert!(
        others as f64 <= 0.01 * recording.accounting.kept() as f64,
        "{:?}",
        recording.accounting.truncated
    );
    let in_library = |library: &str| {
        recording
            .profile
            .count(|sample| sample.has(&format!("{library}_inner")))
    };
    let (alpha, beta) = (in_library("alpha"), in_library("beta"));
    assert_share("alpha", alpha, alpha + beta, truth.shares["alpha_outer"]);
    recording
        .profile
        .assert_all("has names of one library, from its own file", |sample| {
            let is_of = |frame: &Frame, library: &str| {
                let (name, file) = (
                    frame.name().starts_with(library),
                    frame.file_name() == format!("lib{library}.so"),
                );
                // what has no name, or is a stub of another library, still lies in that file
                name || file
            };
            let of = |library: &str| sample.user().any(|frame| is_of(frame, library));
            let named_by_its_file = |library: &str| {
                let file = format!("lib{library}.so");
                sample
                    .user()
                    .all(|frame| !frame.name().starts_with(library) || frame.file_name() == file)
            };
            !(of("alpha") && of("beta")) && named_by_its_file("alpha") && named_by_its_file("beta")
        });
    recording
        .profile
        .assert_most(0.97, "is outer and inner of one library, or cut", |sample| {
            let names = sample.below("use_library").unwrap_or_default();
            let pair = |library: &str| {
                names.get(1..3) == Some(&[&*format!("{library}_outer"), &*format!("{library}_inner")])
            };
            sample.is_truncated() || pair("alpha") || pair("beta")
        });
}

/// Both libraries come and go between two looks at the mappings. Which of them ran is the name that the thread had, as the
/// kernel told it with the sample.
#[test]
fn root_libraries_in_quick_turns_are_not_taken_for_each_other() {
    let Some(path) = root().then(|| program("dlopen")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["3", "10"]);
    let recording = record_at("1997", &["-p", &program.pid_text()]);
    let same_place = program.wait().numbers("same-place");
    assert!(same_place[0] >= 0.5 * same_place[1], "{same_place:?}");
    let of = |sample: &Sample, library: &str| sample.user().any(|frame| frame.name().starts_with(library));
    for library in ["alpha_", "beta_"] {
        assert!(recording.profile.count(|sample| of(sample, library)) > 100);
    }
    recording
        .profile
        .assert_all("has names of the library that ran", |sample| {
            let is_right = |library: &str| !of(sample, &format!("{library}_")) || sample.thread == library;
            is_right("alpha") && is_right("beta")
        });
}

#[test]
fn root_children_are_followed_and_exec_ends_the_old_program() {
    if !root() {
        return;
    }
    let Some(path) = program("execs") else { return };
    let program = Program::start(&path, &["4"]);
    let recording = record(&["-p", &program.pid_text()]);
    let truth = program.wait();
    recording.assert_complete(0.97);
    assert!(truth.numbers("children")[0] >= 2.0);
    let (before, after) = (
        recording.profile.with("before_exec"),
        recording.profile.with("after_exec"),
    );
    assert_share("before_exec", before, before + after, 0.5);
    let pids: BTreeSet<u32> = recording
        .profile
        .samples
        .iter()
        .map(|sample| sample.pid)
        .collect();
    assert!(pids.len() >= 2, "{pids:?}");
    // before the exec the stack is the parent's, `child` below `main`; after it there is no trace of that
    recording.profile.assert_all(
        "is of the program before the exec, or of that after it",
        |sample| {
            let names = sample.names();
            let old = names.iter().any(|name| ["child", "before_exec"].contains(name));
            !(old && names.contains(&"after_exec"))
        },
    );
    recording
        .profile
        .assert_most(0.9, "is main; child; before_exec or main; after_exec", |sample| {
            let names = sample.below_main().unwrap_or_default();
            names.starts_with(&["main", "child", "before_exec"]) || names.starts_with(&["main", "after_exec"])
        });
}

/// The child becomes another build of the same program: other code at other addresses, other names for them.
#[test]
fn root_names_after_an_exec_are_those_of_the_new_file() {
    let Some(path) = root().then(|| program("execs")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("execs-other");
    let source = repository("tests/programs/execs.c");
    let compiled = Command::new("gcc")
        .args(["-O0", "-static", "-o"])
        .arg(&other)
        .arg(source)
        .status()
        .unwrap();
    assert!(compiled.success());
    let program = Program::start(&path, &["3", other.to_str().unwrap()]);
    let recording = record(&["-p", &program.pid_text()]);
    drop(program);
    for sample in &recording.profile.samples {
        for (function, file) in [("before_exec", "execs"), ("after_exec", "execs-other")] {
            let right = |frame: &Frame| frame.name() != function || frame.file_name() == file;
            assert!(sample.user().all(right), "{sample}");
        }
    }
    assert!(recording.profile.with("after_exec") > 200);
}

#[test]
fn root_without_inheritance_children_are_left_out() {
    let Some(path) = root().then(|| program("execs")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let pid = program.pid();
    // the parent itself only waits: a busy program beside it gives samples
    let Some(busy) = self::program("shares") else {
        return;
    };
    let beside = Program::start(&busy, &["60"]);
    let (one, two) = (pid.to_string(), beside.pid_text());
    let recording = record(&["-p", &one, "-p", &two, "-d", "1500ms", "--no-inherit"]);
    recording.profile.assert_all("is of the two processes", |sample| {
        [pid, beside.pid()].contains(&sample.pid)
    });
    assert_eq!(
        recording.profile.with("before_exec") + recording.profile.with("after_exec"),
        0
    );
}

/// Processes of 50 ms, each a new program image started by a shell after the recording began.
#[test]
fn root_processes_of_50_ms_have_names_and_stacks() {
    let Some(path) = root().then(|| program("short")).flatten() else {
        return;
    };
    let script = format!(
        "i=0; while [ $i -lt 30 ]; do {} --child; i=$((i+1)); done",
        path.display()
    );
    let recording = record(&["--", "sh", "-c", &script]);
    let of_short = |sample: &Sample| sample.comm == "short";
    let all = recording.profile.count(of_short);
    let right = recording.profile.count(|sample| {
        of_short(sample)
            && sample
                .below_main()
                .is_some_and(|names| names.starts_with(&["main", "short_lived", "short_work"]))
    });
    // 30 x 50 ms at 1999 Hz are 3,000 samples, if the machine has nothing else to do
    assert!(all > 300, "{all} samples of the short processes");
    assert!(
        right as f64 >= 0.95 * all as f64,
        "{right} of {all} samples have the right stack"
    );
    let pids: BTreeSet<u32> = recording
        .profile
        .samples
        .iter()
        .filter(|sample| sample.has("short_work"))
        .map(|sample| sample.pid)
        .collect();
    assert!(pids.len() >= 29, "{} of 30 processes were seen", pids.len());
}

/// The program's file is replaced by another one and removed: the names stay those of the code that runs.
#[test]
fn root_a_running_file_may_be_replaced_or_deleted() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(other) = program("chain-O2") else { return };
    for replaced in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("service");
        std::fs::copy(&path, &copy).unwrap();
        let program = Program::start(&copy, &["60"]);
        std::fs::remove_file(&copy).unwrap();
        if replaced {
            std::fs::copy(&other, &copy).unwrap();
        }
        let recording = record(&["-p", &program.pid_text(), "-d", "1s"]);
        recording.assert_complete(0.99);
        recording
            .profile
            .assert_most(0.95, "is in the old file's functions", |sample| {
                ["share_50", "share_30", "share_20"]
                    .iter()
                    .any(|name| sample.has(name))
            });
        recording
            .profile
            .assert_all("has none of the new file's functions", |sample| {
                !sample.user().any(|frame| frame.name().starts_with("chain_"))
            });
        drop(program);
    }
}

/// A program is written over between two runs, as `cp` does it: the inode is the same, and it is another program.
#[test]
fn root_a_program_that_is_written_over_is_another_one() {
    let (Some(first), Some(second)) = (program("chain-O2"), program("shares")) else {
        return;
    };
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let prog = dir.path().join("prog");
    let prog = prog.to_str().unwrap();
    let script = format!(
        "cp {} {prog}; KEEP=1 {prog} 1 3 >/dev/null; cp {} {prog}; KEEP=1 {prog} 1 >/dev/null",
        first.display(),
        second.display()
    );
    let recording = record(&["--", "sh", "-c", &script]);
    let is_of_second = |sample: &Sample| sample.user().any(|frame| frame.name().starts_with("share_"));
    // what is at addresses of the first one cannot be named any more
    let is_nameless = |frame: &Frame| frame.name().is_empty() && frame.file_name() == "prog";
    let is_of_first = |sample: &Sample| sample.user().any(is_nameless);
    let count = |is_so: &dyn Fn(&Sample) -> bool| {
        let samples = recording.profile.samples.iter().filter(|sample| is_so(sample));
        samples.map(|sample| sample.count).sum::<u64>()
    };
    assert!(count(&is_of_second) > 30, "{}", count(&is_of_second));
    assert!(count(&is_of_first) > 30, "{}", count(&is_of_first));
    recording
        .profile
        .assert_all("is of one of them, and in its own functions", |sample| {
            !(is_of_first(sample) && (is_of_second(sample) || sample.has("main")))
        });
    recording
        .profile
        .assert_all("is complete in the second one", |sample| {
            !is_of_second(sample) || !sample.is_truncated()
        });
}

/// The file goes away while the recording runs, after the first samples.
#[test]
fn root_a_file_may_be_deleted_during_the_recording() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("service");
    std::fs::copy(&path, &copy).unwrap();
    // it is removed when it has said that it is ready
    let script = "\"$0\" 2 | { read ready; rm \"$0\"; cat >/dev/null; }";
    let recording = record(&["--", "sh", "-c", script, copy.to_str().unwrap()]);
    assert!(!copy.exists());
    recording
        .profile
        .assert_most(0.9, "is in the deleted file's functions", |sample| {
            ["share_50", "share_30", "share_20"]
                .iter()
                .any(|name| sample.has(name))
                || sample.comm != "service"
        });
    assert!(recording.profile.with("share_50") > 50);
}

/// What runs before `main` is there: the dynamic linker, from the first instruction of the command.
#[test]
fn root_a_command_is_recorded_from_its_first_instruction() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let recording = record(&["--", path.to_str().unwrap(), "2"]);
    let truth = Truth::read(&recording.run.stdout);
    recording.assert_complete(0.99);
    let total = truth.shares.keys().map(|part| recording.profile.with(part)).sum();
    for (part, share) in &truth.shares {
        assert_share(part, recording.profile.with(part), total, *share);
    }
    assert!(
        recording.run.stderr.contains("exited with status 0"),
        "{}",
        recording.run.stderr
    );
    // 200 programs that do nothing but start
    let recording = record_at(
        "9999",
        &[
            "--",
            "sh",
            "-c",
            "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done",
        ],
    );
    let loader = recording.profile.count(|sample| {
        sample
            .user()
            .any(|frame| frame.file_name().starts_with("ld-linux") || frame.file_name().starts_with("ld-2"))
    });
    assert!(loader > 20, "{loader} samples in the dynamic linker");
}

/// Commands get their own standard streams, and their exit status is told.
#[test]
fn root_the_end_of_a_command_is_told() {
    if !root() {
        return;
    }
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo said; exit 7";
    let recording = record(&["--", "sh", "-c", busy]);
    assert_eq!(recording.run.stdout, "said\n");
    assert!(
        recording.run.stderr.contains("sh exited with status 7"),
        "{}",
        recording.run.stderr
    );
}

/// Samples of a process that is forked and does not exec carry the parent's names.
#[test]
fn root_a_fork_without_exec_keeps_its_names() {
    if !root() {
        return;
    }
    let Some(bash) = common::tool("bash") else { return };
    let script = "for i in 1 2 3 4 5 6; do (n=0; while ((n < 60000)); do ((n++)); done); done";
    let recording = record(&["--", bash.to_str().unwrap(), "-c", script]);
    recording.assert_complete(0.97);
    let pids: BTreeSet<u32> = recording
        .profile
        .samples
        .iter()
        .map(|sample| sample.pid)
        .collect();
    assert!(pids.len() >= 6, "{pids:?}");
    recording
        .profile
        .assert_most(0.95, "is code of bash or of its libraries", |sample| {
            sample
                .user()
                .all(|frame| frame.module.is_some() || frame.kind == "marker")
        });
}

/// A process is a target as long as it lives: the recording ends by itself.
#[test]
fn root_a_recording_ends_with_its_target() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let mut program = Program::start(&path, &["3"]);
    let recording = record(&["-p", &program.pid_text(), "-d", "10m"]);
    assert!(
        recording.run.stderr.contains("(until it ended)"),
        "{}",
        recording.run.stderr
    );
    wait_until("it has ended", || program.has_ended());
    assert!(!Path::new("/proc").join(program.pid_text()).exists());
}
