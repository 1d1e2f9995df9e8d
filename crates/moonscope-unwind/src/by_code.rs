//! Code that nothing describes but that says itself what its frame is.

use crate::abi;
use crate::convert;
use crate::entries::{Entry, clip};
use crate::pieces;
use crate::sections::Sections;
use crate::table_stats::TableStats;
use crate::{clone_gap, entry_point, stack_end};

/// Pieces of code, sorted and without overlaps; the `offset` of each is the place of its rule.
#[derive(Default)]
pub(crate) struct ByCode {
    pub(crate) pieces: Vec<Entry>,
    pub(crate) rules: Vec<abi::ms_rule>,
}

impl ByCode {
    /// All such code of the file `data`, outside of what is described.
    pub(crate) fn find(
        data: &[u8],
        sections: &Sections<'_>,
        described: &[Entry],
        stats: &mut TableStats,
    ) -> ByCode {
        let code = &sections.code;
        let mut ends = stack_end::find(data, code, described);
        ends.extend(entry_point::find(data, code, sections.entry, described));
        stats.stack_ends = ends.len() as u32;
        let gaps = clone_gap::find(data, code, described);
        stats.clone_gaps = gaps.len() as u32;

        let mut found = ByCode::default();
        found.add(ends, convert::root());
        found.add(gaps, convert::clone_gap());
        for pushed in 0..=sections.stubs.iter().map(|stub| stub.pushed).max().unwrap_or(0) {
            let stubs = sections.stubs.iter().filter(|stub| stub.pushed == pushed);
            let stubs = stubs.filter_map(|stub| {
                let (start, end) = clip(stub.start, stub.end - stub.start, code)?;
                Some(Entry {
                    start,
                    end,
                    offset: 0,
                })
            });
            found.add(stubs.collect(), convert::pushed(pushed));
        }
        let (pieces, _) = pieces::disjoint(found.pieces);
        found.pieces = pieces::outside(&pieces, described);
        stats.stubs = found.pieces.iter().filter(|piece| piece.offset >= 2).count() as u32;
        found
    }

    fn add(&mut self, pieces: Vec<Entry>, rule: abi::ms_rule) {
        let offset = self.rules.len();
        self.pieces
            .extend(pieces.into_iter().map(|piece| Entry { offset, ..piece }));
        self.rules.push(rule);
    }
}
