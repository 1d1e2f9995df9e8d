//! Who holds the memory: every object is counted where the shortest way from loaded modules and globals leads to it; what these do
//! not lead to, where one from the registry or, after that, from the stack of the main coroutine does.
//!
//! The way: `roots` → this walk, level by level (what an object refers to:
//! `edges`) → `paths` (ways, not objects: all items of an array are one) → [`Holder`]s, each with what is reached through it first.
//!
//! That is not quite what would be freed if it went: something else may hold a part of it too, by a longer way.

mod edges;
mod paths;
mod roots;

use std::time::Instant;

use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

use super::layout::{HeapError, HeapLayout};
use super::objects::{Census, Kind};
use super::sizes::Sizes;
use super::{HeapEnd, Spending};
use crate::object::number;
use crate::pages::Pages;
use paths::{Label, Paths};

pub use paths::{Holder, Names};

/// Pages of the process that are kept: 128 MiB.
const MAX_PAGES: usize = 1 << 15;
/// Objects of one level, 16 bytes each: 512 MiB at most, twice.
const MAX_LEVEL: usize = 1 << 25;
/// Words in bytecode that are remembered, to tell names from data.
const MAX_WORDS: usize = 1 << 20;

/// Who holds what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// Holders, each behind the one that it is a part of.
    pub all: Vec<Holder>,
    /// Objects that were reached.
    pub reached: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that contradict themselves.
    pub torn: u64,
    /// Whether all was seen.
    pub end: HeapEnd,
}

impl Holders {
    /// Follows all references from the roots.
    pub fn find(
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        names: Names,
        spending: &mut Spending<'_>,
    ) -> Result<Self, HeapError> {
        let roots = roots::roots(memory, heap)?;
        let mut walk = Walk {
            memory,
            heap,
            pages: Pages::new(memory, MAX_PAGES),
            sizes: Sizes::new(memory, heap),
            seen: Seen::default(),
            paths: Paths::default(),
            words: FxHashSet::default(),
            next: Vec::new(),
            torn: 0,
            deadline: spending.deadline,
            is_late: false,
        };
        // what has a name is that name's, though a stack may be a shorter way to it
        let mut end = HeapEnd::Complete;
        for stage in roots {
            for root in stage {
                let path = walk.paths.root(root.name);
                walk.refer(root.object, path);
            }
            end = end.and(walk.follow(spending));
        }
        let holders = walk.paths.holders(memory, heap, &walk.words, names);
        Ok(Self {
            reached: holders.iter().map(|holder| holder.count).sum(),
            bytes: holders.iter().map(|holder| holder.bytes).sum(),
            all: holders,
            torn: walk.torn,
            end,
        })
    }

    /// Bytes of objects that no way leads to: garbage, and what only the VM itself refers to.
    pub fn not_reached(&self, census: &Census) -> u64 {
        let objects: u64 = Kind::ALL.iter().map(|&kind| census.of(kind).bytes).sum();
        objects.saturating_sub(self.bytes)
    }
}

/// Which objects were met: a bit for each 8 bytes of the pages that have any, 64 bytes for a page.
#[derive(Default)]
struct Seen {
    pages: FxHashMap<u64, [u64; 8]>,
}

impl Seen {
    /// Is it met for the first time?
    fn is_new(&mut self, at: u64) -> bool {
        let (page, slot) = (at >> 12, at >> 3 & 511);
        let word = self.pages.entry(page).or_default();
        let (index, bit) = ((slot / 64) as usize, 1 << (slot % 64));
        match word.get_mut(index) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }
}

/// An object that is referred to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    at: u64,
    path: u32,
    kind: Kind,
}

struct Walk<'a, M> {
    memory: &'a M,
    heap: &'a HeapLayout,
    pages: Pages<'a, M>,
    sizes: Sizes,
    seen: Seen,
    paths: Paths,
    /// Strings that are constants of bytecode, by address.
    words: FxHashSet<u64>,
    /// The next level.
    next: Vec<Reference>,
    torn: u64,
    /// One object may be as large as the whole heap.
    deadline: Option<Instant>,
    is_late: bool,
}

impl<M: RemoteMemory> Walk<'_, M> {
    fn refer(&mut self, (at, kind): (u64, Kind), path: u32) {
        if at != 0 && at.is_multiple_of(8) && self.next.len() <= MAX_LEVEL && self.seen.is_new(at) {
            self.next.push(Reference { at, path, kind });
        }
    }

    /// A part of what a path leads to.
    fn refer_to(&mut self, object: (u64, Kind), path: u32, label: Label) {
        let (at, _) = object;
        if at != 0 && at.is_multiple_of(8) {
            let path = self.paths.part(path, label);
            self.refer(object, path);
        }
    }

    fn follow(&mut self, spending: &mut Spending<'_>) -> HeapEnd {
        while !self.next.is_empty() {
            if self.next.len() > MAX_LEVEL {
                return HeapEnd::Budget;
            }
            let mut level = std::mem::take(&mut self.next);
            level.sort_unstable();
            for reference in level {
                if !spending.one_more() {
                    return HeapEnd::Budget;
                }
                self.visit(reference);
                if self.is_late {
                    return HeapEnd::Budget;
                }
            }
        }
        HeapEnd::Complete
    }

    fn visit(&mut self, Reference { at, path, kind }: Reference) {
        let gct = at.checked_add(self.heap.layout.fields().gct.into());
        let is_it = gct.and_then(|gct| self.pages.byte(gct)).and_then(Kind::of) == Some(kind);
        let bytes = match kind {
            _ if !is_it => None,
            Kind::String => self.string_bytes(at),
            _ => self.sizes.of(&mut self.pages, self.heap, at, kind),
        };
        let Some(bytes) = bytes else {
            self.torn += 1;
            return;
        };
        self.paths.add(path, bytes);
        if self.edges(at, path, kind).is_none() {
            self.torn += 1;
        }
    }

    fn string_bytes(&mut self, at: u64) -> Option<u64> {
        let mut bytes = [0; 4];
        self.pages
            .read(at.checked_add(self.heap.string.len().into())?, &mut bytes)?;
        Some(self.heap.string.bytes(number::<4>(&bytes, 0)? as u32))
    }
}
