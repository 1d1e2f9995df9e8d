//! Unwind tables in the kernel's reach: one for each executable file, shared by all processes that map it.

use std::ops::Range;

use moonscope_unwind::{Table, abi};

use crate::error::ProbeError;
use crate::limits::Limits;
use crate::shared_array::SharedArray;
use crate::slices::Slices;

/// Position of a table in `ms_tables`, which mappings refer to. Empty until it is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableSlot(pub u32);

/// The shared arrays `ms_words`, `ms_rules` and `ms_tables`, and who uses which part.
#[derive(Debug)]
pub struct TableStore {
    rules: usize,
    rule_array: SharedArray<abi::ms_rule>,
    word_array: SharedArray<u32>,
    table_array: SharedArray<abi::ms_table>,
    layouts: usize,
    layout_array: SharedArray<abi::ms_lua_layout>,
    all_words: usize,
    words: Slices,
    slots: Slices,
}

impl TableStore {
    /// Takes the arrays of a loaded object, which must outlive the store.
    pub fn new(object: &libbpf_rs::Object, limits: &Limits) -> Result<Self, ProbeError> {
        Ok(Self {
            rules: 0,
            rule_array: SharedArray::of_section(object, ".bss.rules")?,
            word_array: SharedArray::of_section(object, ".bss.words")?,
            table_array: SharedArray::of_section(object, ".bss.tables")?,
            layouts: 0,
            layout_array: SharedArray::of_section(object, ".bss.layouts")?,
            words: Slices::new(limits.words),
            slots: Slices::new(limits.tables),
            all_words: limits.words,
        })
    }

    /// Bytes of rows and pages in use.
    pub fn used_bytes(&self) -> usize {
        (self.all_words - self.words.room()) * 4
    }

    /// Words that no table uses, side by side or not.
    pub fn free_words(&self) -> usize {
        self.words.room()
    }

    /// Places that no file has.
    pub fn free_slots(&self) -> usize {
        self.slots.room()
    }

    /// Words that a table takes.
    pub fn words_of(table: &Table) -> usize {
        table.pages.len() + table.rows.len()
    }

    /// Appends rules; their numbers are never given back.
    pub fn add_rules(&mut self, new: &[abi::ms_rule]) {
        self.rule_array.write(self.rules, new);
        self.rules += new.len();
    }

    /// Appends layouts of LuaJIT, which tables refer to by number.
    pub fn add_lua_layouts(&mut self, new: &[abi::ms_lua_layout]) {
        self.layout_array.write(self.layouts, new);
        self.layouts += new.len();
    }

    /// A place for a table; `None` if there are too many.
    pub fn reserve(&mut self) -> Option<TableSlot> {
        let slot = self.slots.take(1)?;
        self.table_array.write(
            slot.start,
            &[abi::ms_table {
                state: abi::MS_TABLE_EMPTY,
                ..Default::default()
            }],
        );
        Some(TableSlot(slot.start as u32))
    }

    /// Fills a reserved place, whose rules were added before. `None` if the words do not fit; else what
    /// [`TableStore::release`] wants to know.
    pub fn fill(&mut self, slot: TableSlot, table: &Table) -> Option<Range<usize>> {
        let words = self.words.take(Self::words_of(table))?;
        let rows_at = words.start + table.pages.len();
        self.word_array.write(words.start, &table.pages);
        self.word_array.write(rows_at, &table.rows);
        let mut filled = abi::ms_table {
            base: table.base,
            nr_pages: (table.pages.len() - 1) as u32,
            pages: words.start as u32,
            rows: rows_at as u32,
            nr_rows: table.rows.len() as u32,
            state: abi::MS_TABLE_EMPTY,
            unused: 0,
        };
        // a walk may look at it right now: the state comes last
        self.table_array.write(slot.0 as usize, &[filled]);
        filled.state = abi::MS_TABLE_ROWS;
        self.table_array.write(slot.0 as usize, &[filled]);
        Some(words)
    }

    /// The number of the rule in force at a file virtual address; `None` if the place has no rows.
    pub fn rule_at(&self, slot: TableSlot, vaddr: u64) -> Option<u16> {
        let table = self.table_array.read(slot.0 as usize)?;
        if table.state != abi::MS_TABLE_ROWS {
            return None;
        }
        // as `ms_find_rule` does it (bpf/walk.h)
        let offset = vaddr.checked_sub(table.base)?;
        let page = usize::try_from(offset >> abi::MS_PAGE_SHIFT).ok()?;
        if page >= table.nr_pages as usize {
            return Some(abi::MS_RULE_HOLE as u16);
        }
        let word = |index: usize| self.word_array.read(index);
        let (first, next) = (
            word(table.pages as usize + page)?,
            word(table.pages as usize + page + 1)?,
        );
        let wanted = ((offset as u32) << 16) | 0xffff;
        let inside = (first..next).filter_map(|row| word((table.rows + row) as usize));
        let row = inside.take_while(|&row| row <= wanted).last();
        // a page may begin in the middle of a row
        let row = row.or_else(|| word((table.rows + first.checked_sub(1)?) as usize));
        row.map(|row| (row & 0xffff) as u16)
    }

    /// Says of a reserved place: this file has no unwind information, follow frame pointers.
    pub fn fill_without_info(&mut self, slot: TableSlot) {
        let table = abi::ms_table {
            state: abi::MS_TABLE_NO_INFO,
            ..Default::default()
        };
        self.table_array.write(slot.0 as usize, &[table]);
    }

    /// Gives a place and its words back.
    pub fn release(&mut self, slot: TableSlot, words: Range<usize>) {
        let slot = slot.0 as usize;
        self.table_array.write(
            slot,
            &[abi::ms_table {
                state: abi::MS_TABLE_EMPTY,
                ..Default::default()
            }],
        );
        self.words.give(words);
        self.slots.give(slot..slot + 1);
    }
}
