//! The heap of a VM that was written by hand: what is in it is found, and whatever is done to it, reading it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod heap_image;

use std::time::Duration;

use heap_image::{Object, SIZE, START, Vm};
use moonscope_luajit::GcMode;
use moonscope_luajit::heap::{
    Census, Collector, HeapBudget, HeapEnd, HeapError, HeapLayout, Holders, Kind, Names, Spending, Strings,
};
use proptest::prelude::*;

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        (0..100u8).prop_map(|len| Object::String { len }),
        any::<(u8, u8, bool)>().prop_map(|(array, nodes, colocated)| Object::Table {
            array,
            nodes,
            colocated
        }),
        (0..8u8).prop_map(|upvalues| Object::Function { upvalues }),
        (0..8u8).prop_map(|upvalues| Object::CFunction { upvalues }),
        Just(Object::Upvalue),
        (0..100u8, 0..8u8).prop_map(|(slots, open_upvalues)| Object::Thread { slots, open_upvalues }),
        (0..50u8, 0..8u8).prop_map(|(instructions, constants)| Object::Prototype {
            instructions,
            constants
        }),
        (0..100u8).prop_map(|len| Object::Userdata { len }),
    ]
}

fn mode() -> impl Strategy<Value = GcMode> {
    prop_oneof![Just(GcMode::Gc64), Just(GcMode::Gc32)]
}

fn budget(objects: u64) -> HeapBudget {
    HeapBudget {
        objects,
        time: Duration::from_secs(20),
        patience: Duration::ZERO,
    }
}

fn census(vm: &Vm, objects: u64) -> Result<Census, HeapError> {
    let heap = HeapLayout::find(vm, vm.g, &vm.layout())?;
    Census::take(vm, &heap, budget(objects), &mut |_| {})
}

proptest! {
    #[test]
    fn every_object_is_found_with_its_size(mode in mode(), objects in prop::collection::vec(object(), 0..60)) {
        let vm = Vm::new(mode, &objects);
        let census = census(&vm, 1 << 20).unwrap();
        prop_assert_eq!((census.end, census.torn()), (HeapEnd::Complete, 0));
        for &(kind, count, bytes) in &vm.truth {
            let found = census.of(kind);
            prop_assert_eq!((found.count, found.bytes), (count, bytes), "{:?}", kind);
        }
        prop_assert_eq!(census.strings.counted, vm.of(Kind::String).0);
        let chains: u64 = census.strings.chains.iter().zip(1..).map(|(count, length)| count * length).sum();
        prop_assert_eq!(chains, census.strings.counted);
        prop_assert!(census.strings.longest_chain() <= 3);
    }

    /// Numbers that may well be addresses, sizes and types are written into it.
    #[test]
    fn whatever_it_holds_reading_it_ends(
        mode in mode(),
        objects in prop::collection::vec(object(), 0..40),
        damage in prop::collection::vec((0..SIZE as u64 / 4, any::<u64>(), 0..5u8), 1..60),
        near in any::<bool>(),
    ) {
        let mut vm = Vm::new(mode, &objects);
        for (at, value, how) in damage {
            // most of what is there is at the beginning
            let at = START + 0x1000 + at * 4 % if near { 0x3000 } else { SIZE as u64 };
            let value = match how {
                0 => value,
                1 => (START + value % SIZE as u64) & !7,
                2 => value % 16,
                3 => u64::MAX >> (value % 64),
                _ => 4 + value % 9,
            };
            match how {
                4 => vm.put(at + value % 16, &[value as u8]),
                _ => vm.put(at, &value.to_le_bytes()),
            }
        }
        let limit = 20_000;
        if let Ok(heap) = HeapLayout::find(&vm, vm.g, &vm.layout()) {
            let _ = Collector::read(&vm, &heap);
            if let Ok(census) = Census::take(&vm, &heap, budget(limit), &mut |_| {}) {
                let count: u64 = Kind::ALL.iter().map(|&kind| census.of(kind).count).sum();
                // a list that changes is read three times
                prop_assert!(count <= limit + 1, "{}", count);
            }
            let mut no_words = |_| {};
            for names in [Names::OfCode, Names::All] {
                let mut spending = Spending::new(budget(limit), &mut no_words);
                if let Ok(found) = Holders::find(&vm, &heap, names, &mut spending) {
                    prop_assert!(found.reached <= SIZE as u64 / 8, "each is met once");
                    let behind = |(index, parent): (usize, Option<usize>)| parent.is_none_or(|parent| parent < index);
                    prop_assert!(found.all.iter().map(|each| each.parent).enumerate().all(behind));
                }
            }
        }
    }
}

#[test]
fn a_list_in_a_circle_has_changed() {
    for mode in [GcMode::Gc64, GcMode::Gc32] {
        let fields = mode.fields();
        let mut vm = Vm::new(mode, &[Object::Upvalue, Object::Upvalue]);
        let mut head = [0; 8];
        let size = usize::from(fields.ref_size);
        let root = vm.g + 0x10 + u64::from(fields.gc_root);
        moonscope_process::RemoteMemory::read_exact(&vm, root, &mut head[..size]).unwrap();
        // the newest object is its own successor
        vm.put(u64::from_le_bytes(head), &head[..size]);
        let census = census(&vm, 1 << 40).unwrap();
        assert_eq!(census.end, HeapEnd::Changed);
    }
}

#[test]
fn strings_in_a_circle_are_as_long_as_is_followed() {
    for mode in [GcMode::Gc64, GcMode::Gc32] {
        let mut vm = Vm::new(mode, &[]);
        let string = vm.object(Object::String { len: 3 });
        let size = usize::from(mode.fields().ref_size);
        vm.put(string, &string.to_le_bytes()[..size]);
        let heap = HeapLayout::find(&vm, vm.g, &vm.layout()).unwrap();
        let mut no_words = |_| {};
        let mut spending = Spending::new(budget(1 << 20), &mut no_words);
        let (strings, end) = Strings::read(&vm, &heap, &mut spending).unwrap();
        assert_eq!((strings.too_long, end), (1, HeapEnd::Complete));
    }
}

#[test]
fn a_field_that_cannot_be_proved_is_named() {
    for mode in [GcMode::Gc64, GcMode::Gc32] {
        let vm = Vm::new(mode, &[Object::Upvalue]);
        let refused = |change: &dyn Fn(&mut Vm, &mut moonscope_luajit::Layout)| {
            let (mut vm, mut layout) = (vm.clone(), vm.layout());
            change(&mut vm, &mut layout);
            HeapLayout::find(&vm, vm.g, &layout).unwrap_err().to_string()
        };
        let text = refused(&|_, layout| layout.build.gc_total = 0);
        assert!(text.contains("gc.total"), "{text}");
        let text = refused(&|_, layout| layout.build.vmstate += 8);
        assert!(text.contains("the table of strings"), "{text}");
        let strempty = match mode {
            GcMode::Gc64 => 0x78,
            GcMode::Gc32 => 0x4c,
        };
        let text = refused(&|vm, _| vm.put(vm.g + strempty + u64::from(mode.fields().gct), &[5]));
        assert!(text.contains("strempty"), "{text}");
        let text = refused(&|vm, _| {
            let strings = vm.g + strempty + if mode == GcMode::Gc64 { 0x20 } else { 0x1c };
            vm.put(strings + 8, &1000u32.to_le_bytes());
        });
        assert!(text.contains("the table of strings"), "{text}");
    }
}
