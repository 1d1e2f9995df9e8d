//! Where the machine code of a trace moves `jit_base`.
//!
//! It does so on returning to a frame below the one it started in (`asm_retf` in lj_asm_x86.h), and at its
//! end, to hand over to a trace that starts in its innermost frame (`asm_tail_link` in lj_asm.c). From there
//! to the next snapshot, the last snapshot and `jit_base` do not belong together.

use crate::layout::{GcMode, Layout};

/// Stores in one trace: one for each return to a lower frame, at most `JIT_P_maxrecord`.
const MAX_STORES: usize = 4096;

/// Offsets behind each store, ascending. The store is `mov [r14+displacement], register` in GC64 and
/// `mov [address], register` in GC32 (`emit_setgl` in lj_emit_x86.h).
pub(super) fn base_stores(code: &[u8], layout: &Layout, g: u64) -> Vec<u32> {
    let build = &layout.build;
    let place = match layout.mode {
        GcMode::Gc64 => build.jit_base.wrapping_sub(build.g2disp),
        GcMode::Gc32 => (g as u32).wrapping_add(build.jit_base),
    };
    let is_store = |code: &[u8]| match (layout.mode, code) {
        // REX.W and B, with or without R; the opcode; ModRM with r14 and any register.
        (GcMode::Gc64, &[rex, 0x89, modrm, a, b, c, d]) => {
            rex | 4 == 0x4d && modrm & 0xc7 == 0x86 && u32::from_le_bytes([a, b, c, d]) == place
        }
        // The opcode; ModRM with SIB and any register; SIB for an address alone.
        (GcMode::Gc32, &[0x89, modrm, 0x25, a, b, c, d]) => {
            modrm & 0xc7 == 0x04 && u32::from_le_bytes([a, b, c, d]) == place
        }
        _ => false,
    };
    let ends = (7..).zip(code.windows(7));
    ends.filter(|(_, code)| is_store(code))
        .map(|(end, _)| end)
        .take(MAX_STORES)
        .collect()
}
