//! The logical parents of ngx_lua's coroutines, on memory that is written by hand: `ngx_http_lua_co_ctx_t` has the
//! coroutine in its second word and the context of the parent in its third (ngx_http_lua_common.h).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lua_image;

use lua_image::words::{lua_word, readable};
use lua_image::{
    Call, Callee, Entry, HEAP, How, Image, Leaf, Place, Plan, STACK_SIZE, STACKS, STATE_SIZE, STATES,
};
use moonscope_unwind::{WalkEnd, abi};

/// Coroutines that the plan leaves free.
const PARENT: u64 = STATES + 5 * STATE_SIZE;
const GRANDPARENT: u64 = STATES + 6 * STATE_SIZE;
/// Of the coroutine that runs, and of these two.
const CONTEXTS: [u64; 3] = [0x800, 0x900, 0xa00];

fn context(generation: usize) -> u64 {
    STACKS + 7 * STACK_SIZE + CONTEXTS[generation]
}

/// A coroutine that C resumed and that has called a C function.
fn image(gc64: bool) -> Image {
    let call = |callee| Call {
        callee,
        how: How::Call,
        slot: 0,
        at: 3,
    };
    let entry = Entry {
        place: Place::OtherVm,
        c_frames: 1,
        calls: vec![call(Callee::Lua), call(Callee::C)],
    };
    let plan = Plan {
        gc64,
        entries: vec![entry],
        leaf: Leaf::C,
        c_frames: 1,
    };
    let mut image = plan.image();
    image.coroutine_parents = true;
    image
}

fn exdata2(image: &Image, l: u64) -> u64 {
    l + if image.layout.fields().ref_size == 8 {
        0x68
    } else {
        0x48
    }
}

/// Its context, with that of its parent.
fn link(image: &mut Image, l: u64, own: u64, parent: u64) {
    image.put(exdata2(image, l), &own.to_le_bytes());
    for (word, value) in [0x7777, l, parent].into_iter().enumerate() {
        image.put(own + 8 * word as u64, &value.to_le_bytes());
    }
}

/// Makes a coroutine that has yielded in a C function, the only one on its stack. Gives the words of its frames.
fn suspend(image: &mut Image, l: u64) -> [u64; 2] {
    let fields = image.layout.fields();
    let g = image.vms[0];
    let (step, stack) = (
        8 * u64::from(fields.frame_slots),
        STACKS + (l - STATES) / STATE_SIZE * STACK_SIZE,
    );
    let [first, function] = image.segments[0].frames[0];
    let base = stack + 2 * step;
    image.put(l + u64::from(fields.gct), &[6, 0, 1]);
    image.reference(l + u64::from(fields.l_glref), g);
    image.reference(l + u64::from(fields.l_stack), stack);
    image.reference(l + u64::from(fields.l_maxstack), stack + 0x100);
    image.reference(l + u64::from(fields.l_base), base);
    // called by lua_resume: FRAME_C | FRAME_P
    match fields.ref_size {
        8 => {
            image.put(base - 16, &(function | 0x1fff7 << 47).to_le_bytes());
            image.put(base - 8, &(step | 5).to_le_bytes());
        }
        _ => image.put(base - 8, &(function | (step | 5) << 32).to_le_bytes()),
    }
    [first, function]
}

/// What stands between the frames of the coroutine that runs and the native frame of what resumed it.
fn chain(image: &Image) -> Vec<String> {
    let (words, end) = image.walk(abi::MS_MAX_DEPTH);
    assert_eq!(end, WalkEnd::Root);
    let without = Image {
        coroutine_parents: false,
        ..image.clone()
    };
    let (plain, _) = without.walk(abi::MS_MAX_DEPTH);
    let (words, plain) = (readable(&words), readable(&plain));
    let is_lua = |line: &String| line.starts_with("    lua");
    let at = plain.iter().rposition(is_lua).unwrap() + 1;
    let more = words.len() - plain.len();
    assert_eq!(words[..at], plain[..at]);
    assert_eq!(words[at + more..], plain[at..]);
    words[at..at + more].to_vec()
}

fn last(count: u64, why: u32) -> [u64; 2] {
    lua_word(abi::MS_LUA_LAST_PARENT, count, why.into())
}

fn mark(image: &Image, l: u64) -> [u64; 2] {
    lua_word(abi::MS_LUA_SEGMENT, l, image.vms[0] | abi::MS_SEGMENT_PARENT)
}

/// Three generations, of which two wait; also the words of the frame that each has.
fn family(gc64: bool) -> (Image, [u64; 2]) {
    let mut image = image(gc64);
    let frame = suspend(&mut image, PARENT);
    suspend(&mut image, GRANDPARENT);
    let l = image.segments[0].l;
    link(&mut image, l, context(0), context(1));
    link(&mut image, PARENT, context(1), context(2));
    link(&mut image, GRANDPARENT, context(2), 0);
    (image, frame)
}

#[test]
fn coroutines_that_wait_stand_above_the_one_that_runs_nearest_first() {
    for gc64 in [true, false] {
        let (image, frame) = family(gc64);
        let expected = [
            mark(&image, PARENT),
            frame,
            mark(&image, GRANDPARENT),
            frame,
            last(2, abi::MS_PARENT_NONE),
        ];
        assert_eq!(chain(&image), readable(&expected.concat()), "GC64: {gc64}");
    }
}

#[test]
fn a_coroutine_without_context_or_without_parent_has_none() {
    for gc64 in [true, false] {
        let mut image = image(gc64);
        let none = readable(&last(0, abi::MS_PARENT_NONE));
        assert_eq!(chain(&image), none, "no context");
        let l = image.segments[0].l;
        link(&mut image, l, context(0), 0);
        assert_eq!(chain(&image), none, "no parent");
    }
}

#[test]
fn what_is_not_proven_is_no_parent() {
    for gc64 in [true, false] {
        let why = |change: &dyn Fn(&mut Image)| {
            let (mut image, _) = family(gc64);
            change(&mut image);
            chain(&image)
        };
        let ended = |reason| readable(&last(0, reason));
        let put = |image: &mut Image, addr, value: u64| image.put(addr, &value.to_le_bytes());
        let unproven = ended(abi::MS_PARENT_UNPROVEN);
        let other = |image: &mut Image| put(image, exdata2(image, PARENT), context(2));
        assert_eq!(why(&other), unproven, "it has another context");
        let glref = |image: &mut Image| {
            let fields = image.layout.fields();
            image.reference(PARENT + u64::from(fields.l_glref), HEAP + 0x400);
        };
        assert_eq!(why(&glref), unproven, "of another VM");
        let nowhere = |image: &mut Image| put(image, context(0) + 16, 0xffff_ffff_0000);
        assert_eq!(why(&nowhere), unproven, "nothing is there");
        let no_context = ended(abi::MS_PARENT_NO_CONTEXT);
        let anothers = |image: &mut Image| put(image, context(0) + 8, PARENT);
        assert_eq!(why(&anothers), no_context, "the context of another coroutine");
        let odd = |image: &mut Image| put(image, exdata2(image, image.segments[0].l), context(0) + 1);
        assert_eq!(why(&odd), no_context, "no address");
    }
}

#[test]
fn a_parent_that_does_not_wait_is_not_shown_and_neither_is_what_is_beyond_it() {
    for gc64 in [true, false] {
        let (mut image, frame) = family(gc64);
        let fields = image.layout.fields();
        image.put(GRANDPARENT + u64::from(fields.gct) + 2, &[0]);
        let expected = [mark(&image, PARENT), frame, last(1, abi::MS_PARENT_RUNS)];
        assert_eq!(chain(&image), readable(&expected.concat()), "it ran to its end");
        image.put(
            PARENT + u64::from(fields.l_cframe),
            &0x7ffc_0000_1000_u64.to_le_bytes(),
        );
        assert_eq!(chain(&image), readable(&last(0, abi::MS_PARENT_RUNS)), "it runs");
    }
}

#[test]
fn contexts_in_a_circle_come_to_an_end() {
    for gc64 in [true, false] {
        let (mut image, frame) = family(gc64);
        link(&mut image, GRANDPARENT, context(2), context(1));
        let (deepest, both) = (
            abi::MS_MAX_PARENTS,
            [mark(&image, PARENT), frame, mark(&image, GRANDPARENT), frame].concat(),
        );
        let mut expected = both.repeat(deepest as usize / 2);
        expected.extend(last(deepest.into(), abi::MS_PARENT_TOO_DEEP));
        assert_eq!(chain(&image), readable(&expected));
    }
}
