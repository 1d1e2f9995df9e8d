//! The heap of a VM: what is in it is counted as it was written; whatever is done to it, reading it ends.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use moonscope_luajit::GcMode;
use moonscope_luajit::heap::{Census, Collector, HeapBudget, HeapLayout, Holders, Kind, Names, Spending};

#[path = "../../crates/moonscope-luajit/tests/heap_image/mod.rs"]
mod heap_image;
mod inputs;

use heap_image::{Object, SIZE, START, Vm};
use inputs::Bytes;

/// Objects that are looked at.
const LIMIT: u64 = 5000;

fuzz_target!(|content: &[u8]| {
    let mut input = Bytes(content);
    let mode = match input.byte() & 1 {
        0 => GcMode::Gc64,
        _ => GcMode::Gc32,
    };
    let objects: Vec<Object> = (0..input.byte() % 40).map(|_| object(&mut input)).collect();
    let mut vm = Vm::new(mode, &objects);
    let is_whole = input.0.is_empty();
    while !input.0.is_empty() {
        let (kind, at) = (input.byte(), u64::from(input.half()));
        let at = START + 0x1000 + at * 4 % (SIZE as u64 - 0x1000);
        match kind % 4 {
            0 => vm.put(at, &input.long().to_le_bytes()),
            1 => vm.put(at, &(START + u64::from(input.half()) * 8 % SIZE as u64).to_le_bytes()),
            2 => vm.put(at, &[input.byte()]),
            _ => vm.put(at, &u32::from(input.half()).to_le_bytes()),
        }
    }
    let Ok(heap) = HeapLayout::find(&vm, vm.g, &vm.layout()) else {
        assert!(!is_whole);
        return;
    };
    let _ = Collector::read(&vm, &heap);
    let budget = HeapBudget {
        objects: LIMIT,
        patience: Duration::ZERO,
        ..HeapBudget::default()
    };
    if let Ok(census) = Census::take(&vm, &heap, budget, &mut |_| {}) {
        let count: u64 = Kind::ALL.iter().map(|&kind| census.of(kind).count).sum();
        assert!(count <= LIMIT + 1);
        if is_whole {
            for &(kind, count, bytes) in &vm.truth {
                assert_eq!((census.of(kind).count, census.of(kind).bytes), (count, bytes));
            }
        }
    }
    let mut no_words = |_| {};
    let mut spending = Spending::new(budget, &mut no_words);
    let _ = Holders::find(&vm, &heap, Names::All, &mut spending);
});

fn object(input: &mut Bytes<'_>) -> Object {
    let (kind, one, two) = (input.byte(), input.byte(), input.byte());
    match kind % 8 {
        0 => Object::String { len: one },
        1 => Object::Table {
            array: one,
            nodes: two,
            colocated: kind & 8 != 0,
        },
        2 => Object::Function { upvalues: one % 8 },
        3 => Object::CFunction { upvalues: one % 8 },
        4 => Object::Upvalue,
        5 => Object::Thread {
            slots: one,
            open_upvalues: two,
        },
        6 => Object::Prototype {
            instructions: one,
            constants: two % 16,
        },
        _ => Object::Userdata { len: one },
    }
}
