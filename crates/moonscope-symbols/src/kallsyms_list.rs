//! The whole of `/proc/kallsyms` at hand: for those who name kernel addresses all day. Reading the list takes 30 ms, and
//! there is something new to name every second.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead};

use crate::kallsyms::{KernelFunction, Line, each_line};
use crate::limits::MAX_KERNEL_LIST;

/// Symbols, by address.
#[derive(Debug)]
pub(crate) struct KernelList {
    /// Address, and where the line of a function begins in `lines`; of other symbols the address only.
    symbols: Vec<(u64, Option<u32>)>,
    lines: Vec<u8>,
}

impl KernelList {
    /// Reads the list; `None` if it is longer than what is kept. Programs of BPF are left out: they come and go.
    pub(crate) fn read(mut list: impl BufRead) -> io::Result<Option<Self>> {
        let mut whole = Self {
            symbols: Vec::new(),
            lines: Vec::new(),
        };
        let mut is_too_long = false;
        each_line(&mut list, |text| {
            let Some(line) = Line::parse(text) else { return };
            is_too_long |= whole.bytes() > MAX_KERNEL_LIST;
            if is_too_long || line.addr == 0 || line.module.is_some_and(comes_and_goes) {
                return;
            }
            let place = line.is_function().then_some(whole.lines.len() as u32);
            if place.is_some() {
                whole.lines.extend_from_slice(text);
                whole.lines.push(b'\n');
            }
            whole.symbols.push((line.addr, place));
        })?;
        if is_too_long {
            return Ok(None);
        }
        let mut symbols = std::mem::take(&mut whole.symbols);
        symbols.sort_unstable_by(|&(a, one), &(b, other)| a.cmp(&b).then_with(|| whole.better(one, other)));
        symbols.dedup_by_key(|(addr, _)| *addr);
        symbols.shrink_to_fit();
        whole.symbols = symbols;
        whole.lines.shrink_to_fit();
        Ok(Some(whole))
    }

    fn bytes(&self) -> usize {
        self.symbols.len() * size_of::<(u64, Option<u32>)>() + self.lines.len()
    }

    /// Functions first, and of those the one that is taken in every run.
    fn better(&self, one: Option<u32>, other: Option<u32>) -> Ordering {
        match (self.line(one), self.line(other)) {
            (Some(one), Some(other)) => one.preference().cmp(&other.preference()),
            (one, other) => one.is_none().cmp(&other.is_none()),
        }
    }

    fn line(&self, place: Option<u32>) -> Option<Line<'_>> {
        let rest = self.lines.get(place? as usize..)?;
        let end = memchr::memchr(b'\n', rest)?;
        Line::parse(&rest[..end])
    }

    /// The function at an address.
    pub(crate) fn function(&self, addr: u64) -> Option<KernelFunction> {
        let next = self.symbols.partition_point(|&(start, _)| start <= addr);
        let (_, place) = self.symbols.get(next.checked_sub(1)?)?;
        let line = self.line(*place)?;
        Some(KernelFunction {
            start: line.addr,
            end: self.symbols.get(next).map_or(u64::MAX, |&(start, _)| start),
            name: line.name.to_vec(),
            module: line.module.map(<[u8]>::to_vec),
        })
    }
}

/// Is this no module that is loaded and unloaded by hand, but a name for code that the kernel makes (kernel/kallsyms.c,
/// get_ksymbol_bpf, get_ksymbol_ftrace_mod, get_ksymbol_kprobe)?
pub(crate) fn comes_and_goes(module: &[u8]) -> bool {
    module == b"bpf" || module.starts_with(b"__builtin__")
}

/// A number for the modules that are loaded, by the lines of `/proc/modules`: `NAME SIZE REFERENCES USERS STATE ADDRESS`
/// (kernel/module/procfs.c, m_show). References come and go.
pub(crate) fn modules(list: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for line in list.split(|&byte| byte == b'\n') {
        let mut words = line.split(|&byte| byte == b' ');
        [words.next(), words.next(), words.nth(2), words.next()].hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 t __first
ffffffff81000000 T first
ffffffff81000100 T second
ffffffff81000180 D data
ffffffffc0000000 t late\t[mod]
ffffffffc0000400 t bpf_prog_1234\t[bpf]
ffffffffa0000000 t early\t[other]
";

    #[test]
    fn the_whole_list_names_what_a_pass_over_it_does() {
        let list = KernelList::read(LIST).unwrap().unwrap();
        let addrs = [
            0x10,
            0xffff_ffff_8100_0000,
            0xffff_ffff_8100_00ff,
            0xffff_ffff_8100_0100,
            0xffff_ffff_8100_0190,
            0xffff_ffff_a000_0010,
            0xffff_ffff_c000_0010,
        ];
        let passed = crate::kallsyms::resolve(LIST, &addrs).unwrap();
        // what ends the last function of a module is not in the list
        let same = |one: &Option<KernelFunction>, other: &Option<KernelFunction>| {
            let key =
                |function: &KernelFunction| (function.start, function.name.clone(), function.module.clone());
            one.as_ref().map(key) == other.as_ref().map(key)
        };
        for (addr, passed) in addrs.iter().zip(&passed) {
            let found = list.function(*addr);
            assert!(same(&found, passed), "{addr:#x}: {found:?} {passed:?}");
        }
        assert_eq!(list.function(addrs[2]).unwrap().end, 0xffff_ffff_8100_0100);
    }

    #[test]
    fn modules_are_the_same_whoever_uses_them() {
        let one = b"nf_tables 380928 5 nft_ct,nft_nat, Live 0xffffffffc0a00000\n";
        let used = b"nf_tables 380928 9 nft_ct, Live 0xffffffffc0a00000\n";
        let again = b"nf_tables 380928 5 nft_ct,nft_nat, Live 0xffffffffc0b00000\n";
        assert_eq!(modules(one), modules(used));
        assert_ne!(modules(one), modules(again));
    }
}
