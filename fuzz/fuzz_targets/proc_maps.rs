//! Files of `/proc` in which others choose names: maps, cgroup and mountinfo.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use moonscope_process::{cgroup, maps, mountinfo, visible};

fuzz_target!(|content: &[u8]| {
    for mapping in maps::parse_maps(content) {
        assert!(mapping.start < mapping.end, "{mapping:?}");
        let _ = (mapping.len(), mapping.is_empty(), mapping.path());
        for addr in [mapping.start, mapping.end, mapping.end - 1, 0, u64::MAX] {
            let _ = mapping.file_offset(addr);
        }
    }
    let _ = cgroup::parse_memberships(content);
    let _ = mountinfo::parse(content);
    let shown = visible(OsStr::from_bytes(content)).to_string();
    assert!(!shown.chars().any(char::is_control));
});
