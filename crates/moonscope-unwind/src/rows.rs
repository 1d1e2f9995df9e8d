//! Writes rows and page words as `bpf/abi.h` describes them.

use crate::abi;
use crate::rules::fixed;

const PAGE_SHIFT: u32 = abi::MS_PAGE_SHIFT;

/// Rows of one table (4 bytes each). libLLVM-14 has 0.9 million.
pub(crate) const MAX_ROWS: usize = 32 << 20;

/// Takes (address, rule) in rising order and keeps only what changes the rule in force.
pub(crate) struct RowWriter {
    base: u64,
    nr_pages: usize,
    pages: Vec<u32>,
    rows: Vec<u32>,
    written: Option<u16>,
    /// The last row, which the next one may still replace.
    pending: (u64, u16),
    overflow: bool,
}

impl RowWriter {
    /// A writer for the pages from `base` to `end`, whose row 0 is a hole; room for about `expected` rows.
    pub(crate) fn new(base: u64, end: u64, expected: usize) -> Self {
        let nr_pages = (end - base).div_ceil(1 << PAGE_SHIFT) as usize;
        RowWriter {
            base,
            nr_pages,
            pages: Vec::with_capacity(nr_pages + 1),
            rows: Vec::with_capacity(expected.min(MAX_ROWS)),
            written: None,
            pending: (base, fixed::HOLE),
            overflow: false,
        }
    }

    /// From `address` on, rule `number` is in force.
    pub(crate) fn push(&mut self, address: u64, number: u16) {
        debug_assert!(address >= self.pending.0);
        if address > self.pending.0 {
            if number == self.pending.1 {
                return;
            }
            self.write();
        }
        self.pending = (address, number);
    }

    fn write(&mut self) {
        let (address, number) = self.pending;
        if self.written == Some(number) {
            return;
        }
        if self.rows.len() >= MAX_ROWS {
            self.overflow = true;
            return;
        }
        let offset = address - self.base;
        let page = (offset >> PAGE_SHIFT) as usize;
        if page >= self.nr_pages {
            // the hole behind code that fills the last page: no search gets there
            return;
        }
        self.fill_pages(page + 1);
        self.rows.push(((offset as u32) << 16) | u32::from(number));
        self.written = Some(number);
    }

    /// Gives every page up to `count` its first row, which is the next one written.
    fn fill_pages(&mut self, count: usize) {
        let next = self.rows.len() as u32;
        if self.pages.len() < count {
            self.pages.resize(count, next);
        }
    }

    /// Page words and row words; `None` if there were too many rows.
    pub(crate) fn finish(mut self) -> Option<(Vec<u32>, Vec<u32>)> {
        self.write();
        self.fill_pages(self.nr_pages + 1);
        self.rows.shrink_to_fit();
        (!self.overflow).then_some((self.pages, self.rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(offset: u32, number: u16) -> u32 {
        (offset << 16) | u32::from(number)
    }

    #[test]
    fn only_changes_are_written() {
        let mut writer = RowWriter::new(0x1000, 0x1100, 8);
        writer.push(0x1010, 7);
        writer.push(0x1018, 7);
        writer.push(0x1020, 8);
        writer.push(0x1020, 7); // replaces the row before, which then says nothing new
        writer.push(0x1030, fixed::HOLE);
        let (pages, rows) = writer.finish().unwrap();
        assert_eq!(rows, [word(0, 0), word(0x10, 7), word(0x30, 0)]);
        assert_eq!(pages, [0, 3]);
    }

    #[test]
    fn pages_without_rows_point_at_the_next_row() {
        let mut writer = RowWriter::new(0, 0x1801, 8);
        writer.push(0, 5);
        writer.push(0x1401, 6);
        let (pages, rows) = writer.finish().unwrap();
        assert_eq!(rows, [word(0, 5), word(0x1401, 6)]);
        assert_eq!(pages, [0, 1, 1, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_hole_behind_the_last_page_is_not_written() {
        let mut writer = RowWriter::new(0, 0x400, 8);
        writer.push(0, 5);
        writer.push(0x400, fixed::HOLE);
        assert_eq!(writer.finish().unwrap(), (vec![0, 1], vec![word(0, 5)]));
    }

    #[test]
    fn the_upper_bits_of_an_address_are_left_to_the_page() {
        let mut writer = RowWriter::new(0x40_0000, 0x42_0000, 8);
        writer.push(0x41_0004, 9);
        let (pages, rows) = writer.finish().unwrap();
        assert_eq!(rows, [word(0, 0), word(4, 9)]);
        assert_eq!(pages.len(), 129);
        assert_eq!((pages[63], pages[64], pages[65]), (1, 1, 2));
    }
}
