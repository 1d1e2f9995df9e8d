//! What malloc and its family give out and take back, for every allocator.
//!
//! The truth is what the program counts itself (`tests/programs/allocs.c`), what the C library counts of its heap, and for
//! sampled allocations the variance that their sizes give the sums.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::background::Background;
use common::recording::command;
use common::{Profile, Program, Sample, Truth, moonscope, program, root, skip, wait_until};

/// In the order of the program's lines.
const COLUMNS: [&str; 4] = ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];

/// Whatever it costs.
const UNLIMITED: [&str; 2] = ["--max-overhead", "100%"];

/// What the program says of a function.
struct Tally {
    function: String,
    /// In the order of the columns.
    truth: [f64; 4],
    /// Of what a sampled recording makes of it.
    variance: [f64; 4],
    /// What one allocation stands for at most: objects and bytes.
    most: [f64; 2],
}

fn tallies(text: &str) -> Vec<Tally> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("truth "));
    let tally = |line: &str| {
        let mut words = line.split(' ');
        let function = words.next().unwrap().to_owned();
        let numbers: Vec<f64> = words.map(|word| word.parse().unwrap()).collect();
        Tally {
            function,
            truth: numbers[..4].try_into().unwrap(),
            variance: numbers[4..8].try_into().unwrap(),
            most: numbers[8..].try_into().unwrap(),
        }
    };
    let tallies: Vec<_> = lines.map(tally).collect();
    assert!(tallies.len() >= 12, "the program did not come to its end: {text}");
    tallies
}

/// How far a sum of independent numbers is from its mean at most, but for one time in 10^8 (Bernstein's inequality).
fn farthest(variance: f64, most: f64) -> f64 {
    let l = f64::ln(2e8);
    let part = l * most / 3.0;
    part + (part * part + 2.0 * l * variance).sqrt()
}

/// Each number of each function, and the sum of each column, is the truth, or as far from it as chance allows.
#[track_caller]
fn assert_tallies(profile: &Profile, tallies: &[Tally]) {
    assert_eq!(profile.columns, COLUMNS);
    for (place, column) in COLUMNS.iter().enumerate() {
        let (mut all, mut truth, mut variance, mut most) = (0.0, 0.0, 0.0, 0.0_f64);
        let mut all_rows = 0.0;
        for tally in tallies {
            let samples = |sample: &Sample| sample.has(&tally.function);
            let found = profile.sum(column, samples) as f64;
            let rows = profile.samples.iter().filter(|sample| samples(sample)).count() as f64;
            let is_sampled = tally.variance[0] > 0.0;
            // a row of a sampled recording is a whole number
            let near = match is_sampled {
                true => farthest(tally.variance[place].max(0.0), tally.most[place % 2]) + rows,
                false => 0.0,
            };
            assert!(
                (found - tally.truth[place]).abs() <= near,
                "{}: {column} is {found}, in truth {} ± {near}",
                tally.function,
                tally.truth[place]
            );
            all += found;
            truth += tally.truth[place];
            variance += tally.variance[place].max(0.0);
            most = most.max(tally.most[place % 2]);
            all_rows += if is_sampled { rows } else { 0.0 };
        }
        let near = if variance > 0.0 {
            farthest(variance, most) + all_rows
        } else {
            0.0
        };
        assert!(
            (all - truth).abs() <= near,
            "{column} is {all}, in truth {truth} ± {near}"
        );
    }
}

/// Runs the command to its end, and gives what the program said and what moonscope said.
fn record_command(event: &str, options: &[&str], argv: &[&str]) -> (Profile, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let first = ["record", "-e", event, "-o", json.to_str().unwrap()];
    let run = moonscope(&[&first, options, &["--"], argv].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    (Profile::read(&json), run.stdout, run.stderr)
}

/// Records a program that waits for a word, to its end.
fn record_waiting(run: &mut Command, event: &str) -> (Profile, Truth, String) {
    let mut program = Program::spawn(run);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let first = ["record", "-e", event, "-p", &pid, "-o", json.to_str().unwrap()];
    let mut recording = Background::start(&[&first[..], &UNLIMITED].concat());
    recording.wait_until_it_measures();
    program.go();
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    (Profile::read(&json), program.wait(), run.stderr)
}

/// A program, each allocation of which has its stack from its first instruction to its end.
fn assert_exact(name: &str) {
    let Some(path) = program(name) else { return };
    let argv = [path.to_str().unwrap(), "now"];
    let (profile, said, _) = record_command("alloc:1", &UNLIMITED, &argv);
    assert_tallies(&profile, &tallies(&said));
}

#[test]
fn root_each_allocation_counts_and_what_is_not_freed_is_in_use() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let (profile, said, words) = record_command("alloc:1", &UNLIMITED, &[path.to_str().unwrap(), "now"]);
    assert_tallies(&profile, &tallies(&said));
    // the C library counts its headers too, and what printf and threads have
    let number = |key: &str| Truth::read(&said).numbers(key)[0];
    let (mine, arena) = (number("mine"), number("arena"));
    let found: u64 = profile.sum("inuse_space", |sample| {
        tallies(&said).iter().any(|tally| sample.has(&tally.function))
    });
    assert_eq!(found as f64, mine);
    assert!(
        (mine..1.2 * mine).contains(&arena),
        "{mine} in use, {arena} given out"
    );
    // the cost is told before
    let cost = words.find("each call of malloc takes about").unwrap();
    assert!(cost < words.find("recorded").unwrap(), "{words}");
}

#[test]
fn root_a_static_program_is_probed_by_its_own_symbols() {
    if root() {
        assert_exact("allocs-static");
    }
}

#[test]
fn root_musl_is_probed() {
    if root() {
        assert_exact("allocs-musl");
    }
}

/// A library of a package that `scripts/setup test` installs.
fn library(names: &[&str]) -> Option<PathBuf> {
    let found = names
        .iter()
        .map(|name| Path::new("/usr/lib/x86_64-linux-gnu").join(name))
        .find(|path| path.exists());
    if found.is_none() {
        skip(&format!("no {} here", names[0]));
    }
    found
}

fn assert_exact_with(names: &[&str]) {
    let (Some(library), Some(path)) = (library(names), program("allocs")) else {
        return;
    };
    let mut run = Command::new(path);
    run.arg("wait").env("LD_PRELOAD", library);
    let (profile, truth, _) = record_waiting(&mut run, "alloc:1");
    assert_tallies(&profile, &tallies(&truth.lines.join("\n")));
}

#[test]
fn root_jemalloc_is_probed() {
    if root() {
        assert_exact_with(&["libjemalloc.so.2"]);
    }
}

#[test]
fn root_tcmalloc_is_probed() {
    if root() {
        assert_exact_with(&["libtcmalloc_minimal.so.4"]);
    }
}

#[test]
fn root_mimalloc_is_probed() {
    if root() {
        assert_exact_with(&["libmimalloc.so.2.0", "libmimalloc.so.2", "libmimalloc.so.3"]);
    }
}

#[test]
fn root_sampled_sums_are_right_within_what_chance_allows() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let argv = [path.to_str().unwrap(), "now", "4096"];
    let (profile, said, _) = record_command("alloc:4096", &UNLIMITED, &argv);
    assert_tallies(&profile, &tallies(&said));
}

/// What a stack of `allocs churn` can be: each function of it has one caller.
fn is_churn(sample: &Sample) -> bool {
    let names = sample.names();
    let Some(at) = names.iter().position(|name| *name == "main") else {
        return false;
    };
    let below = &names[at + 1..];
    let is_call = |name: &str| name.starts_with("churn_");
    let allocates = |name: &str| name.contains("alloc") || name.contains("free") || name.contains("memalign");
    let place = below.iter().position(|name| allocates(name) && !is_call(name));
    below.first().is_none_or(|first| *first == "churn")
        && place.is_none_or(|place| place >= 2 && is_call(below[1]))
}

#[test]
fn root_stacks_of_all_events_stay_whole_while_probes_are_hit() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let program = Program::start(&path, &["churn", "60"]);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let run = moonscope(&[
        "record",
        "-e",
        "cpu",
        "-e",
        "offcpu",
        "-e",
        "alloc",
        "-F",
        "4999",
        "-p",
        &pid,
        "-d",
        "3",
        "-o",
        json.to_str().unwrap(),
        "--max-overhead",
        "100%",
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("unexplained 0"), "{}", run.stderr);
    let profile = Profile::read(&json);
    profile.assert_all("whole and true", |sample| {
        !sample.is_truncated() && is_churn(sample)
    });
    // ticks in the kernel's way to a probe are among them, or this says nothing
    let in_probes = profile.samples.iter().filter(|sample| {
        sample
            .kernel()
            .any(|frame| frame.name().contains("int3") || frame.name().contains("uprobe"))
    });
    let in_probes: u64 = in_probes.map(|sample| sample.count).sum();
    assert!(in_probes >= 50, "{in_probes} samples in probes");
}

#[test]
fn root_what_would_cost_too_much_is_not_begun() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let program = Program::start(&path, &["churn", "60"]);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let run = moonscope(&[
        "record",
        "-e",
        "alloc",
        "-p",
        &pid,
        "-d",
        "1",
        "-o",
        json.to_str().unwrap(),
    ]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    for words in ["of the CPU time", "--max-overhead", "-e memory"] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
}

#[test]
fn root_probes_that_cost_too_much_are_taken_away_and_the_recording_says_so() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let argv = [path.to_str().unwrap(), "churn", "3"];
    // nothing can be estimated of a command that does not run yet
    let (profile, _, words) = record_command("alloc", &["--max-overhead", "20%"], &argv);
    assert!(words.contains("its probes were taken away after"), "{words}");
    let comments = profile.json["meta"]["comments"].to_string();
    assert!(comments.contains("taken away"), "{comments}");
    assert!(profile.sum("alloc_objects", |sample| sample.has("churn")) > 0);
}

/// The code of `free` in a process, as it is now.
fn code_of_free(pid: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let libc = maps
        .lines()
        .find(|line| line.contains("r-xp") && line.ends_with("libc.so.6"));
    let words: Vec<&str> = libc.unwrap().split_whitespace().collect();
    let (start, end) = words[0].split_once('-').unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut code = vec![0; (hex(end) - hex(start)) as usize];
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    memory.read_exact_at(&mut code, hex(start)).unwrap();
    code
}

#[test]
fn root_no_probe_stays_behind_after_an_end_and_after_a_kill() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let program = Program::start(&path, &["churn", "60"]);
    let before = code_of_free(program.pid());
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let args = [
        "record",
        "-e",
        "alloc",
        "-p",
        &pid,
        "-o",
        json.to_str().unwrap(),
        "--max-overhead",
        "100%",
    ];
    let run = moonscope(&[&args[..], &["-d", "1"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        code_of_free(program.pid()) == before,
        "a probe stays after an end"
    );

    let mut recording = command()
        .args(args)
        .arg("--force")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("probes are there", || code_of_free(program.pid()) != before);
    // all of them, or some: the kernel takes away what there is
    recording.kill().unwrap();
    recording.wait().unwrap();
    wait_until("the probes are gone", || code_of_free(program.pid()) == before);
}

#[test]
fn root_an_allocator_without_names_is_no_allocator_and_something_else_works() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs-stripped") else {
        return;
    };
    let argv = [path.to_str().unwrap(), "now"];
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(
        &[
            &["record", "-e", "alloc", "-o", json.to_str().unwrap(), "--"],
            &argv[..],
        ]
        .concat(),
    );
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("no allocator that can be probed"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("-e memory"), "{}", run.stderr);
}

#[test]
fn root_children_are_probed_too() {
    if !root() {
        return;
    }
    let Some(path) = program("allocs") else { return };
    let argv = [path.to_str().unwrap(), "children", "2"];
    let (profile, _, _) = record_command("alloc:4096", &UNLIMITED, &argv);
    let found = profile.sum("alloc_objects", |sample| {
        sample.has("children") && sample.has("churn_malloc")
    });
    assert!(found > 0);
}

#[test]
fn root_an_exception_passes_a_function_that_is_probed() {
    if !root() {
        return;
    }
    let (Some(library), Some(path)) = (library(&["libjemalloc.so.2"]), program("throws_cpp")) else {
        return;
    };
    // its operator new throws by itself
    let mut run = Command::new(path);
    run.arg("60").env("LD_PRELOAD", library);
    let mut program = Program::spawn(&mut run);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let first = [
        "record",
        "-e",
        "alloc:1",
        "-p",
        &pid,
        "-d",
        "1",
        "-o",
        json.to_str().unwrap(),
    ];
    let run = moonscope(&[&first[..], &UNLIMITED].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!program.has_ended(), "it was not caught");
    assert!(run.stderr.contains("an exception"), "{}", run.stderr);
    let profile = Profile::read(&json);
    let objects = |function: &str| profile.sum("alloc_objects", |sample| sample.has(function));
    let (new, throwing) = (objects("by_new"), objects("by_throwing"));
    // the exceptions themselves, until operator new has its probe too
    assert!(new > 0 && throwing * 20 < new, "{new}, {throwing}");
}

/// What is in use of a function.
fn in_use(profile: &Profile, function: &str) -> [u64; 2] {
    ["inuse_objects", "inuse_space"].map(|column| profile.sum(column, |sample| sample.has(function)))
}

/// What the program says that it has, after a step.
fn used(lines: &[String]) -> [u64; 2] {
    let numbers = lines.iter().find_map(|line| line.strip_prefix("use "));
    let numbers: Vec<u64> = numbers
        .unwrap_or_else(|| panic!("{lines:?}"))
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    numbers.try_into().unwrap()
}

/// A copy that nobody else runs: probes are in its children from their first instruction on.
fn start_steps(dir: &Path, how: &str) -> Option<Program> {
    let copy = dir.join("steps");
    std::fs::copy(program("allocs-static")?, &copy).unwrap();
    Some(Program::start(&copy, &[how]))
}

/// Waits until there is a file of an interval that began after this.
fn interval_after_now(recording: &mut Background, files: &Path) -> Profile {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let newest = || {
        let files = std::fs::read_dir(files).unwrap().map(|file| file.unwrap().path());
        // one that is written has another name
        files
            .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
            .max()
    };
    loop {
        recording.wait_for_interval();
        let profile = newest().map(|path| Profile::read(&path));
        let began = |profile: &Profile| profile.json["meta"]["start_unix_ns"].as_u64().unwrap();
        // what ended just before an interval did may be noticed in the next one
        match profile {
            Some(profile) if began(&profile) > since + 300_000_000 => return profile,
            _ => {}
        }
    }
}

#[test]
fn root_each_interval_has_what_was_allocated_in_it_and_what_is_in_use_at_its_end() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = start_steps(dir.path(), "steps") else {
        return;
    };
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let pattern = files.join("x-%N.json");
    let pid = program.pid_text();
    let first = ["record", "-e", "alloc:1", "-p", &pid, "--interval", "150ms", "-o"];
    let mut recording = Background::start(&[&first[..], &[pattern.to_str().unwrap()], &UNLIMITED].concat());
    recording.wait_for_interval();
    for step in 0..4 {
        program.tell();
        let truth = used(&program.hear("done"));
        let profile = interval_after_now(&mut recording, &files);
        assert_eq!(in_use(&profile, "by_step"), truth, "step {step}");
        // it has ended, and nobody can free it any more
        assert_eq!(in_use(&profile, "by_child"), [0, 0], "step {step}");
        assert_eq!(profile.sum("alloc_objects", |sample| sample.has("by_step")), 0);
    }
    program.tell();
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    let all: Vec<Profile> = std::fs::read_dir(&files)
        .unwrap()
        .map(|file| Profile::read(&file.unwrap().path()))
        .collect();
    let allocated = |function: &str| -> u64 {
        let of_one = |profile: &Profile| profile.sum("alloc_space", |sample| sample.has(function));
        all.iter().map(of_one).sum()
    };
    assert_eq!((allocated("by_step"), allocated("by_child")), (400_000, 70_000));
    // what the child had when it ended is in the file of that time
    assert!(
        all.iter()
            .any(|profile| in_use(profile, "by_child") == [70, 70_000])
    );
}

#[test]
fn root_what_a_program_had_is_not_in_use_any_more_when_its_process_has_executed_another() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = start_steps(dir.path(), "replaced") else {
        return;
    };
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let pattern = files.join("x-%N.json");
    let pid = program.pid_text();
    let first = ["record", "-e", "alloc:1", "-p", &pid, "--interval", "150ms", "-o"];
    let mut recording = Background::start(&[&first[..], &[pattern.to_str().unwrap()], &UNLIMITED].concat());
    recording.wait_for_interval();
    program.tell();
    let truth = used(&program.hear("done"));
    let profile = interval_after_now(&mut recording, &files);
    assert_eq!(in_use(&profile, "by_step"), truth);
    // the same program again, which has nothing yet
    program.tell();
    program.hear("ready");
    let profile = interval_after_now(&mut recording, &files);
    assert_eq!(in_use(&profile, "by_step"), [0, 0]);
    program.tell();
    let truth = used(&program.hear("done"));
    let profile = interval_after_now(&mut recording, &files);
    assert_eq!(in_use(&profile, "by_step"), truth);
    drop(program);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
}

#[test]
fn root_the_time_before_a_trigger_has_what_is_in_use_once() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = start_steps(dir.path(), "steps") else {
        return;
    };
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let first = [
        "record",
        "-e",
        "alloc:1",
        "-p",
        &pid,
        "--trigger",
        "signal:USR1",
        "--flight",
        "20s",
        "-o",
        json.to_str().unwrap(),
    ];
    let mut recording = Background::start(&[&first[..], &UNLIMITED].concat());
    recording.wait_for("waiting for");
    program.tell();
    let truth = used(&program.hear("done"));
    // pieces of 20 s / 30
    std::thread::sleep(Duration::from_secs(2));
    recording.signal(rustix::process::Signal::USR1);
    let run = recording.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&json);
    assert_eq!(in_use(&profile, "by_step"), truth);
    assert_eq!(
        profile.sum("alloc_objects", |sample| sample.has("by_step")),
        truth[0]
    );
}
