//! The words of a walk: made, read, and taken apart.

use moonscope_unwind::{WalkEnd, abi};

/// The two words of a Lua frame.
pub fn lua_word(kind: u32, address: u64, second: u64) -> [u64; 2] {
    let kind = u64::from(kind) << abi::MS_FRAME_LUA_KIND_SHIFT;
    [abi::MS_FRAME_LUA | kind | address, second]
}

/// From a prototype to its function object, in these VMs.
pub const OBJECT: u64 = 0x140;

/// A Lua function whose position is not known.
pub fn closure_word(proto: u64) -> [u64; 2] {
    lua_word(abi::MS_LUA_CLOSURE, proto & abi::MS_FRAME_ADDR_MASK, OBJECT / 8)
}

/// Words as people read them.
pub fn readable(words: &[u64]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let address = word & abi::MS_FRAME_ADDR_MASK;
        if word & abi::MS_FRAME_LUA == 0 {
            lines.push(format!("{address:#x} {:x}", word >> 56));
        } else {
            let kind = word >> abi::MS_FRAME_LUA_KIND_SHIFT & 0xf;
            let second = words.next().copied().unwrap_or_default();
            lines.push(format!("    lua {kind} {address:#x} {second:#x}"));
        }
    }
    lines
}

/// A Lua part of a walk.
#[derive(Debug, Default)]
pub struct Found {
    pub l: u64,
    pub flags: u64,
    pub frames: Vec<[u64; 2]>,
    pub is_broken: bool,
}

/// Takes the words of a walk apart. Whatever the memory was, it has an end and is no longer than was asked for, and
/// what follows a broken part of a coroutine is not made up.
pub fn checked(words: &[u64], end: WalkEnd, depth: u32) -> Vec<Found> {
    assert_ne!(end, WalkEnd::None);
    let segments = taken_apart(words, end);
    let frames: usize = segments.iter().map(|segment| segment.frames.len()).sum();
    let natives = words
        .iter()
        .filter(|&&word| word & abi::MS_FRAME_LUA == 0)
        .count();
    assert!(
        frames + natives <= 3 * depth as usize,
        "{frames} and {natives} frames"
    );
    for pair in segments.windows(2) {
        if pair[0].is_broken && pair[1].l == pair[0].l {
            assert!(pair[1].flags & abi::MS_SEGMENT_LOST != 0 && pair[1].frames.is_empty());
        }
    }
    segments
}

fn taken_apart(words: &[u64], end: WalkEnd) -> Vec<Found> {
    let mut segments: Vec<Found> = Vec::new();
    let mut is_open = false;
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let address = word & abi::MS_FRAME_ADDR_MASK;
        if word & abi::MS_FRAME_LUA == 0 {
            is_open = false;
            continue;
        }
        let Some(second) = words.next() else {
            assert_eq!(end, WalkEnd::Depth, "half a frame");
            break;
        };
        let kind = (word >> abi::MS_FRAME_LUA_KIND_SHIFT & 0xf) as u32;
        assert!(kind <= abi::MS_LUA_CLOSURE, "kind {kind}");
        if kind == abi::MS_LUA_SEGMENT {
            is_open = true;
            segments.push(Found {
                l: address,
                flags: second & !abi::MS_SEGMENT_G_MASK,
                ..Default::default()
            });
            continue;
        }
        assert!(is_open, "a Lua frame without a segment");
        let segment = segments.last_mut().expect("one is open");
        assert!(!segment.is_broken, "a frame behind the end");
        match kind {
            abi::MS_LUA_BROKEN => {
                assert!(second <= u64::from(abi::MS_LUA_BAD_LINK), "broken for no reason");
                segment.is_broken = true;
            }
            _ => segment.frames.push([word, second]),
        }
    }
    segments
}
