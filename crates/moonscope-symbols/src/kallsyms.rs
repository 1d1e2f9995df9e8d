//! Names of a few kernel addresses out of the long list in `/proc/kallsyms`, in one pass.
//!
//! A line is `ADDRESS TYPE NAME` or `ADDRESS TYPE NAME\t[MODULE]` (kernel/kallsyms.c, s_show). There are no
//! sizes, and modules and BPF programs come after the kernel in no order. Keeping all 120,000 to 200,000
//! symbols costs 5 to 10 MiB, reading the file 30 ms; so it is read when there is something to name, and
//! only what is the best answer so far for an asked address is kept.

use crate::limits::MAX_LINE;
use std::cmp::Ordering;
use std::io::{self, BufRead};

/// A function, and the addresses it may cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelFunction {
    /// First address.
    pub(crate) start: u64,
    /// Where the next symbol starts; `u64::MAX` after the last.
    pub(crate) end: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) module: Option<Vec<u8>>,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) addr: u64,
    kind: u8,
    pub(crate) name: &'a [u8],
    pub(crate) module: Option<&'a [u8]>,
}

impl<'a> Line<'a> {
    /// Takes a line apart.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut digits = 0;
        let mut addr = 0u64;
        for &byte in line.iter().take(17) {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => break,
            };
            addr = addr << 4 | u64::from(digit);
            digits += 1;
        }
        let [b' ', kind, b' ', rest @ ..] = line.get(digits..)? else {
            return None;
        };
        if !(1..=16).contains(&digits) {
            return None;
        }
        let (name, module) = match memchr::memchr(b'\t', rest) {
            Some(tab) => {
                let module = rest[tab + 1..]
                    .strip_prefix(b"[")?
                    .trim_ascii_end()
                    .strip_suffix(b"]")?;
                (&rest[..tab], Some(module))
            }
            None => (rest.trim_ascii_end(), None),
        };
        (!name.is_empty()).then_some(Self {
            addr,
            kind: *kind,
            name,
            module,
        })
    }

    /// Is it a function, and not a mark that the linker script sets at the same place?
    pub(crate) fn is_function(&self) -> bool {
        let marks: [&[u8]; 6] = [
            b"_text",
            b"_stext",
            b"_etext",
            b"_sinittext",
            b"_einittext",
            b"_end",
        ];
        matches!(self.kind, b't' | b'T' | b'w' | b'W') && !marks.contains(&self.name)
    }

    /// Of several names for one place the same is taken in every run: global, weak, local; fewer leading
    /// underscores; shorter.
    pub(crate) fn preference(&self) -> impl Ord {
        let binding = match self.kind {
            b'T' => 0,
            b'w' | b'W' => 1,
            _ => 2,
        };
        (
            binding,
            self.name.iter().take_while(|&&byte| byte == b'_').count(),
            self.name.len(),
            self.name,
        )
    }
}

/// What is known of the symbols between one asked address and the next.
#[derive(Clone, Debug, Default)]
struct Gap {
    /// The highest symbol, with its best name if it is a function.
    last: Option<Last>,
    /// The lowest symbol.
    first: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    addr: u64,
    /// Its line, if it is a function; else empty. Reused, since almost every line is the last so far.
    line: Vec<u8>,
}

/// The function at each of these addresses; they are sorted. One pass over the list.
pub(crate) fn resolve(mut list: impl BufRead, addrs: &[u64]) -> io::Result<Vec<Option<KernelFunction>>> {
    // Gap i holds symbols in (addrs[i - 1], addrs[i]]: the last of it may contain addrs[i], and the first
    // of the next ends it.
    let mut gaps = vec![Gap::default(); addrs.len() + 1];
    each_line(&mut list, |text| {
        let Some(line) = Line::parse(text) else { return };
        let gap = &mut gaps[addrs.partition_point(|&addr| addr < line.addr)];
        gap.first = Some(gap.first.map_or(line.addr, |first| first.min(line.addr)));
        let last = gap.last.get_or_insert_default();
        let better = match line.addr.cmp(&last.addr) {
            Ordering::Less => false,
            Ordering::Greater => {
                last.addr = line.addr;
                last.line.clear();
                line.is_function()
            }
            Ordering::Equal => {
                let best = Line::parse(&last.line);
                line.is_function() && best.is_none_or(|best| line.preference() < best.preference())
            }
        };
        if better {
            last.line.clear();
            last.line.extend_from_slice(text);
        }
    })?;
    Ok(assign(&gaps, addrs))
}

fn assign(gaps: &[Gap], addrs: &[u64]) -> Vec<Option<KernelFunction>> {
    let mut next = vec![u64::MAX; addrs.len()];
    let mut lowest = u64::MAX;
    for (number, next) in next.iter_mut().enumerate().rev() {
        lowest = gaps[number + 1].first.unwrap_or(lowest);
        *next = lowest;
    }
    let mut last: Option<&Last> = None;
    let mut found = Vec::with_capacity(addrs.len());
    for (gap, end) in gaps.iter().zip(next) {
        last = gap.last.as_ref().or(last);
        let function = last.and_then(|last| {
            let line = Line::parse(&last.line)?;
            let module = line.module.map(<[u8]>::to_vec);
            Some(KernelFunction {
                start: line.addr,
                end,
                name: line.name.to_vec(),
                module,
            })
        });
        found.push(function);
    }
    found
}

/// Is any address shown? The kernel writes zeros for all of them to those who may not see them. Looks at
/// the beginning only: the few symbols that are really at zero (per-CPU data) are less than that.
pub(crate) fn shows_addresses(list: impl BufRead) -> io::Result<Option<bool>> {
    const LOOKED_AT: usize = 4096;
    let (mut lines, mut shown) = (0, false);
    for text in list.split(b'\n').take(LOOKED_AT) {
        if let Some(line) = Line::parse(&text?) {
            lines += 1;
            shown |= line.addr != 0;
            if shown {
                break;
            }
        }
    }
    Ok((lines > 0).then_some(shown))
}

/// Calls `each` with every line, without its end; longer ones than the limit are left out.
pub(crate) fn each_line(list: &mut impl BufRead, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut *list, MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            each(&line);
        } else if read == MAX_LINE {
            // Too long: on to its end.
            list.skip_until(b'\n')?;
        } else {
            each(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KernelFunction, resolve, shows_addresses};

    /// As the kernel writes it, modules out of order, with data and marks in between.
    const LIST: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000100 t __pfx_helper
ffffffff81000110 t __helper
ffffffff81000110 T helper
ffffffff81000110 t a_helper
ffffffff81000200 W weak_one
ffffffff81000300 T _etext
ffffffff82000000 D some_table
ffffffffc0200000 t late\t[second]
ffffffffc0200040 t later\t[second]
ffffffffc0100000 t init\t[first]
ffffffffc0000000 t bpf_prog_6deef7357e7b4530_count\t[bpf]
";

    fn names(addrs: &[u64]) -> Vec<Option<String>> {
        let shown = |found: &KernelFunction| {
            let module = found
                .module
                .as_deref()
                .map(|name| format!(" [{}]", String::from_utf8_lossy(name)));
            format!(
                "{}{}",
                String::from_utf8_lossy(&found.name),
                module.unwrap_or_default()
            )
        };
        let found = resolve(LIST.as_bytes(), addrs).unwrap();
        found.iter().map(|found| found.as_ref().map(shown)).collect()
    }

    #[test]
    fn each_address_gets_the_function_before_it_in_whatever_order_the_list_is() {
        let addrs = [
            0xffff_ffff_8100_0000,
            0xffff_ffff_8100_00ff,
            0xffff_ffff_8100_0150,
            0xffff_ffff_8100_01ff,
            0xffff_ffff_8100_0200,
            0xffff_ffff_c000_0001,
            0xffff_ffff_c010_0000,
            0xffff_ffff_c020_003f,
            0xffff_ffff_c020_0040,
        ];
        let expected = [
            "startup_64",
            "startup_64",
            "helper",
            "helper",
            "weak_one",
            "bpf_prog_6deef7357e7b4530_count [bpf]",
            "init [first]",
            "late [second]",
            "later [second]",
        ];
        assert_eq!(names(&addrs), expected.map(|name| Some(name.to_owned())));
        // One at a time, too.
        for (addr, expected) in addrs.iter().zip(expected) {
            assert_eq!(names(&[*addr]), [Some(expected.to_owned())]);
        }
    }

    #[test]
    fn data_and_marks_end_functions_but_name_nothing() {
        assert_eq!(
            names(&[0x1000, 0xffff_ffff_8100_0300, 0xffff_ffff_8200_0010]),
            [None, None, None]
        );
        let found = resolve(LIST.as_bytes(), &[0xffff_ffff_8100_0210]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().end, 0xffff_ffff_8100_0300);
    }

    #[test]
    fn a_list_without_addresses_is_recognized() {
        let hidden: String = LIST
            .lines()
            .map(|line| format!("{:016x}{}\n", 0, &line[16..]))
            .collect();
        assert_eq!(shows_addresses(hidden.as_bytes()).unwrap(), Some(false));
        assert_eq!(shows_addresses(LIST.as_bytes()).unwrap(), Some(true));
        assert_eq!(shows_addresses(&b""[..]).unwrap(), None);
    }

    #[test]
    fn lines_that_are_none_are_skipped() {
        let long = format!(
            "ffffffff81000000 T {}\nffffffff81000010 T good\n",
            "x".repeat(1 << 20)
        );
        let noise = format!("\n \nzz T x\nffffffff8100000 \n{long}ffffffff81000020 T");
        let found = resolve(noise.as_bytes(), &[0xffff_ffff_8100_0015]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().name, b"good");
    }
}
