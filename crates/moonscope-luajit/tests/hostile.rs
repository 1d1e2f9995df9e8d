//! Damaged files and hostile memory: an answer or an error, in bounded time, never a panic and never a
//! layout that differs from the code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Build;
use moonscope_luajit::{
    LayoutError, ScanBudget, VmText, VmTextError, Window, decode_layout, find_vms, scan, traces, verify,
};
use moonscope_process::maps::parse_maps;
use moonscope_process::{BufferMemory, RemoteMemory};
use proptest::prelude::*;

/// Where the VM's code is in the file.
fn text_in_file(build: &Build, vm: &VmText) -> std::ops::Range<usize> {
    use object::{Object, ObjectSegment};
    let elf = object::File::parse(build.file.as_slice()).unwrap();
    elf.segments()
        .find_map(|segment| {
            let into = vm.start.checked_sub(segment.address())?;
            (into < segment.size()).then(|| {
                let start = usize::try_from(segment.file_range().0 + into).unwrap();
                start..start + usize::try_from(vm.end - vm.start).unwrap()
            })
        })
        .unwrap()
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, pattern)
}

#[test]
fn a_file_without_luajit_has_no_vm_and_what_is_no_elf_file_says_so() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(find_vms(&own), Ok(Vec::new()));
    assert_eq!(find_vms(b""), Err(VmTextError::NotElf));
    assert_eq!(find_vms(&own[..40]), Err(VmTextError::NotElf));
    let mut other = own;
    other[18] = 183;
    assert_eq!(find_vms(&other), Err(VmTextError::WrongMachine));
}

#[test]
fn a_vm_that_does_not_store_the_running_coroutine_is_refused_as_2_0() {
    for mut build in common::builds() {
        let vm = build.vm();
        let text = text_in_file(&build, &vm);
        let call = usize::try_from(vm.entries.call - vm.start).unwrap();
        // mov [r14 + disp32], rbp or ebp: the store to cur_L in lj_vm_call becomes a nop of 7 bytes
        let body = &mut build.file[text][call..];
        let at = [&b"\x49\x89\xae"[..], b"\x41\x89\xae"]
            .into_iter()
            .filter_map(|store| find(body, store))
            .min()
            .unwrap();
        body[at..at + 7].copy_from_slice(b"\x0f\x1f\x80\0\0\0\0");
        assert_eq!(build.vm().entries, vm.entries);
        assert_eq!(
            decode_layout(&build.file, &build.vm()),
            Err(LayoutError::LuaJit20)
        );
    }
}

#[test]
fn a_field_elsewhere_than_known_is_an_error_that_names_it() {
    for mut build in common::builds() {
        let vm = build.vm();
        let top = build.layout().fields().l_top;
        let text = text_in_file(&build, &vm);
        let call = usize::try_from(vm.entries.call - vm.start).unwrap();
        // mov rax, [rbp + top] or mov eax, [rbp + top]
        let body = &mut build.file[text][call..];
        let at = find(body, &[0x8b, 0x45, u8::try_from(top).unwrap()]).unwrap();
        body[at + 2] += 8;
        let err = decode_layout(&build.file, &vm).unwrap_err();
        assert_eq!(
            err.to_string(),
            format!("this LuaJIT has lua_State.top at {:#x}, not at {top:#x}", top + 8)
        );
    }
}

/// Rows stand apart from each other and inside the VM, but for those of `lj_vm_ffi_call`, which is right behind it.
fn check(file: &[u8]) {
    const FFI_CALL: u64 = 256;
    for vm in find_vms(file).unwrap_or_default() {
        let are_rows = |rows: &[Window], end: u64| {
            rows.iter()
                .all(|row| row.start < row.end && vm.start <= row.start && row.end <= end)
                && rows.windows(2).all(|two| two[0].end <= two[1].start)
        };
        assert!(are_rows(&vm.windows, vm.end + FFI_CALL), "{vm:x?}");
        assert!(are_rows(&vm.helpers, vm.end), "{vm:x?}");
        let crosses = |row: &Window| row.start < vm.end && vm.end < row.end;
        assert!(!vm.windows.iter().any(crosses), "{vm:x?}");
        let _ = decode_layout(file, &vm);
    }
}

#[test]
fn damaged_files_give_an_answer() {
    for build in common::builds().iter().take(4) {
        let text = text_in_file(build, &build.vm());
        let text_len = text.len();
        let headers = 0..1024usize;
        let hdr = find(&build.file, b"\x01\x1b\x03\x3b").unwrap_or(0);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(200)
        });
        let places = prop_oneof![
            (text.start..text.end).boxed(),
            headers.boxed(),
            (hdr..hdr + 4096).boxed(),
        ];
        let flips = proptest::collection::vec((places, any::<u8>()), 1..12);
        let cut = prop_oneof![9 => Just(usize::MAX), 1 => 0..text.start + text_len];
        runner
            .run(&(flips, cut), |(flips, cut)| {
                let mut file = build.file.clone();
                for (at, value) in flips {
                    if let Some(byte) = file.get_mut(at) {
                        *byte = value;
                    }
                }
                file.truncate(cut);
                check(&file);
                Ok(())
            })
            .unwrap();
    }
}

/// Memory in which every word is an address of the VM's code, or anything else.
struct Endless(u64);

impl RemoteMemory for Endless {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, moonscope_process::ProcessError> {
        if addr % 7 == 3 {
            return Err(moonscope_process::ProcessError::Unreadable { addr });
        }
        for chunk in buf.chunks_mut(8) {
            let word = self.0.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(buf.len())
    }
}

#[test]
fn a_scan_of_hostile_memory_ends_within_its_budget() {
    let Some(build) = common::builds().into_iter().next() else {
        return;
    };
    let layout = build.layout();
    let maps = parse_maps(
        b"10000000-f0000000 rw-p 00000000 00:00 0\n\
          1000-9000 rw-p 00000000 00:00 0\n\
          fffffffffffff000-ffffffffffffffff rw-p 00000000 00:00 0\n",
    );
    let budget = ScanBudget {
        bytes: 64 << 20,
        vms: 4,
    };
    let found = scan(&Endless(0x5000), &maps, 0x4000..0x6000, &layout, budget).unwrap();
    assert!(found.vms.is_empty() && found.bytes <= budget.bytes && !found.complete);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn arbitrary_memory_holds_no_vm(
        words in proptest::collection::vec(prop_oneof![any::<u64>(), 0x4000u64..0x6000, Just(0x4008)], 0..4096),
        g in any::<u64>(),
    ) {
        let builds = common::builds();
        if let Some(build) = builds.first() {
            let layout = build.layout();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let end = 0x10_0000 + bytes.len();
            let memory = BufferMemory::new().with(0x10_0000, bytes);
            let maps = parse_maps(format!("100000-{:x} rw-p 00000000 00:00 0\n", end.max(0x10_1000)).as_bytes());
            let found = scan(&memory, &maps, 0x4000..0x6000, &layout, ScanBudget::default()).unwrap();
            prop_assert!(found.vms.is_empty());
            prop_assert!(verify(&memory, g, &layout, 0x4000..0x6000).is_err());
            let _ = traces::settle(&memory, 0x10_0000, &layout);
        }
    }
}
