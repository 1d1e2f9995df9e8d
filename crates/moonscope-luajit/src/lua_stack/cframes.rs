//! Where interpreted functions that called C were: in the VM's frames on the native stack.

use crate::layout::{GcMode, Layout};
use crate::lua_state::LuaState;
use moonscope_process::RemoteMemory;

/// Frames of the VM on the native stack that a walk passes: LuaJIT itself ends at 200 nested C calls
/// (`LUAI_MAXCCALLS`), and each has at most one more for its protected call.
const MAX_CFRAMES: usize = 1024;

/// The frames of the VM on the native stack, kept in step with the Lua frames (`debug_framepc`).
pub(super) struct CFrames<'a, M> {
    memory: &'a M,
    layout: &'a Layout,
    l: u64,
    stack: u64,
    current: u64,
    left: usize,
}

impl<'a, M: RemoteMemory> CFrames<'a, M> {
    pub(super) fn new(memory: &'a M, layout: &'a Layout, state: &LuaState) -> Self {
        Self {
            memory,
            layout,
            l: state.addr,
            stack: state.stack,
            current: state.cframe,
            left: MAX_CFRAMES,
        }
    }

    /// A native frame with a negative result count belongs to no Lua frame as long as the walk is above
    /// the stack offset it saved.
    pub(super) fn reach(&mut self, frame: u64) {
        while self.current != 0 {
            let nres = self.memory.read_u32(self.at(self.layout.cframe.nres));
            let Ok(nres) = nres.map(u32::cast_signed) else {
                self.current = 0;
                return;
            };
            let saved = self.stack.wrapping_add(u64::from(nres.unsigned_abs()));
            if nres >= 0 || frame >= saved {
                return;
            }
            self.leave();
        }
    }

    /// Goes to the native frame that this one is inside of.
    pub(super) fn leave(&mut self) {
        self.left = self.left.saturating_sub(1);
        let previous = match self.left {
            0 => 0,
            _ => self
                .memory
                .read_u64(self.at(self.layout.cframe.prev))
                .unwrap_or(0),
        };
        self.current = previous & !3;
    }

    /// `SAVE_PC`, unless nothing is saved there: then it is 0 or the thread.
    pub(super) fn pc(&self) -> Option<u64> {
        if self.current == 0 {
            return None;
        }
        let pc = self.at(self.layout.cframe.pc);
        let pc = match self.layout.mode {
            GcMode::Gc64 => self.memory.read_u64(pc).ok()?,
            GcMode::Gc32 => u64::from(self.memory.read_u32(pc).ok()?),
        };
        (pc != 0 && pc != self.l).then_some(pc)
    }

    fn at(&self, offset: u16) -> u64 {
        self.current.wrapping_add(u64::from(offset))
    }
}
