//! Who speaks for which address: makes sorted ranges without overlaps from entries in any order.

use crate::entries::Entry;

/// Sorts `entries` and cuts them so that no two overlap. Where they did, the one that starts later speaks,
/// and an outer one again behind it; among those with one start, the longest speaks where it is alone.
/// Returns the pieces and how many entries lay within another one.
pub(crate) fn disjoint(mut entries: Vec<Entry>) -> (Vec<Entry>, u32) {
    // most files are in order already
    if entries.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        return (entries, 0);
    }
    entries.sort_by_key(|entry| (entry.start, std::cmp::Reverse(entry.end), entry.offset));
    let mut pieces: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut open: Vec<Entry> = Vec::new();
    let mut overlaps = 0;
    let mut last: Option<Entry> = None;
    for entry in entries {
        if last.is_some_and(|last| (last.start, last.end) == (entry.start, entry.end)) {
            // the same function twice: folded code, or a file linked with its own copy
            overlaps += 1;
            continue;
        }
        last = Some(entry);
        close(&mut open, entry.start, &mut pieces);
        overlaps += u32::from(!open.is_empty());
        open.push(entry);
    }
    close(&mut open, u64::MAX, &mut pieces);
    (pieces, overlaps)
}

/// Writes the pieces of the open entries up to `limit`. The last one opened speaks first.
fn close(open: &mut Vec<Entry>, limit: u64, pieces: &mut Vec<Entry>) {
    while let Some(&top) = open.last() {
        let from = pieces.last().map_or(top.start, |piece| piece.end.max(top.start));
        let end = top.end.min(limit);
        if from < end {
            pieces.push(Entry {
                start: from,
                end,
                ..top
            });
        }
        if top.end > limit {
            return;
        }
        open.pop();
    }
}

/// The parts of `pieces` that `taken` leaves free. Both are sorted and without overlaps.
pub(crate) fn outside(pieces: &[Entry], taken: &[Entry]) -> Vec<Entry> {
    let mut free = Vec::with_capacity(pieces.len());
    let mut taken = taken.iter().peekable();
    for &piece in pieces {
        let mut from = piece.start;
        while let Some(other) = taken.peek() {
            if other.start >= piece.end {
                break;
            }
            if from < other.start {
                free.push(Entry {
                    start: from,
                    end: other.start,
                    ..piece
                });
            }
            from = from.max(other.end);
            if other.end > piece.end {
                // it may take from the next piece too
                break;
            }
            taken.next();
        }
        if from < piece.end {
            free.push(Entry { start: from, ..piece });
        }
    }
    free
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(start: u64, end: u64, offset: usize) -> Entry {
        Entry { start, end, offset }
    }

    #[test]
    fn an_inner_entry_interrupts_the_outer_one() {
        let (pieces, overlaps) = disjoint(vec![entry(0, 100, 1), entry(40, 60, 2)]);
        assert_eq!(pieces, [entry(0, 40, 1), entry(40, 60, 2), entry(60, 100, 1)]);
        assert_eq!(overlaps, 1);
    }

    #[test]
    fn what_is_taken_is_left_out() {
        let pieces = [entry(0, 10, 1), entry(20, 30, 2), entry(30, 40, 3)];
        let free = outside(&pieces, &[entry(5, 22, 9), entry(25, 26, 9), entry(28, 40, 9)]);
        assert_eq!(free, [entry(0, 5, 1), entry(22, 25, 2), entry(26, 28, 2)]);
    }

    /// The entry that speaks for an address, said without any cutting.
    fn speaker(entries: &[Entry], at: u64) -> Option<usize> {
        entries
            .iter()
            .filter(|entry| entry.start <= at && at < entry.end)
            .max_by_key(|e| (e.start, std::cmp::Reverse(e.end), std::cmp::Reverse(e.offset)))
            .map(|entry| entry.offset)
    }

    fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
        prop::collection::vec((0u64..60, 1u64..20), 0..12).prop_map(|ranges| {
            ranges
                .into_iter()
                .enumerate()
                .map(|(offset, (start, len))| entry(start, start + len, offset))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn every_address_has_the_right_speaker(entries in any_entries(), taken in any_entries()) {
            let (pieces, _) = disjoint(entries.clone());
            let (taken, _) = disjoint(taken);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let free = outside(&pieces, &taken);
            prop_assert!(free.windows(2).all(|pair| pair[0].end <= pair[1].start));
            for at in 0..90 {
                prop_assert_eq!(speaker(&pieces, at), speaker(&entries, at), "at {}", at);
                let expected = speaker(&pieces, at).filter(|_| speaker(&taken, at).is_none());
                prop_assert_eq!(speaker(&free, at), expected, "at {}", at);
            }
        }
    }
}
