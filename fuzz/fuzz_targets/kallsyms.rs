//! `/proc/kallsyms`, whose names come from modules and BPF programs too.

#![no_main]

use libfuzzer_sys::fuzz_target;

mod inputs;

fuzz_target!(|content: &[u8]| {
    let mut input = inputs::Bytes(content);
    let mut addresses: Vec<u64> = (0..8).map(|_| input.half().into()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert!(moonscope_symbols::fuzzing::kallsyms(input.0, &addresses) <= addresses.len());
});
