//! Inlined functions and source lines, compared with `addr2line -i -f -C` of binutils.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod common;

use common::{Workshop, functions_of, symbols};
use moonscope_symbols::{Symbol, SymbolOptions, Symbolizer};
use std::path::Path;

// No lambda as a template argument: such functions have no linkage name, and addr2line then repeats the
// name of the function around them.
const CPP: &str = r#"
#include <vector>
#include <algorithm>
#include <cstdio>
namespace shapes {
struct Square { int side; int area() const { return side * side; } };
template <typename T> static inline T twice(T value) { return value + value; }
static inline int sum(const std::vector<Square> &all) {
    int total = 0;
    for (const auto &square : all)
        total += twice(square.area());
    return total;
}
struct BySide { bool operator()(const Square &a, const Square &b) const { return a.side < b.side; } };
__attribute__((noinline)) int measure(std::vector<Square> &all, int n) {
    std::sort(all.begin(), all.end(), BySide());
    return sum(all) + n;
}
}
int main(int argc, char **argv) {
    std::vector<shapes::Square> all;
    for (int i = 0; i < argc * 100; i++)
        all.push_back({(i * 7919) % 101});
    std::printf("%d\n", shapes::measure(all, argc));
}
"#;

fn options(inline: bool, lines: bool) -> SymbolOptions {
    SymbolOptions {
        inline,
        lines,
        debug_dirs: Vec::new(),
        ..SymbolOptions::default()
    }
}

/// (function, file name, line) from the outermost to the innermost, as addr2line says.
fn oracle(path: &Path, addrs: &[u64]) -> Vec<Vec<(String, String, u32)>> {
    let mut args: Vec<String> = ["-a", "-i", "-f", "-C", "-e", path.to_str().unwrap()]
        .map(String::from)
        .to_vec();
    args.extend(addrs.iter().map(|addr| format!("{addr:#x}")));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let text = common::run("addr2line", &args);
    let mut all: Vec<Vec<(String, String, u32)>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap().split(" (").next().unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        let name = line.split(" [clone").next().unwrap().to_owned();
        let file = file.rsplit('/').next().unwrap().to_owned();
        all.last_mut()
            .unwrap()
            .insert(0, (name, file, number.parse().unwrap_or(0)));
    }
    all
}

fn ours(symbols: &[Symbol]) -> Vec<(String, String, u32)> {
    let one = |symbol: &Symbol| {
        let file = symbol
            .file
            .as_deref()
            .unwrap_or("?")
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned();
        let name = symbol
            .function
            .split(" [clone")
            .next()
            .unwrap()
            .trim_end_matches(".cold")
            .to_owned();
        (name, file, symbol.line.unwrap_or(0))
    };
    symbols.iter().map(one).collect()
}

/// Every instruction's first byte in these functions, roughly: all addresses in steps of 3.
fn addresses(path: &Path, names: &[&str]) -> Vec<u64> {
    let all = functions_of(path, ".symtab");
    let wanted = all
        .iter()
        .filter(|f| names.iter().any(|name| f.name.contains(name)));
    wanted
        .flat_map(|f| (f.start..f.start + f.size).step_by(3))
        .collect()
}

/// The same frames? A name that our demangler does not take whole must be part of theirs.
fn same(theirs: &[(String, String, u32)], ours: &[(String, String, u32)]) -> bool {
    let same_name = |a: &str, b: &str| a == b || b.strip_suffix('…').is_some_and(|begin| a.contains(begin));
    let same_name = |a: &str, b: &str| same_name(a, b.strip_suffix('>').unwrap_or(b)) || a == b;
    theirs.len() == ours.len()
        && theirs
            .iter()
            .zip(ours)
            .all(|(a, b)| same_name(&a.0, &b.0) && (&a.1, a.2) == (&b.1, b.2))
}

/// Share of addresses with the same frames, and the first that differs.
fn agreement(path: &Path, addrs: &[u64], compare_files: bool) -> (f64, String) {
    let mut theirs = oracle(path, addrs);
    let found = symbols(path, options(true, true), addrs);
    let mut found: Vec<_> = found.iter().map(|frames| ours(frames)).collect();
    if !compare_files {
        theirs
            .iter_mut()
            .chain(&mut found)
            .flatten()
            .for_each(|(_, file, _)| file.clear());
    }
    let pairs = || {
        addrs
            .iter()
            .zip(&theirs)
            .zip(&found)
            .map(|((addr, a), b)| (addr, a.clone(), b.clone()))
    };
    let agreeing = pairs().filter(|(_, a, b)| same(a, b)).count();
    let first = pairs().find(|(_, a, b)| !same(a, b));
    (agreeing as f64 / addrs.len() as f64, format!("{first:#?}"))
}

#[test]
fn inlined_frames_and_lines_of_cpp_are_those_of_addr2line() {
    for flags in ["-g", "-g -gdwarf-4"] {
        let shop = Workshop::new();
        shop.write("prog.cc", CPP);
        shop.run(&format!("g++ -O2 -o prog prog.cc {flags}"));
        let addrs = addresses(&shop.path("prog"), &["measure", "main", "introsort"]);
        assert!(addrs.len() > 100);
        // binutils 2.40 takes the wrong file of DWARF 5 line tables (it says prog.cc:229, of 33 lines).
        let (share, first) = agreement(&shop.path("prog"), &addrs, flags.contains("dwarf-4"));
        assert!(share > 0.99, "{flags}: {share}: {first}");
        let deepest = symbols(&shop.path("prog"), options(true, true), &addrs);
        let deepest = deepest.into_iter().max_by_key(Vec::len).unwrap();
        assert!(deepest.len() >= 3, "{deepest:?}");
        assert!(!deepest[0].inlined && deepest[1..].iter().all(|symbol| symbol.inlined));
    }
}

#[test]
fn without_inline_and_lines_only_the_function_is_told() {
    let shop = Workshop::new();
    shop.write("prog.cc", CPP);
    shop.run("g++ -O2 -g -o prog prog.cc");
    let addrs = addresses(&shop.path("prog"), &["_ZN6shapes7measure"]);
    for frames in symbols(&shop.path("prog"), options(false, false), &addrs) {
        let [symbol] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert!(symbol.function.starts_with("shapes::measure("), "{symbol:?}");
        assert!(symbol.file.is_none() && symbol.line.is_none() && !symbol.inlined);
    }
    // Lines without inlined frames: the line of the function itself, in its own file.
    for frames in symbols(&shop.path("prog"), options(false, true), &addrs) {
        let [symbol] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert!(symbol.file.as_deref().unwrap().ends_with("prog.cc"), "{symbol:?}");
        assert!(
            symbol.line.is_none_or(|line| (15..=20).contains(&line)),
            "{symbol:?}"
        );
    }
}

#[test]
fn lines_come_from_separate_and_compressed_debug_files_too() {
    let shop = Workshop::new();
    shop.write("prog.cc", CPP);
    shop.run("g++ -O2 -g -o full prog.cc");
    shop.run("strip -o prog full");
    let addrs = addresses(&shop.path("full"), &["measure", "main"]);
    let of = |name: &str| -> Vec<_> {
        symbols(&shop.path(name), options(true, true), &addrs)
            .iter()
            .map(|frames| ours(frames))
            .collect()
    };
    for packing in ["none", "zlib", "zlib-gnu", "zstd"] {
        let pack = format!("--compress-debug-sections={packing}");
        shop.run(&format!("objcopy --only-keep-debug {pack} full prog.debug"));
        shop.run("objcopy --remove-section .gnu_debuglink prog");
        shop.run("objcopy --add-gnu-debuglink=prog.debug prog");
        assert_eq!(of("prog"), of("full"), "{packing}");
        shop.run(&format!("objcopy {pack} full packed"));
        assert_eq!(of("packed"), of("full"), "{packing}");
    }
}

#[test]
fn a_dwz_supplementary_file_is_followed() {
    if std::process::Command::new("dwz")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: dwz is not installed");
        return;
    }
    let shop = Workshop::new();
    shop.write("prog.cc", CPP);
    shop.run("g++ -O2 -g -o one prog.cc");
    shop.run("g++ -O2 -g -DTWO -o two prog.cc");
    shop.run("cp one full");
    shop.run("dwz -m common.debug -r one two");
    let addrs = addresses(&shop.path("full"), &["measure", "main"]);
    let of = |name: &str| -> Vec<_> {
        symbols(&shop.path(name), options(true, true), &addrs)
            .iter()
            .map(|frames| ours(frames))
            .collect()
    };
    assert_eq!(of("one"), of("full"));
    let mut symbolizer = Symbolizer::new(options(true, true));
    let coverage = symbolizer.coverage(&common::open(&shop.path("one")));
    assert!(coverage.supplementary_file.is_some(), "{coverage:?}");
    std::fs::remove_file(shop.path("common.debug")).unwrap();
    let mut symbolizer = Symbolizer::new(options(true, true));
    let coverage = symbolizer.coverage(&common::open(&shop.path("one")));
    assert!(
        coverage.problems[0].starts_with("supplementary debug file"),
        "{coverage:?}"
    );
}

#[test]
fn rust_names_have_no_hash_and_lines_are_right() {
    for scheme in ["legacy", "v0"] {
        let shop = Workshop::new();
        let source = "mod deep { #[inline(never)] pub fn work<T: Into<u64>>(n: T) -> u64 {\n\
                      std::hint::black_box(n.into() + 1) } }\n\
                      fn main() { println!(\"{}\", deep::work(std::env::args().count() as u32)); }\n";
        shop.write("prog.rs", source);
        let unstable = if scheme == "legacy" {
            "-Zunstable-options"
        } else {
            ""
        };
        let line = format!("rustc -O -g -Csymbol-mangling-version={scheme} {unstable} -o prog prog.rs");
        // `legacy` needs a nightly compiler or this switch.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let output = std::process::Command::new(words[0])
            .args(&words[1..])
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(shop.path(""))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let addrs = addresses(&shop.path("prog"), &["4work"]);
        assert!(!addrs.is_empty(), "{scheme}");
        for frames in symbols(&shop.path("prog"), options(true, true), &addrs) {
            let outermost = &frames[0];
            let name = outermost.function.strip_prefix("prog::").unwrap();
            assert!(
                ["deep::work", "deep::work::<u32>"].contains(&name),
                "{outermost:?}"
            );
            assert!(
                outermost.file.as_deref().unwrap().ends_with("prog.rs"),
                "{outermost:?}"
            );
            assert!(outermost.line.is_none_or(|line| line <= 3), "{outermost:?}");
        }
    }
}
