//! Lua stacks are those that a program can have, for everything that a profiler of Lua has to get right.
//!
//! The truth is beside each program: a grammar of its stacks, which LuaJIT's own profiler and hooks have confirmed
//! (`tests/luajit/README.md`), and the shares of CPU time that it prints at its end.
//!
//! `MOONSCOPE_LUA_VARIANTS=all` takes all variants of LuaJIT instead of those that differ most, a list of names takes
//! these; `MOONSCOPE_LUA_CASE` a part of the name of a case. The table is printed with `--nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::lua::{LuaCase, LuaHost, Verdict, judge, lua_cases, lua_hosts};
use common::root;

/// 64-bit references as upstream has them, and 32-bit ones of OpenResty's fork.
const USUAL: [(&str, &[&str]); 2] = [
    ("upstream-gc64", &["host"]),
    ("openresty-gc32", &["stripped/host"]),
];

/// All variants, the program with LuaJIT inside, and files without symbols.
const ALL: [(&str, &[&str]); 9] = [
    ("upstream-gc64", &["host", "edge", "stripped/edge"]),
    ("upstream-gc32", &["host", "edge"]),
    ("openresty-gc64", &["host", "stripped/host"]),
    ("openresty-gc32", &["host", "stripped/host"]),
    ("no-unwind", &["host", "edge"]),
    ("debian", &["host"]),
    ("debian-source", &["host"]),
    ("bullseye-gc32", &["host"]),
    ("trixie", &["host"]),
];

/// At the same time: they use a CPU each, and the recording's shares are those of CPU time.
const WORKERS: usize = 3;

/// So often a case runs again that the machine had no time for, or of which a share is wrong: there may have been a
/// standstill of the machine, which the program's clock sees and no tick.
const TRIES: usize = 3;

/// Samples that a verdict needs.
const ENOUGH: u64 = 60;

/// Functions of these cases live for milliseconds. One that is gone before it was named has no name, and its stack says
/// so; all others have theirs.
const SHORT_LIVED: [&str; 3] = ["15-", "19-", "26-"];

/// More frames than are kept.
const CUT: &str = "02-";

struct Job {
    host: LuaHost,
    case: LuaCase,
    is_compiled: bool,
}

impl Job {
    fn name(&self) -> String {
        let how = if self.is_compiled { "" } else { " -joff" };
        format!("{:<28} {}{how}", self.host.name, self.case.name)
    }

    fn is_one_of(&self, cases: &[&str]) -> bool {
        cases.iter().any(|case| self.case.name.starts_with(case))
    }

    /// The first verdict that finds nothing, else the last one.
    fn run(&self) -> Verdict {
        let mut last = None;
        for _ in 0..TRIES {
            match judge(&self.host, &self.case, self.is_compiled) {
                Some(verdict) if verdict.samples >= ENOUGH && verdict.shares_are_right => return verdict,
                Some(verdict) => last = Some(verdict),
                None => {}
            }
        }
        last.unwrap_or_else(|| panic!("{}: it always ended before it was recorded", self.name()))
    }
}

fn hosts() -> Vec<LuaHost> {
    let wanted = std::env::var("MOONSCOPE_LUA_VARIANTS").unwrap_or_default();
    let variants: Vec<_> = match wanted.as_str() {
        "" => USUAL.to_vec(),
        "all" => ALL.to_vec(),
        list => ALL
            .iter()
            .filter(|(name, _)| list.split([' ', ',']).any(|wanted| wanted == *name))
            .copied()
            .collect(),
    };
    variants
        .iter()
        .flat_map(|(variant, programs)| lua_hosts(variant, programs))
        .collect()
}

fn jobs() -> Vec<Job> {
    let part = std::env::var("MOONSCOPE_LUA_CASE").unwrap_or_default();
    let mut jobs = Vec::new();
    for host in hosts() {
        for case in lua_cases().into_iter().filter(|case| case.name.contains(&part)) {
            for is_compiled in [true, false] {
                jobs.push(Job {
                    host: host.clone(),
                    case: case.clone(),
                    is_compiled,
                });
            }
        }
    }
    jobs
}

/// All verdicts, in the order of the jobs.
fn run_all(jobs: &[Job]) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts: Mutex<Vec<Option<Verdict>>> = Mutex::new(vec![None; jobs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((index, job)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(index).map(|job| (index, job))
                } {
                    let verdict = job.run();
                    verdicts.lock().unwrap()[index] = Some(verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap().into_iter().flatten().collect()
}

/// What is wrong with one recording.
fn faults(job: &Job, verdict: &Verdict) -> Vec<String> {
    let mut faults = Vec::new();
    let marked = verdict.wrong - verdict.unmarked;
    // one in some thousands, of all recordings together, is looked into; it is no reason to fail
    if verdict.unmarked > 1 {
        faults.push(format!("{} wrong stacks", verdict.unmarked));
    }
    // a few of some hundred samples are what chance does to one of a thousand; the sum of all is stricter
    if !job.is_one_of(&SHORT_LIVED) && marked > 2 + verdict.samples / 100 {
        faults.push(format!("{marked} stacks with something missing"));
    }
    if !job.is_one_of(&[CUT]) && verdict.complete + 2 + verdict.samples / 50 < verdict.samples {
        faults.push(format!("{} of {} complete", verdict.complete, verdict.samples));
    }
    if !verdict.shares_are_right {
        faults.push("shares".to_owned());
    }
    faults
}

/// This part of the samples of these jobs, at least, has something.
fn assert_part(what: &str, least: f64, counts: impl Iterator<Item = (u64, u64)>) {
    let (good, all) = counts.fold((0, 0), |(good, all), (more, of)| (good + more, all + of));
    println!("{what}: {good} of {all}");
    assert!(good as f64 >= least * all as f64, "{what}: {good} of {all}");
}

#[test]
fn root_every_lua_stack_is_one_that_the_program_can_have() {
    if !root() {
        return;
    }
    let jobs = jobs();
    let verdicts = run_all(&jobs);
    let mut wrong = String::new();
    for (job, verdict) in jobs.iter().zip(&verdicts) {
        let Verdict {
            samples,
            wrong: outside,
            unmarked,
            complete,
            lineless,
            ..
        } = verdict;
        println!(
            "{:<58} {samples:>5} samples {outside:>4} outside {unmarked:>3} unmarked {complete:>5} complete {lineless:>4} \
             without line",
            job.name()
        );
        let faults = faults(job, verdict);
        if !faults.is_empty() {
            wrong += &format!("{}: {}\n{}\n", job.name(), faults.join(", "), verdict.words);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let all = || jobs.iter().zip(&verdicts);
    let long_lived = all().filter(|(job, _)| !job.is_one_of(&SHORT_LIVED));
    assert_part(
        "in the grammar",
        0.999,
        long_lived.map(|(_, verdict)| (verdict.samples - verdict.wrong, verdict.samples)),
    );
    for (is_compiled, least) in [(true, 0.99), (false, 0.995)] {
        let kept = all().filter(|(job, _)| job.is_compiled == is_compiled && !job.is_one_of(&[CUT]));
        assert_part(
            if is_compiled { "complete" } else { "complete -joff" },
            least,
            kept.map(|(_, verdict)| (verdict.complete, verdict.samples)),
        );
    }
}
