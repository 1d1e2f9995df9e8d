//! Damaged and malicious files: no panic, bounded time, and names that are still names.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod common;

use common::{Workshop, open, section};
use moonscope_process::Executable;
use moonscope_symbols::{SymbolOptions, Symbolizer};
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn everything() -> SymbolOptions {
    SymbolOptions {
        inline: true,
        lines: true,
        debug_dirs: Vec::new(),
        ..SymbolOptions::default()
    }
}

struct Victim {
    shop: Workshop,
    bytes: Vec<u8>,
    addrs: Vec<u64>,
    /// Where it hurts: the headers and the sections that are parsed, as offsets in the file.
    parsed: Vec<std::ops::Range<usize>>,
}

/// A small program with everything that is parsed.
fn victim() -> &'static Victim {
    static VICTIM: OnceLock<Victim> = OnceLock::new();
    VICTIM.get_or_init(|| {
        let shop = Workshop::new();
        let source = "#include <cstdio>\nstruct A { int x; int get() const { return x * 2; } };\n\
            static inline int add(const A &a, int n) { return a.get() + n; }\n\
            int work(int n) { A a{n}; int s = 0; for (int i = 0; i < n; i++) s += add(a, i); return s; }\n\
            int main(int n, char **) { std::printf(\"%d\", work(n)); }\n";
        shop.write("prog.cc", source);
        shop.run("g++ -O2 -g -o prog prog.cc");
        shop.run("xz -k prog");
        shop.run("objcopy --add-section .gnu_debugdata=prog.xz prog");
        let path = shop.path("prog");
        let text = section(&path, ".text");
        let plt = section(&path, ".plt");
        let bytes = std::fs::read(&path).unwrap();
        let listing = common::run("readelf", &["-SW", path.to_str().unwrap()]);
        let mut parsed = vec![0..64, bytes.len() - 40 * 64..bytes.len()];
        for line in listing.lines() {
            let wanted = [
                ".debug_",
                ".symtab",
                ".strtab",
                ".dynsym",
                ".rela",
                ".note",
                ".gnu_debugdata",
                ".plt",
            ];
            let Some((_, rest)) = line.split_once(']') else {
                continue;
            };
            let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
            if fields.len() > 4 && wanted.iter().any(|name| fields[0].starts_with(name)) {
                let number = |at: usize| usize::from_str_radix(fields[at], 16).unwrap();
                parsed.push(number(3)..number(3) + number(4));
            }
        }
        let addrs = text
            .step_by(5)
            .chain(plt.step_by(8))
            .chain([0, 1, u64::MAX])
            .collect();
        Victim {
            shop,
            bytes,
            addrs,
            parsed,
        }
    })
}

fn symbolize(bytes: &[u8], name: &str) {
    let victim = victim();
    let path: PathBuf = victim.shop.path(name);
    std::fs::write(&path, bytes).unwrap();
    let Ok(exe) = Executable::open_path(&path) else {
        return;
    };
    let started = Instant::now();
    let mut symbolizer = Symbolizer::new(everything());
    let found = symbolizer.native(&exe, &victim.addrs);
    assert_eq!(found.len(), victim.addrs.len());
    for symbol in found.iter().flatten() {
        assert!(!symbol.function.is_empty() && symbol.function.len() < 5000);
    }
    assert!(symbolizer.coverage(&exe).problems.len() <= 16);
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

/// `PROPTEST_CASES` asks for more; a failing seed is printed.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(400),
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn flipped_bytes_do_no_harm(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let victim = victim();
        let mut bytes = victim.bytes.clone();
        for (place, at, value) in flips {
            let range = place.get(&victim.parsed);
            let at = range.start + at.index(range.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        symbolize(&bytes, "flipped");
    }

    #[test]
    fn truncated_files_do_no_harm(len in any::<prop::sample::Index>()) {
        let victim = victim();
        symbolize(&victim.bytes[..len.index(victim.bytes.len())], "truncated");
    }
}

/// Assembles a program with this in its debug sections; gives it and the address of `target`.
fn assemble(shop: &Workshop, text: &str) -> (PathBuf, u64) {
    shop.write("prog.s", text);
    shop.run("gcc -nostdlib -static -o prog prog.s");
    let path = shop.path("prog");
    let functions = common::functions_of(&path, ".symtab");
    let target = functions.iter().find(|f| f.name == "_start").unwrap().start;
    (path, target)
}

const CODE: &str = "
    .text
    .globl _start
    .type _start, @function
_start: nop
    nop
    ret
    .size _start, .-_start
end_of_code:
";

/// Abbreviations 1: unit, 2: function, 3: inlined function without attributes.
const ABBREVIATIONS: &str = "
    .section .debug_abbrev,\"\",@progbits
    .byte 1, 0x11, 1, 0x11, 1, 0x12, 7, 0, 0
    .byte 2, 0x2e, 1, 0x03, 8, 0x11, 1, 0x12, 7, 0, 0
    .byte 3, 0x1d, 1, 0, 0
    .byte 4, 0x11, 0, 0x55, 0x17, 0x11, 1, 0, 0
    .byte 0
";

#[test]
fn inlined_functions_nested_a_million_deep_do_not_overflow_the_stack() {
    let shop = Workshop::new();
    let info = "
    .section .debug_info,\"\",@progbits
    .long end - begin
begin:
    .short 4
    .long 0
    .byte 8
    .uleb128 1
    .quad _start
    .quad 3
    .uleb128 2
    .asciz \"outer\"
    .quad _start
    .quad 3
    .fill 1000000, 1, 3
    .fill 1000000, 1, 0
end:
";
    let (path, target) = assemble(&shop, &format!("{CODE}{ABBREVIATIONS}{info}"));
    let found = common::symbols(&path, everything(), &[target + 1]);
    assert_eq!(&*found[0][0].function, "_start");
}

#[test]
fn units_that_share_one_endless_list_of_ranges_are_given_up() {
    let shop = Workshop::new();
    // 20,000 units of 24 bytes that each say: my ranges are those 100,000.
    let mut info = String::from("    .section .debug_info,\"\",@progbits\n    .rept 20000\n    .long 20\n");
    info.push_str(
        "    .short 4\n    .long 0\n    .byte 8\n    .uleb128 4\n    .long 0\n    .quad 0\n    .endr\n",
    );
    let ranges = "    .section .debug_ranges,\"\",@progbits\n    .set from, 1\n    .rept 100000\n\
                      .quad 0x10\n    .quad 0x20\n    .endr\n    .quad 0, 0\n";
    let (path, target) = assemble(&shop, &format!("{CODE}{ABBREVIATIONS}{info}{ranges}"));
    let started = Instant::now();
    let mut symbolizer = Symbolizer::new(everything());
    let found = symbolizer.native(&open(&path), &[target]);
    assert_eq!(&*found[0][0].function, "_start");
    let problems = symbolizer.coverage(&open(&path)).problems;
    assert!(
        problems.iter().any(|problem| problem.contains("DWARF")),
        "{problems:?}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn overlapping_and_huge_symbols_are_sorted_out() {
    let shop = Workshop::new();
    let mut text =
        String::from("    .text\n    .globl _start\n_start:\n    .fill 4096, 1, 0x90\nend_of_code:\n");
    // 50,000 functions that all reach to the end, one with an endless size, and a name of a megabyte.
    for number in 0..50_000 {
        let at = number % 4096;
        text.push_str(&format!(
            "    .set f{number}, _start + {at}\n    .type f{number}, @function\n    .size f{number}, {}\n",
            4096 - at
        ));
    }
    text.push_str(
        "    .set huge, _start + 1\n    .type huge, @function\n    .size huge, 0x7fffffffffffffff\n",
    );
    let long = "x".repeat(1 << 20);
    text.push_str(&format!(
        "    .set {long}, _start + 4095\n    .type {long}, @function\n    .size {long}, 64\n"
    ));
    let (path, target) = assemble(&shop, &text);
    let addrs: Vec<u64> = (target..target + 4096).collect();
    let started = Instant::now();
    let found = common::symbols(&path, common::alone(), &addrs);
    for (at, symbols) in found.iter().enumerate() {
        assert_eq!(symbols[0].start, Some(target + at as u64));
        assert!(symbols[0].function.len() < 5000);
    }
    // The shortest name, then the first: stable.
    assert_eq!(&*found[5][0].function, "f5");
    assert!(common::symbols(&path, common::alone(), &[target + 4096])[0].is_empty());
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn symbols_without_size_reach_to_the_next_one_or_the_end_of_their_section() {
    let shop = Workshop::new();
    let text = "
    .text
    .globl _start
    .type sized, @function
first: .fill 16, 1, 0x90
_start: .fill 8, 1, 0x90
table: .fill 8, 1, 0xcc
    .type table, @object
sized: .fill 4, 1, 0x90
inner: .fill 4, 1, 0x90
    .size sized, . - sized
    .fill 8, 1, 0x90
last: .fill 8, 1, 0x90
    .section .text.other, \"ax\", @progbits
    .fill 8, 1, 0x90
";
    let (path, start) = assemble(&shop, text);
    let name = |offset: i64| common::function(&path, common::alone(), start.wrapping_add_signed(offset));
    let expected = [
        (-16, Some("first")),
        (-1, Some("first")),
        (0, Some("_start")),
        (7, Some("_start")),
        (8, None), // a table in the code
        (15, None),
        (16, Some("sized")),
        (20, Some("sized")), // a label inside of a function that says how long it is
        (23, Some("sized")),
        (24, None), // after it
        (31, None),
        (32, Some("last")),
        (39, Some("last")),
    ];
    for (offset, expected) in expected {
        assert_eq!(name(offset).as_deref(), expected, "at {offset}");
    }
}

#[test]
fn a_file_that_was_written_to_is_told_of_with_its_path_once() {
    let shop = Workshop::new();
    shop.write("prog.c", "int main(void) { return 0; }");
    shop.run("gcc -o prog prog.c");
    let exe = open(&shop.path("prog"));
    let mut bytes = std::fs::read(shop.path("prog")).unwrap();
    bytes.push(0);
    std::fs::write(shop.path("prog"), bytes).unwrap();
    let mut symbolizer = Symbolizer::new(common::alone());
    symbolizer.native(&exe, &[0x1000]);
    let told: Vec<_> = symbolizer.problems().iter().collect();
    let path = shop.path("prog").display().to_string();
    assert_eq!(
        told,
        [&format!("{path}: it was written to since it was first seen")]
    );
}
