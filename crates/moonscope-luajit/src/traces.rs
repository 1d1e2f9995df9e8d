//! Which of the layouts of traces a build has.
//!
//! The offset of `GCtrace.mcode`, which the VM's code names, is the same in all of them. What differs: where
//! the number of snapshots is, and what a snapshot looks like (lj_jit.h):
//!
//! | builds | `nsnap` at (64/32-bit references) | `SnapShot` |
//! | --- | --- | --- |
//! | since 2021-03 (a32aeadc) | 0xa / 0x6 | 12 bytes, `mcofs` at 6 |
//! | before | 0xa / 0x6 | 12 bytes, no `mcofs` |
//! | up to 2.1.0-beta3 | 0x2c / 0x1c | 8 bytes, no `mcofs` |
//!
//! The first is told by code. The others are told by any one trace: its snapshot map stands right behind its
//! snapshots (lj_trace.c, `trace_save`), so that their distance is the number of snapshots times their size.

use moonscope_process::RemoteMemory;

use crate::layout::{GcMode, Layout, TraceFields};

/// Traces that are looked at until one decides. The first does, if it is not being replaced meanwhile.
const MAX_LOOKS: u32 = 256;
/// Length of the array of traces: LuaJIT has at most 65535 (`TraceNo1`, lj_jit.h).
const MAX_TRACES: u32 = 1 << 16;
/// `~LJ_TTRACE`: the type byte of a trace.
const TRACE: u8 = 9;

const CURRENT_64: TraceFields = TraceFields {
    nsnap: 0xa,
    nins: 0xc,
    ir: 0x20,
    nk: 0x28,
    snap: 0x30,
    snapmap: 0x38,
    startpt: 0x40,
    startpc: 0x48,
    startins: 0x50,
    szmcode: 0x54,
    mcode: 0x58,
    traceno: 0x68,
    link: 0x6a,
    root: 0x6c,
    snapshot_size: 12,
    snapshot_mcofs: Some(6),
    snapshot_nslots: 8,
};

const CURRENT_32: TraceFields = TraceFields {
    nsnap: 0x6,
    nins: 0x8,
    ir: 0x10,
    nk: 0x18,
    snap: 0x20,
    snapmap: 0x28,
    startpt: 0x30,
    startpc: 0x34,
    startins: 0x38,
    szmcode: 0x3c,
    mcode: 0x40,
    traceno: 0x50,
    link: 0x52,
    root: 0x54,
    ..CURRENT_64
};

const fn before_mcofs(current: TraceFields) -> TraceFields {
    TraceFields {
        snapshot_mcofs: None,
        snapshot_nslots: 6,
        ..current
    }
}

const fn beta3(current: TraceFields) -> TraceFields {
    TraceFields {
        nsnap: current.nk + 4,
        snapshot_size: 8,
        snapshot_nslots: 4,
        ..before_mcofs(current)
    }
}

const ALL_64: [TraceFields; 3] = [CURRENT_64, before_mcofs(CURRENT_64), beta3(CURRENT_64)];
const ALL_32: [TraceFields; 3] = [CURRENT_32, before_mcofs(CURRENT_32), beta3(CURRENT_32)];

/// All layouts of traces that builds with this object model have had, the newest first.
pub const fn candidates(mode: GcMode) -> &'static [TraceFields] {
    match mode {
        GcMode::Gc64 => &ALL_64,
        GcMode::Gc32 => &ALL_32,
    }
}

pub(crate) fn current_fields(mode: GcMode) -> Option<&'static TraceFields> {
    candidates(mode).first()
}

/// The layout of the traces of a live VM, whose [`Layout::trace`] the code did not tell; `None` while it has
/// no trace that decides. `g` is the address of its `global_State`.
pub fn settle(memory: &impl RemoteMemory, g: u64, layout: &Layout) -> Option<TraceFields> {
    if layout.trace.is_some() || layout.build.trace == 0 {
        return layout.trace;
    }
    let array = read_address(memory, g.checked_add(layout.build.trace.into())?)?;
    let length = memory
        .read_u32(g.checked_add(layout.build.sizetrace.into())?)
        .ok()?;
    let size = layout.fields().ref_size;
    (1..length.min(MAX_TRACES))
        .filter_map(|number| {
            let at = array.checked_add(u64::from(number) * u64::from(size))?;
            let trace = match layout.mode {
                GcMode::Gc64 => read_address(memory, at)?,
                GcMode::Gc32 => u64::from(memory.read_u32(at).ok()?),
            };
            (trace != 0).then_some((number, trace))
        })
        .take(MAX_LOOKS as usize)
        .find_map(|(number, trace)| {
            let mut matching = candidates(layout.mode)
                .iter()
                .filter(|fields| fields.snapshot_mcofs.is_none())
                .filter(|fields| matches(memory, layout, fields, number, trace).unwrap_or(false));
            let first = matching.next()?;
            matching.next().is_none().then_some(*first)
        })
}

fn read_address(memory: &impl RemoteMemory, at: u64) -> Option<u64> {
    memory.read_u64(at).ok().filter(|&addr| addr != 0)
}

fn read_u16(memory: &impl RemoteMemory, at: u64) -> Option<u16> {
    let mut bytes = [0; 2];
    memory.read_exact(at, &mut bytes).ok()?;
    Some(u16::from_le_bytes(bytes))
}

/// Is this trace laid out so?
fn matches(
    memory: &impl RemoteMemory,
    layout: &Layout,
    fields: &TraceFields,
    number: u32,
    trace: u64,
) -> Option<bool> {
    let at = |field: u16| trace.checked_add(field.into());
    let mut gct = [0];
    memory.read_exact(at(layout.fields().gct)?, &mut gct).ok()?;
    let traceno = read_u16(memory, at(fields.traceno)?)?;
    let count = read_u16(memory, at(fields.nsnap)?)?;
    let snap = read_address(memory, at(fields.snap)?)?;
    let snapmap = read_address(memory, at(fields.snapmap)?)?;
    let size = u64::from(count) * u64::from(fields.snapshot_size);
    Some(gct == [TRACE] && u32::from(traceno) == number && count > 0 && snapmap.wrapping_sub(snap) == size)
}
