//! More different unwind rules than have a number: that is counted, no stack is cut, and no other file suffers.
//!
//! The truth is the assembler's: a program whose unwind information has 70,000 different frame sizes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{MovedPages, Program, program, root, tool};
use moonscope_probe::{EventSettings, Options, Scope, Session};

const RULES: u32 = 70_000;

/// `main` calls `beyond`, which says of each of its instructions that the frame has another size (true of none but
/// the last) and calls `spin` at its end.
fn build(gcc: &Path, dir: &Path) -> std::path::PathBuf {
    let mut assembly =
        String::from("	.globl beyond\n	.type beyond, @function\nbeyond:\n	.cfi_startproc\n	jmp 1f\n");
    for size in 2..RULES {
        writeln!(assembly, "	nop\n	.cfi_def_cfa_offset {}", size * 8).unwrap();
    }
    assembly.push_str("1:	sub $8, %rsp\n	.cfi_def_cfa_offset 16\n	call spin\n	add $8, %rsp\n	.cfi_def_cfa_offset 8\n	nop\n	ret\n	.cfi_endproc\n	.section .note.GNU-stack,\"\",@progbits\n");
    std::fs::write(dir.join("beyond.s"), assembly).unwrap();
    let main = r#"
        #include <stdio.h>
        #include <sys/prctl.h>
        void beyond(void);
        __attribute__((noipa)) void before(void) { for (volatile long i = 0; i < 20000000; i++) ; }
        void spin(void) { for (volatile long i = 0; i < 20000000; i++) ; }
        int main(void) {
            prctl(PR_SET_PDEATHSIG, 9);
            puts("ready");
            fflush(stdout);
            for (;;) { before(); beyond(); }
        }"#;
    std::fs::write(dir.join("main.c"), main).unwrap();
    let status = Command::new(gcc)
        .current_dir(dir)
        .args([
            "-O1",
            "-fomit-frame-pointer",
            "-o",
            "beyond",
            "main.c",
            "beyond.s",
        ])
        .status()
        .unwrap();
    assert!(status.success());
    dir.join("beyond")
}

#[test]
fn root_a_file_with_too_many_rules_is_walked_in_user_space_and_no_other_is() {
    let Some(gcc) = root().then(|| tool("gcc")).flatten() else {
        return;
    };
    let Some(shares) = program("shares") else { return };
    let dir = tempfile::tempdir().unwrap();
    let crowded = Program::start(&build(&gcc, dir.path()), &[]);
    let beside = Program::start(&shares, &["600"]);
    let options = Options {
        scope: Scope::Processes([crowded.pid(), beside.pid()].into()),
        events: Vec::new(),
        settings: EventSettings::default(),
        program: None,
        hz: 499,
        max_depth: 127,
        kernel_stacks: false,
        user_stacks: true,
        follow_forks: false,
        report_all_execs: false,
        measure_cost: false,
        always_copy_stack: false,
        coroutine_parents: false,
        force_loop: None,
        limits: None,
    };
    let moved = MovedPages::now();
    let mut session = Session::prepare(&options).unwrap();
    session.start().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while session.progress().0 < 800 {
        assert!(Instant::now() < patience, "{:?}", session.progress());
        session.poll(Duration::from_millis(50)).unwrap();
    }
    let (totals, recorded) = session.finish().unwrap();
    let (tables, received) = (totals.tables, &totals.received);
    println!("{tables:?}, {received:?}");
    // both programs and what they share: libc, the loader, the vDSO
    assert_eq!((tables.too_many_rules, tables.built), (1, 4));
    moved.assert_no_other_cuts(&received.truncated, received.samples());
    let of = |pid: u32| {
        let of_pid = recorded
            .stacks
            .counts()
            .filter(|(_, thread, _)| thread.pid == pid);
        of_pid.map(|(.., count)| count).sum::<u64>()
    };
    assert!(of(crowded.pid()) > 100 && of(beside.pid()) > 100);
    // the other's first samples may come before its tables
    let excess = received.walked_here.saturating_sub(of(crowded.pid()));
    assert!(
        excess < of(beside.pid()) / 2,
        "{excess} samples of the other file were walked here"
    );
    assert!(received.walked_here >= of(crowded.pid()) / 2);
}
