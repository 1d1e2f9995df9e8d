//! Doors for the fuzz targets in `fuzz/`, to parsers that are reached through files of `/proc` otherwise.
//! Only with the feature `fuzzing`, and no part of the interface.

use crate::{kallsyms, perf_map};
use std::fs::File;

/// Names addresses by the text of a `/proc/kallsyms`.
pub fn kallsyms(list: &[u8], addrs: &[u64]) -> usize {
    let _ = kallsyms::shows_addresses(list);
    let functions = kallsyms::resolve(list, addrs).unwrap_or_default();
    functions.into_iter().flatten().count()
}

/// Names addresses by a perf map.
pub fn perf_map(map: &File, addrs: &[u64]) -> usize {
    let symbols = perf_map::resolve(map, addrs, true);
    symbols.into_iter().flatten().count()
}
