//! The walk in the kernel against the walk in user space on the same registers and stack, of real programs.
//!
//! The two share no code: the one searches the rows of `bpf/walk.h`, the other evaluates the DWARF of the file with
//! gimli. Each sample ships a stack copy here, and every frame is compared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::load::Nginx;
use common::{Program, program, root, tool};
use moonscope_probe::{Comparison, EventSettings, Options, Scope, Session, WalkLoop};

/// Samples that are compared of each program.
const ENOUGH: u64 = 300;

/// Frames that must agree.
const BAR: f64 = 0.995;

/// Samples these processes until enough are compared.
fn compare(pids: impl IntoIterator<Item = u32>, walk_loop: WalkLoop) -> Comparison {
    let options = Options {
        scope: Scope::Processes(pids.into_iter().collect::<BTreeSet<u32>>()),
        events: Vec::new(),
        settings: EventSettings::default(),
        program: None,
        hz: 499,
        max_depth: 1024,
        kernel_stacks: true,
        user_stacks: true,
        follow_forks: true,
        report_all_execs: false,
        measure_cost: false,
        always_copy_stack: true,
        coroutine_parents: false,
        force_loop: Some(walk_loop),
        limits: None,
    };
    let mut session = Session::prepare(&options).unwrap();
    session.start().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while session.progress().0 < ENOUGH {
        assert!(
            Instant::now() < patience,
            "only {} samples in a minute",
            session.progress().0
        );
        session.poll(Duration::from_millis(50)).unwrap();
    }
    session.finish().unwrap().0.received.comparison
}

#[track_caller]
fn assert_agreement(what: &str, comparison: &Comparison) {
    let Comparison {
        samples,
        frames,
        equal_frames,
        other_ends,
        differences,
    } = comparison;
    println!(
        "{what}: {samples} samples, {frames} frames, {} differ, {other_ends} end otherwise",
        frames - equal_frames
    );
    assert!(
        *samples > ENOUGH / 2,
        "{what}: only {samples} samples were walked both ways"
    );
    assert!(
        *equal_frames as f64 >= BAR * *frames as f64,
        "{what}: {equal_frames} of {frames} frames agree\n{}",
        differences.join("\n")
    );
    assert!(
        *other_ends as f64 <= (1.0 - BAR) * *samples as f64,
        "{what}: {other_ends} of {samples} walks end in another way\n{}",
        differences.join("\n")
    );
}

/// A program of `tests/programs`, by both loops.
fn walks_of(name: &str, args: &[&str]) -> Vec<Comparison> {
    let Some(path) = root().then(|| program(name)).flatten() else {
        return Vec::new();
    };
    let by = |walk_loop| {
        let program = Program::start(&path, &[&["120"], args].concat());
        let comparison = compare([program.pid()], walk_loop);
        assert_agreement(&format!("{name}, {walk_loop:?}"), &comparison);
        comparison
    };
    [WalkLoop::BpfLoop, WalkLoop::PlainLoop].map(by).into()
}

#[test]
fn root_walks_of_c_agree() {
    walks_of("shares", &[]);
    walks_of("chain-O3", &["40"]);
}

#[test]
fn root_walks_of_a_deep_stack_agree() {
    walks_of("deep", &[]);
}

#[test]
fn root_walks_in_prologues_epilogues_and_stubs_agree() {
    walks_of("leaf", &[]);
    walks_of("plt", &[]);
    walks_of("plt-cet", &[]);
}

#[test]
fn root_walks_of_realigned_frames_agree() {
    walks_of("realign", &[]);
}

/// The copy has to begin on the page below the stack pointer: without that it ends at the first frame, and what lies beyond
/// the end of a copy is not compared.
#[test]
fn root_walks_of_a_frame_in_the_red_zone_agree() {
    for comparison in walks_of("redzone", &[]) {
        // red_zone, red_parent, main, and at least one that calls main
        assert!(
            comparison.frames as f64 >= BAR * 4.0 * comparison.samples as f64,
            "{comparison:?}"
        );
    }
}

#[test]
fn root_walks_through_signal_handlers_agree() {
    walks_of("signals", &[]);
    walks_of("signals", &["altstack"]);
}

#[test]
fn root_walks_from_the_kernel_agree() {
    walks_of("syscalls", &[]);
    walks_of("vdso", &[]);
}

#[test]
fn root_walks_of_cpp_agree() {
    walks_of("shares_cpp", &[]);
}

#[test]
fn root_walks_of_rust_agree() {
    walks_of("shares_rs", &[]);
    walks_of("shares_rs-debug", &[]);
}

#[test]
fn root_walks_of_go_agree() {
    walks_of("shares_go", &[]);
    walks_of("shares_go-stripped", &[]);
}

/// A child that works until it is dropped.
struct Busy(Child);

impl Busy {
    fn start(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        Self(
            command
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_walks_of_openssl_agree() {
    let Some(openssl) = root().then(|| tool("openssl")).flatten() else {
        return;
    };
    // assembly with rules on other registers; big numbers
    for args in [
        &["speed", "-seconds", "60", "sha512"][..],
        &["speed", "-seconds", "60", "rsa2048"],
    ] {
        let busy = Busy::start(&openssl, args);
        assert_agreement(
            &format!("openssl {args:?}"),
            &compare([busy.0.id()], WalkLoop::BpfLoop),
        );
    }
}

#[test]
fn root_walks_of_gzip_agree() {
    let Some(gzip) = root().then(|| tool("gzip")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("letters");
    // some seconds of work
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters: Vec<u8> = (0..48 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b'a' + (state >> 60) as u8
        })
        .collect();
    std::fs::write(&file, letters).unwrap();
    let busy = Busy::start(&gzip, &["-9", "-c", file.to_str().unwrap()]);
    assert_agreement("gzip", &compare([busy.0.id()], WalkLoop::BpfLoop));
}

#[test]
fn root_walks_of_nginx_agree() {
    if !root() {
        return;
    }
    let Some(nginx) = Nginx::start() else { return };
    for walk_loop in [WalkLoop::BpfLoop, WalkLoop::PlainLoop] {
        assert_agreement(
            &format!("nginx, {walk_loop:?}"),
            &compare(nginx.pids(), walk_loop),
        );
    }
}
