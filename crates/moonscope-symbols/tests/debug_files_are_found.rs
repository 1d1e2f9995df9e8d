//! Separate debug files and mini debug information, made with binutils and xz as distributions make them.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod common;

use common::{Workshop, alone, function, functions_of, open};
use moonscope_symbols::{Coverage, SymbolOptions, Symbolizer};
use std::path::Path;

const SOURCE: &str = r"
static __attribute__((noinline)) int hidden(int n) { return n * 3 + 1; }
__attribute__((noinline)) int visible(int n) { return hidden(n) + 2; }
int main(int argc, char **argv) { return visible(argc); }
";

/// `prog` (stripped), `full` (with symbols), and the address of the function that only `.symtab` knows.
fn build(shop: &Workshop, flags: &str) -> u64 {
    shop.write("prog.c", SOURCE);
    shop.run(&format!("gcc -O1 -g -rdynamic -o full prog.c {flags}"));
    shop.run("strip -o prog full");
    let functions = functions_of(&shop.path("full"), ".symtab");
    functions.iter().find(|f| f.name == "hidden").unwrap().start
}

fn coverage(path: &Path, options: SymbolOptions) -> Coverage {
    Symbolizer::new(options).coverage(&open(path))
}

fn with_dir(shop: &Workshop) -> SymbolOptions {
    SymbolOptions {
        debug_dirs: vec![shop.path("debug")],
        ..SymbolOptions::default()
    }
}

#[test]
fn a_stripped_file_alone_has_no_name_for_a_static_function() {
    let shop = Workshop::new();
    let hidden = build(&shop, "");
    assert_eq!(function(&shop.path("prog"), alone(), hidden), None);
    assert_eq!(
        function(&shop.path("full"), alone(), hidden).as_deref(),
        Some("hidden")
    );
}

#[test]
fn a_debug_file_is_found_by_build_id_and_only_if_it_has_that_build_id() {
    let shop = Workshop::new();
    let hidden = build(&shop, "-Wl,--build-id=0xabcdef0123");
    shop.write("debug/.build-id/ab/placeholder", "");
    shop.run("objcopy --only-keep-debug full debug/.build-id/ab/cdef0123.debug");
    let prog = shop.path("prog");
    assert_eq!(
        function(&prog, with_dir(&shop), hidden).as_deref(),
        Some("hidden")
    );
    let found = coverage(&prog, with_dir(&shop));
    assert_eq!(
        found.debug_file,
        Some(shop.path("debug/.build-id/ab/cdef0123.debug"))
    );
    assert!(found.lines && found.debug_file_symbols > 3, "{found:?}");

    // The debug file of another build under that name.
    shop.run("gcc -O2 -g -o other prog.c -Wl,--build-id=0xabcdef9999");
    shop.run("objcopy --only-keep-debug other debug/.build-id/ab/cdef0123.debug");
    assert_eq!(function(&prog, with_dir(&shop), hidden), None);
    let refused = coverage(&prog, with_dir(&shop));
    assert!(
        refused.debug_file.is_none() && refused.problems[0].contains("another build id"),
        "{refused:?}"
    );
}

#[test]
fn a_debug_file_is_found_by_debug_link_in_all_usual_places_and_only_with_its_checksum() {
    for place in ["prog.debug", ".debug/prog.debug", "below"] {
        let shop = Workshop::new();
        let hidden = build(&shop, "-Wl,--build-id=none");
        shop.run("objcopy --only-keep-debug full prog.debug");
        shop.run("objcopy --add-gnu-debuglink=prog.debug prog");
        let at = match place {
            "below" => {
                let dir = shop.path("");
                shop.path("debug")
                    .join(dir.strip_prefix("/").unwrap())
                    .join("prog.debug")
            }
            place => shop.path(place),
        };
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::rename(shop.path("prog.debug"), &at).unwrap();
        let prog = shop.path("prog");
        assert_eq!(
            function(&prog, with_dir(&shop), hidden).as_deref(),
            Some("hidden"),
            "{place}"
        );
        assert_eq!(
            coverage(&prog, with_dir(&shop)).debug_file.as_deref(),
            Some(at.as_path())
        );

        // One byte more: not the file that was meant.
        let mut bytes = std::fs::read(&at).unwrap();
        bytes.push(0);
        std::fs::write(&at, bytes).unwrap();
        assert_eq!(function(&prog, with_dir(&shop), hidden), None, "{place}");
        assert!(coverage(&prog, with_dir(&shop)).problems[0].contains("checksum"));
    }
}

#[test]
fn a_debug_link_cannot_point_anywhere_else() {
    let shop = Workshop::new();
    let hidden = build(&shop, "-Wl,--build-id=none");
    shop.run("objcopy --only-keep-debug full prog.debug");
    let checksum = crc32fast::hash(&std::fs::read(shop.path("prog.debug")).unwrap());
    for name in ["../prog.debug", "/etc/passwd", "..", ".", "sub/prog.debug"] {
        let mut link = name.as_bytes().to_vec();
        link.resize((link.len() + 1).next_multiple_of(4), 0);
        link.extend(checksum.to_le_bytes());
        std::fs::create_dir_all(shop.path("sub")).unwrap();
        std::fs::copy(shop.path("prog.debug"), shop.path("sub/prog.debug")).unwrap();
        std::fs::write(shop.path("link"), link).unwrap();
        shop.run("objcopy --add-section .gnu_debuglink=link prog sub/prog");
        assert_eq!(
            function(&shop.path("sub/prog"), with_dir(&shop), hidden),
            None,
            "{name}"
        );
    }
}

/// As Fedora's find-debuginfo does: only the functions that are not in `.dynsym`, packed with xz.
fn add_mini_debug_info(shop: &Workshop) {
    let dynamic: Vec<_> = functions_of(&shop.path("full"), ".dynsym")
        .into_iter()
        .map(|f| f.name)
        .collect();
    let keep: Vec<_> = functions_of(&shop.path("full"), ".symtab")
        .into_iter()
        .map(|f| f.name)
        .filter(|name| !dynamic.contains(name))
        .collect();
    shop.write("keep", &keep.join("\n"));
    shop.run("objcopy --only-keep-debug full dbg");
    shop.run("objcopy -S --remove-section .comment --keep-symbols=keep dbg mini");
    shop.run("xz -k mini");
    shop.run("objcopy --add-section .gnu_debugdata=mini.xz prog");
}

#[test]
fn mini_debug_information_completes_dynsym() {
    let shop = Workshop::new();
    let hidden = build(&shop, "");
    add_mini_debug_info(&shop);
    let prog = shop.path("prog");
    assert_eq!(function(&prog, alone(), hidden).as_deref(), Some("hidden"));
    let functions = functions_of(&shop.path("full"), ".symtab");
    for name in ["visible", "main", "hidden"] {
        let start = functions.iter().find(|f| f.name == name).unwrap().start;
        assert_eq!(function(&prog, alone(), start).as_deref(), Some(name));
    }
    let found = coverage(&prog, alone());
    assert!(
        found.mini_debug_info > 0 && found.dynsym > 0 && found.problems.is_empty(),
        "{found:?}"
    );
}

#[test]
fn damaged_mini_debug_information_is_told_and_the_rest_used() {
    let shop = Workshop::new();
    build(&shop, "");
    add_mini_debug_info(&shop);
    let visible = functions_of(&shop.path("prog"), ".dynsym")
        .into_iter()
        .find(|f| f.name == "visible")
        .unwrap();
    let mut packed = std::fs::read(shop.path("mini.xz")).unwrap();
    let middle = packed.len() / 2;
    packed[middle] ^= 0xff;
    std::fs::write(shop.path("bad.xz"), &packed).unwrap();
    shop.run("objcopy --update-section .gnu_debugdata=bad.xz prog");
    let found = coverage(&shop.path("prog"), alone());
    assert!(
        found
            .problems
            .iter()
            .any(|problem| problem.contains("mini debug")),
        "{found:?}"
    );
    assert_eq!(
        function(&shop.path("prog"), alone(), visible.start).as_deref(),
        Some("visible")
    );
}

#[test]
fn a_bomb_of_mini_debug_information_stops_at_the_limit() {
    let shop = Workshop::new();
    build(&shop, "");
    // A gigabyte of zeros packs into 150 kB.
    shop.run("truncate -s 1G zeros");
    shop.run("xz -0 zeros");
    shop.run("objcopy --add-section .gnu_debugdata=zeros.xz prog");
    let found = coverage(&shop.path("prog"), alone());
    assert!(
        found.problems.iter().any(|problem| problem.contains("limit")),
        "{found:?}"
    );
}

#[test]
fn plt_stubs_are_named_after_what_they_call() {
    // objdump names the stubs `<puts@plt>:` from the same relocations, independently.
    let flags = [
        "-Wl,-z,lazy",
        "-Wl,-z,now",
        "-fcf-protection -Wl,-z,ibtplt",
        "-fno-plt -Wl,-z,now",
        "-fcf-protection -Wl,-z,ibtplt,-z,now",
        "-no-pie",
    ];
    for flags in flags {
        let shop = Workshop::new();
        let source = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
            int main(int n, char **v) { puts(v[0]); void *p = malloc(n); memcpy(p, v, n);\n\
            atexit((void (*)(void))malloc); free(p); return strlen(v[0]) + (int)(long)&puts; }";
        shop.write("prog.c", source);
        shop.run(&format!("gcc -O0 -fno-builtin -o prog prog.c {flags}"));
        let listing = shop.run("objdump -d prog");
        let mut stubs = 0;
        for line in listing.lines().filter(|line| line.ends_with("@plt>:")) {
            let (addr, name) = line.split_once(" <").unwrap();
            let addr = u64::from_str_radix(addr, 16).unwrap();
            let name = name.strip_suffix(">:").unwrap();
            assert_eq!(
                function(&shop.path("prog"), alone(), addr).as_deref(),
                Some(name),
                "{flags}"
            );
            assert_eq!(
                function(&shop.path("prog"), alone(), addr + 7).as_deref(),
                Some(name),
                "{flags}"
            );
            stubs += 1;
        }
        assert!(stubs > 0, "{flags}: objdump names no stub");
    }
}

#[test]
fn a_static_program_has_names_for_the_stubs_of_its_ifuncs() {
    let shop = Workshop::new();
    shop.write(
        "prog.c",
        "#include <string.h>\nint main(int n, char **v) { return strlen(v[0]); }",
    );
    shop.run("gcc -static -fno-builtin -o prog prog.c");
    let plt = common::section(&shop.path("prog"), ".plt");
    let stubs: Vec<u64> = plt.step_by(16).collect();
    let named = common::symbols(&shop.path("prog"), alone(), &stubs);
    let names: Vec<&str> = named.iter().flatten().map(|symbol| &*symbol.function).collect();
    assert!(names.contains(&"strlen@plt"), "{names:?}");
}
