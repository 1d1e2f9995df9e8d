//! Prototypes that are known, and those that were.

use std::time::Instant;

use moonscope_luajit::{Prototype, PrototypeIdentity};
use moonscope_process::ProcessMemory;
use moonscope_unwind::abi;

use super::functions::LuaFunctionId;

/// A prototype, and what it is called.
pub(super) struct Known {
    pub(super) prototype: Prototype,
    pub(super) print: u32,
    pub(super) function: LuaFunctionId,
    /// It has no name of its own that one can be sure of.
    pub(super) is_nameless: bool,
    pub(super) checked: Instant,
    /// Of all that were read of the process: tells apart what was at one address in turn.
    pub(super) number: u64,
}

impl Known {
    /// The line of a position in its bytecode; 0: not known.
    pub(super) fn line(&self, memory: &ProcessMemory, position: Option<u32>) -> u32 {
        position
            .and_then(|position| self.prototype.line_of(memory, position).ok().flatten())
            .unwrap_or(0)
    }
}

/// A prototype that was collected, or whose VM was closed.
pub(super) struct Gone {
    pub(super) known: Known,
    /// When that was seen: samples up to then may have it.
    pub(super) seen: Instant,
}

/// `MS_LUA_PRINT`.
pub(super) fn print_of(identity: &PrototypeIdentity) -> u32 {
    let [_, _, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = identity.chunkname_header;
    let string = [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]].map(u32::from_le_bytes);
    ((identity.chunkname >> 3) as u32)
        .wrapping_mul(abi::MS_LUA_PRINT_CHUNK)
        .wrapping_add(string[0].wrapping_mul(abi::MS_LUA_PRINT_STRING0))
        .wrapping_add(string[1].wrapping_mul(abi::MS_LUA_PRINT_STRING1))
        .wrapping_add(string[2].wrapping_mul(abi::MS_LUA_PRINT_STRING2))
        .wrapping_add(identity.firstline.wrapping_mul(abi::MS_LUA_PRINT_LINE))
        .wrapping_add(identity.numline.wrapping_mul(abi::MS_LUA_PRINT_LINES))
}
