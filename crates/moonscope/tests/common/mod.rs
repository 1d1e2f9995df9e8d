//! What the tests of the command share: when they can run ([`here`]), how a program with known truth is started
//! ([`program`]), how it is recorded ([`recording`]), and the recorded file read back ([`profile`]).
//!
//! A test that needs root or a tool says `SKIPPED: why` and returns; with `MOONSCOPE_NO_SKIP=1` (CI) that is
//! a failure.
#![allow(dead_code, unused_imports)] // each test file uses a part of it

pub mod background;
pub mod container;
pub mod here;
pub mod load;
pub mod lua;
pub mod lua_nginx;
pub mod profile;
pub mod program;
pub mod recording;
pub mod server;
pub mod stack;
pub mod tmux;

pub use here::{repository, root, skip, tool, wait_until};
pub use profile::{Frame, Profile, Sample};
pub use program::{Program, Truth, nm, program};
pub use recording::{
    Accounting, Recording, Run, moonscope, moonscope_while, record, record_at, record_while,
};

/// The count is the expected share of the total within five standard deviations of a binomial count. Half a
/// percent is added for what is not sampling: a share known to four digits of a run that began a bit earlier.
#[track_caller]
pub fn assert_share(what: &str, count: u64, total: u64, expected: f64) {
    let (found, n) = (count as f64 / total.max(1) as f64, total.max(1) as f64);
    let tolerance = 5.0 * (expected * (1.0 - expected) / n).sqrt() + 0.005;
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: {found:.4} of {total} samples, expected {expected:.4} ± {tolerance:.4}"
    );
    // samples enough that the above says something
    assert!(total >= 200, "{what}: only {total} samples");
}
