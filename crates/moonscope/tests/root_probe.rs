//! Probes: calls of functions and their time, tracepoints, USDT; and stacks of whatever else is recorded meanwhile.
//!
//! The truth of a function is what its own first and last statement, and its caller, saw pass by the clock
//! (`tests/programs/probed.c`): what a probe measures lies between both.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Profile, Program, Sample, Truth, moonscope, nm, program, root, tool, wait_until};

/// Seconds in which a recording has begun, also on a busy machine.
const BEFORE: &str = "4";

/// Records a program to its end.
fn record(path: &Path, args: &[&str]) -> (Profile, Truth, String) {
    let program = Program::start(path, &[BEFORE]);
    let pid = program.pid_text();
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(&[&["record", "-p", &pid, "-o", json.to_str().unwrap()], args].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("+ 0 lost; unexplained 0"), "{}", run.stderr);
    (Profile::read(&json), program.wait(), run.stderr)
}

/// The sum of a column over the samples of a probe.
fn of_probe(profile: &Profile, column: &str, probe: &str) -> u64 {
    profile.sum(column, |sample| sample.labels["probe"] == probe)
}

fn with_latency(profile: &Profile, probe: &str, latency: &str) -> u64 {
    profile.sum("probe_calls", |sample| {
        sample.labels["probe"] == probe
            && sample
                .labels
                .get("probe-latency")
                .is_some_and(|found| found == latency)
    })
}

/// Calls, inside, outside.
fn truth_of(truth: &Truth, function: &str) -> [u64; 3] {
    let numbers = truth.numbers(&format!("truth {function}"));
    [numbers[0] as u64, numbers[1] as u64, numbers[2] as u64]
}

#[track_caller]
fn assert_between(what: &str, found: u64, [_, inside, outside]: [u64; 3]) {
    assert!(
        (inside..=outside).contains(&found),
        "{what}: {found} ns are not between {inside} inside and {outside} outside"
    );
}

#[test]
fn root_calls_and_times_of_functions_are_those_that_the_program_counts() {
    if !root() {
        return;
    }
    let Some(path) = program("probed") else { return };
    let functions = [
        "napping",
        "nested",
        "abyss",
        "jumper",
        "tail_caller",
        "tail_callee",
        "hot",
    ];
    let events: Vec<String> = functions.iter().map(|name| format!("probe:{name}")).collect();
    let args: Vec<&str> = events.iter().flat_map(|event| ["-e", event.as_str()]).collect();
    let (profile, truth, words) = record(&path, &args);
    for function in ["napping", "nested", "abyss", "jumper", "tail_caller", "hot"] {
        let [calls, ..] = truth_of(&truth, function);
        assert_eq!(
            of_probe(&profile, "probe_calls", function),
            calls,
            "{function}\n{words}"
        );
    }
    for function in ["napping", "nested", "abyss"] {
        assert_between(
            function,
            of_probe(&profile, "probe_time", function),
            truth_of(&truth, function),
        );
    }
    // a call that is left never returns, and the next one from the same place does
    assert_eq!(
        with_latency(&profile, "jumper", "left without return"),
        30,
        "{words}"
    );
    assert_between(
        "jumper",
        of_probe(&profile, "probe_time", "jumper"),
        truth_of(&truth, "jumper"),
    );
    // both return at the same moment
    let tail = truth_of(&truth, "tail_caller");
    assert_eq!(of_probe(&profile, "probe_calls", "tail_callee"), tail[0]);
    let both =
        of_probe(&profile, "probe_time", "tail_caller") + of_probe(&profile, "probe_time", "tail_callee");
    assert_between("tail_caller and tail_callee", both, tail);
    // the kernel waits for no more than 64 returns of a thread (MAX_URETPROBE_DEPTH)
    assert_eq!(
        with_latency(&profile, "abyss", "too deep"),
        5 * (100 - 64),
        "{words}"
    );
    // threads that began later have stacks of their own
    let threads: BTreeSet<u32> = profile
        .samples
        .iter()
        .filter(|sample| sample.labels["probe"] == "napping")
        .map(|sample| sample.tid)
        .collect();
    assert_eq!(threads.len(), 3);
}

#[test]
fn root_stacks_of_calls_are_whole_and_end_with_the_function() {
    if !root() {
        return;
    }
    let Some(path) = program("probed") else { return };
    let (profile, _, words) = record(&path, &["-e", "probe:nested", "-e", "probe:napping"]);
    let mut depths: BTreeMap<usize, u64> = BTreeMap::new();
    for sample in &profile.samples {
        match sample.labels["probe"].as_str() {
            "nested" => {
                let stack = sample.below_main().unwrap_or_else(|| panic!("{sample}\n{words}"));
                assert!(stack[1..].iter().all(|name| *name == "nested"), "{sample}");
                *depths.entry(stack.len() - 1).or_default() += sample.count;
            }
            _ => assert!(sample.names().ends_with(&["nap_often", "napping"]), "{sample}"),
        }
    }
    assert_eq!(depths, (1..=10).map(|depth| (depth, 20)).collect());
}

#[test]
fn root_only_slow_calls_are_kept_and_their_time_is_whole() {
    if !root() {
        return;
    }
    let Some(path) = program("probed") else { return };
    let (profile, truth, words) = record(
        &path,
        &["-e", "probe:p:probed:slow", "-e", "probe:fast", "--slower", "7ms"],
    );
    let slow = truth_of(&truth, "slow");
    assert_eq!(of_probe(&profile, "probe_calls", "p:probed:slow"), slow[0]);
    // a fast one inside is not taken out of it
    assert_between("slow", of_probe(&profile, "probe_time", "p:probed:slow"), slow);
    assert!(words.contains("latency of p:probed:slow:"), "{words}");
    // a busy machine may stop a thread in a fast one for as long, but not often
    let others = profile.sum("probe_calls", |sample| sample.labels["probe"] != "p:probed:slow");
    assert!(others < 50, "{others} fast calls took 7 ms");
}

#[test]
fn root_what_lasts_at_the_end_has_its_time_so_far() {
    if !root() {
        return;
    }
    let Some(path) = program("climbs") else { return };
    let program = Program::start(&path, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(&[
        "record",
        "-p",
        &program.pid_text(),
        "-e",
        "probe:climb",
        "-d",
        "500ms",
        "-o",
        json.to_str().unwrap(),
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&json);
    // it is nearly always in a call, and calls inside are taken out: all of the time, and no more
    let time = profile.sum("probe_time", |_| true) as f64;
    let length = profile.json["meta"]["duration_ns"].as_u64().unwrap() as f64;
    assert!(
        time <= length,
        "{time} ns in calls in {length} ns\n{}",
        run.stderr
    );
    assert!(with_latency(&profile, "climb", "unfinished") <= 20);
}

#[test]
fn root_an_exception_leaves_a_call_and_libstdcxx_tells_of_it() {
    if !root() {
        return;
    }
    let Some(path) = program("probed_cpp") else { return };
    let (profile, truth, words) = record(
        &path,
        &[
            "-e",
            "probe:thrower",
            "-e",
            "probe:u:libstdc++:libstdcxx:throw",
            "-e",
            "probe:u::libstdcxx:catch",
        ],
    );
    assert_eq!(of_probe(&profile, "probe_calls", "thrower"), 60);
    assert_eq!(
        with_latency(&profile, "thrower", "left without return"),
        40,
        "{words}"
    );
    assert_between(
        "thrower",
        of_probe(&profile, "probe_time", "thrower"),
        truth_of(&truth, "thrower"),
    );
    for usdt in ["u:libstdc++:libstdcxx:throw", "u::libstdcxx:catch"] {
        assert_eq!(of_probe(&profile, "probe_calls", usdt), 40, "{usdt}");
    }
    let throws = profile
        .samples
        .iter()
        .filter(|sample| sample.labels["probe"] == "u:libstdc++:libstdcxx:throw");
    for sample in throws {
        assert!(
            sample.names().ends_with(&["main", "thrower.cold", "__cxa_throw"])
                || sample.names().ends_with(&["main", "thrower", "__cxa_throw"]),
            "{sample}"
        );
    }
}

#[test]
fn root_usdt_probes_are_met_at_each_place_and_their_counter_says_that_somebody_looks() {
    if !root() {
        return;
    }
    let Some(path) = program("probed") else { return };
    let (profile, truth, words) = record(&path, &["-e", "probe:u:probed:shop:*"]);
    let sold = profile.sum("probe_calls", |_| true);
    assert_eq!(sold, 100, "{words}");
    // the program looked at the counter each time
    assert_eq!(truth_of(&truth, "sold")[..2], [70, 70], "{words}");
    assert_eq!(profile.columns, ["probe_calls"]);
}

/// A tracepoint of system calls (no raw tracepoint) and one that is raw, of a program that makes a known number of calls.
#[test]
fn root_tracepoints_are_counted_in_the_target_only() {
    if !root() {
        return;
    }
    let Some(path) = program("probed") else { return };
    let (profile, truth, words) = record(
        &path,
        &[
            "-e",
            "probe:t:syscalls:sys_enter_exit_group",
            "-e",
            "probe:t:task:task_newtask",
            "-e",
            "probe:slow",
        ],
    );
    assert_eq!(
        of_probe(&profile, "probe_calls", "t:syscalls:sys_enter_exit_group"),
        1,
        "{words}"
    );
    // by the thread that makes them
    assert_eq!(
        of_probe(&profile, "probe_calls", "t:task:task_newtask"),
        3,
        "{words}"
    );
    assert_eq!(
        of_probe(&profile, "probe_calls", "slow"),
        truth_of(&truth, "slow")[0]
    );
}

/// User frames of all cpu samples, as sets of names from `main` on, and how many are cut.
fn stacks_of_climbs(args: &[&str]) -> Option<(BTreeSet<Vec<String>>, u64, u64, String)> {
    let program = Program::start(&program("climbs")?, &["60"]);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let common = [
        "record",
        "-p",
        &pid,
        "-e",
        "cpu",
        "-F",
        "1999",
        "-d",
        "2",
        "-o",
        json.to_str().unwrap(),
    ];
    let run = moonscope(&[&common[..], args].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&json);
    let is_cpu =
        |sample: &&Sample| sample.values[profile.columns.iter().position(|name| name == "cpu").unwrap()] > 0;
    let mut stacks = BTreeSet::new();
    let (mut all, mut cut) = (0, 0);
    for sample in profile.samples.iter().filter(is_cpu) {
        all += sample.count;
        if sample.is_truncated() {
            cut += sample.count;
            continue;
        }
        let names = sample.below_main().unwrap_or_else(|| panic!("{sample}"));
        // main itself looks at the clock, too
        if names.contains(&"climb") {
            stacks.insert(names.into_iter().map(str::to_owned).collect());
        }
    }
    Some((stacks, all, cut, run.stderr))
}

#[test]
fn root_cpu_samples_below_probed_functions_are_as_they_are_without_a_probe() {
    if !root() {
        return;
    }
    let Some((without, _, cut, words)) = stacks_of_climbs(&[]) else {
        return;
    };
    assert_eq!(cut, 0, "{words}");
    // what the clock has without a probe may lack some depth
    let true_ones = (1..=20).map(|depth| [vec!["main".to_owned()], vec!["climb".to_owned(); depth]].concat());
    let true_ones: BTreeSet<Vec<String>> = true_ones.collect();
    assert!(without.is_subset(&true_ones), "{without:?}");
    for how in [&[][..], &["--replace-returns"]] {
        let args = [&["-e", "probe:climb"], how].concat();
        let (with, all, cut, words) = stacks_of_climbs(&args).unwrap();
        let strange: Vec<_> = with.difference(&true_ones).collect();
        assert!(strange.is_empty(), "{strange:?}\n{words}");
        assert!(
            with.len() > 15 && all > 200,
            "{} stacks in {all} samples",
            with.len()
        );
        // between the moment at which the return address is taken and that at which it is in the kernel's list
        assert!(cut * 50 <= all, "{cut} of {all} samples are cut\n{words}");
    }
}

#[test]
fn root_no_breakpoint_stays_behind_when_moonscope_is_killed() {
    if !root() {
        return;
    }
    let Some(path) = program("climbs") else { return };
    let program = Program::start(&path, &["60"]);
    let pid = program.pid_text();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let base = base_of(&pid, &path);
    let place = base + nm(&path)["climb"];
    let byte = || {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, place).unwrap();
        byte[0]
    };
    let before = byte();
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_moonscope"))
        .args([
            "record",
            "-p",
            &pid,
            "-e",
            "probe:climb",
            "-o",
            json.to_str().unwrap(),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the breakpoint is there", || byte() == 0xcc);
    recorder.kill().unwrap();
    recorder.wait().unwrap();
    wait_until("the breakpoint is gone", || byte() == before);
    // calls that were under way return to where they came from
    assert!(Path::new(&format!("/proc/{pid}/exe")).exists());
}

/// What is to be added to an address of the program's file.
fn base_of(pid: &str, path: &Path) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let name = path.canonicalize().unwrap();
    let line = maps
        .lines()
        .find(|line| line.ends_with(name.to_str().unwrap()))
        .unwrap();
    u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
}

#[test]
fn root_lua_stands_above_a_probed_function_that_it_calls() {
    if !root() {
        return;
    }
    let hosts = common::lua::lua_hosts("upstream-gc64", &["host"]);
    let Some(host) = hosts.first() else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("calls.lua");
    std::fs::write(
        &script,
        "io.write('ready\\n') io.flush()\n\
         local function inner() host.sleep(0.002) end\n\
         function outer() for i = 1, 3 do inner() end end\n\
         local stop = os.time() + 60\n\
         while os.time() < stop do outer() end\n",
    )
    .unwrap();
    let program = Program::spawn(&mut host.command(&script, false));
    let json = dir.path().join("x.json");
    let run = moonscope(&[
        "record",
        "-p",
        &program.pid_text(),
        "-e",
        "probe:host_sleep",
        "-d",
        "1",
        "-o",
        json.to_str().unwrap(),
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&json);
    let mut with_lua = 0;
    for sample in profile
        .samples
        .iter()
        .filter(|sample| sample.names().ends_with(&["host_sleep"]))
    {
        let lua: Vec<&str> = sample
            .stack
            .iter()
            .filter(|frame| frame.kind.starts_with("lua"))
            .map(|frame| frame.name())
            .collect();
        assert!(lua.contains(&"inner") && lua.contains(&"outer"), "{sample}");
        with_lua += sample.count;
    }
    assert!(with_lua > 20, "{with_lua}\n{}", run.stderr);
}

/// A probe that cannot be, with what comes near.
#[track_caller]
fn assert_refused(spec: &str, code: i32, words: &[&str]) {
    let Some(path) = program("climbs") else { return };
    let program = Program::start(&path, &["60"]);
    let event = format!("probe:{spec}");
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(&[
        "record",
        "-p",
        &program.pid_text(),
        "-e",
        &event,
        "-d",
        "1",
        "-o",
        json.to_str().unwrap(),
    ]);
    assert_eq!(run.code, code, "{spec}: {}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "{spec}: no {word:?} in {}", run.stderr);
    }
}

#[test]
fn root_what_cannot_be_probed_is_refused_with_what_comes_near() {
    if !root() {
        return;
    }
    assert_refused("climp", 2, &["there is no function `climp`", "climb"]);
    assert_refused(
        "p:libc:maloc",
        2,
        &["there is no function `maloc` in libc.so.6", "malloc"],
    );
    assert_refused("p:libc:*", 2, &["more than can be probed at a time (512)"]);
    assert_refused("p:libcc:malloc", 2, &["maps no file `libcc`", "libc.so.6"]);
    assert_refused("p:libc:memcpy", 2, &["stands for one of several functions"]);
    assert_refused("climb+1", 2, &["no instruction begins 0x1 bytes from climb"]);
    assert_refused("t:sched:sched_swich", 2, &["no tracepoint", "sched:sched_switch"]);
    assert_refused("u:climbs:a:b", 2, &["there is no USDT probe"]);
    assert_refused("p:", 2, &["p:FILE:FUNCTION"]);
    if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        assert_refused(
            "p::tcp_retransmit_skb",
            3,
            &["no kprobes", "t:tcp:tcp_retransmit_skb"],
        );
        assert_refused("tcp_retransmit_skb", 3, &["no kprobes"]);
    }
    assert_refused(
        "p::no_such_function_of_the_kernel",
        2,
        &["the kernel has no function"],
    );
}

#[test]
fn root_a_command_is_probed_from_its_first_call_on() {
    if !root() || tool("true").is_none() {
        return;
    }
    let Some(path) = program("probed") else { return };
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let run = moonscope(&[
        "record",
        "-e",
        "probe:nested",
        "-e",
        "probe:p:libc:nanosleep",
        "-o",
        json.to_str().unwrap(),
        "--",
        path.to_str().unwrap(),
        "0",
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let profile = Profile::read(&json);
    assert_eq!(of_probe(&profile, "probe_calls", "nested"), 200, "{}", run.stderr);
    // naps of all functions: 120 + 20 + 5 + 60 + 40 + 50
    assert_eq!(
        of_probe(&profile, "probe_calls", "p:libc:nanosleep"),
        295,
        "{}",
        run.stderr
    );
}
