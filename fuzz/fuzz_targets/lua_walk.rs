//! The kernel's walk through Lua on the host: stacks that are possible come out as they were written; those that
//! are not end the walk, within its limit and with a mark.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_unwind::{WalkEnd, abi};

mod inputs;
#[path = "../../crates/moonscope-probe/tests/lua_image/mod.rs"]
mod lua_image;

use inputs::Bytes;
use lua_image::words::{checked, readable};
use lua_image::{Call, Callee, Entry, HEAP, How, Leaf, Place, Plan, STACK};

fuzz_target!(|content: &[u8]| {
    let mut input = Bytes(content);
    let plan = plan(&mut input);
    let mut image = plan.image();
    if input.0.is_empty() {
        let (words, end) = image.walk(abi::MS_MAX_DEPTH);
        assert_eq!(readable(&words), readable(&image.words));
        assert_eq!(end, WalkEnd::Root);
        return;
    }
    let depth = 1 + u32::from(input.byte());
    while !input.0.is_empty() {
        let (kind, at) = (input.byte(), u64::from(input.half()));
        let value = value(&mut input);
        match kind % 4 {
            0 => image.put(STACK.start + at % 0x4000, &value.to_le_bytes()),
            1 => image.registers.set(at as usize % 17, Some(value)),
            // 32 bits: a reference, or a half of a slot
            2 => image.put(HEAP + at * 4, &(value as u32).to_le_bytes()),
            _ => image.put(HEAP + at * 4, &value.to_le_bytes()),
        }
    }
    let (words, end) = image.walk(depth);
    checked(&words, end, depth);
});

fn plan(input: &mut Bytes<'_>) -> Plan {
    let start = input.byte();
    let entries = (0..input.byte() % 8).map(|_| entry(input)).collect();
    let leaf = match input.byte() % 11 {
        0 => Leaf::C,
        1 => Leaf::Handler,
        2 => Leaf::Subroutine,
        3 => Leaf::Helper,
        4 => Leaf::Trace { spill: input.byte() },
        5 => Leaf::Gap {
            mapped: start & 2 != 0,
        },
        6 => Leaf::Entering,
        7 => Leaf::Dispatching,
        8 => Leaf::Replacing,
        9 => Leaf::TraceGap {
            spill: input.byte(),
            mapped: start & 2 != 0,
        },
        _ => Leaf::Leaving,
    };
    Plan {
        gc64: start & 1 != 0,
        entries,
        leaf,
        c_frames: start >> 2 & 7,
    }
}

fn entry(input: &mut Bytes<'_>) -> Entry {
    let byte = input.byte();
    Entry {
        place: match byte % 6 {
            0 => Place::Call,
            1 => Place::Protected,
            2 => Place::Callback,
            3 => Place::Empty,
            4 => Place::Resume,
            _ => Place::OtherVm,
        },
        c_frames: byte >> 4 & 3,
        calls: (0..input.byte() % 8).map(|_| call(input)).collect(),
    }
}

fn call(input: &mut Bytes<'_>) -> Call {
    let (byte, where_) = (input.byte(), input.half());
    Call {
        callee: match byte % 4 {
            0 => Callee::Lua,
            1 => Callee::Vararg,
            2 => Callee::Builtin,
            _ => Callee::C,
        },
        how: match byte >> 2 & 3 {
            0 | 1 => How::Call,
            2 => How::Metamethod,
            _ => How::TailCall,
        },
        slot: where_ as u8,
        at: (where_ >> 8) as u8,
    }
}

/// A number that may well be an address or a link.
fn value(input: &mut Bytes<'_>) -> u64 {
    let half = u64::from(input.half());
    match input.byte() % 4 {
        0 => half,
        1 => HEAP + half * 4,
        2 => STACK.start + half,
        _ => input.long(),
    }
}
