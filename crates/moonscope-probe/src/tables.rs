//! Unwind tables in the kernel's reach: one for each executable file, shared by all processes that map it.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use moonscope_unwind::{RuleSet, Table, abi};

use crate::limits::Limits;
use crate::shared_array::SharedArray;
use crate::slices::Slices;

/// Position of a table in `ms_tables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableSlot(pub u32);

/// A loaded table and what it occupies.
#[derive(Debug)]
pub struct LoadedTable {
    /// What mappings refer to.
    pub slot: TableSlot,
    words: Range<usize>,
}

/// The shared arrays `ms_words`, `ms_rules` and `ms_tables`, and who uses which part.
#[derive(Debug)]
pub struct TableStore {
    /// Rules of all tables; numbers are never given back.
    pub rules: RuleSet,
    published_rules: usize,
    rule_array: SharedArray<abi::ms_rule>,
    word_array: SharedArray<u32>,
    table_array: SharedArray<abi::ms_table>,
    words: Slices,
    slots: Slices,
    used_words: usize,
}

impl TableStore {
    /// Maps the arrays of a loaded object.
    pub fn new(words: impl AsFd, rules: impl AsFd, tables: impl AsFd, limits: &Limits) -> io::Result<Self> {
        let mut store = Self {
            rules: RuleSet::new(),
            published_rules: 0,
            rule_array: SharedArray::map(rules, abi::MS_MAX_RULES as usize)?,
            word_array: SharedArray::map(words, limits.words)?,
            table_array: SharedArray::map(tables, limits.tables)?,
            words: Slices::new(limits.words),
            slots: Slices::new(limits.tables),
            used_words: 0,
        };
        store.publish_rules();
        Ok(store)
    }

    /// Bytes of rows and pages in use.
    pub fn used_bytes(&self) -> usize {
        self.used_words * 4
    }

    /// Makes a table visible to the kernel side; `None` if there is no room.
    pub fn load(&mut self, table: &Table) -> Option<LoadedTable> {
        self.publish_rules();
        let words = self.words.take(table.pages.len() + table.rows.len())?;
        let Some(slot) = self.slots.take(1) else {
            self.words.give(words);
            return None;
        };
        let rows_at = words.start + table.pages.len();
        self.word_array.write(words.start, &table.pages);
        self.word_array.write(rows_at, &table.rows);
        // Only now something refers to the words.
        self.table_array.write(slot.start, &[abi::ms_table {
            base: table.base,
            nr_pages: (table.pages.len() - 1) as u32,
            pages: words.start as u32,
            rows: rows_at as u32,
            nr_rows: table.rows.len() as u32,
            state: abi::MS_TABLE_ROWS,
            unused: 0,
        }]);
        self.used_words += words.len();
        Some(LoadedTable { slot: TableSlot(slot.start as u32), words })
    }

    /// A table that says: this file has no unwind information, follow frame pointers.
    pub fn load_without_info(&mut self) -> Option<LoadedTable> {
        let slot = self.slots.take(1)?;
        self.table_array.write(slot.start, &[abi::ms_table { state: abi::MS_TABLE_NO_INFO, ..Default::default() }]);
        Some(LoadedTable { slot: TableSlot(slot.start as u32), words: 0..0 })
    }

    /// Takes a table away. Mappings that still refer to it find it empty, until its place is used again.
    pub fn unload(&mut self, table: LoadedTable) {
        let slot = table.slot.0 as usize;
        self.table_array.write(slot, &[abi::ms_table { state: abi::MS_TABLE_EMPTY, ..Default::default() }]);
        self.used_words -= table.words.len();
        self.words.give(table.words);
        self.slots.give(slot..slot + 1);
    }

    fn publish_rules(&mut self) {
        let new = &self.rules.as_slice()[self.published_rules..];
        self.rule_array.write(self.published_rules, new);
        self.published_rules = self.rules.len();
    }
}
