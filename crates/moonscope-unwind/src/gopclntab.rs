//! Rows for stripped Go programs, from the function table that the Go runtime itself unwinds by.
//!
//! It lists for every function how far the stack pointer has moved since the call. Format: Go 1.18 and later
//! (src/internal/abi/symtab.go, src/runtime/symtab.go, `_func` in src/runtime/runtime2.go); tests compare it
//! with `.debug_frame` of the same program. Earlier releases keep their frame pointers.

use crate::abi;
use crate::entries::{Entry, clip};
use crate::rules::{RuleSet, fixed};
use crate::sections::Code;

/// Magic numbers of Go 1.18 and 1.20; the newer one only adds a field behind those read here but one.
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// `abi.FuncFlag`: the outermost frame of a stack (`runtime.goexit`, `mstart`, `rt0_go`).
const TOP_FRAME: u8 = 1 << 0;
/// `abi.FuncFlag`: writes the stack pointer, so what is above on the stack is not its caller (`mcall`,
/// `systemstack`, `morestack`): the stack of the scheduler ends there.
const SP_WRITE: u8 = 1 << 1;
/// `abi.FuncFlag`: written in assembly, and free to leave rbp alone.
const ASM: u8 = 1 << 2;

/// No Go function has a larger frame: the runtime's stacks end at 1 GiB.
const MAX_FRAME: i64 = 1 << 30;

/// A parsed `.gopclntab`.
pub(crate) struct GoTable<'a> {
    text: u64,
    quantum: u64,
    functions: usize,
    pc_tables: &'a [u8],
    /// The function table and the `_func` records that it points at.
    records: &'a [u8],
    flag_offset: usize,
    /// Bytes of pc tables that may still be read: functions that share one must not cost without bound.
    budget: usize,
}

impl<'a> GoTable<'a> {
    /// `None` if this is not a table of a known version for x86-64.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<GoTable<'a>> {
        let magic = u32_at(bytes, 0)?;
        let flag_offset = match magic {
            GO_1_18 => 37,
            GO_1_20 => 41,
            _ => return None,
        };
        let (&quantum, &pointer) = (bytes.get(6)?, bytes.get(7)?);
        if pointer != 8 || quantum == 0 {
            return None;
        }
        // counts of functions and files, the text address, then where names, units, files, pc tables and
        // functions start
        let word = |n: usize| u64_at(bytes, 8 + 8 * n);
        let part = |n: usize| bytes.get(usize::try_from(word(n)?).ok()?..);
        let (pc_tables, records) = (part(6)?, part(7)?);
        let functions = usize::try_from(word(0)?).ok()?;
        // 8 bytes for each function and 4 for the end of the last one
        if functions == 0 || functions > records.len().checked_sub(4)? / 8 {
            return None;
        }
        // in a position-independent program the address is a relocation, and 0 in the file
        let text = word(2).filter(|&text| text != 0)?;
        let budget = 4 * bytes.len();
        Some(GoTable {
            text,
            quantum: quantum.into(),
            functions,
            pc_tables,
            records,
            flag_offset,
            budget,
        })
    }

    /// All functions within `code`, in order; `offset` is their number.
    pub(crate) fn entries(&self, code: &[Code]) -> Vec<Entry> {
        let start_of = |n: usize| self.text.checked_add(u32_at(self.records, 8 * n)?.into());
        let entry = |n: usize| {
            let (start, end) = (start_of(n)?, start_of(n + 1)?);
            let (start, end) = clip(start, end.checked_sub(start)?, code)?;
            Some(Entry {
                start,
                end,
                offset: n,
            })
        };
        (0..self.functions).filter_map(entry).collect()
    }

    /// Calls `row` as [`crate::entries::Reader::rules`] does.
    pub(crate) fn rules(&mut self, entry: Entry, rules: &mut RuleSet, mut row: impl FnMut(u64, u16)) {
        if self.try_rules(entry, rules, &mut row).is_none() {
            row(entry.start, fixed::UNSUPPORTED);
        }
    }

    fn try_rules(&mut self, piece: Entry, rules: &mut RuleSet, row: &mut impl FnMut(u64, u16)) -> Option<()> {
        let start = self
            .text
            .checked_add(u32_at(self.records, 8 * piece.offset)?.into())?;
        let record = self
            .records
            .get(u32_at(self.records, 8 * piece.offset + 4)? as usize..)?;
        let flags = *record.get(self.flag_offset)?;
        if flags & (TOP_FRAME | SP_WRITE) != 0 {
            row(piece.start, abi::MS_RULE_ROOT as u16);
            return Some(());
        }
        // pairs of differences: the value up to an address, then the address
        let table = self.pc_tables.get(u32_at(record, 16)? as usize..)?;
        let mut input = table.iter();
        let (mut at, mut moved) = (start, -1i64);
        let mut found = Vec::new();
        while at < piece.end {
            let value = varint(&mut input)?;
            if value == 0 && at > start {
                break;
            }
            moved += i64::from(value >> 1) ^ -i64::from(value & 1);
            let next = at.checked_add(u64::from(varint(&mut input)?).checked_mul(self.quantum)?)?;
            if next > piece.start {
                found.push((at.max(piece.start), moved));
            }
            at = next;
        }
        self.budget = self.budget.checked_sub(table.len() - input.len())?;
        if found.first()?.0 != piece.start {
            return None;
        }
        for (at, moved) in found {
            row(
                at,
                rule(moved, flags).map_or(fixed::UNSUPPORTED, |rule| rules.intern(rule)),
            );
        }
        Some(())
    }
}

/// The rule where the stack pointer is `moved` bytes below the return address.
fn rule(moved: i64, flags: u8) -> Option<abi::ms_rule> {
    if !(0..MAX_FRAME).contains(&moved) {
        return None;
    }
    // Go code keeps no register for its caller but rbp, and that right below the return address
    let mut saved = [abi::MS_SAVED_LOST as i8; 6];
    let (rbp, window) = match moved {
        0 => (abi::MS_SAVED_SAME as i8, 1),
        8.. if flags & ASM == 0 => (2, 2),
        _ => (abi::MS_SAVED_LOST as i8, 1),
    };
    saved[abi::MS_SAVED_RBP as usize] = rbp;
    Some(abi::ms_rule {
        cfa: abi::MS_CFA_REG as u8,
        reg: abi::MS_REG_RSP as u8,
        ra: abi::MS_RA_AT_CFA as u8,
        window,
        off: i32::try_from(moved + 8).ok()?,
        add: 0,
        saved,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn varint<'a>(input: &mut impl Iterator<Item = &'a u8>) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..32).step_by(7) {
        let byte = *input.next()?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSymbol};

    use super::*;
    use crate::sections;
    use crate::table::Table;

    /// A Go program with both tables: docker, which is linked by the system's linker, so that its function
    /// table has no section of its own and does not speak in the table.
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
        let mut table = GoTable::parse(bytes).unwrap();
        let functions = table.entries(&sections::find(&data).unwrap().code);
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
        assert!(switches < 100, "{switches} functions that switch stacks");
    }

    #[test]
    fn damaged_tables_do_no_harm() {
        let Ok(data) = std::fs::read("/usr/bin/gcloud-crc32c") else {
            return;
        };
        let sections = sections::find(&data).unwrap();
        let mut bytes = sections.gopclntab.unwrap()[..100_000].to_vec();
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
            let Some(mut table) = GoTable::parse(&bytes) else {
                continue;
            };
            let mut rules = RuleSet::new();
            for entry in table.entries(&sections.code) {
                let mut last = None;
                table.rules(entry, &mut rules, |at, _| {
                    assert!((entry.start..entry.end).contains(&at) && last.is_none_or(|last| last < at));
                    last = Some(at);
                });
            }
        }
    }
}
