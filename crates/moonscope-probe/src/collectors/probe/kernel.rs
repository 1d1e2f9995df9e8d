//! Functions of the kernel, and whether they can be probed.

use std::io::{BufRead, BufReader};

/// Names of functions, as `/proc/kallsyms` has them; modules have theirs too.
pub fn functions() -> Vec<String> {
    let Ok(file) = std::fs::File::open("/proc/kallsyms") else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split_ascii_whitespace().skip(1);
        if let (Some("t" | "T" | "w" | "W"), Some(name)) = (words.next(), words.next()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The kind of perf event that probes functions of the kernel (`kprobe`) or of programs (`uprobe`); `None`: this kernel
/// has none.
pub fn kind_of(probe: &str) -> Option<u32> {
    let file = format!("/sys/bus/event_source/devices/{probe}/type");
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
