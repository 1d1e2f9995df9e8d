//! All objects of a VM but its strings, and what they and the strings take in all.
//!
//! They are on the list `gc.root`, the newest first; its last but userdata is the main coroutine. Open upvalues are on lists of their
//! coroutines, and what waits for its finalizer on a circle, `gc.mmudata` (lj_gc.c, lj_func.c).

use std::time::Instant;

use moonscope_process::RemoteMemory;

use super::layout::{HeapError, HeapLayout};
use super::own::Own;
use super::sizes::Sizes;
use super::state::Collector;
use super::strings::Strings;
use super::{HeapBudget, HeapEnd, Spending};
use crate::layout::GcMode;
use crate::pages::Pages;

/// Pages of the process that are kept while a list is followed: 256 MiB.
const MAX_PAGES: usize = 1 << 16;
/// How often a list that changed under our eyes is read; more often while that takes no time.
const TRIES: u32 = 3;
/// Upvalues of one coroutine and objects that wait for finalizers: the lists lead nowhere if there are more.
const MAX_UPVALUES: u64 = 1 << 17;
const MAX_WAITING: u64 = 1 << 24;

/// What an object is, by its type byte (`~LJ_T*`, lj_obj.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A string.
    String,
    /// A variable of a function that outlives it.
    Upvalue,
    /// A coroutine, with its stack.
    Thread,
    /// Bytecode, with what belongs to it.
    Prototype,
    /// A function: of bytecode, of C, or built in.
    Function,
    /// Compiled code, as its compiler keeps it; its machine code is elsewhere.
    Trace,
    /// A value of a C type.
    Cdata,
    /// A table, with its array and its nodes.
    Table,
    /// A userdata, with its content.
    Userdata,
}

impl Kind {
    /// All, in the order of their type bytes.
    pub const ALL: [Self; 9] = [
        Self::String,
        Self::Upvalue,
        Self::Thread,
        Self::Prototype,
        Self::Function,
        Self::Trace,
        Self::Cdata,
        Self::Table,
        Self::Userdata,
    ];

    /// By its type byte.
    pub(crate) fn of(gct: u8) -> Option<Self> {
        const FIRST: u8 = crate::value::gct::STRING;
        Self::ALL.get(usize::from(gct.checked_sub(FIRST)?)).copied()
    }

    /// Its name, in the plural.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "strings",
            Self::Upvalue => "upvalues",
            Self::Thread => "threads",
            Self::Prototype => "prototypes",
            Self::Function => "functions",
            Self::Trace => "traces",
            Self::Cdata => "cdata",
            Self::Table => "tables",
            Self::Userdata => "userdata",
        }
    }
}

/// Objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfKind {
    /// How many.
    pub count: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes of the largest.
    pub largest: u64,
    /// Its address.
    pub largest_at: u64,
    /// Bytes of the smallest.
    pub smallest: u64,
}

impl OfKind {
    pub(super) fn add(&mut self, at: u64, bytes: u64) {
        if self.count == 0 || bytes < self.smallest {
            self.smallest = bytes;
        }
        if bytes > self.largest {
            (self.largest, self.largest_at) = (bytes, at);
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Objects but strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    kinds: [OfKind; Kind::ALL.len()],
    /// Objects that contradict themselves: changed while they were read, or freed. Their sizes are not known.
    pub torn: u64,
    /// Bytes that were read.
    pub read: u64,
}

impl Objects {
    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> OfKind {
        self.kinds.get(kind as usize).copied().unwrap_or_default()
    }

    /// Looks at all of them.
    pub fn read(
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        spending: &mut Spending<'_>,
    ) -> Result<(Self, HeapEnd), HeapError> {
        let sizes = Sizes::new(memory, heap);
        let mut best = Self::default();
        let (since, mut tries) = (Instant::now(), 0);
        while tries < TRIES || since.elapsed() < spending.budget.patience {
            tries += 1;
            let fields = heap.layout.fields();
            let root = heap.gc + u32::from(fields.gc_root);
            let (Some(root), Some(waiting)) = (
                heap.reference(memory, root),
                heap.reference(memory, heap.gc + u32::from(fields.gc_mmudata)),
            ) else {
                return Err(HeapError::Unreadable { g: heap.g });
            };
            let mut walk = Walk {
                pages: Pages::new(memory, MAX_PAGES),
                heap,
                sizes: &sizes,
                found: Self::default(),
                has_main: false,
            };
            let end = match walk.list(root, spending) {
                // in pages that are from different moments a list may lead back to itself
                ListEnd::Circle => continue,
                ListEnd::End if walk.has_main => walk.circle(waiting, spending),
                ListEnd::Budget => HeapEnd::Budget,
                ListEnd::End | ListEnd::Broken => HeapEnd::Changed,
            };
            walk.found.read = walk.pages.bytes();
            if end != HeapEnd::Changed {
                return Ok((walk.found, end));
            }
            if walk.found.count() >= best.count() {
                best = walk.found;
            }
        }
        Ok((best, HeapEnd::Changed))
    }

    fn count(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.count).sum()
    }
}

/// How a list ended.
enum ListEnd {
    End,
    Broken,
    Circle,
    Budget,
}

struct Walk<'a, M> {
    pages: Pages<'a, M>,
    heap: &'a HeapLayout,
    sizes: &'a Sizes,
    found: Objects,
    /// The main coroutine was on the list.
    has_main: bool,
}

impl<M: RemoteMemory> Walk<'_, M> {
    /// Follows the list of all objects to its end, which the main coroutine and userdata behind it are. Finds out that it is a
    /// circle by looking out for an object that it passed, a later one each time it has gone twice as far.
    fn list(&mut self, mut at: u64, spending: &mut Spending<'_>) -> ListEnd {
        let (mut count, mut passed) = (0u64, 0);
        while at != 0 {
            let Some((next, kind)) = self.header(at) else {
                return ListEnd::Broken;
            };
            if at == passed {
                return ListEnd::Circle;
            }
            count += 1;
            if count.is_power_of_two() {
                passed = at;
            }
            if !spending.one_more() {
                return ListEnd::Budget;
            }
            self.has_main |= at == self.heap.main;
            self.add(at, kind);
            if kind == Kind::Thread {
                match self.upvalues(at, spending) {
                    HeapEnd::Complete => {}
                    HeapEnd::Changed => return ListEnd::Broken,
                    HeapEnd::Budget => return ListEnd::Budget,
                }
            }
            at = next;
        }
        ListEnd::End
    }

    fn upvalues(&mut self, thread: u64, spending: &mut Spending<'_>) -> HeapEnd {
        let at = thread.checked_add(self.heap.layout.fields().l_openupval.into());
        let mut at = at.and_then(|at| self.reference(at)).unwrap_or(0);
        for _ in 0..MAX_UPVALUES {
            if at == 0 {
                return HeapEnd::Complete;
            }
            let Some((next, Kind::Upvalue)) = self.header(at) else {
                return HeapEnd::Changed;
            };
            if !spending.one_more() {
                return HeapEnd::Budget;
            }
            self.add(at, Kind::Upvalue);
            at = next;
        }
        HeapEnd::Changed
    }

    /// `last` is an object on a circle.
    fn circle(&mut self, last: u64, spending: &mut Spending<'_>) -> HeapEnd {
        let mut at = last;
        for _ in 0..MAX_WAITING {
            if at == 0 {
                return HeapEnd::Complete;
            }
            let Some((next, kind)) = self.header(at) else {
                return HeapEnd::Changed;
            };
            if !spending.one_more() {
                return HeapEnd::Budget;
            }
            self.add(at, kind);
            if next == last {
                return HeapEnd::Complete;
            }
            at = next;
        }
        HeapEnd::Changed
    }

    fn add(&mut self, at: u64, kind: Kind) {
        match self.sizes.of(&mut self.pages, self.heap, at, kind) {
            Some(bytes) => {
                if let Some(of_kind) = self.found.kinds.get_mut(kind as usize) {
                    of_kind.add(at, bytes);
                }
            }
            None => self.found.torn += 1,
        }
    }

    /// The next object and the kind of this one, if this can be one on a list.
    fn header(&mut self, at: u64) -> Option<(u64, Kind)> {
        if at == 0 || !at.is_multiple_of(8) {
            return None;
        }
        let next = self.reference(at)?;
        let gct = at.checked_add(self.heap.layout.fields().gct.into())?;
        let kind = Kind::of(self.pages.byte(gct)?)?;
        (kind != Kind::String).then_some((next, kind))
    }

    fn reference(&mut self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let len = usize::from(self.heap.layout.fields().ref_size);
        self.pages.read(at, bytes.get_mut(..len)?)?;
        Some(match self.heap.layout.mode {
            GcMode::Gc64 => GcMode::Gc64.reference(u64::from_le_bytes(bytes)),
            GcMode::Gc32 => u64::from_le_bytes(bytes),
        })
    }
}

/// A whole heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// Strings.
    pub strings: Strings,
    /// Other objects.
    pub objects: Objects,
    /// What the VM has besides objects.
    pub own: Own,
    /// `gc.total` before and after.
    pub total: (u64, u64),
    /// Whether all was seen.
    pub end: HeapEnd,
}

impl Census {
    /// Looks at everything. `progress` is told how many objects were looked at, now and then.
    pub fn take(
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        budget: HeapBudget,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, HeapError> {
        let mut spending = Spending::new(budget, progress);
        let before = Collector::read(memory, heap)?.total;
        let (objects, end) = Objects::read(memory, heap, &mut spending)?;
        let (strings, strings_end) = Strings::read(memory, heap, &mut spending)?;
        let own = Own::read(memory, heap);
        let after = Collector::read(memory, heap)?.total;
        Ok(Self {
            strings,
            objects,
            own,
            total: (before, after),
            end: end.and(strings_end),
        })
    }

    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> OfKind {
        match kind {
            Kind::String => self.strings.all,
            _ => self.objects.of(kind),
        }
    }

    /// Bytes of everything that was found.
    pub fn bytes(&self) -> u64 {
        let objects: u64 = Kind::ALL.iter().map(|&kind| self.of(kind).bytes).sum();
        objects.saturating_add(self.own.bytes())
    }

    /// What the VM counts beyond what was found, less if there is less of it. A VM that stands still has some hundred bytes of
    /// which no list leads to.
    pub fn unexplained(&self) -> i64 {
        self.total
            .1
            .cast_signed()
            .wrapping_sub(self.bytes().cast_signed())
    }

    /// What contradicted itself.
    pub fn torn(&self) -> u64 {
        self.objects.torn + self.strings.torn
    }
}
