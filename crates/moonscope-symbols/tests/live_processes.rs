//! The kernel and the processes of this machine.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod common;

use common::Workshop;
use moonscope_process::PerfMap;
use moonscope_symbols::{KernelSymbols, SymbolOptions, Symbolizer};
use std::process::Command;

fn symbolizer() -> Symbolizer {
    Symbolizer::new(SymbolOptions::default())
}

#[test]
fn kernel_functions_are_those_of_kallsyms() {
    let mut symbolizer = symbolizer();
    let status = symbolizer.kernel_status();
    if status != KernelSymbols::Available {
        eprintln!("skipped: {status:?}");
        return;
    }
    let list = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let functions: Vec<(u64, &str)> = list
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let addr = u64::from_str_radix(fields.next()?, 16).ok()?;
            let kind = fields.next()?;
            let name = fields.next()?;
            (kind.eq_ignore_ascii_case("t") && !line.contains('[')).then_some((addr, name))
        })
        .collect();
    let sample: Vec<(u64, &str)> = functions.iter().copied().step_by(101).collect();
    let addrs: Vec<u64> = sample.iter().map(|(addr, _)| *addr).collect();
    for ((addr, _), found) in sample.iter().zip(symbolizer.kernel(&addrs)) {
        let found = found.unwrap();
        assert_eq!(found.start, Some(*addr));
        assert!(
            functions
                .iter()
                .any(|(at, name)| at == addr && **name == *found.function),
            "{found:?}"
        );
    }
    assert_eq!(symbolizer.kernel(&[0x1000, 0]), [None, None]);
}

/// The names that the map of a process gives two addresses; none if there is no map that is to be trusted.
fn names_in_map(text: &str, owner: Option<u32>) -> Option<Vec<Option<String>>> {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let path = std::path::PathBuf::from(format!("/tmp/perf-{}.map", child.id()));
    std::fs::write(&path, text).unwrap();
    std::os::unix::fs::chown(&path, owner, None).unwrap();
    let map = PerfMap::of(child.id()).unwrap();
    std::fs::remove_file(&path).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let addrs = [0x7f00_0000_0001, 0x7f00_0000_0030, 0x7f00_0000_0040];
    let symbols = symbolizer().perf_map(map.file()?, &addrs);
    let name = |symbol: Option<moonscope_symbols::Symbol>| symbol.map(|symbol| symbol.function.to_string());
    Some(symbols.into_iter().map(name).collect())
}

#[test]
fn generated_code_is_named_by_the_map_of_the_process() {
    let names = names_in_map("7f0000000000 40 jit:first\n7f0000000000 20 jit:second\n", None).unwrap();
    let expected = [Some("jit:second"), Some("jit:first"), None];
    assert_eq!(names, expected.map(|name| name.map(str::to_owned)));
}

#[test]
fn a_map_of_another_user_is_not_believed_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    assert_eq!(names_in_map("7f0000000000 40 evil\n", Some(12345)), None);
}

#[test]
fn a_process_in_another_root_uses_the_debug_files_there_and_nothing_outside_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let shop = Workshop::new();
    shop.write(
        "prog.c",
        "#include <unistd.h>\nstatic __attribute__((noinline)) int hidden(void) { return sleep(60); }\n\
         int main(void) { write(1, \"x\", 1); return hidden(); }",
    );
    shop.run("gcc -static -g -O0 -Wl,--build-id=0xabcdef0123 -o full prog.c");
    shop.run("mkdir -p root/srv root/usr/lib/debug/.build-id/ab");
    shop.run("strip -o root/srv/prog full");
    let functions = common::functions_of(&shop.path("full"), ".symtab");
    let hidden = functions.iter().find(|f| f.name == "hidden").unwrap().start;

    let debug = "root/usr/lib/debug/.build-id/ab/cdef0123.debug";
    shop.run(&format!("objcopy --only-keep-debug full {debug}"));
    assert_eq!(in_root(&shop, hidden).as_deref(), Some("hidden"));

    // A link that leads out of the root is not followed out: there is no such file inside.
    shop.run(&format!("mv {debug} outside.debug"));
    std::os::unix::fs::symlink(shop.path("outside.debug"), shop.path(debug)).unwrap();
    assert_eq!(in_root(&shop, hidden), None);
    // An absolute link inside means inside.
    shop.run("cp outside.debug root/srv/inside.debug");
    std::fs::remove_file(shop.path(debug)).unwrap();
    std::os::unix::fs::symlink("/srv/inside.debug", shop.path(debug)).unwrap();
    assert_eq!(in_root(&shop, hidden).as_deref(), Some("hidden"));
}

#[test]
fn the_debug_link_of_a_process_in_another_root_is_followed_there_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for place in ["srv/", "srv/.debug/", "usr/lib/debug/srv/"] {
        let shop = Workshop::new();
        shop.write(
            "prog.c",
            "#include <unistd.h>\nstatic __attribute__((noinline)) int hidden(void) { return sleep(60); }\n\
             int main(void) { write(1, \"x\", 1); return hidden(); }",
        );
        shop.run("gcc -static -g -O0 -Wl,--build-id=none -o full prog.c");
        shop.run(&format!("mkdir -p root/srv root/{place}"));
        shop.run("objcopy --only-keep-debug full prog.debug");
        shop.run("strip -o root/srv/prog full");
        shop.run("objcopy --add-gnu-debuglink=prog.debug root/srv/prog");
        let functions = common::functions_of(&shop.path("full"), ".symtab");
        let hidden = functions.iter().find(|f| f.name == "hidden").unwrap().start;
        assert_eq!(in_root(&shop, hidden), None, "there is no debug file yet");
        shop.run(&format!("mv prog.debug root/{place}prog.debug"));
        assert_eq!(in_root(&shop, hidden).as_deref(), Some("hidden"), "{place}");
    }
}

/// Runs the program in its root and names an address of it.
fn in_root(shop: &Workshop, vaddr: u64) -> Option<String> {
    use std::io::Read;
    let mut child = Command::new("chroot")
        .args([shop.path("root").to_str().unwrap(), "/srv/prog"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It writes one byte when it runs.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mappings = moonscope_process::read_maps(child.id()).unwrap();
    let mapping = mappings.iter().find(|mapping| mapping.executable).unwrap();
    let exe = moonscope_process::Executable::open(child.id(), mapping).unwrap();
    let found = symbolizer().native(&exe, &[vaddr]);
    child.kill().unwrap();
    child.wait().unwrap();
    found[0].first().map(|symbol| symbol.function.to_string())
}

#[test]
fn the_vdso_is_named_from_its_bytes() {
    let pid = std::process::id();
    let mappings = moonscope_process::read_maps(pid).unwrap();
    let Some(mapping) = mappings
        .iter()
        .find(|mapping| mapping.name == moonscope_process::MappingName::Vdso)
    else {
        eprintln!("skipped: no vDSO");
        return;
    };
    let exe = moonscope_process::Executable::open(pid, mapping).unwrap();
    let image = Workshop::new();
    std::fs::write(image.path("vdso"), &**exe.data().unwrap()).unwrap();
    let functions = common::functions_of(&image.path("vdso"), ".dynsym");
    assert!(functions.len() >= 4);
    let starts: Vec<u64> = functions.iter().map(|f| f.start).collect();
    for (addr, found) in starts.iter().zip(symbolizer().native(&exe, &starts)) {
        let name = &*found[0].function;
        assert!(
            functions.iter().any(|f| f.start == *addr && f.name == name),
            "{found:?}"
        );
    }
}
