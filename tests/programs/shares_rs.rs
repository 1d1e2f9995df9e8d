//! Generic functions, closures and a trait object in Rust, with 40, 30, 20 and 10 % of the CPU time
//! (method and output: `common.h` and `shares.c`). Compiled by `rustc` alone, without any crate.
//!
//! True stacks (demangled, `...` are frames of the standard library; `main` stands below
//! `std::rt::lang_start...` and the C `main`):
//!
//! ```text
//! shares_rs::main; shares_rs::one_round; shares_rs::generic::<u64>                          40 %
//! shares_rs::main; shares_rs::one_round; shares_rs::call_closure::<...>; ...{closure#0}     30 %
//! shares_rs::main; shares_rs::one_round; <shares_rs::Circle as shares_rs::Shape>::area      20 %
//! shares_rs::main; shares_rs::one_round; ...catch_unwind...; shares_rs::panicking           10 %
//! ```

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
const PR_SET_PDEATHSIG: i32 = 1;
const SIGKILL: u64 = 9;

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    fn prctl(option: i32, argument: u64) -> i32;
    fn getppid() -> i32;
}

fn thread_ns() -> u64 {
    let mut time = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: the kernel fills the structure it is given.
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}

#[inline(always)]
fn work() {
    let mut x = black_box(88_172_645_463_325_252_u64);
    for _ in 0..8000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x = black_box(x);
    }
}

#[inline(never)]
fn generic<T: Copy + Into<u64>>(end: T) -> T {
    while thread_ns() < end.into() {
        work();
    }
    black_box(end)
}

#[inline(never)]
fn call_closure<F: Fn(u64) -> u64>(f: F, end: u64) -> u64 {
    black_box(f(end)) + 1
}

trait Shape {
    fn area(&self, end: u64) -> u64;
}

struct Circle {
    radius: u64,
}

impl Shape for Circle {
    #[inline(never)]
    fn area(&self, end: u64) -> u64 {
        while thread_ns() < end {
            work();
        }
        black_box(self.radius * 3)
    }
}

#[inline(never)]
fn panicking(end: u64) {
    while thread_ns() < end {
        work();
    }
    std::panic::resume_unwind(Box::new("as expected"));
}

struct Rounds {
    state: u64,
    used: [u64; 4],
}

impl Rounds {
    /// 7 to 13 ms, irregular, so that no sampling period can stay in step.
    fn length(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        7_000_000 + self.state % 6_000_000
    }
}

#[inline(never)]
fn one_round(rounds: &mut Rounds) {
    let length = rounds.length();
    let begin = thread_ns();
    let mut at = begin;
    let mut account = |part: usize| {
        let now = thread_ns();
        rounds.used[part] += now - at;
        at = now;
    };
    black_box(generic(begin + length * 4 / 10));
    account(0);
    let offset = black_box(0);
    // Through a pointer, so that the closure stays a function of its own.
    let closure = |end: u64| {
        while thread_ns() < end {
            work();
        }
        end + offset
    };
    let pointer: &dyn Fn(u64) -> u64 = black_box(&closure);
    black_box(call_closure(pointer, begin + length * 7 / 10));
    account(1);
    let shape: Box<dyn Shape> = black_box(Box::new(Circle { radius: 2 }));
    black_box(shape.area(begin + length * 9 / 10));
    account(2);
    let caught = std::panic::catch_unwind(|| panicking(begin + length));
    assert!(caught.is_err());
    account(3);
}

/// Unlike `println!`, does not mind that nobody reads.
fn say(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .map_or(10.0, |text| text.parse().expect("seconds"));
    if std::env::var_os("KEEP").is_none() {
        // SAFETY: both only read their arguments.
        unsafe {
            let parent = getppid();
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if getppid() != parent {
                std::process::exit(1);
            }
        }
    }
    let mut rounds = Rounds {
        state: 0x9e37_79b9_7f4a_7c15,
        used: [0; 4],
    };
    say(format_args!("ready"));
    let (begin, end) = (thread_ns(), Instant::now() + Duration::from_secs_f64(seconds));
    while Instant::now() < end {
        one_round(&mut rounds);
    }
    let total: u64 = rounds.used.iter().sum();
    for (name, used) in ["generic", "call_closure", "area", "panicking"]
        .iter()
        .zip(rounds.used)
    {
        say(format_args!(
            "truth {name} {:.4} {:.4}",
            used as f64 / total as f64,
            used as f64 / 1e9
        ));
    }
    say(format_args!("cpu {:.4}", (thread_ns() - begin) as f64 / 1e9));
}
