//! Stacks at every instruction, where unwind information ends: the truth is the calls and returns that were seen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use moonscope_unwind::WalkEnd;

#[path = "common/stepper.rs"]
mod stepper;
#[path = "common/target.rs"]
#[allow(dead_code)]
mod target;

use stepper::Stepper;
use target::{compile, try_compile};

/// Where the program starts, as the kernel told its loader (AT_ENTRY).
fn entry_point(pid: i32) -> u64 {
    let auxv = std::fs::read(format!("/proc/{pid}/auxv")).unwrap();
    let words: Vec<u64> = auxv
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect();
    words
        .chunks_exact(2)
        .find(|pair| pair[0] == libc::AT_ENTRY)
        .unwrap()[1]
}

/// Both walkers say what is true.
fn check(stepper: &mut Stepper) {
    let truth = stepper.truth();
    for walk in [stepper.user_walk(), stepper.kernel_walk()] {
        let found: Vec<u64> = walk.frames.iter().map(|frame| frame.addr).collect();
        assert!(
            found == truth && walk.end == WalkEnd::Root,
            "{}",
            stepper.describe(&walk)
        );
    }
}

/// From the first instruction of the loader to the first of the program.
fn step_through_loader(program: &Path) {
    let mut stepper = Stepper::start(program);
    let entry = entry_point(stepper.pid());
    let mut steps = 0;
    while stepper.pc() != entry {
        if steps < 300 || steps % 97 == 0 || stepper.truth().len() < 3 {
            check(&mut stepper);
        }
        stepper.step().unwrap();
        steps += 1;
    }
    assert_eq!(stepper.truth().len(), 1, "{steps} steps");
    check(&mut stepper);
}

#[test]
fn a_process_is_whole_from_its_first_instruction_to_that_of_its_program() {
    let dir = tempfile::tempdir().unwrap();
    step_through_loader(&compile(dir.path(), "int main() { return 0; }", &["-O2"]));
}

/// Calls of functions that a static program chooses when it starts, and so calls through a stub.
const CALLS_STUBS: &str = r#"
#include <string.h>
int main()
{
	char text[64] = "some text", copy[64];
	__asm__("int3");
	memcpy(copy, text, strlen(text) + 1);
	int result = strcmp(copy, text) || strchr(copy, 'x') != copy + 7;
	__asm__("int3");
	return result;
}
"#;

#[test]
fn calls_through_stubs_of_a_static_program_have_their_callers() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [&["-O0", "-static"][..], &["-O0", "-static-pie"], &["-O0"]] {
        let mut stepper = Stepper::start(&compile(dir.path(), CALLS_STUBS, flags));
        check(&mut stepper);
        stepper.run();
        stepper.believe();
        while !stepper.is_at_trap() {
            check(&mut stepper);
            stepper.step().unwrap();
        }
    }
}

/// A thread with a stack of the library's, and one whose stack begins with the address of its function: `clone` puts that there,
/// and it looks like a caller.
const MAKES_THREADS: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
static void *run(void *p) { return p; }
static int run_on_array(void *p) { for (;;) __asm__(""); return p != 0; }
static _Alignas(16) char stack[65536];
__attribute__((noinline)) static int make(void)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	pthread_t thread;
	__asm__("int3");
	int result = pthread_create(&thread, 0, run, 0);
	result |= clone(run_on_array, stack + sizeof(stack), flags, 0) < 0;
	__asm__("int3");
	return result;
}
int main() { return make() + 1; }
"#;

/// Steps from one `int3` to the next; the threads that were made meanwhile.
fn step_through_clones(program: &Path) -> Vec<Stepper> {
    let mut stepper = Stepper::start(program);
    stepper.request(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_TRACECLONE as usize);
    stepper.run();
    stepper.believe();
    let mut threads = Vec::new();
    while !stepper.is_at_trap() {
        check(&mut stepper);
        let Err(status) = stepper.step() else {
            continue;
        };
        assert_eq!(status >> 8, libc::SIGTRAP | libc::PTRACE_EVENT_CLONE << 8);
        // it is still in the call
        assert_eq!(stepper.rax() as i64, i64::from(-libc::ENOSYS));
        threads.push(Stepper::of(stepper.message()));
    }
    threads.push(stepper);
    threads
}

#[test]
fn the_thread_that_makes_another_has_its_callers_and_the_new_one_has_none() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [&["-O2"][..], &["-O2", "-static"]] {
        let program = compile(dir.path(), MAKES_THREADS, flags);
        let mut threads = step_through_clones(&program);
        assert_eq!(threads.len(), 3);
        for thread in &mut threads[..2] {
            assert_eq!(thread.rax(), 0);
            for _ in 0..40 {
                check(thread);
                thread.step().unwrap();
            }
        }
    }
}

/// Exceptions that are caught one and two calls further out, with a cleanup in between.
const THROWS: &str = r#"
#include <string>
struct Counts { int &n; ~Counts() { n++; } };
static int cleaned;
__attribute__((noinline)) static void throws(int x) { if (x % 2) throw std::string("odd"); }
__attribute__((noinline)) static void cleans(int x) { Counts c{cleaned}; throws(x); __asm__(""); }
__attribute__((noinline)) static int catches(void (*thrower)(int), int x)
{
	try { thrower(x); } catch (std::string &text) { return text.size(); }
	return 0;
}
int main()
{
	int sum = catches(throws, 1) + catches(cleans, 1);
	__asm__("int3");
	sum += catches(throws, 1) + catches(cleans, 1) + catches(cleans, 2);
	__asm__("int3");
	return sum != 15 || cleaned != 3;
}
"#;

/// While an exception leaves the unwinder, its frame is written over with that of the catcher: no stack then is better than
/// one that has frames which were never there.
#[test]
fn no_stack_of_an_exception_in_flight_has_a_caller_that_it_has_not() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [&["-O2"][..], &["-O2", "-static-libgcc"]] {
        let Some(program) = try_compile("g++", dir.path(), "cc", THROWS, flags) else {
            eprintln!("skipped: no g++");
            return;
        };
        let mut stepper = Stepper::start(&program);
        stepper.run();
        stepper.believe();
        let (mut steps, mut cut) = (0u32, 0);
        while !stepper.is_at_trap() {
            let truth = stepper.truth();
            let kernel = stepper.kernel_walk();
            let is_cut = !kernel.end.is_complete();
            cut += u32::from(is_cut);
            let mut walks = vec![kernel];
            // it takes much longer
            if is_cut || steps.is_multiple_of(16) {
                walks.push(stepper.user_walk());
            }
            for walk in &walks {
                let found: Vec<u64> = walk.frames.iter().map(|frame| frame.addr).collect();
                let is_true = if walk.end.is_complete() {
                    found == truth
                } else {
                    walk.end == WalkEnd::Unsupported && truth.starts_with(&found)
                };
                assert!(
                    is_true,
                    "after {steps} steps with {flags:?}: {}",
                    stepper.describe(walk)
                );
            }
            stepper.step().unwrap();
            steps += 1;
        }
        assert!(cut * 20 < steps, "{cut} of {steps} stacks with {flags:?}");
    }
}
