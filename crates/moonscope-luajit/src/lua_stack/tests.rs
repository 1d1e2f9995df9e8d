use super::*;
use crate::testing::{Image, MODES, Noise, layout};
use proptest::prelude::*;

const F: u64 = Image::START + 0x4000;
const G: u64 = Image::START + 0x4100;
const PCALL: u64 = Image::START + 0x4200;
const F_PROTO: u64 = Image::START + 0x5000;
const G_PROTO: u64 = Image::START + 0x6000;
const CFRAME: u64 = Image::START + 0x8000;

/// A stack on which `f` was called by C: (image, f's bytecode, g's bytecode, f's frame). Instruction 4 of `f`
/// calls with A = 2.
fn called_by_c(mode: GcMode) -> (Image, u64, u64, u64) {
    let mut image = Image::new(mode);
    let f = image.lua(F, F_PROTO, 10);
    let g = image.lua(G, G_PROTO, 10);
    image.builtin(PCALL, 20);
    image.put(f + 4 * 4, &[66, 2, 1, 2]);
    let bottom = Image::STACK + 8 * (u64::from(mode.fields().frame_slots) - 1);
    let frame = bottom + 0x20;
    image.frame(frame, F, 0x20 | 5);
    (image, f, g, frame)
}

fn called_at(mode: GcMode, frame: u64) -> u64 {
    frame + 8 * (2 + u64::from(mode.fields().frame_slots))
}

fn walk(image: &mut Image, frame: u64, pc: u64) -> LuaWalk {
    image.base(frame + 8);
    let base = Base::stored().with_pc(pc);
    frames(image, &layout(image.mode), Image::L, base, SegmentEnd::Bottom).unwrap()
}

fn lua(proto: u64, pos: u32) -> FrameKind {
    FrameKind::Lua {
        proto,
        pos: Some(pos),
    }
}

fn kinds(walk: &LuaWalk) -> Vec<FrameKind> {
    walk.frames.iter().map(|frame| frame.kind).collect()
}

#[test]
fn a_call_in_bytecode_leads_to_the_instruction_that_calls() {
    for mode in MODES {
        let (mut image, f, g, frame) = called_by_c(mode);
        let callee = called_at(mode, frame);
        image.frame(callee, G, f + 5 * 4);
        let walk = walk(&mut image, callee, g + 3 * 4);
        assert_eq!(walk.end, LuaEnd::Bottom);
        assert_eq!(kinds(&walk), [lua(G_PROTO, 2), lua(F_PROTO, 4)]);
        assert_eq!(
            [walk.frames[0].link, walk.frames[1].link],
            [Link::Lua, Link::Protected]
        );
    }
}

#[test]
fn a_call_with_variable_arguments_is_one_frame() {
    for mode in MODES {
        let (mut image, f, g, frame) = called_by_c(mode);
        let lower = called_at(mode, frame);
        image.frame(lower, G, f + 5 * 4);
        let upper = lower + 0x28;
        image.frame(upper, G, 0x28 | 3);
        let walk = walk(&mut image, upper, g + 3 * 4);
        assert_eq!(kinds(&walk), [lua(G_PROTO, 2), lua(F_PROTO, 4)]);
    }
}

#[test]
fn a_protected_call_has_the_built_in_function_between() {
    for mode in MODES {
        let (mut image, f, g, frame) = called_by_c(mode);
        let pcall = called_at(mode, frame);
        image.frame(pcall, PCALL, f + 5 * 4);
        let callee = pcall + 0x10;
        image.frame(callee, G, 0x10 | 6);
        let walk = walk(&mut image, callee, g + 4);
        let builtin = FrameKind::Builtin { ffid: 20 };
        assert_eq!(kinds(&walk), [lua(G_PROTO, 0), builtin, lua(F_PROTO, 4)]);
    }
}

#[test]
fn a_metamethod_is_called_where_its_continuation_returns_to() {
    for mode in MODES {
        let (mut image, f, g, frame) = called_by_c(mode);
        let callee = frame + 0x40;
        image.frame(callee, G, 0x40 | 2);
        image.continuation(callee, 0x1234_5678, f + 8 * 4);
        let walk = walk(&mut image, callee, g + 4);
        assert_eq!(kinds(&walk), [lua(G_PROTO, 0), lua(F_PROTO, 7)]);
    }
}

#[test]
fn a_segment_ends_with_the_frame_that_c_entered_and_the_next_goes_on_below() {
    for (mode, link) in MODES
        .into_iter()
        .flat_map(|mode| [(mode, 1), (mode, 5), (mode, 2)])
    {
        let (mut image, f, g, frame) = called_by_c(mode);
        let callee = frame + 0x40;
        image.frame(callee, G, 0x40 | link);
        image.continuation(callee, 1, 0);
        image.base(callee + 8);
        let segment = |base| frames(&image, &layout(mode), Image::L, base, SegmentEnd::EnteredFromC).unwrap();
        let first = segment(Base::stored().with_pc(g + 4));
        assert_eq!(kinds(&first), [lua(G_PROTO, 0)]);
        assert_eq!(first.end, LuaEnd::EnteredFromC { next: frame });
        let second = segment(Base::below(frame).with_pc(f + 3 * 4));
        assert_eq!(kinds(&second), [lua(F_PROTO, 2)]);
        assert_eq!(second.end, LuaEnd::Bottom);
    }
}

#[test]
fn a_function_that_c_interrupted_is_where_the_native_frame_says() {
    for mode in MODES {
        let (mut image, f, g, frame) = called_by_c(mode);
        let callee = frame + 0x40;
        image.frame(callee, G, 0x40 | 1);
        image.base(callee + 8);
        let cframe = layout(mode).cframe;
        let (inner, outer) = (CFRAME, CFRAME + 0x100);
        image.put(
            Image::L + u64::from(mode.fields().l_cframe),
            &(inner | 1).to_le_bytes(),
        );
        image.put(inner + u64::from(cframe.prev), &outer.to_le_bytes());
        image.reference(inner + u64::from(cframe.pc), g + 6 * 4);
        image.reference(outer + u64::from(cframe.pc), f + 9 * 4);
        let walk = frames(
            &image,
            &layout(mode),
            Image::L,
            Base::stored(),
            SegmentEnd::Bottom,
        )
        .unwrap();
        assert_eq!(kinds(&walk), [lua(G_PROTO, 5), lua(F_PROTO, 8)]);
    }
}

#[test]
fn a_dummy_frame_is_no_call() {
    for mode in MODES {
        let (mut image, f, g, frame) = called_by_c(mode);
        let callee = called_at(mode, frame);
        image.frame(callee, G, f + 5 * 4);
        let dummy = callee + 0x20;
        image.frame(dummy, Image::L, 0x20 | 1);
        let walked = walk(&mut image, dummy, g + 4);
        assert_eq!(walked.frames.len(), 2);
        // In place of a C function's frame: its link is beside the continuation.
        image.frame(callee, F_PROTO, 0xffff_fff7);
        image.frame(dummy, Image::L, 0x20 | 2);
        image.continuation(dummy, 0, f + 5 * 4);
        let walked = walk(&mut image, dummy, g + 4);
        assert_eq!(walked.end, LuaEnd::Bottom);
        assert_eq!(kinds(&walked), [lua(F_PROTO, 4)]);
    }
}

#[test]
fn links_that_lead_nowhere_end_the_walk() {
    for mode in MODES {
        let (mut image, _, g, frame) = called_by_c(mode);
        for (link, broken) in [
            (1, Broken::NotDecreasing),
            (0x7000 | 1, Broken::OutsideStack),
            (0x28 | 1, Broken::OutsideStack),
            (0x10 | 1, Broken::UnknownLink),
            (4, Broken::Unreadable),
        ] {
            image.frame(frame, F, link);
            let walk = walk(&mut image, frame, g);
            assert_eq!(walk.end, LuaEnd::Broken(broken), "{mode:?} {link:#x}");
        }
        image.frame(frame, F_PROTO, 0x20 | 1);
        assert_eq!(
            walk(&mut image, frame, g).end,
            LuaEnd::Broken(Broken::NotAFunction)
        );
        let outside = Base::at(Image::STACK + 0x4000);
        let walk = frames(&image, &layout(mode), Image::L, outside, SegmentEnd::Bottom).unwrap();
        assert_eq!(walk.end, LuaEnd::Broken(Broken::OutsideStack));
    }
}

proptest! {
    #[test]
    fn a_walk_through_noise_is_bounded_and_goes_downwards(
        seed: u64, gc64: bool, mask in prop::sample::select(vec![u64::MAX, 0x1f_ffff, 0xff, 0x10_7fff_0010_7fff]),
        slots in prop::collection::vec((0_u64..512, 0_u64..8, 0_u64..512, 0_u64..3), 0..200),
    ) {
        let mode = if gc64 { GcMode::Gc64 } else { GcMode::Gc32 };
        let (mut image, f, _, _) = called_by_c(mode);
        for (slot, kind, distance, what) in slots {
            let frame = Image::STACK + 8 * (slot.max(3));
            let function = [F, PCALL, Image::L][what as usize];
            let link = if kind == 0 { f + 20 } else { (distance * 8) | kind };
            image.frame(frame, function, link);
        }
        image.base(Image::STACK + 8 * 500);
        let memory = Noise { seed, mask, image, over: 0x1_0000 };
        for end in [SegmentEnd::Bottom, SegmentEnd::EnteredFromC] {
            let walk = frames(&memory, &layout(mode), Image::L, Base::stored(), end).unwrap();
            prop_assert!(walk.frames.len() <= 512);
            prop_assert!(walk.frames.windows(2).all(|pair| pair[1].position < pair[0].position));
            prop_assert!(walk.frames.iter().all(|frame| frame.position >= Image::STACK));
        }
    }

    #[test]
    fn a_state_of_noise_is_refused_or_walked(seed: u64, gc64: bool, l: u64) {
        let mode = if gc64 { GcMode::Gc64 } else { GcMode::Gc32 };
        let memory = Noise { seed, mask: u64::MAX, image: Image::new(mode), over: 0 };
        let _ = frames(&memory, &layout(mode), l, Base::stored(), SegmentEnd::Bottom);
    }
}
