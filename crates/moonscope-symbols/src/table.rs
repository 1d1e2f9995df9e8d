//! The finished symbol table of one executable: disjoint address ranges, each with one name.
//!
//! An address belongs to a symbol if it lies in `[start, start + size)`, and to nothing else: the nearest
//! symbol below is no answer. Where sized symbols overlap, the one that starts last counts (a label inside
//! a function is more exact than the function). A symbol without size (assembler) reaches to the next
//! symbol of any kind or to the end of its section, and only where nothing sized is.
//!
//! Memory: 16 bytes a range, 16 a symbol, and each used name once.

use crate::limits::MAX_NAME_BYTES;
use crate::symtab::{Candidate, Candidates};
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// A range of addresses with one name.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    len: u32,
    symbol: u32,
}

impl Range {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len.into())
    }
}

/// A symbol that names at least one range.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    name: u32,
}

/// Which symbol of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SymbolIndex(u32);

/// Sorted ranges and their names.
#[derive(Debug, Default)]
pub(crate) struct SymbolTable {
    ranges: Vec<Range>,
    symbols: Vec<Entry>,
    names: Vec<u8>,
    /// Names as they are given out, made at the first use.
    shown: FxHashMap<u32, Arc<str>>,
    shown_bytes: usize,
    /// Symbols that found no place for their name.
    pub(crate) dropped: usize,
}

impl SymbolTable {
    /// Makes the table.
    pub(crate) fn new(mut candidates: Candidates) -> Self {
        let (sorted, barriers) = candidates.take_sorted();
        let mut builder = Builder {
            table: Self::default(),
            names: &candidates,
            index: vec![u32::MAX; sorted.len()],
            sorted: &sorted,
        };
        builder.sized();
        builder.unsized_symbols(&barriers);
        let mut table = builder.table;
        table.ranges.shrink_to_fit();
        table.symbols.shrink_to_fit();
        table.names.shrink_to_fit();
        table
    }

    /// The symbol that covers an address.
    pub(crate) fn find(&self, vaddr: u64) -> Option<SymbolIndex> {
        let after = self.ranges.partition_point(|range| range.start <= vaddr);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (vaddr < range.end()).then_some(SymbolIndex(range.symbol))
    }

    /// Where a symbol starts.
    pub(crate) fn start(&self, symbol: SymbolIndex) -> Option<u64> {
        self.symbols.get(symbol.0 as usize).map(|entry| entry.start)
    }

    /// The name as it is given out; `show` makes it from the bytes in the file, once.
    pub(crate) fn name(&mut self, symbol: SymbolIndex, show: impl FnOnce(&[u8]) -> String) -> Arc<str> {
        if let Some(name) = self.shown.get(&symbol.0) {
            return Arc::clone(name);
        }
        let name: Arc<str> = show(self.raw_name(symbol)).into();
        self.shown_bytes += name.len() + 64;
        self.shown.insert(symbol.0, Arc::clone(&name));
        name
    }

    fn raw_name(&self, symbol: SymbolIndex) -> &[u8] {
        let at = self
            .symbols
            .get(symbol.0 as usize)
            .map_or(usize::MAX, |entry| entry.name as usize);
        let name = self.names.get(at..).unwrap_or_default();
        &name[..memchr::memchr(0, name).unwrap_or(name.len())]
    }

    /// How many symbols name something.
    pub(crate) fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<Range>()
            + self.symbols.capacity() * size_of::<Entry>()
            + self.names.capacity()
            + self.shown_bytes
    }
}

struct Builder<'a> {
    table: SymbolTable,
    names: &'a Candidates,
    sorted: &'a [Candidate],
    /// Number in the table of each candidate that has one.
    index: Vec<u32>,
}

impl Builder<'_> {
    /// Ranges of the symbols that have a size: one pass over the addresses, with the symbols that cover
    /// the current one in a heap, the one that starts last and has the best name on top.
    fn sized(&mut self) {
        let mut open: BinaryHeap<(u64, Reverse<usize>)> = BinaryHeap::new();
        let mut at = 0;
        let mut leader: Option<Candidate> = None;
        for (number, candidate) in self
            .sorted
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.sized)
        {
            // Never wins against a better name for at least the same range.
            if leader.is_some_and(|best| best.start == candidate.start && candidate.end <= best.end) {
                continue;
            }
            leader = Some(*candidate);
            at = self.emit(&mut open, at, candidate.start);
            open.push((candidate.start, Reverse(number)));
        }
        self.emit(&mut open, at, u64::MAX);
    }

    /// Writes the ranges from `at` up to `until`.
    fn emit(&mut self, open: &mut BinaryHeap<(u64, Reverse<usize>)>, mut at: u64, until: u64) -> u64 {
        while let Some(&(start, Reverse(number))) = open.peek() {
            at = at.max(start);
            let end = self.sorted[number].end;
            if end <= at {
                open.pop();
                continue;
            }
            if at >= until {
                break;
            }
            self.push(at, end.min(until), number);
            at = end.min(until);
        }
        at.max(until)
    }

    /// Puts symbols without size into the holes.
    fn unsized_symbols(&mut self, barriers: &[u64]) {
        let sized = std::mem::take(&mut self.table.ranges);
        let mut unsized_candidates = self
            .sorted
            .iter()
            .enumerate()
            .filter(|(_, candidate)| !candidate.sized)
            .peekable();
        while let Some((number, candidate)) = unsized_candidates.next() {
            // Aliases come after the best name of the same address.
            while unsized_candidates
                .next_if(|(_, next)| next.start == candidate.start)
                .is_some()
            {}
            let after = sized.partition_point(|range| range.start <= candidate.start);
            if after > 0 && candidate.start < sized[after - 1].end() {
                continue;
            }
            let barrier = barriers.partition_point(|&barrier| barrier <= candidate.start);
            let bounds = [
                sized.get(after).map(|range| range.start),
                unsized_candidates.peek().map(|(_, next)| next.start),
                barriers.get(barrier).copied(),
            ];
            let end = bounds.into_iter().flatten().fold(candidate.end, u64::min);
            self.push(candidate.start, end, number);
        }
        self.table.ranges.extend(sized);
        self.table.ranges.sort_unstable_by_key(|range| range.start);
    }

    fn push(&mut self, start: u64, end: u64, number: usize) {
        if end <= start {
            return;
        }
        if self.index[number] == u32::MAX {
            let candidate = &self.sorted[number];
            let name = self.names.name(candidate);
            let (symbol, at) = (self.table.symbols.len(), self.table.names.len());
            if at + name.len() >= MAX_NAME_BYTES {
                self.table.dropped += 1;
                return;
            }
            self.table.names.extend_from_slice(name);
            self.table.names.push(0);
            // Both are far below 4 billion: see MAX_SYMBOLS and MAX_NAME_BYTES.
            self.table.symbols.push(Entry {
                start: candidate.start,
                name: at as u32,
            });
            self.index[number] = symbol as u32;
        }
        let symbol = self.index[number];
        let len = u32::try_from(end - start).unwrap_or(u32::MAX);
        match self.table.ranges.last_mut() {
            Some(last)
                if last.symbol == symbol && last.end() == start && last.len.checked_add(len).is_some() =>
            {
                last.len += len;
            }
            _ => self.table.ranges.push(Range { start, len, symbol }),
        }
    }
}
