use super::*;
use proptest::prelude::*;

/// Lines as kernel 6.18 gave them for an APISIX worker and a container process.
const NGINX: &[u8] = b"\
00400000-00459000 r-xp 00001000 00:29 2631     /opt/edge/edge-proxy\n\
01b8e000-01c11000 rw-p 00000000 00:00 0                          [heap]\n\
7f3b10000000-7f3b10a00000 rw-s 00000000 00:01 4097       /dev/zero (deleted)\n\
7f3b1bd70000-7f3b1bde0000 r-xp 00000000 00:00 0 \n\
7f3b1bf00000-7f3b1bf10000 rwxp 00000000 00:00 0 \n\
7f3b1c000000-7f3b1c021000 rw-p 00000000 00:00 0          [anon: glibc: malloc arena]\n\
7ffd8a5d2000-7ffd8a5f3000 rw-p 00000000 00:00 0                          [stack]\n\
7ffd8a5fa000-7ffd8a5fe000 r--p 00000000 00:00 0                          [vvar]\n\
7ffd8a5fe000-7ffd8a600000 r-xp 00000000 00:00 0                          [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

fn one(line: &[u8]) -> Mapping {
    let maps = parse_maps(line);
    assert_eq!(maps.len(), 1, "{}", String::from_utf8_lossy(line));
    maps.into_iter().next().unwrap()
}

fn file(path: &str, deleted: bool) -> MappingName {
    MappingName::File {
        path: path.into(),
        deleted,
    }
}

#[test]
fn every_kind_of_line_is_read() {
    let maps = parse_maps(NGINX);
    assert_eq!(
        maps[0],
        Mapping {
            start: 0x400000,
            end: 0x459000,
            offset: 0x1000,
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            device: (0, 0x29),
            inode: 2631,
            name: file("/opt/edge/edge-proxy", false),
        }
    );
    let names: Vec<_> = maps.iter().map(|mapping| mapping.name.clone()).collect();
    let other = |text: &str| MappingName::Other(text.to_owned());
    let expected = [
        file("/opt/edge/edge-proxy", false),
        MappingName::Heap,
        file("/dev/zero", true),
        MappingName::Anonymous,
        MappingName::Anonymous,
        other("[anon: glibc: malloc arena]"),
        MappingName::Stack,
        other("[vvar]"),
        MappingName::Vdso,
        MappingName::Vsyscall,
    ];
    assert_eq!(names, expected);
    assert!(maps[2].shared && maps[2].writable && !maps[2].executable);
    assert!(maps[4].writable && maps[4].executable);
    assert!(!maps[9].readable && maps[9].executable);
}

#[test]
fn odd_file_names_are_kept() {
    let name = |text: &str| one(format!("1000-2000 r-xp 0 08:01 5 {text}\n").as_bytes()).name;
    assert_eq!(name("/a b/c d"), file("/a b/c d", false));
    assert_eq!(name("/ends in blanks  "), file("/ends in blanks  ", false));
    assert_eq!(name(r"/two\012lines"), file("/two\nlines", false));
    assert_eq!(name(r"/two\012lines (deleted)"), file("/two\nlines", true));
    assert_eq!(name("/memfd:jit (deleted)"), file("/memfd:jit", true));
    assert_eq!(
        name("anon_inode:[perf_event]"),
        MappingName::Other("anon_inode:[perf_event]".into())
    );
    // A file cannot pass for the kernel's own areas: its name begins with a slash.
    assert_eq!(name("/[vdso]"), file("/[vdso]", false));
    assert_eq!(name("[anon:[vdso]]"), MappingName::Other("[anon:[vdso]]".into()));
}

#[test]
fn a_name_that_is_not_utf8_is_kept_byte_for_byte() {
    let mapping = one(b"1000-2000 r-xp 0 08:01 5      /caf\xe9\n");
    assert_eq!(mapping.path().unwrap().as_os_str().as_bytes(), b"/caf\xe9");
}

#[test]
fn addresses_turn_into_file_offsets() {
    let mapping = one(b"400000-459000 r-xp 00001000 00:29 2631 /x\n");
    assert_eq!(mapping.file_offset(0x400010), Some(0x1010));
    assert_eq!(mapping.file_offset(0x459000), None);
    assert_eq!(mapping.len(), 0x59000);
}

#[test]
fn lines_that_are_no_mappings_are_left_out() {
    let lines: [&[u8]; 8] = [
        b"",
        b"Size: 4 kB",
        b"1000-2000",
        b"1000-2000 r-xp 0 08:01",
        b"2000-1000 r-xp 0 08:01 5",
        b"11111111111111111-2 r-xp 0 08:01 5",
        b"1000-2000 r-x 0 08:01 5",
        b"1000-2000 r-xp 0 08.01 5",
    ];
    for line in lines {
        assert_eq!(parse_maps(line), [], "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn our_own_code_is_in_our_own_maps() {
    let maps = read_maps(std::process::id()).unwrap();
    let here = our_own_code_is_in_our_own_maps as *const () as u64;
    let mapping = maps.iter().find(|mapping| mapping.contains(here)).unwrap();
    assert!(mapping.executable);
    assert_eq!(mapping.path(), Some(std::env::current_exe().unwrap().as_path()));
    assert!(maps.iter().any(|mapping| mapping.name == MappingName::Vdso));
    assert!(maps.is_sorted_by_key(|mapping| mapping.start));
}

#[test]
fn a_kernel_thread_has_no_mappings() {
    // Process 2 is kthreadd wherever the first pid namespace is visible.
    match crate::Process::find(2) {
        Ok(process) if process.is_kernel_thread => {
            assert!(matches!(read_maps(2), Err(ProcessError::KernelThread { pid: 2 })));
        }
        _ => eprintln!("SKIPPED: no kernel thread is visible here"),
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_maps(&text);
    }

    #[test]
    fn what_looks_like_a_line_never_panics(text in "([0-9a-f]{0,17}[-: ]|r-xp |[rwxps-]{0,5} |/\\\\012| \\(deleted\\)|\\[vdso\\]|\n|é){0,14}") {
        for mapping in parse_maps(text.as_bytes()) {
            prop_assert!(mapping.start < mapping.end);
        }
    }

    /// What the kernel prints comes back, whatever the file is called.
    #[test]
    fn lines_are_read_back(
        start in 0..1u64 << 47, len in 1..1u64 << 40, offset in 0..1u64 << 40, inode in 1..u64::MAX,
        name in "/[^\n\\\\()]{0,40}[^\n\\\\() ]",
    ) {
        let end = start + len;
        let line = format!("{start:x}-{end:x} r--p {offset:08x} fd:01 {inode}   {}\n", name.replace('\n', r"\012"));
        let mapping = one(line.as_bytes());
        prop_assert_eq!((mapping.start, mapping.end, mapping.offset, mapping.inode), (start, end, offset, inode));
        prop_assert_eq!(mapping.name, file(&name, false));
    }
}
