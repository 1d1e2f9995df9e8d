//! The unwind table of one file: what `bpf/walk.h` searches, and the names-free list of its functions.

use std::ops::Range;

use crate::abi;
use crate::by_code::ByCode;
use crate::convert;
use crate::entries::{Entry, Kind, Reader};
use crate::error::UnwindError;
use crate::go_rows::GoRows;
use crate::pieces;
use crate::rows::{MAX_ROWS, RowWriter};
use crate::rules::{RuleSet, fixed};
use crate::sections::{self, FrameSection};
use crate::table_stats::TableStats;
use crate::{eh_return, trampoline};

/// Unwind rows of one executable file, in the words of `bpf/abi.h` (`struct ms_table`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// File virtual address of the first page, page aligned.
    pub base: u64,
    /// One word for each page and one more: the index of the page's first row.
    pub pages: Vec<u32>,
    /// Address (low 16 bits) and rule number of each row.
    pub rows: Vec<u32>,
    /// What the file contained, and what could not be used.
    pub stats: TableStats,
    /// Where functions start, from `base`, sorted.
    functions: Vec<u32>,
    /// And where code starts that nothing describes but has rules.
    undescribed: Vec<u32>,
}

impl Table {
    /// The table of the ELF file `data`, with its rules added to `rules`; `None` if the file has no unwind
    /// information at all, and no code that is known without.
    ///
    /// `.eh_frame` speaks first, `.debug_frame` and then Go's function table for what is left. Code that
    /// none of them describes is a hole.
    /// What does not parse or cannot be expressed is counted in [`Table::stats`].
    pub fn build(data: &[u8], rules: &mut RuleSet) -> Result<Option<Table>, UnwindError> {
        Self::build_counting(data, rules, &mut TableStats::default())
    }

    /// The same; what the file contained is counted in `stats`, also if that makes no table.
    pub fn build_counting(
        data: &[u8],
        rules: &mut RuleSet,
        stats: &mut TableStats,
    ) -> Result<Option<Table>, UnwindError> {
        let sections = sections::find(data)?;
        let code = &sections.code;

        let mut eh_frame = sections.eh_frame.as_ref().map(|section| {
            let FrameSection { data, .. } = section;
            Reader::new(
                gimli::EhFrame::new(data, gimli::LittleEndian),
                data,
                sections.bases(),
            )
        });
        let mut debug_frame = sections.debug_frame.as_ref().map(|section| {
            let mut frames = gimli::DebugFrame::new(&section.data, gimli::LittleEndian);
            frames.set_address_size(8);
            Reader::new(frames, &section.data, gimli::BaseAddresses::default())
        });

        let mut eh_pieces = Vec::new();
        if let (Some(reader), Some(section)) = (&mut eh_frame, &sections.eh_frame) {
            let found = reader.entries(Kind::EhFrame, section.exact_end, code, stats);
            (eh_pieces, stats.overlaps) = pieces::disjoint(found);
        }
        let mut go = sections.gopclntab.as_ref().and_then(GoRows::new);
        let (mut go_pieces, mut go_roots) = (Vec::new(), Vec::new());
        if let Some(table) = &go {
            let (found, _) = pieces::disjoint(table.entries(code));
            go_pieces = pieces::outside(&found, &eh_pieces);
            // .debug_frame has rules for these too, which lead to what an earlier call left on the stack of the thread
            go_roots.extend(
                go_pieces
                    .iter()
                    .filter(|entry| table.is_outermost(entry))
                    .copied(),
            );
        }
        let mut debug_pieces = Vec::new();
        if let Some(reader) = &mut debug_frame {
            let found = reader.entries(Kind::DebugFrame, true, code, stats);
            let (found, overlaps) = pieces::disjoint(found);
            stats.overlaps += overlaps;
            debug_pieces = pieces::outside(&pieces::outside(&found, &eh_pieces), &go_roots);
        }
        go_pieces = pieces::outside(&go_pieces, &debug_pieces);
        stats.eh_frame_entries = eh_pieces.len() as u32;
        stats.go_functions = go_pieces.len() as u32;
        stats.debug_frame_entries = debug_pieces.len() as u32;
        let mut all = tagged(&eh_pieces, Source::EhFrame);
        all.extend(tagged(&debug_pieces, Source::DebugFrame));
        all.extend(tagged(&go_pieces, Source::Go));
        all.sort_unstable_by_key(|piece| piece.0.start);
        let described: Vec<Entry> = all.iter().map(|piece| piece.0).collect();
        let trampolines = trampoline::find(data, code, &described, sections.go);
        stats.trampolines = trampolines.len() as u32;
        let by_code = ByCode::find(data, &sections, &described, stats);
        if described.is_empty() && trampolines.is_empty() && by_code.pieces.is_empty() {
            return Ok(None);
        }
        if !trampolines.is_empty() {
            let (trampolines, _) = pieces::disjoint(trampolines);
            all = tagged(&pieces::outside(&eh_pieces, &trampolines), Source::EhFrame);
            all.extend(tagged(
                &pieces::outside(&debug_pieces, &trampolines),
                Source::DebugFrame,
            ));
            all.extend(tagged(&pieces::outside(&go_pieces, &trampolines), Source::Go));
            all.extend(tagged(&trampolines, Source::Trampoline));
            all.sort_unstable_by_key(|piece| piece.0.start);
        }
        if !by_code.pieces.is_empty() {
            let taken: Vec<Entry> = all.iter().map(|piece| piece.0).collect();
            all.extend(tagged(&pieces::outside(&by_code.pieces, &taken), Source::Code));
            all.sort_unstable_by_key(|piece| piece.0.start);
        }
        stats.described_bytes = all.iter().map(|(piece, _)| piece.end - piece.start).sum();

        let (Some(first), Some(last)) = (code.first(), code.last()) else {
            return Err(UnwindError::NoCode);
        };
        let base = first.start & !u64::from(abi::MS_PAGE_SIZE - 1);
        let bytes = sections.eh_frame.as_ref().map_or(0, |section| section.data.len());
        let mut writer = RowWriter::new(base, last.end, bytes.min(data.len()) / 5);
        let mut frameless = Vec::new();
        for (index, &(piece, source)) in all.iter().enumerate() {
            let row = |at, number| writer.push(at, number);
            let leaves_at = match (source, &mut eh_frame, &mut debug_frame, &mut go) {
                (Source::EhFrame, Some(reader), _, _) => reader.rules(piece, rules, stats, row),
                (Source::DebugFrame, _, Some(reader), _) => reader.rules(piece, rules, stats, row),
                (Source::Go, _, _, Some(table)) => {
                    table.rules(piece, rules, row);
                    None
                }
                (Source::Code, ..) => {
                    writer.push(piece.start, rules.intern(by_code.rules[piece.offset]));
                    None
                }
                _ => {
                    writer.push(piece.start, rules.intern(convert::trampoline()));
                    None
                }
            };
            if let Some(at) = leaves_at {
                let code = sections::code_of(data, code, piece.start..piece.end).unwrap_or_default();
                let part = eh_return::without_frame(piece.start, at, code);
                frameless.extend(part.map(|part| (part, convert::unsupported())));
            }
            if all.get(index + 1).is_none_or(|next| next.0.start > piece.end) {
                writer.push(piece.end, fixed::HOLE);
            }
        }
        let (pages, rows) = writer.finish().ok_or(UnwindError::TooManyRows(MAX_ROWS))?;
        let starts = |pieces: &mut dyn Iterator<Item = &Entry>| {
            let mut starts: Vec<u32> = pieces.map(|piece| (piece.start - base) as u32).collect();
            starts.shrink_to_fit();
            starts
        };
        let functions = starts(&mut described.iter());
        let undescribed = all.iter().filter(|piece| piece.1 == Source::Code);
        let undescribed = starts(&mut undescribed.map(|piece| &piece.0));
        let table = Table {
            base,
            pages,
            rows,
            stats: *stats,
            functions,
            undescribed,
        };
        if frameless.is_empty() {
            return Ok(Some(table));
        }
        table.overlay(rules, &frameless).map(Some)
    }

    /// The same table with other rules for parts of the code: sorted ranges that do not overlap, inside the
    /// executable address range. For code whose unwind information does not say all that there is to say.
    pub fn overlay(
        &self,
        rules: &mut RuleSet,
        parts: &[(Range<u64>, abi::ms_rule)],
    ) -> Result<Table, UnwindError> {
        let end = self.base + (u64::from(self.nr_pages()) << abi::MS_PAGE_SHIFT);
        let mut writer = RowWriter::new(self.base, end, self.rows.len() + 2 * parts.len());
        let mut rows = self.iter_rows().peekable();
        let mut in_force = fixed::HOLE;
        for (range, rule) in parts {
            while let Some((at, number)) = rows.next_if(|&(at, _)| at < range.start) {
                writer.push(at, number);
                in_force = number;
            }
            writer.push(range.start, rules.intern(*rule));
            while let Some((_, number)) = rows.next_if(|&(at, _)| at <= range.end) {
                in_force = number;
            }
            writer.push(range.end, in_force);
        }
        for (at, number) in rows {
            writer.push(at, number);
        }
        let (pages, rows) = writer.finish().ok_or(UnwindError::TooManyRows(MAX_ROWS))?;
        Ok(Table {
            pages,
            rows,
            ..self.clone()
        })
    }

    /// How many pages there are: `nr_pages` of `struct ms_table`.
    pub fn nr_pages(&self) -> u32 {
        self.pages.len().saturating_sub(1) as u32
    }

    /// The number of the rule in force at a file virtual address: the same search as `ms_find_rule` in
    /// `bpf/walk.h`.
    pub fn rule_at(&self, vaddr: u64) -> u16 {
        self.row_at(vaddr)
            .map_or(fixed::HOLE, |row| (self.rows[row] & 0xffff) as u16)
    }

    fn row_at(&self, vaddr: u64) -> Option<usize> {
        let offset = vaddr.checked_sub(self.base)?;
        let page = usize::try_from(offset >> abi::MS_PAGE_SHIFT).ok()?;
        let (first, next) = (
            *self.pages.get(page)? as usize,
            *self.pages.get(page + 1)? as usize,
        );
        let wanted = ((offset as u32) << 16) | 0xffff;
        let rows = self.rows.get(first..next)?;
        (first + rows.partition_point(|&row| row <= wanted)).checked_sub(1)
    }

    /// All rows as (file virtual address, rule number), in order.
    pub fn iter_rows(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        let pages = self.pages.windows(2).enumerate();
        pages.flat_map(move |(page, bounds)| {
            let rows = self
                .rows
                .get(bounds[0] as usize..bounds[1] as usize)
                .unwrap_or_default();
            let upper = (page as u64) << abi::MS_PAGE_SHIFT & !0xffff;
            rows.iter()
                .map(move |row| (self.base + (upper | u64::from(row >> 16)), (row & 0xffff) as u16))
        })
    }

    /// The code of every FDE, sorted: functions, and the parts that a compiler split off them.
    pub fn functions(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        (0..self.functions.len()).filter_map(|index| self.function(index))
    }

    /// The function at a file virtual address.
    pub fn function_at(&self, vaddr: u64) -> Option<Range<u64>> {
        let offset = vaddr.checked_sub(self.base)?;
        let index = self
            .functions
            .partition_point(|&start| u64::from(start) <= offset)
            .checked_sub(1)?;
        self.function(index).filter(|range| range.contains(&vaddr))
    }

    /// A function ends where something else starts or a hole begins.
    fn function(&self, index: usize) -> Option<Range<u64>> {
        let first = *self.functions.get(index)?;
        let start = self.base + u64::from(first);
        let found = self.undescribed.partition_point(|&found| found <= first);
        let next = [self.functions.get(index + 1), self.undescribed.get(found)];
        let next = next.into_iter().flatten().min();
        let next = next.map_or(u64::MAX, |&next| self.base + u64::from(next));
        let row = self.row_at(start)?;
        // rows are looked at page by page, because a row does not carry its upper bits
        let first_page = ((start - self.base) >> abi::MS_PAGE_SHIFT) as usize;
        let hole = (first_page..self.nr_pages() as usize)
            .flat_map(|page| {
                let rows = (self.pages[page] as usize).max(row + 1)..self.pages[page + 1] as usize;
                rows.map(move |row| (page, row))
            })
            .map(|(page, row)| {
                let upper = ((page as u64) << abi::MS_PAGE_SHIFT) & !0xffff;
                (
                    self.base + (upper | u64::from(self.rows[row] >> 16)),
                    (self.rows[row] & 0xffff) as u16,
                )
            })
            .take_while(|&(address, _)| address < next)
            .find(|&(_, number)| number == fixed::HOLE);
        let end_of_pages = self.base + (u64::from(self.nr_pages()) << abi::MS_PAGE_SHIFT);
        let end = hole.map_or(next.min(end_of_pages), |(address, _)| address);
        Some(start..end)
    }

    /// Bytes of memory that the words of this table take in the kernel.
    pub fn kernel_bytes(&self) -> usize {
        4 * (self.pages.len() + self.rows.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    EhFrame,
    DebugFrame,
    Go,
    Trampoline,
    Code,
}

fn tagged(pieces: &[Entry], source: Source) -> Vec<(Entry, Source)> {
    pieces.iter().map(|&piece| (piece, source)).collect()
}
