//! `/tmp/perf-PID.map`, which the profiled process writes.

#![no_main]

use libfuzzer_sys::fuzz_target;

mod inputs;

fuzz_target!(|content: &[u8]| {
    let mut input = inputs::Bytes(content);
    let addresses: Vec<u64> = (0..8).map(|_| input.half().into()).collect();
    if let Some((file, _)) = inputs::file(input.0) {
        assert!(moonscope_symbols::fuzzing::perf_map(&file, &addresses) <= addresses.len());
    }
});
