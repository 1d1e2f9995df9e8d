//! What the tests of the command share: when they can run, how a program with known truth is started
//! ([`program`]), how it is recorded ([`recording`]), and the recorded file read back ([`profile`]).
//!
//! A test that needs root or a tool says `SKIPPED: why` and returns; with `MOONSCOPE_NO_SKIP=1` (CI) that is
//! a failure.
#![allow(dead_code, unused_imports)] // each test file uses a part of it

pub mod load;
pub mod profile;
pub mod program;
pub mod recording;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use profile::{Frame, Profile, Sample};
pub use program::{Program, Truth, nm, program};
pub use recording::{Accounting, Recording, Run, moonscope, record, record_at, record_while};

/// Says that a test, or a part of it, cannot run here.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(
        std::env::var_os("MOONSCOPE_NO_SKIP").is_none_or(|value| value != "1"),
        "skipped, and MOONSCOPE_NO_SKIP=1: {why}"
    );
}

/// Is this root? If not the test is skipped.
pub fn root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("needs root and BPF");
    }
    is_root
}

/// Where an installed program is; the test is skipped without it.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Waits until something is so; a test never sleeps in the hope that it is.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < patience, "waited a minute until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

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
