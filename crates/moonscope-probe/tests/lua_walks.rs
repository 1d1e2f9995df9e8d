//! The kernel's walk through Lua, on stacks that are written by hand and on what is left of them.
//!
//! What a walk has to give is known from how the memory was written (`lua_image`), and from the walker in user
//! space, `moonscope_luajit::lua_stack`, which shares no code with `bpf/lua.h`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lua_image;

use lua_image::words::{checked, closure_word, lua_word, readable};
use lua_image::{Call, Callee, Entry, How, Image, Leaf, Place, Plan};
use moonscope_luajit::lua_stack::{self, Base, Broken, FrameKind, LuaEnd, LuaFrame, SegmentEnd};
use moonscope_unwind::{WalkEnd, abi};
use proptest::prelude::*;

const DEEP: u32 = abi::MS_MAX_DEPTH;
const NO_PC: u64 = abi::MS_LUA_NO_PC as u64;

// ---- plans ------------------------------------------------------------------------------------------------

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let callee = prop_oneof![
        4 => Just(Callee::Lua),
        2 => Just(Callee::Vararg),
        2 => Just(Callee::Builtin),
        1 => Just(Callee::C)
    ];
    let how = prop_oneof![4 => Just(How::Call), 2 => Just(How::Metamethod), 1 => Just(How::TailCall)];
    let call = (callee, how, 0_u8..16, 0_u8..31).prop_map(|(callee, how, slot, at)| Call {
        callee,
        how,
        slot,
        at,
    });
    prop::collection::vec(call, 1..7)
}

fn plans() -> impl Strategy<Value = Plan> {
    let place = prop_oneof![
        Just(Place::Call),
        Just(Place::Protected),
        Just(Place::Callback),
        Just(Place::Empty),
        Just(Place::Resume),
        Just(Place::OtherVm)
    ];
    let entry = (place, 0_u8..4, calls()).prop_map(|(place, c_frames, calls)| Entry {
        place,
        c_frames,
        calls,
    });
    let leaf = prop_oneof![
        Just(Leaf::C),
        Just(Leaf::Handler),
        Just(Leaf::Subroutine),
        Just(Leaf::Helper),
        any::<u8>().prop_map(|spill| Leaf::Trace { spill }),
        any::<bool>().prop_map(|mapped| Leaf::Gap { mapped }),
        (any::<u8>(), any::<bool>()).prop_map(|(spill, mapped)| Leaf::TraceGap { spill, mapped }),
        Just(Leaf::Entering),
        Just(Leaf::Dispatching),
        Just(Leaf::Replacing),
        Just(Leaf::Leaving)
    ];
    (any::<bool>(), prop::collection::vec(entry, 0..7), leaf, 0_u8..3).prop_map(
        |(gc64, entries, leaf, c_frames)| Plan {
            gc64,
            entries,
            leaf,
            c_frames,
        },
    )
}

// ---- what walks give ------------------------------------------------------------------------------------

/// What user space says of a segment. Instructions are counted as the kernel counts them: behind the current.
fn oracle(image: &Image, l: u64, base: u64, pc: Option<u64>) -> Option<(Vec<[u64; 2]>, LuaEnd)> {
    let base = Base { addr: Some(base), pc };
    let memory = image.memory();
    let walk = lua_stack::frames(&memory, &image.layout, l, base, SegmentEnd::EnteredFromC).ok()?;
    let word = |frame: &LuaFrame| match frame.kind {
        FrameKind::Lua { proto, pos } => match pos {
            Some(pos) => lua_word(abi::MS_LUA_FUNCTION, proto, u64::from(pos) + 1),
            None => closure_word(proto),
        },
        FrameKind::C { f, function } => lua_word(abi::MS_LUA_C_FUNCTION, f, function),
        FrameKind::Builtin { ffid } => lua_word(abi::MS_LUA_BUILTIN, frame.function, ffid.into()),
    };
    Some((walk.frames.iter().map(word).collect(), walk.end))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn every_frame_comes_out_in_its_place(plan in plans()) {
        let image = plan.image();
        let (words, end) = image.walk(DEEP);
        prop_assert_eq!(readable(&words), readable(&image.words));
        prop_assert_eq!(end, WalkEnd::Root);
    }

    #[test]
    fn the_walker_in_user_space_sees_the_same_segments(plan in plans()) {
        let image = plan.image();
        for segment in image.segments.iter().filter(|segment| !segment.frames.is_empty()) {
            let (frames, end) = oracle(&image, segment.l, segment.base, segment.pc).unwrap();
            prop_assert!(!matches!(end, LuaEnd::Broken(_)), "{end:?}");
            prop_assert_eq!(readable(&frames.concat()), readable(&segment.frames.concat()));
        }
    }

    #[test]
    fn a_lower_limit_gives_the_beginning_of_the_same_stack(plan in plans(), depth in 1_u32..20) {
        let image = plan.image();
        let (words, end) = image.walk(depth);
        prop_assert!(image.words.starts_with(&words));
        prop_assert_eq!(end == WalkEnd::Root, words.len() == image.words.len());
        prop_assert!(end == WalkEnd::Root || end == WalkEnd::Depth);
    }
}

// ---- damage -------------------------------------------------------------------------------------------------

/// Where memory is overwritten.
#[derive(Clone, Debug)]
enum Where {
    /// A field of a `lua_State`.
    State(u8, u8),
    /// A slot of a Lua stack.
    Slot(u8, u16),
    /// The link of the innermost frame of a segment, or a slot near it.
    Frame(u8, i8),
    /// A word of the native stack, counted from the leaf.
    Native(u16),
    /// A field of a `global_State`.
    Global(u8, u8),
    /// A word of a function or its prototype.
    Function(u8, u8),
    /// A register.
    Register(u8),
}

/// With what.
#[derive(Clone, Debug)]
enum What {
    Noise(u64),
    /// A link, in a slot that stays that of the same function.
    Link(u32),
    /// The address of something that is there.
    Heap(u32),
    Stack(u16),
    /// A call of the thread itself, which is no frame.
    Dummy(u16),
}

fn damage() -> impl Strategy<Value = Vec<(Where, What)>> {
    let place = prop_oneof![
        (any::<u8>(), 0_u8..12).prop_map(|(n, field)| Where::State(n, field)),
        (any::<u8>(), 0_u16..100).prop_map(|(n, slot)| Where::Slot(n, slot)),
        (0_u8..3, prop_oneof![2 => Just(0_i8), 1 => -20_i8..4]).prop_map(|(n, slots)| Where::Frame(n, slots)),
        (0_u16..200).prop_map(Where::Native),
        (any::<u8>(), prop::sample::select(vec![0xb8_u16, 0x170, 0x178]))
            .prop_map(|(n, field)| Where::Global(n, (field / 8) as u8)),
        (any::<u8>(), 0_u8..48).prop_map(|(n, field)| Where::Function(n, field)),
        (0_u8..17).prop_map(Where::Register),
    ];
    let what = prop_oneof![
        any::<u64>().prop_map(What::Noise),
        (0_u64..4096).prop_map(What::Noise),
        Just(What::Noise(u64::MAX)),
        (0_u32..0x800).prop_map(What::Link),
        (0_u32..8).prop_map(What::Link),
        any::<u32>().prop_map(What::Link),
        (0_u32..0x1_8000).prop_map(|at| What::Heap(at & !7)),
        (0_u16..0x4000).prop_map(|at| What::Stack(at & !7)),
        (1_u16..64).prop_map(What::Dummy),
    ];
    prop::collection::vec((place, what), 1..8)
}

fn overwrite(image: &mut Image, place: &Where, what: &What) {
    use lua_image::{CODE, CODE_SIZE, HEAP, STACK, STACK_SIZE, STACKS, STATE_SIZE, STATES};
    let gc64 = image.layout.fields().ref_size == 8;
    let sp = image.registers.get(abi::MS_REG_RSP as usize).unwrap();
    let (addr, owner) = match *place {
        Where::State(n, field) => (STATES + STATE_SIZE * u64::from(n % 8) + 8 * u64::from(field), 0),
        Where::Slot(n, slot) => (
            STACKS + STACK_SIZE * u64::from(n % 8) + 8 * u64::from(slot),
            n % 8,
        ),
        Where::Frame(n, slots) => match image.segments.get(usize::from(n)) {
            Some(segment) => (
                segment.base.wrapping_add_signed(8 * i64::from(slots) - 8),
                (segment.base.saturating_sub(STACKS) / STACK_SIZE) as u8,
            ),
            None => (0, 0),
        },
        Where::Native(word) => (sp + 8 * u64::from(word), 0),
        Where::Global(n, field) => (HEAP + 0x400 * u64::from(n % 2) + 8 * u64::from(field), 0),
        Where::Function(n, field) => (CODE + CODE_SIZE * u64::from(n % 32) + 8 * u64::from(field), 0),
        Where::Register(_) => (0, 0),
    };
    let value = match *what {
        What::Noise(value) => value,
        What::Heap(at) => HEAP + u64::from(at),
        What::Stack(at) => STACK.start + u64::from(at),
        What::Link(link) => match gc64 {
            true => link.into(),
            false => {
                let old = image
                    .bytes_at(addr)
                    .and_then(|bytes| bytes.first_chunk().copied());
                u64::from(u32::from_le_bytes(old.unwrap_or_default())) | u64::from(link) << 32
            }
        },
        What::Dummy(delta) => {
            let l = STATES + STATE_SIZE * u64::from(owner);
            match gc64 {
                true => l | 0x1fff9 << 47,
                false => l | u64::from(delta * 8 + 2) << 32,
            }
        }
    };
    match *place {
        Where::Register(register) => image.registers.set(register.into(), Some(value)),
        _ => image.put(addr, &value.to_le_bytes()),
    }
}

/// Instructions outside of a function are none in user space; the kernel tells where they would be. What it says
/// of the prototype above them is not compared.
fn without_wrong_positions(&[first, second]: &[u64; 2]) -> [u64; 2] {
    let kind = (first >> abi::MS_FRAME_LUA_KIND_SHIFT & 0xf) as u32;
    let at = second & NO_PC;
    let place = first & abi::MS_FRAME_ADDR_MASK;
    match kind {
        abi::MS_LUA_CLOSURE => lua_word(abi::MS_LUA_FUNCTION, place, NO_PC),
        abi::MS_LUA_FUNCTION if !(1..=32).contains(&at) => [first, NO_PC],
        abi::MS_LUA_FUNCTION => [first, at],
        _ => [first, second],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn damaged_memory_ends_a_walk_and_is_marked(plan in plans(), damage in damage(), depth in 1_u32..200) {
        let mut image = plan.image();
        for (place, what) in &damage {
            overwrite(&mut image, place, what);
        }
        let (words, end) = image.walk(depth);
        prop_assert!(end != WalkEnd::None);
        checked(&words, end, depth);
    }

    #[test]
    fn on_damaged_memory_no_walker_tells_what_the_other_denies(plan in plans(), damage in damage()) {
        let mut image = plan.image();
        for (place, what) in &damage {
            overwrite(&mut image, place, what);
        }
        let (words, end) = image.walk(DEEP);
        // of the first segment the base is known; those that the registers or a trace told are not compared
        let segments = checked(&words, end, DEEP);
        let Some(first) = segments.first().filter(|_| plan.leaf == Leaf::C) else { return Ok(()) };
        if first.l == 0 || first.flags & !abi::MS_SEGMENT_GUESSED != 0 {
            return Ok(());
        }
        let memory = image.memory();
        let Ok(state) = moonscope_luajit::LuaState::read(&memory, image.layout.mode, first.l) else { return Ok(()) };
        let Some((theirs, their_end)) = oracle(&image, first.l, state.base, None) else { return Ok(()) };
        // where no frame is at the base, the kernel looks for the one that called it
        if theirs.is_empty() {
            return Ok(());
        }
        let ours: Vec<[u64; 2]> = first.frames.iter().map(without_wrong_positions).collect();
        // the first position stands in the VM's frame, which is not asked here
        let common = ours.len().min(theirs.len());
        let after_first = |frames: &[[u64; 2]]| readable(&frames[..common].concat()).split_off(common.min(1));
        let theirs: Vec<[u64; 2]> = theirs.iter().map(without_wrong_positions).collect();
        prop_assert_eq!(after_first(&ours), after_first(&theirs));
        if ours.len() < theirs.len() {
            prop_assert!(first.is_broken || end == WalkEnd::Depth, "ours is shorter, and not marked");
        }
        if ours.len() > theirs.len() {
            // user space asks more of a function, and follows a link before it believes the frame
            let asks_more = their_end == LuaEnd::Broken(Broken::NotAFunction);
            let is_last = first.is_broken && ours.len() == theirs.len() + 1;
            prop_assert!(asks_more || is_last, "theirs is shorter: {their_end:?}");
        }
    }
}

#[test]
fn a_tail_call_without_a_link_below_it_breaks_the_stack() {
    let call = |callee| Call {
        callee,
        how: How::Call,
        slot: 4,
        at: 0,
    };
    let entry = Entry {
        place: Place::Call,
        c_frames: 0,
        calls: vec![call(Callee::Lua); 3],
    };
    for gc64 in [true, false] {
        let plan = Plan {
            gc64,
            entries: vec![entry.clone()],
            leaf: Leaf::C,
            c_frames: 0,
        };
        let mut image = plan.image();
        // the second frame is a dummy of lj_meta_tailcall whose continuation and link are both 0
        let (memory, segment) = (image.memory(), image.segments[0].clone());
        let base = Base::at(segment.base);
        let frames = lua_stack::frames(&memory, &image.layout, segment.l, base, SegmentEnd::EnteredFromC);
        let frames = frames.unwrap().frames;
        let (frame, size) = (frames[1].position, frames[1].position - frames[2].position);
        match gc64 {
            true => {
                image.put(frame, &(size | 2).to_le_bytes());
                image.put(frame - 8, &(segment.l | 0x1fff9 << 47).to_le_bytes());
                image.put(frame - 24, &[0; 16]);
            }
            false => {
                image.put(frame, &(segment.l | (size | 2) << 32).to_le_bytes());
                image.put(frame - 8, &[0; 8]);
            }
        }
        let (words, end) = image.walk(DEEP);
        let segments = checked(&words, end, DEEP);
        assert_eq!(segments[0].frames.len(), 1);
        assert!(segments[0].is_broken);
    }
}

#[test]
fn a_stack_of_frames_that_are_none_ends_at_the_limit() {
    for gc64 in [true, false] {
        let entry = Entry {
            place: Place::Call,
            c_frames: 1,
            calls: vec![Call {
                callee: Callee::C,
                how: How::Call,
                slot: 0,
                at: 0,
            }],
        };
        let plan = Plan {
            gc64,
            entries: vec![entry],
            leaf: Leaf::C,
            c_frames: 1,
        };
        let mut image = plan.image();
        let (l, stack) = (lua_image::STATES, lua_image::HEAP + 0x10_0000);
        // a Lua stack of its own, longer than a walk, on which the thread calls itself
        let step: u64 = if gc64 { 16 } else { 8 };
        let count = 4000;
        let fields = image.layout.fields();
        image.heap.resize(0x10_0000 + (count * step) as usize + 64, 0);
        for frame in 1..=count {
            let base = stack + frame * step + step;
            match gc64 {
                true => {
                    image.put(base - 16, &(l | 0x1fff9 << 47).to_le_bytes());
                    image.put(base - 8, &(step | 2).to_le_bytes());
                }
                false => image.put(base - 8, &(l | (step | 2) << 32).to_le_bytes()),
            }
        }
        let top = stack + count * step;
        image.reference(l + u64::from(fields.l_stack), stack);
        image.reference(l + u64::from(fields.l_maxstack), top + 64);
        image.reference(l + u64::from(fields.l_base), top);
        let (words, end) = image.walk(DEEP);
        assert_eq!(end, WalkEnd::Depth, "{:?}", readable(&words));
        assert_eq!(words.len(), 4, "two native frames and the mark of the segment");
    }
}
