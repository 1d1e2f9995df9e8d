use super::*;
use crate::lua_stack::FrameKind;
use crate::snapshot::expand;
use crate::testing::{Image, MODES, Noise, layout};
use proptest::prelude::*;

const G: u64 = Image::START + 0x200;
pub(crate) const TRACE: u64 = Image::START + 0x4000;
const IR: u64 = Image::START + 0x5000;
const SNAPSHOTS: u64 = Image::START + 0x6000;
const MAP: u64 = Image::START + 0x7000;
const MCODE: u64 = Image::START + 0x8000;
const PROTO: u64 = Image::START + 0x9000;

/// A trace with two snapshots, without inlined calls, at instructions 2 and 5, from machine code 0 and 0x40.
pub(crate) fn trace(mode: GcMode, traceno: u16) -> (Image, u64) {
    let mut image = Image::new(mode);
    let bytecode = image.lua(Image::START + 0xa000, PROTO, 20);
    let at = layout(mode).trace.unwrap();
    let put = |image: &mut Image, offset: u16, bytes: &[u8]| image.put(TRACE + u64::from(offset), bytes);
    put(&mut image, mode.fields().gct, &[9]);
    put(&mut image, at.nsnap, &2_u16.to_le_bytes());
    // Three constants, as every trace has: their opcode is KPRI.
    let first = u64::from(REF_NIL) - 2;
    put(&mut image, at.ir, &(IR - first * 8).to_le_bytes());
    put(&mut image, at.nk, &(first as u32).to_le_bytes());
    put(&mut image, at.snap, &SNAPSHOTS.to_le_bytes());
    put(&mut image, at.snapmap, &MAP.to_le_bytes());
    put(&mut image, at.szmcode, &0x100_u32.to_le_bytes());
    put(&mut image, at.mcode, &MCODE.to_le_bytes());
    put(&mut image, at.traceno, &traceno.to_le_bytes());
    image.reference(TRACE + u64::from(at.startpt), PROTO);
    image.reference(TRACE + u64::from(at.startpc), bytecode + 8);
    for (index, (pos, mcofs)) in [(2, 0_u16), (5, 0x40)].into_iter().enumerate() {
        let snapshot = SNAPSHOTS + 12 * index as u64;
        image.put(snapshot, &(2 * index as u32).to_le_bytes());
        image.put(snapshot + 6, &mcofs.to_le_bytes());
        let pc = bytecode + 4 * pos;
        let entry = if mode == GcMode::Gc64 { pc << 8 } else { pc };
        image.put(MAP + 8 * index as u64, &entry.to_le_bytes());
    }
    (image, bytecode)
}

fn positions(copy: &TraceCopy, offset: u64) -> Vec<u64> {
    expand(copy, offset)
        .unwrap()
        .frames
        .iter()
        .map(|frame| frame.pc)
        .collect()
}

#[test]
fn an_address_belongs_to_the_last_snapshot_before_it() {
    for mode in MODES {
        let (image, bytecode) = trace(mode, 3);
        let copy = TraceCopy::read(&image, &layout(mode), G, TRACE).unwrap();
        assert_eq!(copy.traceno, 3);
        for (offset, pos) in [(0, 2), (0x3f, 2), (0x40, 5), (0xff, 5)] {
            assert_eq!(
                positions(&copy, offset),
                [bytecode + 4 * pos],
                "{mode:?} {offset:#x}"
            );
        }
        assert!(expand(&copy, 0x100).is_err());
    }
}

#[test]
fn behind_a_store_of_jit_base_the_next_snapshot_holds() {
    for mode in MODES {
        let (mut image, bytecode) = trace(mode, 3);
        let build = layout(mode).build;
        let store = match mode {
            GcMode::Gc64 => {
                let [a, b, c, d] = build.jit_base.wrapping_sub(build.g2disp).to_le_bytes();
                [0x49, 0x89, 0x96, a, b, c, d]
            }
            GcMode::Gc32 => {
                let [a, b, c, d] = (G as u32 + build.jit_base).to_le_bytes();
                [0x89, 0x14, 0x25, a, b, c, d]
            }
        };
        image.put(MCODE + 0x20, &store);
        let copy = TraceCopy::read(&image, &layout(mode), G, TRACE).unwrap();
        for (offset, pos) in [(0x26, 2), (0x27, 5), (0x3f, 5)] {
            assert_eq!(
                positions(&copy, offset),
                [bytecode + 4 * pos],
                "{mode:?} {offset:#x}"
            );
        }
    }
}

#[test]
fn old_snapshots_tell_only_where_the_trace_starts() {
    let (image, _) = trace(GcMode::Gc64, 3);
    let mut old = layout(GcMode::Gc64);
    old.trace = old.trace.map(|at| TraceFields {
        snapshot_size: 8,
        snapshot_mcofs: None,
        snapshot_nslots: 4,
        ..at
    });
    let copy = TraceCopy::read(&image, &old, G, TRACE).unwrap();
    let expansion = expand(&copy, 0x80).unwrap();
    assert_eq!(expansion.precision, crate::snapshot::Precision::Start);
    assert_eq!(expansion.frames.len(), 1);
}

#[test]
fn absurd_sizes_are_refused() {
    let (image, _) = trace(GcMode::Gc64, 3);
    let layout = layout(GcMode::Gc64);
    let at = layout.trace.unwrap();
    let read = |offset: u16, value: &[u8]| {
        let mut image = image.clone();
        image.put(TRACE + u64::from(offset), value);
        TraceCopy::read(&image, &layout, G, TRACE)
    };
    assert_eq!(read(at.nsnap, &[0xff; 2]), Err(TraceError::TooLarge));
    assert_eq!(read(at.szmcode, &[0xff; 4]), Err(TraceError::TooLarge));
    assert_eq!(read(at.nk, &[0xff; 4]), Err(TraceError::NotATrace));
    assert_eq!(read(at.nk, &[0; 4]), Err(TraceError::Unreadable));
    assert_eq!(read(at.snap, &[0xff; 8]), Err(TraceError::Unreadable));
    assert_eq!(read(at.mcode, &[0; 8]), Err(TraceError::NotATrace));
    let mut image = image.clone();
    image.put(SNAPSHOTS, &[0xff; 4]);
    assert_eq!(
        TraceCopy::read(&image, &layout, G, TRACE),
        Err(TraceError::TooLarge)
    );
}

#[test]
fn a_builtin_that_is_told_by_its_number_alone_is_named() {
    // `for word in text:gmatch(...)`: the iterator is another object each time (rec_call_specialize, lj_record.c)
    const GMATCH_AUX: u32 = 87;
    let (mut image, bytecode) = trace(GcMode::Gc64, 3);
    let layout = layout(GcMode::Gc64);
    let at = layout.trace.unwrap();
    // constants: the number, the link of the call in two slots, and the three that are always there
    let first = u64::from(REF_NIL) - 5;
    let (number, link) = (first, first + 1);
    let instruction = |op1: u16, op2: u16, kind: u8, op: u8| {
        let [a, b] = op1.to_le_bytes();
        let [c, d] = op2.to_le_bytes();
        [a, b, c, d, kind, op, 0, 0]
    };
    let put =
        |image: &mut Image, reference: u64, bytes: [u8; 8]| image.put(IR + (reference - first) * 8, &bytes);
    image.put(TRACE + u64::from(at.ir), &(IR - first * 8).to_le_bytes());
    image.put(TRACE + u64::from(at.nk), &(first as u32).to_le_bytes());
    image.put(TRACE + u64::from(at.nins), &0x8004_u32.to_le_bytes());
    put(&mut image, number, instruction(GMATCH_AUX as u16, 0, 19, 1));
    put(&mut image, link, instruction(0, 0, 22, 7));
    put(&mut image, link + 1, (bytecode + 4 * 8).to_le_bytes());
    // the function is loaded from a slot, its number from it, and compared
    put(&mut image, 0x8001, instruction(3, 0, 8, 71));
    put(&mut image, 0x8002, instruction(0x8001, 5, 16, 68));
    put(
        &mut image,
        0x8003,
        instruction(0x8002, number as u16, 0x80 | 19, 8),
    );
    // the second snapshot: slots 5 and 6 are the frame of the call
    let entries = [5 << 24 | 0x8001_u32, 6 << 24 | 0x01_0000 | link as u32];
    let map = MAP + 8;
    image.put(SNAPSHOTS + 12 + 10, &[2]);
    image.put(map, &entries[0].to_le_bytes());
    image.put(map + 4, &entries[1].to_le_bytes());
    image.put(map + 8, &(Image::START << 8 | 5).to_le_bytes());
    let copy = TraceCopy::read(&image, &layout, G, TRACE).unwrap();
    let frames = expand(&copy, 0x40).unwrap().frames;
    let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
    assert_eq!(
        kinds,
        [
            Some(FrameKind::Builtin {
                ffid: GMATCH_AUX as u8
            }),
            Some(FrameKind::Lua {
                proto: PROTO,
                pos: Some(7)
            }),
        ]
    );
    // compared with something else, or not at all, it stays unknown
    put(
        &mut image,
        0x8003,
        instruction(0x8002, number as u16, 0x80 | 19, 9),
    );
    let copy = TraceCopy::read(&image, &layout, G, TRACE).unwrap();
    assert_eq!(expand(&copy, 0x40).unwrap().frames[0].kind, None);
}

proptest! {
    #[test]
    fn a_trace_of_noise_is_refused_or_expanded(
        seed: u64, gc64: bool, mask in prop::sample::select(vec![u64::MAX, 0x1f_ffff, 0xff_ffff, 0x00ff_00ff_0010_ffff]),
        over in prop::sample::select(vec![0x5000_usize, 0x6000, 0x7000, 0x8000, 0xa000]),
        changes in prop::collection::vec((0_usize..0x80, any::<u8>()), 0..4),
        offsets in prop::collection::vec(0_u64..0x200, 8),
    ) {
        let mode = if gc64 { GcMode::Gc64 } else { GcMode::Gc32 };
        let (mut image, _) = trace(mode, 3);
        for (offset, byte) in changes {
            image.put(TRACE + offset as u64, &[byte]);
        }
        let memory = Noise { seed, mask, image, over };
        if let Ok(copy) = TraceCopy::read(&memory, &layout(mode), G, TRACE) {
            prop_assert!(copy.frames.len() <= MAX_FRAMES);
            for offset in offsets {
                let _ = expand(&copy, offset);
            }
        }
    }
}
