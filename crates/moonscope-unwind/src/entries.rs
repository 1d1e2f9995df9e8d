//! The entries of one section of unwind information: finds them, and runs them into rules.
//!
//! Entries are found by their lengths alone, so that one that does not parse costs only itself, and a zero
//! entry in the middle (object files linked after `crtend.o`) does not hide those behind it.

use gimli::{BaseAddresses, CommonInformationEntry, UnwindSection};
use rustc_hash::FxHashMap;

use crate::cfi::{self, Program, Row, Slice};
use crate::convert;
use crate::eh_return;
use crate::rules::{RuleSet, fixed};
use crate::sections::Code;
use crate::table_stats::TableStats;

/// Entries that are looked at, with those that say nothing: a section of zeros has one in four bytes, and a file of a terabyte
/// takes no disk.
const MAX_HEADERS: usize = 4 * MAX_ENTRIES;

/// FDEs of one file (40 bytes each while its table is built). Chromium has about a million.
const MAX_ENTRIES: usize = 4 << 20;

/// Parsed CIEs that are kept (about 700 bytes each). Linkers leave less than a hundred.
const MAX_CIES: usize = 512;

/// The code that one FDE speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where the FDE starts in its section.
    pub(crate) offset: usize,
}

/// Which of the two sections; they tell a CIE from an FDE differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    EhFrame,
    DebugFrame,
}

#[derive(Clone)]
struct Cie<'a> {
    entry: CommonInformationEntry<Slice<'a>>,
    /// The row that its initial instructions make; `None` if they are invalid.
    initial: Option<Row>,
}

/// A section that entries are read from.
pub(crate) struct Reader<'a, S> {
    section: S,
    bytes: &'a [u8],
    bases: BaseAddresses,
    cies: FxHashMap<usize, Cie<'a>>,
    /// Bytes of entries that may still be looked at. Honest sections are looked at twice; this bounds the
    /// time that overlapping or repeatedly referenced entries can cost.
    budget: u64,
}

impl<'a, S> Reader<'a, S>
where
    S: UnwindSection<Slice<'a>>,
    S::Offset: From<usize>,
{
    pub(crate) fn new(section: S, bytes: &'a [u8], bases: BaseAddresses) -> Self {
        let budget = 4 * bytes.len() as u64 + (1 << 18);
        Reader {
            section,
            bytes,
            bases,
            cies: FxHashMap::default(),
            budget,
        }
    }

    /// All FDEs whose code lies in `code`, clipped to it, in the order of the section.
    pub(crate) fn entries(
        &mut self,
        kind: Kind,
        exact_end: bool,
        code: &[Code],
        stats: &mut TableStats,
    ) -> Vec<Entry> {
        let mut found = Vec::new();
        let (mut at, mut headers) = (0, 0);
        while let Some(header) = Header::read(self.bytes, at, kind) {
            let offset = at;
            at = header.end;
            headers += 1;
            if headers > MAX_HEADERS {
                stats.over_budget += 1;
                return found;
            }
            match header.content {
                Content::Terminator if exact_end => continue,
                Content::Terminator => return found,
                Content::Cie => continue,
                Content::Fde => {}
            }
            if found.len() >= MAX_ENTRIES {
                stats.over_budget += 1;
                return found;
            }
            let Some(fde) = self.fde(offset) else {
                stats.broken_entries += 1;
                continue;
            };
            match clip(fde.initial_address(), fde.len(), code) {
                Some((start, end)) => found.push(Entry { start, end, offset }),
                None => stats.outside_code += 1,
            }
        }
        if at < self.bytes.len() {
            stats.broken_entries += 1;
        }
        found
    }

    fn fde(&mut self, offset: usize) -> Option<gimli::FrameDescriptionEntry<Slice<'a>>> {
        let Reader {
            section,
            bases,
            cies,
            budget,
            ..
        } = self;
        let fde = section
            .fde_from_offset(bases, S::Offset::from(offset), |section, bases, cie| {
                let place = gimli::UnwindOffset::into(cie);
                if let Some(cie) = cies.get(&place) {
                    return Ok(cie.entry.clone());
                }
                let entry = section.cie_from_offset(bases, cie)?;
                *budget = budget.saturating_sub(entry.entry_len() as u64);
                let initial = initial_row(section, bases, &entry);
                if cies.len() >= MAX_CIES {
                    cies.clear();
                }
                cies.insert(
                    place,
                    Cie {
                        entry: entry.clone(),
                        initial,
                    },
                );
                Ok(entry)
            })
            .ok()?;
        *budget = budget.saturating_sub(fde.entry_len() as u64);
        (*budget > 0 && fde.cie().address_size() == 8).then_some(fde)
    }

    /// Runs the FDE at `offset` and calls `row` with each address in `[start, end)` at which a rule begins
    /// to hold, and the rule's number; the first call is for `start`. Says where the function leaves by
    /// `__builtin_eh_return`, if it does.
    pub(crate) fn rules(
        &mut self,
        entry: Entry,
        rules: &mut RuleSet,
        stats: &mut TableStats,
        mut row: impl FnMut(u64, u16),
    ) -> Option<u64> {
        let Entry { start, end, offset } = entry;
        // it was parsed before, so only the budget is left to fail, or a file that changes meanwhile
        let Some(fde) = self.fde(offset).filter(|fde| fde.initial_address() <= start) else {
            stats.over_budget += 1;
            row(start, fixed::UNSUPPORTED);
            return None;
        };
        let signal = fde.is_signal_trampoline();
        let initial = self.cies.get(&fde.cie().offset()).and_then(|cie| cie.initial);
        let Some(initial) = initial else {
            stats.unsupported.invalid += 1;
            row(start, fixed::UNSUPPORTED);
            return None;
        };
        let program = Program {
            instructions: fde.instructions(&self.section, &self.bases),
            code_align: fde.cie().code_alignment_factor(),
            data_align: fde.cie().data_alignment_factor(),
        };
        // the row in force where the piece starts may begin before it
        let mut pending = None;
        let mut leaves_at = None;
        let result = cfi::rows(program, &initial, fde.initial_address(), |at, state| {
            if at >= end {
                return;
            }
            if let Some((at, number)) = pending.take_if(|_| at > start) {
                row(at, number);
            }
            if leaves_at.is_none() && eh_return::leaves(state) {
                leaves_at = Some(at);
            }
            let number = match convert::rule(state, signal, self.bytes) {
                Ok(rule) => {
                    stats.rows_with_lost_registers +=
                        u32::from(rule.saved.contains(&(crate::abi::MS_SAVED_LOST as i8)));
                    rules.intern(rule)
                }
                Err(why) => {
                    stats.unsupported.count(why);
                    fixed::UNSUPPORTED
                }
            };
            pending = Some((at.max(start), number));
        });
        let broken_from = match result {
            Ok(()) => None,
            Err(invalid) => Some(invalid.from.max(start)).filter(|&from| from < end),
        };
        if let Some((at, number)) = pending.filter(|&(at, _)| broken_from.is_none_or(|from| at < from)) {
            row(at, number);
        }
        if let Some(from) = broken_from {
            stats.unsupported.invalid += 1;
            row(from, fixed::UNSUPPORTED);
        }
        leaves_at
    }
}

fn initial_row<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    cie: &CommonInformationEntry<Slice<'a>>,
) -> Option<Row> {
    if cie.return_address_register() != gimli::X86_64::RA {
        return None;
    }
    let program = Program {
        instructions: cie.instructions(section, bases),
        code_align: cie.code_alignment_factor(),
        data_align: cie.data_alignment_factor(),
    };
    cfi::initial_row(program).ok()
}

/// The part of an FDE's range that is code; an FDE of removed code (its address is 0 then) has none.
pub(crate) fn clip(start: u64, len: u64, code: &[Code]) -> Option<(u64, u64)> {
    let index = code
        .partition_point(|range| range.start <= start)
        .checked_sub(1)?;
    let end = start.saturating_add(len).min(code.get(index)?.end);
    (start < end).then_some((start, end))
}

enum Content {
    Terminator,
    Cie,
    Fde,
}

struct Header {
    content: Content,
    end: usize,
}

impl Header {
    /// The entry at `at`; `None` at the end of the section or where the length leads outside of it.
    fn read(bytes: &[u8], at: usize, kind: Kind) -> Option<Header> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?));
        let (length, body, is_64_bit) = match word(at)? {
            0 => {
                return Some(Header {
                    content: Content::Terminator,
                    end: at + 4,
                });
            }
            u32::MAX => (usize::try_from(long(at + 4)?).ok()?, at + 12, true),
            length => (length as usize, at + 4, false),
        };
        let end = body.checked_add(length).filter(|&end| end <= bytes.len())?;
        let is_cie = match (kind, is_64_bit) {
            (Kind::EhFrame, _) => word(body)? == 0,
            (Kind::DebugFrame, false) => word(body)? == u32::MAX,
            (Kind::DebugFrame, true) => long(body)? == u64::MAX,
        };
        Some(Header {
            content: if is_cie { Content::Cie } else { Content::Fde },
            end,
        })
    }
}
