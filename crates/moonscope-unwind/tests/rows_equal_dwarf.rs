//! Every byte of real libraries: the row in force means what gimli says of that address.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use gimli::{EhFrame, EndianSlice, LittleEndian, UnwindContext, UnwindSection};
use moonscope_unwind::{RuleSet, Table, abi};
use object::{Object, ObjectSection, ObjectSegment, SegmentFlags};

#[path = "common/semantics.rs"]
mod semantics;

use semantics::Step;

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// How many rows of a file may differ, by what the row format cannot say.
#[derive(Debug, Default, PartialEq)]
struct Differences {
    unsupported: u32,
    lost: u32,
    /// Rows of functions that leave by `__builtin_eh_return` which do not hold to their end.
    frameless: u32,
}

const RAX: gimli::Register = gimli::Register(0);
const RDX: gimli::Register = gimli::Register(1);
const RCX: gimli::Register = gimli::Register(2);

/// Does this row say that the stack pointer of another frame is in rcx, and the arguments of its handler are saved?
fn leaves(row: &gimli::UnwindTableRow<usize>) -> bool {
    let is_saved = |register| matches!(row.register(register), Some(gimli::RegisterRule::Offset(_)));
    matches!(row.cfa(), gimli::CfaRule::RegisterAndOffset { register: RCX, .. })
        && is_saved(RAX)
        && is_saved(RDX)
}

/// Compares `data`'s table with `section`, and holes with what no FDE of it covers.
fn compare<'a, S>(data: &[u8], section: &S, bytes: &'a [u8], bases: &gimli::BaseAddresses) -> Differences
where
    S: UnwindSection<EndianSlice<'a, LittleEndian>>,
{
    let mut rules = RuleSet::new();
    let table = Table::build(data, &mut rules).unwrap().unwrap();
    check_invariants(&table, &rules);
    let mut differences = Differences::default();
    let mut described: Vec<(u64, u64)> = Vec::new();
    let mut context = UnwindContext::new();
    let mut entries = section.entries(bases);
    while let Some(entry) = entries.next().unwrap() {
        let gimli::CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let fde = partial.parse(UnwindSection::cie_from_offset).unwrap();
        described.push((fde.initial_address(), fde.end_address()));
        assert_eq!(
            table.function_at(fde.initial_address()),
            Some(fde.initial_address()..fde.end_address())
        );
        let (signal, encoding) = (fde.is_signal_trampoline(), fde.cie().encoding());
        let mut rows = fde.rows(section, bases, &mut context).unwrap();
        let mut can_leave = false;
        while let Some(row) = rows.next_row().unwrap() {
            can_leave |= leaves(row);
        }
        let mut rows = fde.rows(section, bases, &mut context).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            if row.start_address() >= row.end_address() {
                continue;
            }
            let range = row.start_address()..row.end_address();
            let mut numbers: BTreeSet<u16> = range.map(|vaddr| table.rule_at(vaddr)).collect();
            if can_leave && numbers.remove(&(abi::MS_RULE_UNSUPPORTED as u16)) {
                differences.frameless += 1;
            }
            assert!(
                numbers.len() <= 1,
                "one row, two rules: {:#x}",
                row.start_address()
            );
            let Some(rule) = numbers.first().map(|&number| rules.get(number).unwrap()) else {
                continue;
            };
            match compare_row(rule, row, signal, bytes, encoding) {
                Ok(difference) => {
                    differences.unsupported += difference.unsupported;
                    differences.lost += difference.lost;
                }
                Err((found, wanted)) => {
                    panic!(
                        "{:#x}: {rule:?}\n{found:?}\n{wanted:?}\n{row:?}",
                        row.start_address()
                    )
                }
            }
        }
    }
    described.sort_unstable();
    for bounds in described.windows(2) {
        check_hole(data, (&table, &rules), bounds[0].1..bounds[1].0);
    }
    assert_eq!(
        table.stats.overlaps + table.stats.broken_entries + table.stats.over_budget,
        0
    );
    assert_eq!(table.functions().count(), described.len());
    differences
}

fn compare_row(
    rule: &abi::ms_rule,
    row: &gimli::UnwindTableRow<usize>,
    signal: bool,
    section: &[u8],
    encoding: gimli::Encoding,
) -> Result<Differences, (Step, Step)> {
    let mut differences = Differences::default();
    if u32::from(rule.cfa) == abi::MS_CFA_UNSUPPORTED {
        differences.unsupported = 1;
        return Ok(differences);
    }
    // both sides of every threshold of a PLT stub
    let seeds = if u32::from(rule.cfa) == abi::MS_CFA_PLT {
        16
    } else {
        2
    };
    for seed in 0..seeds {
        let mut registers: [u64; 17] =
            std::array::from_fn(|register| semantics::memory(seed * 17 + register as u64));
        registers[16] = registers[16] & !15 | seed;
        let mut found = semantics::by_rule(rule, &registers);
        let wanted = semantics::by_dwarf(row, signal, section, encoding, &registers);
        if let (
            Step::Caller { registers: found, .. },
            Step::Caller {
                registers: wanted, ..
            },
        ) = (&mut found, &wanted)
        {
            // what the format calls lost may be known to DWARF
            for (register, slot) in semantics::SAVED.into_iter().zip(rule.saved) {
                if slot < 0 {
                    differences.lost = 1;
                    found[register] = wanted[register];
                }
            }
        }
        if found != wanted {
            return Err((found, wanted));
        }
    }
    Ok(differences)
}

/// What a file says nothing of is a hole, but for what its code says beyond doubt: that it is the entry point, or that two
/// threads come out of one system call there.
fn check_hole(data: &[u8], (table, rules): (&Table, &RuleSet), hole: Range<u64>) {
    let file = object::File::parse(data).unwrap();
    let code = |vaddr: u64, len: u64| {
        file.segments()
            .find_map(|part| part.data_range(vaddr, len).unwrap())
    };
    let is_gap = |vaddr: u64| {
        // syscall; test %rax, %rax; jl; je; ret
        let starts_gap = |start: u64| {
            code(start, 10).is_some_and(|code| {
                code.starts_with(b"\x0f\x05\x48\x85\xc0\x7c") && code.ends_with(b"\x74\x01\xc3")
            })
        };
        (0..10).any(|back| starts_gap(vaddr - back))
    };
    let mut runs_from_entry = false;
    for vaddr in hole {
        assert_eq!(table.function_at(vaddr), None, "{vaddr:#x}");
        let found = u32::from(rules.get(table.rule_at(vaddr)).unwrap().cfa);
        let is_root = found == abi::MS_CFA_ROOT;
        runs_from_entry = vaddr == file.entry() || (runs_from_entry && is_root);
        let wanted = match () {
            () if runs_from_entry => abi::MS_CFA_ROOT,
            () if is_gap(vaddr) => abi::MS_CFA_CLONE,
            () => abi::MS_CFA_HOLE,
        };
        assert_eq!(found, wanted, "{vaddr:#x}");
    }
}

fn check_invariants(table: &Table, rules: &RuleSet) {
    assert_eq!(table.base % u64::from(abi::MS_PAGE_SIZE), 0);
    assert_eq!(table.pages.len(), table.nr_pages() as usize + 1);
    assert_eq!(table.pages[0], 0);
    assert_eq!(*table.pages.last().unwrap() as usize, table.rows.len());
    assert!(table.pages.is_sorted());
    assert_eq!(table.rows[0] >> 16, 0);
    assert!(
        table
            .pages
            .windows(2)
            .all(|page| page[1] - page[0] <= abi::MS_PAGE_SIZE)
    );
    let rows: Vec<_> = table.iter_rows().collect();
    assert_eq!(rows.len(), table.rows.len());
    assert_eq!(rows[0].0, table.base);
    assert!(
        rows.windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1)
    );
    for &(address, number) in &rows {
        assert!(rules.get(number).is_some());
        assert_eq!(table.rule_at(address), number);
    }
    for pair in rows.windows(2) {
        assert_eq!(table.rule_at(pair[1].0 - 1), pair[0].1);
    }
    let mut end = 0;
    for function in table.functions() {
        assert!(end <= function.start && function.start < function.end);
        end = function.end;
        assert_eq!(table.function_at(function.start), Some(function.clone()));
        assert_eq!(table.function_at(function.end - 1), Some(function));
    }
}

fn eh_frame_differences(path: &str) -> Option<Differences> {
    if !Path::new(path).exists() {
        eprintln!("skipped: no {path}");
        return None;
    }
    let data = std::fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let section = file.section_by_name(".eh_frame").unwrap();
    let bytes = section.data().unwrap();
    let bases = gimli::BaseAddresses::default().set_eh_frame(section.address());
    Some(compare(&data, &EhFrame::new(bytes, LittleEndian), bytes, &bases))
}

#[test]
fn every_byte_of_libc() {
    if let Some(differences) = eh_frame_differences(&format!("{LIBRARIES}/libc.so.6")) {
        // longjmp and setcontext, three times each at most
        assert!(differences.unsupported <= 6, "{differences:?}");
        assert_eq!((differences.lost, differences.frameless), (0, 0));
    }
}

#[test]
fn every_byte_of_libgcc() {
    if let Some(differences) = eh_frame_differences(&format!("{LIBRARIES}/libgcc_s.so.1")) {
        assert_eq!(
            (differences.unsupported, differences.lost),
            (0, 0),
            "{differences:?}"
        );
        // four functions, each with one long row that is cut short, and those of its last instructions
        assert!((4..=40).contains(&differences.frameless), "{differences:?}");
    }
}

#[test]
fn every_byte_of_libcrypto() {
    if let Some(differences) = eh_frame_differences(&format!("{LIBRARIES}/libcrypto.so.3")) {
        // CFAs found by an index in r9 (rsaz), in perlasm code
        assert!(differences.unsupported <= 8, "{differences:?}");
        assert!(differences.lost <= 4, "{differences:?}");
    }
}

#[test]
fn every_byte_of_other_libraries() {
    for name in [
        "libstdc++.so.6",
        "libssl.so.3",
        "ld-linux-x86-64.so.2",
        "libpthread.so.0",
        "libm.so.6",
    ] {
        if let Some(differences) = eh_frame_differences(&format!("{LIBRARIES}/{name}")) {
            assert!(
                differences.unsupported <= 4 && differences.lost == 0,
                "{name}: {differences:?}"
            );
        }
    }
}

#[test]
fn every_byte_of_this_program() {
    let path = std::env::current_exe().unwrap();
    let differences = eh_frame_differences(path.to_str().unwrap()).unwrap();
    assert!(
        differences.unsupported <= 8 && differences.lost <= 8,
        "{differences:?}"
    );
}

/// A variable that needs more alignment than a call gives, more registers than a call may use up, and a frame
/// size known only at run time.
const REALIGNED: &str = "
    long more(char *, long);
    long f(long a, long b, long c, long d, long e, long f)
    {
        _Alignas(64) volatile long wide[8] = { a, b };
        char *p = __builtin_alloca(16 + a);
        return more(p, a) + more(p, b) * c + d * e + f * wide[a % 8] + more(p, c ^ d);
    }
";

#[test]
fn every_byte_of_a_realigned_function() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("f.c"), dir.path().join("f.so"));
    std::fs::write(&source, REALIGNED).unwrap();
    let status = Command::new("gcc")
        .args(["-O2", "-mavx2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(status.success());
    // registers are lost in the prologue only, where the CFA is in a register and they are saved beside another
    let differences = eh_frame_differences(library.to_str().unwrap()).unwrap();
    assert_eq!(differences.unsupported, 0);
    assert!(differences.lost <= 8, "{differences:?}");
    let mut rules = RuleSet::new();
    let data = std::fs::read(&library).unwrap();
    Table::build(&data, &mut rules).unwrap();
    let all_registers = |rule: &abi::ms_rule| {
        u32::from(rule.cfa) == abi::MS_CFA_REALIGNED && rule.saved.iter().all(|&slot| slot > 0)
    };
    assert!(rules.as_slice().iter().any(all_registers), "{rules:?}");
}

#[test]
fn code_outside_the_executable_segments_is_a_hole() {
    let data = std::fs::read(format!("{LIBRARIES}/libc.so.6")).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let mut rules = RuleSet::new();
    let table = Table::build(&data, &mut rules).unwrap().unwrap();
    for segment in file.segments() {
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else {
            continue;
        };
        let far = [segment.address(), segment.address() + segment.size()];
        if p_flags & object::elf::PF_X != object::elf::PF_X {
            assert!(
                far.iter()
                    .all(|&vaddr| u32::from(table.rule_at(vaddr)) == abi::MS_RULE_HOLE)
            );
        }
    }
    for vaddr in [0, table.base - 1, u64::MAX, u64::MAX - 1, 1 << 47] {
        assert_eq!(u32::from(table.rule_at(vaddr)), abi::MS_RULE_HOLE);
        assert_eq!(table.function_at(vaddr), None);
    }
}
