//! Unwind tables that do not all fit: those that nobody uses go, those in use stay, and what finds no room is
//! walked in user space. Whatever happens to tables, no stack is cut and none is wrong.
//!
//! The truth is the walk in user space, which knows nothing of tables: each sample comes with a stack copy and is
//! walked both ways.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{MovedPages, Program, program, root, tool};
use moonscope_probe::{
    EventSettings, Limits, Options, RawFrame, RawStackId, Recorded, Scope, Session, Totals,
};

/// Room for all that these tests do.
const AMPLE: Limits = Limits {
    words: 1 << 20,
    tables: 1 << 10,
    mappings: 1 << 12,
    processes: 1 << 10,
    targets: 1 << 10,
    ring_bytes: 32 << 20,
    stacks: 1,
    files: 1,
    pages: 1,
    threads: 1,
    loops: 1,
    coroutines: 1,
};

/// Programs without a library, each with its own C library inside: a few thousand words of table each.
const STATIC: [&str; 4] = ["shares-static", "chain-static", "deep-static", "chain-static-pie"];

fn options(limits: Limits) -> Options {
    Options {
        scope: Scope::Processes([].into()),
        events: Vec::new(),
        settings: EventSettings::default(),
        program: None,
        hz: 997,
        max_depth: 1024,
        kernel_stacks: false,
        user_stacks: true,
        follow_forks: false,
        report_all_execs: false,
        measure_cost: false,
        always_copy_stack: true,
        coroutine_parents: false,
        force_loop: None,
        limits: Some(limits),
    }
}

/// A recording of which each process is added by hand.
struct Watched {
    session: Session,
    moved: MovedPages,
}

impl Watched {
    fn start(limits: Limits) -> Self {
        let mut session = Session::prepare(&options(limits)).unwrap();
        session.start().unwrap();
        Self {
            session,
            moved: MovedPages::now(),
        }
    }

    fn add(&mut self, program: &Program) {
        self.session.add_target(program.pid()).unwrap();
    }

    /// Records until so many samples more have come.
    fn take(&mut self, samples: u64) {
        let wanted = self.session.progress().0 + samples;
        let patience = Instant::now() + Duration::from_secs(60);
        while self.session.progress().0 < wanted {
            assert!(Instant::now() < patience, "not {samples} samples in a minute");
            self.session.poll(Duration::from_millis(20)).unwrap();
        }
    }

    /// Records for so long.
    fn take_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.session.poll(Duration::from_millis(20)).unwrap();
        }
    }

    /// Starts a program, samples it until it has so many samples (others may have more), and ends it.
    fn visit(&mut self, path: &Path, samples: u64) -> u32 {
        let program = Program::start(path, &["60"]);
        self.add(&program);
        self.take(samples);
        let pid = program.pid();
        drop(program);
        // its end is noticed
        self.take_for(Duration::from_millis(50));
        pid
    }

    fn end(self) -> Outcome {
        let (totals, recorded) = self.session.finish().unwrap();
        let tables = totals.tables;
        println!("{tables:?}, {:?}", totals.received);
        Outcome {
            totals,
            recorded,
            moved: self.moved,
        }
    }
}

struct Outcome {
    totals: Totals,
    recorded: Recorded,
    moved: MovedPages,
}

impl Outcome {
    /// Nothing was cut or lost, and wherever both walks were done they found the same.
    #[track_caller]
    fn assert_all_right(&self) {
        let received = &self.totals.received;
        self.moved
            .assert_no_other_cuts(&received.truncated, received.samples());
        assert_eq!((received.malformed, self.totals.ticks.lost_ring), (0, 0));
        let comparison = &received.comparison;
        assert_eq!(
            (comparison.equal_frames, comparison.other_ends),
            (comparison.frames, 0),
            "{}",
            comparison.differences.join("\n")
        );
    }

    /// Samples of a process whose stack is cut.
    fn cut(&self, pid: u32) -> u64 {
        let stacks = &self.recorded.stacks;
        let is_cut = |stack: RawStackId| {
            std::iter::successors(Some(stack), |id| stacks.nodes()[id.0 as usize].0).any(|id| {
                let frame = stacks.nodes()[id.0 as usize].1;
                matches!(stacks.frames()[frame as usize], RawFrame::Cut(_))
            })
        };
        let of_pid = stacks.counts().filter(|(_, thread, _)| thread.pid == pid);
        of_pid
            .filter(|(stack, ..)| is_cut(*stack))
            .map(|(.., count)| count)
            .sum()
    }

    /// Samples of a process, and how many of them have a frame in this file.
    fn of(&self, pid: u32, file: &str) -> (u64, u64) {
        let stacks = &self.recorded.stacks;
        let has = |stack: RawStackId| {
            std::iter::successors(Some(stack), |id| stacks.nodes()[id.0 as usize].0).any(|id| {
                match &stacks.frames()[stacks.nodes()[id.0 as usize].1 as usize] {
                    RawFrame::File { executable, .. } => {
                        let file_of_frame = self.recorded.file(*executable).unwrap();
                        file_of_frame.path().file_name().unwrap() == file
                    }
                    _ => false,
                }
            })
        };
        let mut found = (0, 0);
        for (stack, _, count) in stacks.counts().filter(|(_, thread, _)| thread.pid == pid) {
            found.0 += count;
            found.1 += if has(stack) { count } else { 0 };
        }
        found
    }
}

/// Copies of programs that are other files to whoever compares their build ids.
struct Copies {
    dir: tempfile::TempDir,
    made: u32,
}

impl Copies {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            made: 0,
        }
    }

    /// A copy whose build id is a number.
    fn of(&mut self, program: &Path) -> PathBuf {
        // a note: lengths of name and content, NT_GNU_BUILD_ID, the name (System V ABI, "Note Section")
        const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
        self.made += 1;
        let mut bytes = std::fs::read(program).unwrap();
        let at = bytes
            .windows(NOTE.len())
            .position(|window| window == NOTE)
            .unwrap()
            + NOTE.len();
        bytes[at..at + 4].copy_from_slice(&self.made.to_ne_bytes());
        let name = program.file_name().unwrap().to_str().unwrap();
        let copy = self.dir.path().join(format!("{name}-{}", self.made));
        std::fs::copy(program, &copy).unwrap(); // for its mode
        std::fs::write(&copy, bytes).unwrap();
        copy
    }
}

fn programs<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found: Option<Vec<_>> = root().then(|| names.map(program).into_iter().collect())?;
    found?.try_into().ok()
}

/// Runs short programs beside one that is sampled throughout, each of them twice: the second time it comes back
/// after others had its room.
fn run_beside_another(limits: Limits, rounds: usize) -> Option<Outcome> {
    let originals = programs(STATIC)?;
    let [long] = programs(["shares"])?;
    let mut copies = Copies::new();
    let short: Vec<PathBuf> = (0..rounds)
        .flat_map(|_| originals.each_ref().map(|path| copies.of(path)))
        .collect();
    let long = Program::start(&long, &["600"]);
    let mut watched = Watched::start(limits);
    watched.add(&long);
    watched.take(100);
    let mut visits = Vec::new();
    for path in short.iter().chain(&short) {
        visits.push((watched.visit(path, 40), path));
    }
    watched.take(100);
    let outcome = watched.end();
    outcome.assert_all_right();
    assert!(outcome.totals.tables.built > short.len() as u64);
    for (pid, path) in visits {
        let file = path.file_name().unwrap().to_str().unwrap();
        let (all, right) = outcome.of(pid, file);
        assert_eq!(all, right, "{file}");
    }
    let (all, right) = outcome.of(long.pid(), "shares");
    assert!(all > 100 && all == right, "{right} of {all}");
    Some(outcome)
}

#[test]
fn root_tables_out_of_use_give_their_words_to_others() {
    let limits = Limits {
        words: 64 << 10,
        ..AMPLE
    };
    let Some(outcome) = run_beside_another(limits, 4) else {
        return;
    };
    let tables = outcome.totals.tables;
    assert!(tables.evicted > 16, "{tables:?}");
    assert_eq!(tables.no_room, 0);
    assert!(outcome.totals.table_bytes <= limits.words * 4);
    // the walk in the kernel was the rule, and not the exception
    let received = &outcome.totals.received;
    assert!(received.comparison.samples as f64 > 0.8 * received.samples() as f64);
}

#[test]
fn root_tables_out_of_use_give_their_places_to_others() {
    let limits = Limits { tables: 64, ..AMPLE };
    // the fewest places that there can be are 64
    let Some(outcome) = run_beside_another(limits, 18) else {
        return;
    };
    let tables = outcome.totals.tables;
    assert!(tables.evicted > 10, "{tables:?}");
    assert_eq!(tables.no_room, 0);
}

/// Starts any program, whose output goes nowhere.
fn start(path: &Path, args: &[&str], preload: &str) -> Program {
    let mut command = Command::new("sh");
    let script = r#"echo ready; LD_PRELOAD="$1"; export LD_PRELOAD; shift; exec "$0" "$@" >/dev/null 2>&1"#;
    Program::spawn(command.args(["-c", script]).arg(path).arg(preload).args(args))
}

/// Real programs and libraries, whose tables are of all sizes.
#[test]
fn root_tables_of_libraries_come_and_go_beside_one_that_stays() {
    let Some([long, shares, large]) = programs(["shares", "shares-fp", "shares-static"]) else {
        return;
    };
    let mut copies = Copies::new();
    let (Some(openssl), Some(gzip)) = (tool("openssl"), tool("gzip")) else {
        return;
    };
    let long = Program::start(&long, &["600"]);
    let mut watched = Watched::start(Limits {
        words: 128 << 10,
        ..AMPLE
    });
    watched.add(&long);
    for _ in 0..3 {
        let mut visitors = vec![
            start(&openssl, &["speed", "-seconds", "60", "sha512"], ""),
            start(&gzip, &["-9", "-c", "/dev/zero"], ""),
        ];
        for library in ["libstdc++.so.6", "libm.so.6", "libz.so.1", "libcrypto.so.3"] {
            visitors.push(start(&shares, &["60"], library));
        }
        // how large the libraries' tables are is not known here: these fill the room in any case
        visitors.extend((0..4).map(|_| Program::start(&copies.of(&large), &["60"])));
        for visitor in visitors {
            watched.add(&visitor);
            watched.take(150);
            drop(visitor);
        }
    }
    let outcome = watched.end();
    let (tables, received) = (outcome.totals.tables, &outcome.totals.received);
    assert!(tables.evicted >= 3, "{tables:?}");
    let comparison = &received.comparison;
    assert!(comparison.samples > received.samples() / 2);
    // not all of OpenSSL's assembly says how to unwind it
    assert!(
        comparison.equal_frames as f64 >= 0.995 * comparison.frames as f64,
        "{}",
        comparison.differences.join("\n")
    );
    let (all, right) = outcome.of(long.pid(), "shares");
    assert!(all > 100 && all == right, "{right} of {all}");
    assert_eq!(outcome.cut(long.pid()), 0);
}

#[test]
fn root_tables_without_evictions_are_built_once() {
    let Some(outcome) = run_beside_another(AMPLE, 1) else {
        return;
    };
    let tables = outcome.totals.tables;
    // the four, the program beside them with its libraries (libc, the loader, the vDSO)
    assert_eq!((tables.evicted, tables.built), (0, 4 + 4));
}

#[test]
fn root_processes_without_room_for_tables_are_walked_in_user_space() {
    let Some([long, other]) = programs(["shares", "shares-static"]) else {
        return;
    };
    let (long, other) = (Program::start(&long, &["600"]), Program::start(&other, &["600"]));
    // the C library's table does not fit
    let mut watched = Watched::start(Limits { words: 1024, ..AMPLE });
    watched.add(&long);
    watched.add(&other);
    watched.take(400);
    let outcome = watched.end();
    outcome.assert_all_right();
    let tables = outcome.totals.tables;
    assert!(tables.no_room >= 2, "{tables:?}");
    assert_eq!(tables.evicted, 0, "nobody loses a table in vain");
    assert!(outcome.totals.received.walked_here >= 300);
}

/// As many files in one process as there are places, and then some.
#[test]
fn root_files_without_a_place_for_a_table_get_one_when_there_is() {
    let Some([long, many]) = programs(["shares", "shares-static"]) else {
        return;
    };
    let mut copies = Copies::new();
    let mut watched = Watched::start(Limits { tables: 64, ..AMPLE });
    let crowd: Vec<Program> = (0..64)
        .map(|_| {
            let program = Program::start(&copies.of(&many), &["600"]);
            // it is there, and needs no CPU
            signal(program.pid(), "STOP");
            program
        })
        .collect();
    for program in &crowd {
        watched.add(program);
    }
    let long = Program::start(&long, &["600"]);
    watched.add(&long);
    watched.take(200);
    let before = watched.session.progress().0;
    for program in &crowd {
        signal(program.pid(), "KILL");
    }
    drop(crowd);
    // it asks again once a second
    watched.take_for(Duration::from_millis(2500));
    watched.take(300);
    let outcome = watched.end();
    outcome.assert_all_right();
    let (tables, received) = (outcome.totals.tables, &outcome.totals.received);
    assert!(tables.no_room >= 1 && tables.evicted >= 1, "{tables:?}");
    assert!(received.walked_here >= 150, "{}", received.walked_here);
    let kernel = received.comparison.samples;
    assert!(
        kernel >= 300,
        "{kernel} walked in the kernel, {before} samples before there was room"
    );
    let (all, right) = outcome.of(long.pid(), "shares");
    assert_eq!(all, right);
}

/// The same for words: a table that found no room is loaded once others are out of use.
#[test]
fn root_tables_without_room_are_loaded_when_there_is() {
    let Some([long, other]) = programs(["shares", "shares-static"]) else {
        return;
    };
    let mut copies = Copies::new();
    let mut watched = Watched::start(Limits {
        words: 32 << 10,
        ..AMPLE
    });
    let crowd: Vec<Program> = (0..4)
        .map(|_| Program::start(&copies.of(&other), &["600"]))
        .collect();
    for program in &crowd {
        watched.add(program);
    }
    watched.take(200);
    let long = Program::start(&long, &["600"]);
    watched.add(&long);
    watched.take(400);
    drop(crowd);
    watched.take_for(Duration::from_millis(2500));
    let before = watched.session.progress().0;
    watched.take(300);
    let outcome = watched.end();
    outcome.assert_all_right();
    let (tables, received) = (outcome.totals.tables, &outcome.totals.received);
    assert!(tables.no_room >= 1 && tables.evicted >= 1, "{tables:?}");
    assert!(received.walked_here >= 100);
    let kernel = received.comparison.samples;
    assert!(
        kernel >= 300,
        "{kernel} walked in the kernel, {before} samples before there was room"
    );
}

/// Two programs' lists of mappings do not fit the array, nor more than one process the map.
#[test]
fn root_processes_without_room_for_mappings_are_walked_in_user_space() {
    let Some([path]) = programs(["shares"]) else {
        return;
    };
    for (limits, fit) in [
        (
            Limits {
                processes: 1,
                ..AMPLE
            },
            1,
        ),
        (
            Limits {
                mappings: 64,
                ..AMPLE
            },
            16,
        ),
    ] {
        let crowd: Vec<Program> = (0..fit + 2).map(|_| Program::start(&path, &["600"])).collect();
        let mut watched = Watched::start(limits);
        for program in &crowd {
            watched.add(program);
        }
        watched.take(600);
        let outcome = watched.end();
        outcome.assert_all_right();
        let counts = outcome.totals.processes;
        assert!(counts.no_room >= 1, "{counts:?}");
        for program in &crowd {
            let (all, right) = outcome.of(program.pid(), "shares");
            assert_eq!(all, right);
        }
        assert!(outcome.totals.received.walked_here > 0);
    }
}

fn signal(pid: u32, which: &str) {
    let status = Command::new("kill")
        .args(["-s", which, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
