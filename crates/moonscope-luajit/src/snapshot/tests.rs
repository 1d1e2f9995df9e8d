use super::*;

/// Constants by number: even ones are functions, odd ones words.
struct Numbers(Vec<u64>);

impl Constants for Numbers {
    fn word(&self, reference: u16) -> Option<u64> {
        self.0.get(usize::from(reference)).copied()
    }

    fn function(&self, reference: u16) -> Option<u64> {
        reference.is_multiple_of(2).then(|| self.word(reference))?
    }
}

const F: u64 = 0x7000;
const G: u64 = 0x7100;
const PC: u32 = 0x1000;
const CALL: u32 = 0x2008;

fn entry(slot: u32, flags: u32, reference: u32) -> u32 {
    slot << 24 | flags | reference
}

/// `pc << 8 | baseslot - 2`, as two entries.
fn pcbase(pc: u32, baseslot: u32) -> [u32; 2] {
    [pc << 8 | (baseslot - 2), pc >> 24]
}

fn frame(function: u64, pc: u32) -> SnapFrame {
    SnapFrame {
        function,
        reference: 0,
        pc: u64::from(pc),
    }
}

fn gc64(entries: &[u32], baseslot: u32, constants: &[u64]) -> Option<Vec<SnapFrame>> {
    let map = [entries, &pcbase(PC, baseslot)].concat();
    let frames = decode(GcMode::Gc64, &map, entries.len(), &Numbers(constants.to_vec()))?;
    Some(frames.frames)
}

fn gc32(entries: &[u32], links: &[u32], constants: &[u64]) -> Option<Vec<SnapFrame>> {
    let map = [entries, &[PC], links].concat();
    let frames = decode(GcMode::Gc32, &map, entries.len(), &Numbers(constants.to_vec()))?;
    Some(frames.frames)
}

#[test]
fn without_calls_there_is_one_frame_at_the_program_counter() {
    assert_eq!(gc64(&[], 2, &[]).unwrap(), [frame(0, PC)]);
    assert_eq!(gc32(&[], &[], &[]).unwrap(), [frame(0, PC)]);
}

#[test]
fn an_inlined_call_stands_above_its_caller_at_the_call() {
    let constants = [F, u64::from(CALL), G];
    let entries = [entry(0, 0, 2), entry(5, 0, 0), entry(6, SNAP_FRAME, 1)];
    assert_eq!(
        gc64(&entries, 7, &constants).unwrap(),
        [frame(F, PC), frame(G, CALL - 4)]
    );
    let entries = [entry(0, SNAP_FRAME, 2), entry(5, SNAP_FRAME, 0)];
    let found = gc32(&entries, &[CALL], &constants).unwrap();
    assert_eq!(found, [frame(F, PC), frame(G, CALL - 4)]);
}

#[test]
fn a_function_that_is_no_constant_is_left_open() {
    let entries = [entry(5, 0, 0x8003), entry(6, SNAP_FRAME, 1)];
    let found = gc64(&entries, 7, &[F, u64::from(CALL)]).unwrap();
    let open = SnapFrame {
        reference: 0x8003,
        ..frame(0, PC)
    };
    assert_eq!(found, [open, frame(0, CALL - 4)]);
}

#[test]
fn both_copies_of_a_frame_with_variable_arguments_are_one_call() {
    let vararg = (4 * 8) | 3;
    let constants = [F, u64::from(CALL), F, vararg];
    let entries = [
        entry(5, 0, 0),
        entry(6, SNAP_FRAME, 1),
        entry(9, 0, 2),
        entry(10, SNAP_FRAME, 3),
    ];
    assert_eq!(
        gc64(&entries, 11, &constants).unwrap(),
        [frame(F, PC), frame(0, CALL - 4)]
    );
    let entries = [entry(5, SNAP_FRAME, 0), entry(9, SNAP_FRAME, 2)];
    let found = gc32(&entries, &[vararg as u32, CALL], &constants).unwrap();
    assert_eq!(found, [frame(F, PC), frame(0, CALL - 4)]);
    // The lower copy is the frame at jit_base itself.
    let entries = [entry(4, 0, 2), entry(5, SNAP_FRAME, 3)];
    assert_eq!(gc64(&entries, 6, &constants).unwrap(), [frame(F, PC)]);
}

#[test]
fn metamethods_and_protected_calls_are_followed_by_distance() {
    let (cont, pcall) = ((8 * 8) | 2, (2 * 8) | 6);
    let constants = [F, cont, G, u64::from(CALL), 0x7200, pcall];
    // Slot 1 is the caller, 9 a metamethod, 7 where it continues; 9 is a protected call, 11 what it calls.
    let entries = [
        entry(6, 0, 1),
        entry(7, SNAP_CONT, 3),
        entry(8, 0, 2),
        entry(9, SNAP_FRAME, 1),
        entry(10, 0, 0),
        entry(11, SNAP_FRAME, 5),
    ];
    let found = gc64(&entries, 12, &constants).unwrap();
    assert_eq!(found, [frame(F, PC), frame(G, 0), frame(0, CALL - 4)]);
    let entries = [
        entry(7, SNAP_CONT, 1),
        entry(8, SNAP_FRAME, 2),
        entry(10, SNAP_FRAME, 0),
    ];
    let found = gc32(&entries, &[pcall as u32, cont as u32, CALL], &constants).unwrap();
    assert_eq!(found, [frame(F, PC), frame(G, 0), frame(0, CALL - 4)]);
}

#[test]
fn contradictions_are_refused() {
    let call = u64::from(CALL);
    // No link where the frame should be; a link to C; a distance of 0, or beyond the start; no order.
    assert_eq!(gc64(&[entry(5, 0, 0)], 7, &[F, call]), None);
    assert_eq!(gc64(&[entry(6, SNAP_FRAME, 1)], 7, &[F, 0x28 | 1]), None);
    assert_eq!(gc64(&[entry(6, SNAP_FRAME, 1)], 7, &[F, 3]), None);
    assert_eq!(gc64(&[entry(6, SNAP_FRAME, 1)], 7, &[F, 0x4000 | 3]), None);
    assert_eq!(
        gc64(&[entry(6, SNAP_FRAME, 1), entry(5, 0, 0)], 7, &[F, call]),
        None
    );
    assert_eq!(gc32(&[entry(6, SNAP_FRAME, 0)], &[], &[F]), None);
}
