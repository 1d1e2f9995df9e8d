//! The table of strings (lj_str.c): each string of a VM once, in the bucket of its hash.
//!
//! Strings of a bucket are nowhere near each other in memory. So many buckets are followed at a time: the addresses of all their
//! next strings are put in order, and the memory is read from its lowest to its highest page, in large pieces where they
//! lie close together.

use std::ops::Range;

use moonscope_process::RemoteMemory;

use super::layout::{HeapError, HeapLayout};
use super::objects::OfKind;
use super::{HeapEnd, Spending};
use crate::object::{number, reference_at};
use crate::value::gct;

/// Buckets that are followed at a time: at most 128 MiB of addresses, and as much for the strings behind the first ones.
const BUCKETS_AT_ONCE: u64 = 1 << 24;
/// Buckets that are read at a time: 8 MiB.
const BUCKETS_READ: u64 = 1 << 20;
/// Strings in one bucket that are followed. A good hash has a handful, and OpenResty's table changes the hash of those with
/// more than 32 (`LJ_STR_MAXCOLL`).
const MAX_CHAIN: usize = 4096;
/// Addresses that are this close to each other are read together.
const NEAR: u64 = 2048;
/// Bytes that are read together.
const BLOCK: u64 = 256 << 10;
/// Addresses far from each other that are read with one call.
const PIECES: usize = 1024;
/// Longest string that LuaJIT makes (`LJ_MAX_STR`).
const MAX_STRING: u64 = 0x7fff_ff00;

/// What the table of strings holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    /// The strings.
    pub all: OfKind,
    /// Those that the VM counts itself (`str.num`).
    pub counted: u64,
    /// Buckets.
    pub buckets: u64,
    /// `chains[n]` buckets have n + 1 strings; those of empty ones are the rest.
    pub chains: Vec<u64>,
    /// Buckets in which the VM uses a second, slower hash, because they had grown too long.
    pub second_hash: u64,
    /// What does not look like a string, and what was in its bucket behind it is not looked at.
    pub torn: u64,
    /// Buckets with more strings than are followed.
    pub too_long: u64,
}

impl Strings {
    /// The most strings in one bucket.
    pub fn longest_chain(&self) -> usize {
        self.chains.len()
    }

    /// Looks at all of them.
    pub fn read(
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        spending: &mut Spending<'_>,
    ) -> Result<(Self, HeapEnd), HeapError> {
        let gone = HeapError::Unreadable { g: heap.g };
        let Some((table, buckets, counted)) = heap.buckets(memory) else {
            return Err(gone);
        };
        let mut found = Self {
            counted,
            buckets,
            ..Self::default()
        };
        let (mut begin, mut end) = (0, HeapEnd::Complete);
        while begin < buckets && end != HeapEnd::Budget {
            let next = buckets.min(begin + BUCKETS_AT_ONCE);
            let Some(addresses) = found.heads(memory, heap, table, begin..next) else {
                // the table was replaced by a larger one
                end = HeapEnd::Changed;
                break;
            };
            end = end.and(found.follow(memory, heap, addresses, spending));
            begin = next;
        }
        // as many as strings, one more, until here: those of exactly this length
        let at_least = std::mem::take(&mut found.chains);
        let next = at_least.iter().skip(1).chain(&[0]);
        found.chains = at_least
            .iter()
            .zip(next)
            .map(|(this, next)| this.saturating_sub(*next))
            .collect();
        Ok((found, end))
    }

    /// The first strings of these buckets.
    fn heads(
        &mut self,
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        table: u64,
        buckets: Range<u64>,
    ) -> Option<Vec<u64>> {
        let fields = heap.layout.fields();
        let size = u64::from(fields.ref_size);
        let mut addresses = Vec::new();
        let mut at = buckets.start;
        while at < buckets.end {
            let count = (buckets.end - at).min(BUCKETS_READ);
            let mut bytes = vec![0; (count * size) as usize];
            memory
                .read_exact(table.checked_add(at * size)?, &mut bytes)
                .ok()?;
            let words = bytes.chunks_exact(size as usize);
            for head in words.filter_map(|word| reference_at(fields, word, 0)) {
                // the lowest bit is not a part of the address
                self.second_hash += head & 1;
                if head & !1 != 0 {
                    addresses.push(head & !1);
                }
            }
            at += count;
        }
        Some(addresses)
    }

    /// Follows buckets whose first strings are at these addresses.
    fn follow(
        &mut self,
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        mut addresses: Vec<u64>,
        spending: &mut Spending<'_>,
    ) -> HeapEnd {
        let fields = heap.layout.fields();
        let length = usize::from(heap.string.text());
        for depth in 0..MAX_CHAIN {
            if addresses.is_empty() {
                return HeapEnd::Complete;
            }
            addresses.sort_unstable();
            let mut following = Vec::new();
            let mut is_spent = false;
            gather(memory, &addresses, length, |at, header| {
                if is_spent || !spending.one_more() {
                    is_spent = true;
                    return;
                }
                let len = header.and_then(|header| {
                    let is_string = number::<1>(header, fields.gct.into()) == Some(gct::STRING.into());
                    number::<4>(header, heap.string.len().into())
                        .filter(|&len| is_string && len <= MAX_STRING)
                });
                let (Some(header), Some(len)) = (header, len) else {
                    self.torn += 1;
                    return;
                };
                if self.chains.len() <= depth {
                    self.chains.resize(depth + 1, 0);
                }
                if let Some(strings) = self.chains.get_mut(depth) {
                    *strings += 1;
                }
                self.all.add(at, heap.string.bytes(len as u32));
                match reference_at(fields, header, 0) {
                    Some(0) | None => {}
                    Some(next) => following.push(next),
                }
            });
            if is_spent {
                return HeapEnd::Budget;
            }
            addresses = following;
        }
        self.too_long += addresses.len() as u64;
        HeapEnd::Complete
    }
}

/// Reads `length` bytes at each of these addresses, which are in order, and hands them over.
pub(super) fn gather(
    memory: &impl RemoteMemory,
    addresses: &[u64],
    length: usize,
    mut each: impl FnMut(u64, Option<&[u8]>),
) {
    let mut block = Vec::new();
    let mut far: Vec<u64> = Vec::with_capacity(PIECES);
    let mut pieces = vec![0; PIECES * length];
    let mut rest = addresses;
    while let Some(&first) = rest.first() {
        let near = rest
            .windows(2)
            .take_while(|two| two[1] - two[0] <= NEAR && two[1] - first <= BLOCK)
            .count();
        let (together, others) = rest.split_at(near + 1);
        rest = others;
        let last = together.last().copied().unwrap_or(first);
        let is_read = together.len() > 2 && {
            block.resize((last - first) as usize + length, 0);
            memory.read_exact(first, &mut block).is_ok()
        };
        if is_read {
            for &at in together {
                let from = (at - first) as usize;
                each(at, block.get(from..from + length));
            }
            continue;
        }
        for &at in together {
            far.push(at);
            if far.len() == PIECES {
                read_far(memory, &mut far, &mut pieces, length, &mut each);
            }
        }
    }
    read_far(memory, &mut far, &mut pieces, length, &mut each);
}

fn read_far(
    memory: &impl RemoteMemory,
    far: &mut Vec<u64>,
    pieces: &mut [u8],
    length: usize,
    each: &mut impl FnMut(u64, Option<&[u8]>),
) {
    let pieces = pieces.get_mut(..far.len() * length).unwrap_or_default();
    let were_read = memory.read_each(far, pieces);
    for ((&at, piece), was_read) in far.iter().zip(pieces.chunks_exact(length)).zip(were_read) {
        each(at, was_read.then_some(piece));
    }
    far.clear();
}
