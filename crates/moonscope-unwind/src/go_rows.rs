//! Rows for stripped Go programs, from their function table.

use crate::abi;
use crate::entries::{Entry, clip};
use crate::go_place::GoPlace;
use crate::gopclntab::{GoFrame, GoRbp, GoTable};
use crate::rules::{RuleSet, fixed};
use crate::sections::Code;

/// Turns a function table into rows.
pub(crate) struct GoRows<'a> {
    table: GoTable<'a>,
    /// Bytes of pc tables that may still be read: functions that share one must not cost without bound.
    budget: usize,
}

impl<'a> GoRows<'a> {
    /// `None` if the table is not one.
    pub(crate) fn new(place: &GoPlace<'a>) -> Option<GoRows<'a>> {
        Some(GoRows {
            table: GoTable::parse(place)?,
            budget: 4 * place.table.len(),
        })
    }

    /// All functions within `code`, in order; `offset` is their number.
    pub(crate) fn entries(&self, code: &[Code]) -> Vec<Entry> {
        let entry = |n: usize| {
            let (start, end) = self.table.range(n)?;
            let (start, end) = clip(start, end.checked_sub(start)?, code)?;
            Some(Entry {
                start,
                end,
                offset: n,
            })
        };
        (0..self.table.len()).filter_map(entry).collect()
    }

    /// Does this function of [`GoRows::entries`] end a stack, as Go's own walk has it?
    pub(crate) fn is_outermost(&self, entry: &Entry) -> bool {
        let function = self.table.function(entry.offset);
        function.is_some_and(|function| function.is_outermost())
    }

    /// Calls `row` as [`crate::entries::Reader::rules`] does.
    pub(crate) fn rules(&mut self, entry: Entry, rules: &mut RuleSet, mut row: impl FnMut(u64, u16)) {
        if self.try_rules(entry, rules, &mut row).is_none() {
            row(entry.start, fixed::UNSUPPORTED);
        }
    }

    fn try_rules(&mut self, piece: Entry, rules: &mut RuleSet, row: &mut impl FnMut(u64, u16)) -> Option<()> {
        let function = self.table.function(piece.offset)?;
        if function.is_outermost() {
            row(piece.start, abi::MS_RULE_ROOT as u16);
            return Some(());
        }
        let mut spans = function.spans();
        let unread = spans.rest();
        let mut found = Vec::new();
        for span in spans.by_ref() {
            if span.end > piece.start {
                found.push((span.start.max(piece.start), function.frame(span.moved)));
            }
            if span.end >= piece.end {
                break;
            }
        }
        self.budget = self.budget.checked_sub(unread - spans.rest())?;
        if found.first()?.0 != piece.start {
            return None;
        }
        for (at, frame) in found {
            row(
                at,
                rule(frame).map_or(fixed::UNSUPPORTED, |rule| rules.intern(rule)),
            );
        }
        Some(())
    }
}

fn rule(frame: GoFrame) -> Option<abi::ms_rule> {
    let GoFrame::Returns { above, rbp } = frame else {
        return None;
    };
    let mut saved = [abi::MS_SAVED_LOST as i8; 6];
    let (rbp, window) = match rbp {
        GoRbp::Unchanged => (abi::MS_SAVED_SAME as i8, 1),
        GoRbp::BelowReturnAddress => (2, 2),
        GoRbp::Unknown => (abi::MS_SAVED_LOST as i8, 1),
    };
    saved[abi::MS_SAVED_RBP as usize] = rbp;
    Some(abi::ms_rule {
        cfa: abi::MS_CFA_REG as u8,
        reg: abi::MS_REG_RSP as u8,
        ra: abi::MS_RA_AT_CFA as u8,
        window,
        off: i32::try_from(above).ok()?.checked_add(8)?,
        add: 0,
        saved,
    })
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSymbol};

    use super::*;
    use crate::sections;
    use crate::table::Table;

    /// A Go program with both tables; `.debug_frame` speaks first.
    const PROGRAM: &str = "/usr/local/bin/docker";

    #[test]
    fn the_function_table_agrees_with_debug_frame() {
        let Ok(data) = std::fs::read(PROGRAM) else {
            eprintln!("skipped: no {PROGRAM}");
            return;
        };
        let file = object::File::parse(&*data).unwrap();
        let address = |name: &str| file.symbols().find(|s| s.name() == Ok(name)).map(|s| s.address());
        let (Some(start), Some(end)) = (address("runtime.pclntab"), address("runtime.epclntab")) else {
            eprintln!("skipped: {PROGRAM} has no symbols");
            return;
        };
        let bytes = object::ObjectSegment::data_range;
        let bytes = file
            .segments()
            .find_map(|s| bytes(&s, start, end - start).ok().flatten())
            .unwrap();

        let mut rules = RuleSet::new();
        let by_dwarf = Table::build(&data, &mut rules).unwrap().unwrap();
        let sections = sections::find(&data).unwrap();
        let place = sections.gopclntab.unwrap();
        assert_eq!(place.table.as_ptr(), bytes.as_ptr());
        assert_eq!(Some(place.text), address("runtime.text"));
        let mut table = GoRows::new(&place).unwrap();
        let functions = table.entries(&sections.code);
        assert!(functions.len() > 10_000);
        let (mut compared, mut different, mut switches, mut special) = (0, 0, 0, 0);
        for function in functions {
            let mut rows = Vec::new();
            table.rules(function, &mut rules, |at, number| rows.push((at, number)));
            assert_eq!(rows[0].0, function.start);
            for (at, number) in rows {
                let (ours, dwarf) = (
                    *rules.get(number).unwrap(),
                    rules.get(by_dwarf.rule_at(at)).unwrap(),
                );
                if u32::from(dwarf.cfa) == abi::MS_CFA_HOLE {
                    continue; // padding, which the last function before it claims
                }
                compared += 1;
                if u32::from(ours.cfa) == abi::MS_CFA_ROOT {
                    switches += u32::from(ours.cfa != dwarf.cfa);
                } else if u32::from(ours.cfa) == abi::MS_CFA_UNSUPPORTED
                    || u32::from(dwarf.cfa) == abi::MS_CFA_SIGNAL
                {
                    special += 1; // frames of 1 GiB that are to stop an unwinder, and the signal trampoline
                } else if (ours.cfa, ours.reg, ours.off) != (dwarf.cfa, dwarf.reg, dwarf.off) {
                    different += 1;
                    eprintln!("{at:#x}: {ours:?} {dwarf:?}");
                }
            }
        }
        assert!(
            compared > 100_000 && different == 0,
            "{different} of {compared} differ"
        );
        assert!(special < 10, "{special}");
        // functions that switch stacks: .debug_frame has rules for these too, but the table has not
        assert_eq!(switches, 0);
    }

    #[test]
    fn damaged_tables_do_no_harm() {
        let Ok(data) = std::fs::read("/usr/bin/gcloud-crc32c") else {
            return;
        };
        let sections = sections::find(&data).unwrap();
        let place = sections.gopclntab.unwrap();
        let mut bytes = place.table[..100_000].to_vec();
        let mut seed = 1u64;
        for _ in 0..30 {
            for _ in 0..50 {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % if seed.is_multiple_of(3) { 64 } else { bytes.len() };
                // the first eight bytes say that it is a table at all
                bytes[at.max(8)] = (seed >> 24) as u8;
            }
            let place = GoPlace {
                table: &bytes,
                ..place
            };
            let Some(mut table) = GoRows::new(&place) else {
                continue;
            };
            let mut rules = RuleSet::new();
            for entry in table.entries(&sections.code) {
                let mut last = None;
                table.rules(entry, &mut rules, |at, _| {
                    assert!((entry.start..entry.end).contains(&at) && last.is_none_or(|last| last < at));
                    last = Some(at);
                });
                table.table.frame_at(entry.start);
            }
        }
    }
}
