//! Function names of real libraries, compared with what `readelf -Ws` lists.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod common;

use common::{NmSymbol, alone, code_sections, functions_of, libc, libcrypto, open, section};
use moonscope_symbols::{Symbol, SymbolOptions, Symbolizer};
use std::collections::BTreeSet;
use std::path::Path;

/// Addresses worth asking for: each symbol's first, middle and last byte, and the byte after it.
fn probes(functions: &[NmSymbol]) -> Vec<u64> {
    let of = |f: &NmSymbol| {
        [
            f.start,
            f.start + f.size / 2,
            f.start + f.size.saturating_sub(1),
            f.start + f.size,
        ]
    };
    functions
        .iter()
        .flat_map(of)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Checks one answer against all symbols: a name exactly where something covers the address, and then one
/// that does.
fn check(addr: u64, answer: &[Symbol], functions: &[NmSymbol], code: &[(String, std::ops::Range<u64>)]) {
    let covers = |f: &&NmSymbol| f.start <= addr && addr - f.start < f.size;
    let sized: Vec<&NmSymbol> = functions.iter().filter(covers).collect();
    let Some(symbol) = answer.first() else {
        assert!(sized.is_empty(), "{addr:#x} is in {sized:?}, but has no name");
        let unsized_here = functions.iter().any(|f| f.size == 0 && f.start == addr);
        assert!(
            !unsized_here,
            "{addr:#x} is the start of a symbol without size, but has no name"
        );
        return;
    };
    if symbol.function.ends_with("@plt") {
        return;
    }
    let start = symbol.start.unwrap();
    let named = |f: &&&NmSymbol| *f.name == *symbol.function && f.start == start;
    if !sized.is_empty() {
        let found = sized
            .iter()
            .find(named)
            .unwrap_or_else(|| panic!("{addr:#x}: {symbol:?} not of {sized:?}"));
        assert_eq!(
            found.start,
            sized.iter().map(|f| f.start).max().unwrap(),
            "not the innermost: {symbol:?}"
        );
        return;
    }
    // No size: the nearest one below, in the same section, and nothing between.
    let within = code.iter().find(|(_, range)| range.contains(&addr)).unwrap();
    let nearest = functions
        .iter()
        .map(|f| f.start)
        .filter(|&at| at <= addr)
        .max()
        .unwrap();
    assert!(
        within.1.contains(&start) && start == nearest,
        "{addr:#x}: {symbol:?}, nearest {nearest:#x}"
    );
}

fn check_all(path: &Path, options: SymbolOptions, functions: &[NmSymbol]) -> Symbolizer {
    let code = code_sections(path);
    let mut symbolizer = Symbolizer::new(options);
    let probes = probes(functions);
    let answers = symbolizer.native(&open(path), &probes);
    for (&addr, answer) in probes.iter().zip(&answers) {
        check(addr, answer, functions, &code);
    }
    symbolizer
}

#[test]
fn stripped_libc_is_named_by_its_dynsym() {
    let functions = functions_of(&libc(), ".dynsym");
    assert!(functions.len() > 2000);
    let mut symbolizer = check_all(&libc(), alone(), &functions);
    let coverage = symbolizer.coverage(&open(&libc()));
    assert_eq!((coverage.symtab, coverage.dynsym), (0, functions.len()));
    assert!(
        coverage.plt_stubs > 10 && coverage.debug_file.is_none(),
        "{coverage:?}"
    );
}

#[test]
fn stripped_libcrypto_gives_no_name_outside_of_its_dynsym() {
    let path = libcrypto();
    let functions = functions_of(&path, ".dynsym");
    let text = section(&path, ".text");
    let covered = |addr: u64| {
        functions
            .iter()
            .any(|f| f.start <= addr && addr < f.start + f.size.max(1))
    };
    let outside: Vec<u64> = text
        .clone()
        .step_by(4099)
        .filter(|&addr| !covered(addr))
        .collect();
    assert!(outside.len() > 100, "only {} addresses", outside.len());
    let answers = common::symbols(&path, alone(), &outside);
    for (addr, answer) in outside.iter().zip(answers) {
        // The defect of other tools is to name all of these by the nearest symbol below.
        assert!(answer.is_empty(), "{addr:#x}: {answer:?}");
    }
    check_all(&path, alone(), &functions);
}

#[test]
fn libc_with_its_debug_package_is_named_completely() {
    let id = open(&libc()).build_id().unwrap().to_string();
    let debug = format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
    if !Path::new(&debug).exists() {
        eprintln!("skipped: libc6-dbg is not installed");
        return;
    }
    let mut functions = functions_of(Path::new(&debug), ".symtab");
    assert!(functions.len() > 5000);
    functions.extend(functions_of(&libc(), ".dynsym"));
    let mut symbolizer = check_all(&libc(), SymbolOptions::default(), &functions);
    let coverage = symbolizer.coverage(&open(&libc()));
    assert_eq!(coverage.debug_file.as_deref(), Some(Path::new(&debug)));
    assert!(
        coverage.dwarf && coverage.lines && coverage.problems.is_empty(),
        "{coverage:?}"
    );
}

#[test]
fn aliases_get_the_same_sensible_name() {
    let find = |name: &str| {
        functions_of(&libc(), ".dynsym")
            .into_iter()
            .find(|f| f.name == name)
            .unwrap()
            .start
    };
    let name = |addr| common::function(&libc(), alone(), addr).unwrap();
    assert_eq!(name(find("malloc")), "malloc");
    assert_eq!(name(find("__libc_start_main")), "__libc_start_main");
    // memcpy@@GLIBC_2.14 and memcpy@GLIBC_2.2.5 lose their version.
    assert_eq!(name(find("qsort")), "qsort");
}
