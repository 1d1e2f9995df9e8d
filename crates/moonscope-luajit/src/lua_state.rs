//! `lua_State`: one Lua thread (coroutine) and where its stack is.

use crate::layout::GcMode;
use crate::object::{GCT_THREAD, number, reference_at};
use moonscope_process::{ProcessError, RemoteMemory};

/// `CFRAME_RAWMASK` (lj_frame.h): the low two bits of `cframe` are flags.
const CFRAME_FLAGS: u64 = 3;

/// Slots that a stack may have: `LUAI_MAXSTACK` (65500) and what handling an overflow adds (lj_state.c).
const MAX_STACK_BYTES: u64 = 8 * 2 * 65536;

/// What handlers of errors may use behind `maxstack` (`LJ_STACK_EXTRA`).
pub(crate) const STACK_EXTRA: u64 = 8 * 8;

/// Why an address is not a `lua_State`.
#[derive(Debug, thiserror::Error)]
pub enum LuaStateError {
    /// Its memory cannot be read.
    #[error("the Lua state at {l:#x} cannot be read: {cause}")]
    Unreadable {
        /// Its address.
        l: u64,
        /// Why not.
        cause: ProcessError,
    },
    /// The type byte is not that of a thread.
    #[error("no Lua state at {l:#x}: its type is {gct}, not that of a thread")]
    NotAThread {
        /// Its address.
        l: u64,
        /// What is there.
        gct: u8,
    },
    /// Bottom, base and end are not in this order, or the stack is impossibly large.
    #[error("the Lua state at {l:#x} has no stack: {stack:#x}, base {base:#x}, end {maxstack:#x}")]
    NoStack {
        /// Its address.
        l: u64,
        /// Lowest address of the stack.
        stack: u64,
        /// First slot of the running function.
        base: u64,
        /// Highest address of the stack that Lua may use.
        maxstack: u64,
    },
}

/// A Lua thread at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaState {
    /// Its address.
    pub addr: u64,
    /// `glref`: the VM (`G`) it belongs to.
    pub glref: u64,
    /// First slot of the running function, as last stored: stale while the VM runs bytecode or a trace.
    pub base: u64,
    /// First free slot.
    pub top: u64,
    /// Lowest slot.
    pub stack: u64,
    /// End of the stack.
    pub maxstack: u64,
    /// Innermost frame of the VM on the native stack, without flags; 0 for a coroutine that does not run.
    pub cframe: u64,
    /// `LUA_OK`, `LUA_YIELD` or an error.
    pub status: u8,
}

impl LuaState {
    /// Reads the thread at `l` and checks that it is one.
    pub fn read(memory: &impl RemoteMemory, mode: GcMode, l: u64) -> Result<Self, LuaStateError> {
        let fields = mode.fields();
        let mut head = [0; 0x60];
        let len = usize::from(fields.l_cframe) + 8;
        let bytes = head.get_mut(..len).unwrap_or_default();
        memory
            .read_exact(l, bytes)
            .map_err(|cause| LuaStateError::Unreadable { l, cause })?;
        let reference = |offset| reference_at(fields, &head, offset).unwrap_or(0);
        let byte = |offset: u16| head.get(usize::from(offset)).copied().unwrap_or(0);
        let gct = byte(fields.gct);
        if gct != GCT_THREAD {
            return Err(LuaStateError::NotAThread { l, gct });
        }
        let state = Self {
            addr: l,
            glref: reference(fields.l_glref),
            base: reference(fields.l_base),
            top: reference(fields.l_top),
            stack: reference(fields.l_stack),
            maxstack: reference(fields.l_maxstack),
            cframe: number::<8>(&head, usize::from(fields.l_cframe)).unwrap_or(0) & !CFRAME_FLAGS,
            // lua_State has a byte where functions have ffid, and its status behind it.
            status: byte(fields.fn_ffid + 1),
        };
        let Self {
            stack,
            base,
            maxstack,
            ..
        } = state;
        let bottom = stack.checked_add(8 * u64::from(fields.frame_slots));
        let valid = stack != 0
            && stack % 8 == 0
            && base % 8 == 0
            && bottom.is_some_and(|bottom| bottom <= base)
            && base <= maxstack.saturating_add(STACK_EXTRA)
            && maxstack.saturating_sub(stack) <= MAX_STACK_BYTES;
        if valid {
            Ok(state)
        } else {
            Err(LuaStateError::NoStack {
                l,
                stack,
                base,
                maxstack,
            })
        }
    }

    /// Where the lowest frame link stands that belongs to no function: the end of a complete walk.
    pub fn bottom(&self, mode: GcMode) -> u64 {
        self.stack + 8 * (u64::from(mode.fields().frame_slots) - 1)
    }
}
