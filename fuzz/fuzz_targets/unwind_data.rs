//! The user-space walker: on any file, any registers and any stack it comes to an end, and says why.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_unwind::{StackCopy, UnwindData, WalkEnd, walk};

mod inputs;

const DEPTH: usize = 64;

fuzz_target!(|content: &[u8]| {
    let mut input = inputs::Bytes(content);
    let (registers, stack) = (input.registers(), input.stack());
    let Ok(data) = UnwindData::new(input.elf()) else {
        return;
    };
    let stack = StackCopy {
        sp: inputs::STACK,
        bytes: &stack,
    };
    let walk = walk(&inputs::OneFile(&data), registers, &stack, DEPTH);
    assert!(walk.frames.len() <= DEPTH && walk.end != WalkEnd::None);
});
