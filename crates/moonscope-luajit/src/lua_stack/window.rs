//! Reading the Lua stack piece by piece.

use crate::object::number;
use moonscope_process::RemoteMemory;

/// Bytes of the stack read at once.
const WINDOW: u64 = 4096;

/// A piece of the stack. Walks go downwards, so it ends with the slot that was asked for.
#[derive(Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    pub(super) fn slot(&mut self, memory: &impl RemoteMemory, lowest: u64, addr: u64) -> Option<u64> {
        let cached = |window: &Self| {
            let offset = usize::try_from(addr.checked_sub(window.start)?).ok()?;
            number::<8>(&window.bytes, offset)
        };
        if let Some(slot) = cached(self) {
            return Some(slot);
        }
        self.start = addr.saturating_sub(WINDOW).max(lowest);
        self.bytes.clear();
        self.bytes
            .resize(usize::try_from(addr.checked_sub(self.start)?).ok()? + 8, 0);
        if memory.read_exact(self.start, &mut self.bytes).is_err() {
            self.start = addr;
            self.bytes.resize(8, 0);
            if memory.read_exact(addr, &mut self.bytes).is_err() {
                self.bytes.clear();
            }
        }
        cached(self)
    }
}
