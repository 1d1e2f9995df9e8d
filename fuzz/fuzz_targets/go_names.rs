//! The table of functions that a Go program keeps for its own tracebacks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_unwind::GoNames;

mod inputs;

fuzz_target!(|content: &[u8]| {
    let mut input = inputs::Bytes(content);
    let addresses: Vec<u64> = (0..8).map(|_| input.word().into()).collect();
    if let Some(names) = GoNames::read(input.0) {
        for address in addresses {
            let found = names.at(address);
            assert!(found.is_none_or(|(start, _)| start <= address));
        }
    }
});
