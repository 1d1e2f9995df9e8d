//! Functions of the kernel.

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
