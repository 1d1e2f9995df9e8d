//! Records of the ring buffer. Only our own programs in the kernel write them, but a defect there must not
//! become one here. The module is taken as a file, so that no BPF program needs to be built.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/moonscope-probe/src/sample.rs"]
#[allow(dead_code)]
mod sample;

use sample::{KeptRecord, Record};

fuzz_target!(|content: &[u8]| {
    // the copy is aligned as the ring buffer is
    let kept = KeptRecord::new(content);
    let Some(record) = Record::parse(kept.bytes()) else {
        return;
    };
    record.time();
    if let Record::Sample(sample) = record {
        assert_eq!(sample.kernel().len() + sample.user().len(), sample.frames().len());
        sample.end();
        sample::comm_text(&sample);
        if let Some((registers, stack)) = sample.copy() {
            assert!(stack.bytes.len() <= content.len() && registers.get(16).is_some());
        }
    }
});
