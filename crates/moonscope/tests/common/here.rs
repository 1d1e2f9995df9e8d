//! What a test needs of the machine: root, tools, files of the repository; and patience.
//!
//! Tests of `moonscope-probe` use this too.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
