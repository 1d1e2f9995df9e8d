//! Names of generated code, from `/tmp/perf-PID.map`.
//!
//! Runtimes with a JIT (V8, JVM agents, LuaJIT patches, .NET) append a line `START SIZE NAME` (hexadecimal)
//! for every function they make: Linux, tools/perf/Documentation/jit-interface.txt. Addresses are used
//! again, so the last line for an address is the right one: the file is read from its end, and no further
//! than needed.
//!
//! Which file that is, and whether it is to be trusted: `moonscope_process::PerfMap`.

use crate::limits::{MAX_LINE, MAX_PERF_MAP};
use crate::{Symbol, demangle};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// The name of each address in this map.
pub(crate) fn resolve(file: &File, addrs: &[u64], demangle: bool) -> Vec<Option<Symbol>> {
    let mut search = Search::new(addrs, demangle);
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    // What was read before an error is still right.
    let _ = each_line_backwards(file, len, |line| search.line(line));
    search.into_answers()
}

/// Addresses that have no name yet, and those that have.
struct Search {
    /// Sorted, with the place in the answer.
    addrs: Vec<(u64, usize)>,
    /// For each of `addrs` the next one without name, itself or later (path halving).
    next: Vec<usize>,
    answers: Vec<Option<Symbol>>,
    left: usize,
    demangle: bool,
}

impl Search {
    fn new(addrs: &[u64], demangle: bool) -> Self {
        let mut sorted: Vec<(u64, usize)> = addrs.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        Self {
            next: (0..=sorted.len()).collect(),
            left: sorted.len(),
            answers: vec![None; sorted.len()],
            addrs: sorted,
            demangle,
        }
    }

    /// Names all addresses of this line's range that have no name yet. False when all have one.
    fn line(&mut self, line: &[u8]) -> bool {
        let Some((start, size, name)) = parse(line) else {
            return self.left > 0;
        };
        let end = start.saturating_add(size);
        let mut at = self.unnamed(self.addrs.partition_point(|&(addr, _)| addr < start));
        let mut symbol = None;
        while let Some(&(_, answer)) = self.addrs.get(at).filter(|&&(addr, _)| addr < end) {
            let symbol = symbol.get_or_insert_with(|| Symbol {
                function: demangle::show(name, self.demangle).into(),
                start: Some(start),
                file: None,
                line: None,
                inlined: false,
                module: None,
            });
            self.answers[answer] = Some(symbol.clone());
            self.left -= 1;
            self.next[at] = at + 1;
            at = self.unnamed(at + 1);
        }
        self.left > 0
    }

    fn unnamed(&mut self, mut at: usize) -> usize {
        while self.next[at] != at {
            self.next[at] = self.next[self.next[at]];
            at = self.next[at];
        }
        at
    }

    fn into_answers(self) -> Vec<Option<Symbol>> {
        self.answers
    }
}

/// `START SIZE NAME`; names may hold blanks. Some writers put `0x` before the numbers.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.trim_ascii_start().splitn(3, |&byte| byte == b' ');
    let mut number = || {
        let digits = fields.next()?;
        let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim_ascii();
    (size > 0 && !name.is_empty()).then_some((start, size, name))
}

/// Calls `each` with every complete line of the first `len` bytes, the last one first, until it says false.
/// A line without newline at the end is still being written.
fn each_line_backwards(file: &File, len: u64, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let stop = len.saturating_sub(MAX_PERF_MAP);
    let mut end = len;
    // The beginning of a line whose end was in the chunk before; `None` as long as no newline was seen.
    let mut tail: Option<Vec<u8>> = None;
    while end > stop {
        let start = end.saturating_sub(CHUNK).max(stop);
        let mut chunk = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut chunk, start)?;
        let mut rest = &chunk[..];
        while let Some(newline) = memchr::memrchr(b'\n', rest) {
            let line = &rest[newline + 1..];
            if let Some(tail) = tail.replace(Vec::new()) {
                let whole = [line, &tail].concat();
                if whole.len() <= MAX_LINE && !each(&whole) {
                    return Ok(());
                }
            }
            rest = &rest[..newline];
        }
        if let Some(tail) = &mut tail {
            // A line that is too long stays too long, whatever is before.
            let room = (2 * MAX_LINE).saturating_sub(tail.len());
            let mut joined = rest[rest.len().saturating_sub(room)..].to_vec();
            joined.extend_from_slice(tail);
            *tail = joined;
        }
        end = start;
    }
    if let (0, Some(first)) = (stop, tail)
        && first.len() <= MAX_LINE
    {
        each(&first);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Search, each_line_backwards};
    use crate::limits::MAX_LINE;
    use std::io::Write;

    fn names(text: &[u8], addrs: &[u64]) -> Vec<Option<String>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let mut search = Search::new(addrs, true);
        each_line_backwards(&file, text.len() as u64, |line| search.line(line)).unwrap();
        search
            .into_answers()
            .into_iter()
            .map(|symbol| symbol.map(|symbol| symbol.function.to_string()))
            .collect()
    }

    fn some<const N: usize>(names: [&str; N]) -> [Option<String>; N] {
        names.map(|name| (!name.is_empty()).then(|| name.to_owned()))
    }

    #[test]
    fn the_last_entry_for_an_address_counts() {
        let map =
            b"1000 100 old one\n1080 10 new;one\n0x2000 0x10 LazyCompile:~f /a b.js:1\n1000 20 newest\n";
        let addrs = [
            0x1000, 0x101f, 0x1020, 0x1080, 0x108f, 0x1090, 0x1100, 0x2000, 0x2010, 0xfff,
        ];
        let expected = some([
            "newest",
            "newest",
            "old one",
            "new;one",
            "new;one",
            "old one",
            "",
            "LazyCompile:~f /a b.js:1",
            "",
            "",
        ]);
        assert_eq!(names(map, &addrs), expected);
    }

    #[test]
    fn a_line_that_is_still_being_written_does_not_count() {
        assert_eq!(names(b"1000 100 whole\n1000 100 ha", &[0x1000]), some(["whole"]));
        assert_eq!(names(b"1000 100 ha", &[0x1000]), some([""]));
    }

    #[test]
    fn damaged_lines_are_skipped() {
        let map =
            b"\nxyz\n1000\n1000 zz name\n1000 0 empty\n1000 10 \nffffffffffffffff ffffffffffffffff huge\n\
                    fffffffffffffffff 1 long\n1000 10 good\xff\n";
        assert_eq!(names(map, &[0x1000, u64::MAX]), some(["good\u{fffd}", ""]));
    }

    #[test]
    fn lines_across_chunks_are_whole_and_endless_lines_are_left_out() {
        let mut map = Vec::new();
        for number in 0..100_000u64 {
            writeln!(map, "{:x} 10 function_{number}", number * 16).unwrap();
        }
        assert!(map.len() as u64 > 2 * CHUNK);
        map.extend(vec![b'a'; 3 * CHUNK as usize]);
        map.extend(b"\n");
        let addrs: Vec<u64> = (0..100_000).map(|number| number * 16 + 3).collect();
        for (number, name) in names(&map, &addrs).into_iter().enumerate() {
            assert_eq!(name, Some(format!("function_{number}")));
        }
        let long = format!("1000 10 short\n1000 10 {}\n", "x".repeat(MAX_LINE));
        assert_eq!(names(long.as_bytes(), &[0x1000]), some(["short"]));
    }

    #[test]
    fn many_overlapping_entries_cost_no_more_than_many_entries() {
        let map = "0 ffffffffffff everything\n".repeat(200_000);
        let addrs: Vec<u64> = (0..10_000).collect();
        let started = std::time::Instant::now();
        assert!(names(map.as_bytes(), &addrs).iter().all(Option::is_some));
        let mut nothing = "1 0 nothing\n".repeat(200_000);
        nothing.push_str(&map);
        names(nothing.as_bytes(), &[u64::MAX]);
        assert!(started.elapsed().as_secs() < 5);
    }
}
