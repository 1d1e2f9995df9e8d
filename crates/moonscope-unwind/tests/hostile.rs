//! Files that nobody's linker wrote: no panic, bounded time and memory, and every oddity is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use moonscope_unwind::{GoNames, RuleSet, Table, UnwindData, UnwindError, abi};
use proptest::prelude::*;

#[path = "common/elf.rs"]
mod elf;

use elf::{CODE, EhFrame, Elf};

/// `DW_CFA_def_cfa_offset 16` and `DW_CFA_advance_loc 1`.
const OFFSET_16: [u8; 2] = [0x0e, 16];
const ADVANCE_1: u8 = 0x41;

fn file(eh_frame: EhFrame) -> Elf {
    Elf {
        code: vec![0xc3; 4096],
        eh_frame: eh_frame.bytes,
        ..Elf::default()
    }
}

fn build(elf: &Elf) -> (Table, RuleSet) {
    let mut rules = RuleSet::new();
    let table = Table::build(&elf.build(), &mut rules).unwrap().unwrap();
    (table, rules)
}

/// The CFA offset in force, or the name of the special rule.
fn offset_at((table, rules): &(Table, RuleSet), vaddr: u64) -> Result<i32, &'static str> {
    let rule = rules.get(table.rule_at(vaddr)).unwrap();
    match u32::from(rule.cfa) {
        abi::MS_CFA_HOLE => Err("hole"),
        abi::MS_CFA_ROOT => Err("root"),
        abi::MS_CFA_UNSUPPORTED => Err("unsupported"),
        abi::MS_CFA_SIGNAL => Err("signal"),
        abi::MS_CFA_CLONE => Err("clone"),
        _ => Ok(rule.off),
    }
}

#[test]
fn a_plain_file_has_the_rows_it_says() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE + 16, 32, &[ADVANCE_1, OFFSET_16[0], OFFSET_16[1]]);
    for without_sections in [false, true] {
        let built = build(&Elf {
            without_sections,
            ..file(frames.clone())
        });
        assert_eq!(offset_at(&built, CODE + 15), Err("hole"));
        assert_eq!(offset_at(&built, CODE + 16), Ok(8));
        assert_eq!(offset_at(&built, CODE + 17), Ok(16));
        assert_eq!(offset_at(&built, CODE + 47), Ok(16));
        assert_eq!(offset_at(&built, CODE + 48), Err("hole"));
        assert_eq!(built.0.function_at(CODE + 20), Some(CODE + 16..CODE + 48));
        assert_eq!(built.0.stats.eh_frame_entries, 1);
    }
}

#[test]
fn entries_behind_a_zero_entry_are_found_by_section_only() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE, 16, &[]);
    frames.terminator();
    frames.fde(cie, CODE + 32, 16, &[]);
    let elf = file(frames);
    assert_eq!(offset_at(&build(&elf), CODE + 32), Ok(8));
    let elf = Elf {
        without_sections: true,
        ..elf
    };
    assert_eq!(offset_at(&build(&elf), CODE + 32), Err("hole"));
}

#[test]
fn an_inner_entry_speaks_and_then_the_outer_one_again() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE, 100, &[ADVANCE_1, OFFSET_16[0], OFFSET_16[1]]);
    frames.fde(cie, CODE + 40, 20, &[0x0e, 24]);
    let built = build(&file(frames));
    let offsets: Vec<_> = [0, 1, 39, 40, 59, 60, 99]
        .map(|at| offset_at(&built, CODE + at))
        .to_vec();
    assert_eq!(offsets, [Ok(8), Ok(16), Ok(16), Ok(24), Ok(24), Ok(16), Ok(16)]);
    assert_eq!(built.0.stats.overlaps, 1);
}

#[test]
fn debug_frame_speaks_only_where_eh_frame_does_not() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE + 16, 16, &[]);
    // a version 1 CIE of .debug_frame without augmentation, then an FDE of 64 bytes
    let mut debug = vec![
        16, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 1, 0x78, 16, 0x0c, 7, 32, 0x90, 1, 0, 0,
    ];
    debug.extend([20, 0, 0, 0, 0, 0, 0, 0]);
    debug.extend(CODE.to_le_bytes());
    debug.extend(64u64.to_le_bytes());
    let built = build(&Elf {
        debug_frame: debug,
        ..file(frames)
    });
    let offsets: Vec<_> = [0, 15, 16, 31, 32, 63, 64]
        .map(|at| offset_at(&built, CODE + at))
        .to_vec();
    assert_eq!(
        offsets,
        [Ok(32), Ok(32), Ok(8), Ok(8), Ok(32), Ok(32), Err("hole")]
    );
    assert_eq!(built.0.stats.debug_frame_entries, 2);
}

#[test]
fn an_endless_function_ends_with_the_code() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE + 16, 1 << 60, &[]);
    frames.fde(cie, CODE + 64, u64::MAX, &[0x0e, 24]);
    let built = build(&file(frames));
    assert_eq!(offset_at(&built, CODE + 63), Ok(8));
    assert_eq!(offset_at(&built, CODE + 4095), Ok(24));
    assert!(built.0.pages.len() <= 6);
}

#[test]
fn entries_for_no_code_are_counted() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, 0, 100, &[]);
    frames.fde(cie, u64::MAX - 4, 100, &[]);
    frames.fde(cie, CODE + 8, 0, &[]);
    frames.fde(cie, CODE, 8, &[]);
    let (table, _) = build(&file(frames));
    assert_eq!((table.stats.outside_code, table.stats.eh_frame_entries), (3, 1));
}

#[test]
fn rows_before_an_invalid_instruction_are_good() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    // restore_state without remember_state
    frames.fde(
        cie,
        CODE,
        16,
        &[ADVANCE_1, OFFSET_16[0], OFFSET_16[1], ADVANCE_1, 0x0b],
    );
    frames.fde(cie, CODE + 16, 16, &[]);
    let built = build(&file(frames));
    let offsets: Vec<_> = [0, 1, 2, 15, 16].map(|at| offset_at(&built, CODE + at)).to_vec();
    assert_eq!(
        offsets,
        [Ok(8), Ok(16), Err("unsupported"), Err("unsupported"), Ok(8)]
    );
    assert_eq!(built.0.stats.unsupported.invalid, 1);
}

#[test]
fn an_entry_that_points_at_no_cie_costs_only_itself() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    let first = frames.fde(cie, CODE, 16, &[]);
    frames.fde(first, CODE + 16, 16, &[]); // its CIE is an FDE
    let own = frames.bytes.len();
    frames.fde(own, CODE + 32, 16, &[]); // its CIE is itself
    frames.fde(cie, CODE + 48, 16, &[]);
    let built = build(&file(frames));
    let offsets: Vec<_> = [0, 16, 32, 48].map(|at| offset_at(&built, CODE + at)).to_vec();
    assert_eq!(offsets, [Ok(8), Err("hole"), Err("hole"), Ok(8)]);
    assert_eq!(built.0.stats.broken_entries, 2);
}

#[test]
fn a_length_that_leads_outside_ends_the_section() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE, 16, &[]);
    frames.bytes.extend([0xf0, 0xff, 0xff, 0x7f, 1, 2, 3, 4]);
    assert_eq!(build(&file(frames.clone())).0.stats.broken_entries, 1);
    frames.bytes.extend([0xff; 12]); // and a 64-bit length
    assert_eq!(build(&file(frames)).0.stats.eh_frame_entries, 1);
}

#[test]
fn trampolines_are_signal_frames_wherever_they_stand() {
    let trampoline = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05";
    let mut elf = Elf {
        code: vec![0x90; 4096],
        ..Elf::default()
    };
    elf.code[256..265].copy_from_slice(trampoline); // in a hole
    elf.code[511] = 0xc3;
    elf.code[512..521].copy_from_slice(trampoline); // right behind code
    let alone = build(&elf);
    assert_eq!(offset_at(&alone, CODE + 254), Err("hole"));
    assert_eq!(offset_at(&alone, CODE + 255), Err("signal")); // where the return address is looked up
    assert_eq!(offset_at(&alone, CODE + 264), Err("signal"));
    assert_eq!(offset_at(&alone, CODE + 265), Err("hole"));
    assert_eq!(offset_at(&alone, CODE + 511), Err("hole"));
    assert_eq!(offset_at(&alone, CODE + 512), Err("signal"));
    assert_eq!(alone.0.stats.trampolines, 2);

    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE + 256, 64, &[]); // described as an ordinary function, as Go does
    elf.eh_frame = frames.bytes;
    let described = build(&elf);
    assert_eq!(offset_at(&described, CODE + 256), Err("signal"));
    assert_eq!(offset_at(&described, CODE + 265), Ok(8));
}

#[test]
fn the_entry_point_ends_a_stack_unless_something_else_is_said_of_it() {
    let mut elf = Elf {
        code: vec![0x90; 4096],
        ..Elf::default()
    };
    // mov %rsp, %rdi; call; mov %rax, %r12; jmp *%r12
    let entry = b"\x48\x89\xe7\xe8\x00\x01\x00\x00\x49\x89\xc4\x41\xff\xe4";
    elf.code[..14].copy_from_slice(entry);
    let alone = build(&elf);
    assert_eq!(offset_at(&alone, CODE), Err("root"));
    assert_eq!(offset_at(&alone, CODE + 13), Err("root"));
    assert_eq!(offset_at(&alone, CODE + 14), Err("hole"));
    assert_eq!((alone.0.stats.stack_ends, alone.0.functions().count()), (1, 0));

    let with_function = |start: u64, len: u64| {
        let mut frames = EhFrame::default();
        let cie = frames.cie(&[]);
        frames.fde(cie, start, len, &[]);
        build(&Elf {
            eh_frame: frames.bytes,
            ..elf.clone()
        })
    };
    let described = with_function(CODE, 8);
    assert_eq!(offset_at(&described, CODE), Ok(8));
    assert_eq!(offset_at(&described, CODE + 8), Err("hole"));
    // it ends where something described begins, and a function where the entry point is
    let cut = with_function(CODE + 8, 64);
    assert_eq!(offset_at(&cut, CODE + 7), Err("root"));
    assert_eq!(offset_at(&cut, CODE + 8), Ok(8));
    assert_eq!(cut.0.function_at(CODE + 8), Some(CODE + 8..CODE + 72));
}

#[test]
fn behind_the_call_of_clone_are_two_threads_unless_something_else_is_said() {
    let mut elf = Elf {
        code: vec![0x90; 4096],
        ..Elf::default()
    };
    elf.code[256..268].copy_from_slice(b"\x0f\x05\x48\x85\xc0\x7c\x18\x74\x01\xc3\x31\xed");
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE + 200, 56, &[]);
    frames.fde(cie, CODE + 266, 4, &[]);
    let built = build(&Elf {
        eh_frame: frames.bytes.clone(),
        ..elf.clone()
    });
    assert_eq!(built.0.stats.clone_gaps, 1);
    for (vaddr, wanted) in [
        (255, Ok(8)),
        (256, Err("clone")),
        (265, Err("clone")),
        (266, Ok(8)),
    ] {
        assert_eq!(offset_at(&built, CODE + vaddr), wanted, "{vaddr}");
    }
    assert_eq!(built.0.function_at(CODE + 255), Some(CODE + 200..CODE + 256));
    frames.fde(cie, CODE + 256, 4, &[]);
    let described = build(&Elf {
        eh_frame: frames.bytes,
        ..elf
    });
    assert_eq!(offset_at(&described, CODE + 256), Ok(8));
    assert_eq!(offset_at(&described, CODE + 260), Err("hole"));
}

#[test]
fn a_file_without_unwind_information_has_no_table() {
    let elf = Elf {
        code: vec![0x90; 64],
        ..Elf::default()
    }
    .build();
    assert_eq!(Table::build(&elf, &mut RuleSet::new()), Ok(None));
}

#[test]
fn what_is_no_x86_64_program_is_refused() {
    let build = |data: &[u8]| Table::build(data, &mut RuleSet::new());
    assert!(matches!(build(b""), Err(UnwindError::NotElf(_))));
    assert!(matches!(build(b"#!/bin/sh\n"), Err(UnwindError::NotElf(_))));
    let mut elf = Elf {
        code: vec![0x90; 64],
        ..Elf::default()
    }
    .build();
    elf[18] = 183; // EM_AARCH64
    assert!(matches!(build(&elf), Err(UnwindError::WrongMachine)));
    elf[18] = 62;
    elf[64 + 4] = 4; // not executable
    assert!(matches!(build(&elf), Err(UnwindError::NoCode)));
}

#[test]
fn claimed_sizes_cost_nothing() {
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE, 1 << 40, &[]);
    let elf = Elf {
        claimed_code_size: Some(1 << 40),
        ..file(frames)
    };
    let (table, _) = build(&elf);
    assert!(table.kernel_bytes() < 4096);
}

#[test]
fn a_section_of_zeros_is_not_read_to_its_end() {
    let start = Instant::now();
    // each four bytes are the end of the section; a sparse file may have a terabyte of them
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE, 64, &[]);
    frames.bytes.resize(80 << 20, 0);
    let elf = Elf {
        code: vec![0x90; 64],
        eh_frame: frames.bytes,
        ..Elf::default()
    };
    let (table, _) = build(&elf);
    assert!(table.stats.over_budget > 0);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn work_that_grows_faster_than_the_file_is_cut_short() {
    let start = Instant::now();
    // one long program, interrupted by thousands of small functions and resumed after each
    let mut frames = EhFrame::default();
    let cie = frames.cie(&[]);
    frames.fde(cie, CODE, 1 << 20, &[ADVANCE_1; 100_000]);
    for function in 0..5_000 {
        frames.fde(cie, CODE + 16 + function * 32, 8, &[]);
    }
    let elf = Elf {
        code: vec![0x90; 1 << 20],
        eh_frame: frames.bytes,
        ..Elf::default()
    };
    let (table, _) = build(&elf);
    assert!(table.stats.over_budget > 0);
    // thousands of CIEs with long programs, each referenced in turn
    let mut frames = EhFrame::default();
    let cies: Vec<usize> = (0..600).map(|_| frames.cie(&[0x0a, 0x0b].repeat(500))).collect();
    for function in 0..10_000u64 {
        frames.fde(cies[function as usize % cies.len()], CODE + function * 16, 8, &[]);
    }
    let elf = Elf {
        code: vec![0x90; 1 << 20],
        eh_frame: frames.bytes,
        ..Elf::default()
    };
    assert!(build(&elf).0.stats.over_budget > 0);
    // 20 times what it takes without optimisation
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Uses everything that a file's unwind information can be asked for.
fn exercise(data: &[u8]) {
    if let Some(names) = GoNames::read(data) {
        for vaddr in [0, CODE, CODE + 100, u64::MAX] {
            names.at(vaddr);
        }
    }
    let mut rules = RuleSet::new();
    if let Ok(Some(table)) = Table::build(data, &mut rules) {
        assert_eq!(*table.pages.last().unwrap() as usize, table.rows.len());
        let rows: Vec<_> = table.iter_rows().collect();
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (address, number) in rows.into_iter().step_by(7) {
            assert_eq!(table.rule_at(address), number);
            table.function_at(address);
        }
        assert!(table.functions().all(|function| function.start <= function.end));
        assert!(table.kernel_bytes() < 16 << 20);
    }
    let _ = UnwindData::new(data.to_vec());
}

fn real_file() -> Vec<u8> {
    std::fs::read("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_real_file_with_flipped_bytes(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)
    ) {
        let mut data = real_file();
        let len = data.len();
        for (place, value) in flips {
            data[place.index(len)] = value;
        }
        exercise(&data);
    }

    #[test]
    fn flipped_bytes_in_its_headers_and_unwind_sections(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)
    ) {
        use object::{Object, ObjectSection};
        let mut data = real_file();
        let ranges: Vec<_> = {
            let file = object::File::parse(&*data).unwrap();
            let range = |name: &str| file.section_by_name(name).unwrap().file_range().unwrap();
            [(0, 1024), range(".eh_frame"), range(".eh_frame_hdr"), (data.len() as u64 - 2048, 2048)].into()
        };
        for (place, value) in flips {
            let (start, len) = ranges[place.index(ranges.len())];
            data[start as usize + place.index(len as usize)] = value;
        }
        exercise(&data);
    }

    #[test]
    fn a_truncated_file(at in any::<prop::sample::Index>()) {
        let mut data = real_file();
        data.truncate(at.index(data.len()));
        exercise(&data);
    }

    #[test]
    fn arbitrary_instructions(
        initial in prop::collection::vec(any::<u8>(), 0..20),
        bodies in prop::collection::vec((0u64..4096, any::<u64>(), prop::collection::vec(any::<u8>(), 0..60)), 0..20)
    ) {
        let mut frames = EhFrame::default();
        let cie = frames.cie(&initial);
        for (start, len, instructions) in bodies {
            frames.fde(cie, CODE + start, len >> (len % 64), &instructions);
        }
        exercise(&file(frames).build());
    }
}
