//! The code of a file that no unwind information describes.

use std::ops::Range;

use crate::entries::Entry;
use crate::sections::Code;

/// Holes above this size are not searched: nothing but a damaged file or a program of another tool chain has them, and
/// reading one would take long.
pub(crate) const MAX_HOLE: u64 = 128 << 20;

/// Calls `each` with the address of every hole of at least `length` bytes and its place in the file, in rising order.
/// `described` is sorted.
pub(crate) fn each(
    code: &[Code],
    described: &[Entry],
    length: usize,
    mut each: impl FnMut(u64, Range<usize>),
) {
    for range in code {
        let mut hole = |start: u64, end: u64| {
            if (length as u64..=MAX_HOLE).contains(&end.saturating_sub(start)) {
                let place = |address: u64| range.offset.saturating_add((address - range.start) as usize);
                each(start, place(start)..place(end));
            }
        };
        let first = described.partition_point(|entry| entry.end <= range.start);
        let mut at = range.start;
        for entry in described
            .iter()
            .skip(first)
            .take_while(|entry| entry.start < range.end)
        {
            hole(at, entry.start);
            at = at.max(entry.end);
        }
        hole(at, range.end);
    }
}
