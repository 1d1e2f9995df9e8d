//! From saved program counters to instruction numbers, and from patched instructions to what they were.

use crate::layout::Layout;
use crate::object::{GCT_TRACE, ProtoCode, number, read_reference, reference_at};
use moonscope_process::RemoteMemory;

/// `lj_vm_hotcall` sets bit 0 of the program counter while it calls into the compiler (vm_x64.dasc).
const HOT_CALL: u64 = 1;

/// Opcodes that the compiler patches over others (lj_bc.h, `BCDEF`): the same numbers in all 2.1.
/// Those of function headers are not: bit operators were put before them in 2026.
const BC_JFORI: u8 = 78;
const BC_IFORL: u8 = 80;
const BC_JFORL: u8 = 81;
const BC_IITERL: u8 = 83;
const BC_JITERL: u8 = 84;
const BC_ILOOP: u8 = 86;
const BC_JLOOP: u8 = 87;
/// `BC_FUNCF` up to 2025, and with bit operators.
const BC_FUNCF: [u8; 2] = [89, 96];

/// The number of the instruction that a saved program counter stands behind (`debug_framepc` in
/// lj_debug.c): 0 is the function header. `None` if it is not of this function.
pub fn position(memory: &impl RemoteMemory, layout: &Layout, code: &ProtoCode, saved: u64) -> Option<u32> {
    let pc = (saved & !HOT_CALL).checked_sub(4)?;
    code.index(pc)
        .or_else(|| return_of_trace(memory, layout, code, pc))
}

/// A trace that starts at a return replaces that instruction, and the exit to the interpreter continues
/// at the copy in `GCtrace.startins`: its position is where the trace starts (lj_trace_exit).
fn return_of_trace(memory: &impl RemoteMemory, layout: &Layout, code: &ProtoCode, pc: u64) -> Option<u32> {
    let fields = layout.fields();
    let offsets = layout.trace.as_ref()?;
    let trace = pc.checked_sub(u64::from(offsets.startins))?;
    let mut gct = [0];
    memory
        .read_exact(trace.checked_add(u64::from(fields.gct))?, &mut gct)
        .ok()?;
    if gct != [GCT_TRACE] {
        return None;
    }
    code.index(read_reference(
        memory,
        fields,
        trace.checked_add(u64::from(offsets.startpc))?,
    )?)
}

/// Whether an instruction stands where the function header does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Instruction 0.
    Header,
    /// Any other.
    Body,
}

/// The instruction that the compiler put a trace over, or that it gave up on (`trace_stop`,
/// `blacklist_pc` in lj_trace.c). Others are returned as they are; `None` if the trace is gone.
pub fn original(
    memory: &impl RemoteMemory,
    layout: &Layout,
    g: u64,
    instruction: u32,
    place: Place,
) -> Option<u32> {
    let op = instruction as u8;
    let with_op = |op: u8| Some(instruction & !0xff | u32::from(op));
    match place {
        Place::Header => {
            let first = BC_FUNCF.into_iter().rev().find(|&first| op >= first);
            match first.map(|first| op - first) {
                // FUNCF, IFUNCF, JFUNCF, FUNCV, IFUNCV, JFUNCV
                Some(1 | 4) => with_op(op - 1),
                Some(2 | 5) => start_of(memory, layout, g, instruction >> 16),
                _ => Some(instruction),
            }
        }
        Place::Body => match op {
            BC_JFORI | BC_IFORL | BC_IITERL | BC_ILOOP => with_op(op - 1),
            BC_JFORL | BC_JITERL | BC_JLOOP => start_of(memory, layout, g, instruction >> 16),
            _ => Some(instruction),
        },
    }
}

/// `GCtrace.startins` of the trace with this number.
fn start_of(memory: &impl RemoteMemory, layout: &Layout, g: u64, number_: u32) -> Option<u32> {
    let fields = layout.fields();
    let offsets = layout.trace.as_ref()?;
    let array = memory
        .read_u64(g.checked_add(u64::from(layout.build.trace))?)
        .ok()?;
    let size = memory
        .read_u32(g.checked_add(u64::from(layout.build.sizetrace))?)
        .ok()?;
    if number_ == 0 || number_ >= size {
        return None;
    }
    let slot = array.checked_add(u64::from(number_) * u64::from(fields.ref_size))?;
    let trace = read_reference(memory, fields, slot)?;
    let len = [offsets.traceno, offsets.startins].into_iter().max()? + 4;
    let mut head = vec![0; usize::from(len)];
    memory.read_exact(trace, &mut head).ok()?;
    let is_it = number::<1>(&head, usize::from(fields.gct))? == u64::from(GCT_TRACE)
        && number::<2>(&head, usize::from(offsets.traceno))? == u64::from(number_)
        && reference_at(fields, &head, offsets.startpc)? != 0;
    let instruction = number::<4>(&head, usize::from(offsets.startins))?;
    is_it.then_some(instruction as u32)
}
