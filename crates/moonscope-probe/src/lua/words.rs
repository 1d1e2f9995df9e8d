//! User frames as the kernel side ships them: native ones of one word, Lua ones of two (`bpf/abi.h`,
//! `MS_FRAME_LUA`).

use moonscope_unwind::{WalkFrame, abi};

/// A frame of a shipped walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserFrame {
    /// Native code.
    Native(WalkFrame),
    /// What Lua adds.
    Lua(LuaWord),
}

/// What Lua adds to a native stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LuaWord {
    /// The Lua frames of one entry into a VM follow.
    Segment {
        /// The coroutine; 0 if it could not be found.
        l: u64,
        /// The `global_State` of its VM.
        g: u64,
        /// `MS_SEGMENT_*`.
        flags: u64,
    },
    /// A Lua function.
    Function {
        /// Its prototype.
        proto: u64,
        /// Behind its current instruction, in instructions from its first; `None`: not known.
        at: Option<u32>,
        /// `MS_LUA_PRINT` of the prototype as it was then; 0: not known.
        print: u32,
        /// The function object, where that is more telling than the prototype.
        closure: Option<u64>,
    },
    /// A C function called from Lua.
    CFunction {
        /// Its code.
        code: u64,
        /// The function object.
        object: u64,
    },
    /// A function of LuaJIT's own library.
    Builtin {
        /// Its number.
        ffid: u8,
    },
    /// The Lua stack cannot be followed further, for this reason (`enum ms_lua_broken`).
    Broken(u64),
    /// A copy of the native stack was walked, without Lua: never shipped.
    NotWalked,
    /// A coroutine and its logical parents end here.
    LastParent {
        /// How many parents there were.
        found: u64,
        /// Why no more (`enum ms_parent`).
        why: u32,
    },
}

impl LuaWord {
    fn parse(first: u64, second: u64) -> Self {
        let address = first & abi::MS_FRAME_ADDR_MASK;
        match (first >> abi::MS_FRAME_LUA_KIND_SHIFT & 0xf) as u32 {
            abi::MS_LUA_SEGMENT => Self::Segment {
                l: address,
                g: second & abi::MS_SEGMENT_G_MASK,
                flags: second & !abi::MS_SEGMENT_G_MASK,
            },
            abi::MS_LUA_FUNCTION => Self::Function {
                proto: address,
                at: Some(second as u32).filter(|&at| at != abi::MS_LUA_NO_PC),
                print: (second >> abi::MS_LUA_PRINT_SHIFT) as u32,
                closure: None,
            },
            abi::MS_LUA_CLOSURE => Self::Function {
                proto: address,
                at: None,
                print: (second >> abi::MS_LUA_PRINT_SHIFT) as u32,
                closure: Some(address.wrapping_add_signed(i64::from((second as u32).cast_signed()) * 8)),
            },
            abi::MS_LUA_C_FUNCTION => Self::CFunction {
                code: address,
                object: second,
            },
            abi::MS_LUA_BUILTIN => Self::Builtin { ffid: second as u8 },
            abi::MS_LUA_LAST_PARENT => Self::LastParent {
                found: address,
                why: second as u32,
            },
            _ => Self::Broken(second),
        }
    }
}

fn native(word: u64) -> WalkFrame {
    WalkFrame {
        addr: word & abi::MS_FRAME_ADDR_MASK,
        exact: word & abi::MS_FRAME_EXACT != 0,
        fp: word & abi::MS_FRAME_FP != 0,
    }
}

/// The words of a walk, taken apart. A Lua frame without its second word is left out.
pub fn user_frames(words: &[u64]) -> Vec<UserFrame> {
    let mut frames = Vec::with_capacity(words.len());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        if word & abi::MS_FRAME_LUA == 0 {
            frames.push(UserFrame::Native(native(word)));
        } else if let Some(second) = words.next() {
            frames.push(UserFrame::Lua(LuaWord::parse(word, second)));
        }
    }
    frames
}

/// Only the native ones.
pub fn native_frames(words: &[u64]) -> Vec<WalkFrame> {
    user_frames(words)
        .into_iter()
        .filter_map(|frame| match frame {
            UserFrame::Native(frame) => Some(frame),
            UserFrame::Lua(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lua(kind: u32, address: u64) -> u64 {
        abi::MS_FRAME_LUA | u64::from(kind) << abi::MS_FRAME_LUA_KIND_SHIFT | address
    }

    #[test]
    fn lua_frames_take_two_words_and_native_ones_one() {
        let words = [
            abi::MS_FRAME_EXACT | 0x1000,
            lua(abi::MS_LUA_SEGMENT, 0x7000),
            abi::MS_SEGMENT_TRACE | 0x8000,
            lua(abi::MS_LUA_FUNCTION, 0x9000),
            7 << abi::MS_LUA_PRINT_SHIFT | 12,
            lua(abi::MS_LUA_FUNCTION, 0x9100),
            abi::MS_LUA_NO_PC.into(),
            lua(abi::MS_LUA_CLOSURE, 0x9200),
            8 << abi::MS_LUA_PRINT_SHIFT | 0xffff_ffe0,
            0x2000,
        ];
        let frames = user_frames(&words);
        assert_eq!(frames.len(), 6);
        assert_eq!(
            frames[1],
            UserFrame::Lua(LuaWord::Segment {
                l: 0x7000,
                g: 0x8000,
                flags: abi::MS_SEGMENT_TRACE
            })
        );
        let function = |proto, at, print, closure| {
            UserFrame::Lua(LuaWord::Function {
                proto,
                at,
                print,
                closure,
            })
        };
        assert_eq!(frames[2], function(0x9000, Some(12), 7, None));
        assert_eq!(frames[3], function(0x9100, None, 0, None));
        assert_eq!(frames[4], function(0x9200, None, 8, Some(0x9100)));
        let addrs: Vec<u64> = native_frames(&words).iter().map(|frame| frame.addr).collect();
        assert_eq!(addrs, [0x1000, 0x2000]);
    }

    #[test]
    fn a_frame_cut_in_half_is_left_out() {
        assert!(user_frames(&[lua(abi::MS_LUA_BUILTIN, 1)]).is_empty());
    }
}
