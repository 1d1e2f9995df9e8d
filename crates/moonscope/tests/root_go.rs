//! Stacks of a Go program whose runtime leaves the stacks of goroutines all the time: each begins where it really begins.
//!
//! The truth is the source of the program (`tests/programs/switches_go.go`), and what Go's own walk does where a function writes
//! the stack pointer or is the first of a stack (`abi.FuncFlagSPWrite`, `abi.FuncFlagTopFrame`): it ends there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Program, Sample, program, record, root};

/// The functions of Go's runtime that go to the stack of a thread, or come from there (src/runtime/asm_amd64.s, and
/// sys_linux_amd64.s for those that read the clock).
const SWITCHES: [&str; 7] = [
    "runtime.mcall",
    "runtime.morestack",
    "runtime.systemstack",
    "runtime.asmcgocall",
    "runtime.nanotime1",
    "gogo",
    "runtime.mstart",
];

/// What is below the root of a goroutine of the program, outermost first.
const CHAINS: [&[&str]; 4] = [
    &["main.allocates"],
    &["main.yields"],
    &["main.main.func1", "main.grows"],
    &["runtime.main", "main.main"],
];

/// Names of the user part, root first; the assembler's functions have a suffix in some versions of Go.
fn names(sample: &Sample) -> Vec<&str> {
    let plain = |name| str::strip_suffix(name, ".abi0").unwrap_or(name);
    sample.names().into_iter().map(plain).collect()
}

#[test]
fn root_stacks_of_go_begin_at_the_goroutine_or_where_the_runtime_left_it() {
    let Some(path) = root().then(|| program("switches_go")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let recording = record(&["-p", &program.pid_text(), "-d", "3"]);
    recording.assert_complete(0.99);
    let profile = &recording.profile;
    let is_root = |name: &&str| *name == "runtime.goexit" || SWITCHES.contains(name);

    profile.assert_all("has nothing above its root", |sample| {
        sample.is_truncated() || !names(sample).iter().skip(1).any(is_root)
    });
    profile.assert_all(
        "has functions of the program below its goroutine only",
        |sample| {
            let names = names(sample);
            let Some(below) = names.strip_prefix(&["runtime.goexit"]) else {
                return sample.is_truncated() || !names.iter().any(|name| name.starts_with("main."));
            };
            // the runtime has goroutines of its own
            below.is_empty()
                || CHAINS.iter().any(|chain| {
                    let both = below.len().min(chain.len());
                    below[..both] == chain[..both]
                })
                || below.iter().all(|name| !name.starts_with("main."))
        },
    );

    let begin = |root: &str| profile.count(|sample| names(sample).first() == Some(&root));
    let switched: u64 = SWITCHES.into_iter().map(begin).sum();
    assert!(
        switched >= 100 && begin("runtime.goexit") >= 20,
        "{switched} samples on the stacks of threads, {} of goroutines",
        begin("runtime.goexit")
    );
}
