//! VMs of live processes: all that a program made are found, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Instant;

use common::Host;
use moonscope_luajit::{GcMode, ScanBudget, Vm, scan, traces, verify};
use moonscope_process::ProcessMemory;

#[test]
fn a_scan_finds_the_vms_that_the_program_made() {
    for build in common::builds().iter().filter(|build| build.is_library()) {
        let Some(mut host) = Host::start(build, 3) else {
            continue;
        };
        let (vm, layout) = (build.vm(), build.layout());
        let (bias, maps) = host.bias(build);
        let text = vm.start + bias..vm.end + bias;
        let memory = ProcessMemory::new(host.pid());
        let started = Instant::now();
        let found = scan(&memory, &maps, text.clone(), &layout, ScanBudget::default()).unwrap();
        println!(
            "{}: {} bytes in {:?}",
            build.path.display(),
            found.bytes,
            started.elapsed()
        );
        let expected: Vec<Vm> = host.g.iter().map(|&g| Vm { g }).collect();
        assert_eq!(found.vms, expected, "{}: {found:?}", build.path.display());
        // the one that was closed is none (common/host.c)
        let closed = usize::from(layout.mode == GcMode::Gc64);
        assert!(found.complete && found.rejected == closed, "{found:?}");
        let wrong = verify(&memory, host.g[0] + 8, &layout, text).unwrap_err();
        assert!(wrong.to_string().contains("no main coroutine"), "{wrong}");

        // old builds: one run compiles something, and any trace tells the layout of all
        if layout.build.trace != 0 && layout.trace.is_none() {
            host.run_script();
            let settled = host.g.iter().find_map(|&g| traces::settle(&memory, g, &layout));
            let settled = settled.unwrap_or_else(|| panic!("{}: not settled", build.path.display()));
            assert_eq!(settled.snapshot_mcofs, None);
            println!(
                "{}: snapshots of {} bytes",
                build.path.display(),
                settled.snapshot_size
            );
            if let Some(size) = build.path.to_str().unwrap().contains("beta3").then_some(8) {
                assert_eq!(settled.snapshot_size, size);
            }
        }
    }
}
