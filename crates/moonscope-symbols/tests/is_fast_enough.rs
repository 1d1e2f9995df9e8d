//! The bars of issue 2 for symbols. Times count in a release build only: `cargo test --release`.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod common;

use common::{alone, code_sections, libc, libcrypto, open};
use moonscope_symbols::{SymbolOptions, Symbolizer};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn within(what: &str, started: Instant, bar: Duration) {
    let took = started.elapsed();
    eprintln!("{what}: {took:?}");
    assert!(
        cfg!(debug_assertions) || took <= bar,
        "{what} took {took:?}, not {bar:?}"
    );
}

/// Addresses all over the code of a file.
fn spread(path: &Path, count: usize) -> Vec<u64> {
    let sections = code_sections(path);
    let text = &sections
        .iter()
        .max_by_key(|(_, range)| range.end - range.start)
        .unwrap()
        .1;
    let step = ((text.end - text.start) / count as u64).max(1);
    text.clone()
        .step_by(usize::try_from(step).unwrap())
        .take(count)
        .collect()
}

#[test]
fn ten_thousand_addresses_take_less_than_a_tenth_of_a_second() {
    let nginx = PathBuf::from("/usr/sbin/nginx");
    let files: Vec<PathBuf> = [libc(), libcrypto(), nginx]
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    let mut symbolizer = Symbolizer::new(SymbolOptions::default());
    let work: Vec<_> = files
        .iter()
        .map(|path| (open(path), spread(path, 10_000 / files.len())))
        .collect();
    let started = Instant::now();
    for (exe, _) in &work {
        symbolizer.native(exe, &[]);
    }
    within("loading", started, Duration::from_millis(100));
    let started = Instant::now();
    let named: usize = work
        .iter()
        .flat_map(|(exe, addrs)| symbolizer.native(exe, addrs))
        .filter(|s| !s.is_empty())
        .count();
    within("10,000 addresses", started, Duration::from_millis(100));
    eprintln!("{named} named, {} KiB kept", symbolizer.memory() >> 10);
    assert!(named > 1000);
    assert!(symbolizer.memory() < 8 << 20);
}

#[test]
fn the_symbols_of_a_library_like_llvm_load_in_half_a_second() {
    let Some(library) = llvm() else {
        eprintln!("skipped: no libLLVM");
        return;
    };
    let exe = open(&library);
    let mut symbolizer = Symbolizer::new(alone());
    let started = Instant::now();
    symbolizer.native(&exe, &spread(&library, 1000));
    within("libLLVM", started, Duration::from_millis(500));
    let coverage = symbolizer.coverage(&exe);
    eprintln!(
        "{} functions, {} KiB kept",
        coverage.functions,
        symbolizer.memory() >> 10
    );
    // Two large ones do not stay both.
    symbolizer.native(&open(&libc()), &[0]);
    assert!(symbolizer.memory() < 48 << 20);
}

#[test]
fn the_kernel_list_is_read_in_two_tenths_of_a_second() {
    let mut symbolizer = Symbolizer::new(SymbolOptions::default());
    let addrs: Vec<u64> = (0..1000)
        .map(|number| 0xffff_ffff_8100_0000 + number * 4096)
        .collect();
    let started = Instant::now();
    symbolizer.kernel(&addrs);
    within("kallsyms", started, Duration::from_millis(200));
    let started = Instant::now();
    symbolizer.kernel(&addrs);
    within("the same again", started, Duration::from_millis(20));
}

/// The one that rustc brings.
fn llvm() -> Option<PathBuf> {
    let root = common::run("rustc", &["--print", "sysroot"]);
    let dir = std::fs::read_dir(Path::new(root.trim()).join("lib")).ok()?;
    let path = dir.flatten().map(|entry| entry.path());
    path.filter(|path| path.to_string_lossy().contains("libLLVM.so"))
        .find(|path| path.metadata().is_ok_and(|m| m.len() > 1 << 20))
}
