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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::GcMode;
    use crate::testing::{Image, MODES, layout};
    use crate::trace::tests::{TRACE, trace};

    const G: u64 = Image::START + 0x200;
    const ARRAY: u64 = Image::START + 0xb000;
    const STARTINS: u32 = 0x1234_024c;

    /// A VM with trace 3, which starts at instruction 2 of this code.
    fn vm(mode: GcMode) -> (Image, Layout, ProtoCode) {
        let (mut image, bytecode) = trace(mode, 3);
        let layout = layout(mode);
        image.put(G + u64::from(layout.build.trace), &ARRAY.to_le_bytes());
        image.put(G + u64::from(layout.build.sizetrace), &10_u32.to_le_bytes());
        image.reference(ARRAY + 3 * u64::from(mode.fields().ref_size), TRACE);
        let startins = u64::from(layout.trace.unwrap().startins);
        image.put(TRACE + startins, &STARTINS.to_le_bytes());
        let proto = bytecode - u64::from(mode.fields().pt_size);
        let code = ProtoCode::read(&image, mode.fields(), proto).unwrap();
        (image, layout, code)
    }

    #[test]
    fn a_saved_program_counter_stands_behind_its_instruction() {
        for mode in MODES {
            let (image, layout, code) = vm(mode);
            let at = |saved| position(&image, &layout, &code, saved);
            assert_eq!(at(code.bytecode + 4), Some(0));
            assert_eq!(at(code.bytecode + 4 * 7), Some(6));
            assert_eq!(
                at(code.bytecode + 4 * 7 + 1),
                Some(6),
                "while a hot call is counted"
            );
            assert_eq!(at(code.bytecode), None);
            assert_eq!(at(code.bytecode + 4 * 21), None);
            assert_eq!(at(0), None);
        }
    }

    #[test]
    fn behind_the_copy_in_a_trace_it_is_where_the_trace_starts() {
        for mode in MODES {
            let (image, layout, code) = vm(mode);
            let startins = TRACE + u64::from(layout.trace.unwrap().startins);
            assert_eq!(position(&image, &layout, &code, startins + 4), Some(2));
        }
    }

    #[test]
    fn patched_instructions_are_what_they_were() {
        for mode in MODES {
            let (image, layout, _) = vm(mode);
            let body = |ins| original(&image, &layout, G, ins, Place::Body);
            for op in [BC_JFORL, BC_JITERL, BC_JLOOP] {
                assert_eq!(body(0x3_0500 | u32::from(op)), Some(STARTINS));
                assert_eq!(body(0x4_0500 | u32::from(op)), None, "there is no trace 4");
                assert_eq!(body(0xffff_0500 | u32::from(op)), None);
            }
            assert_eq!(
                body(0x1234_054e),
                Some(0x1234_054d),
                "JFORI was FORI, and jumps as before"
            );
            assert_eq!(body(0x1234_0542), Some(0x1234_0542), "a call is never patched");
            let header = |ins| original(&image, &layout, G, ins, Place::Header);
            for first in BC_FUNCF.map(u32::from) {
                assert_eq!(header(0x0500 | first), Some(0x0500 | first));
                assert_eq!(
                    header(0x0500 | (first + 1)),
                    Some(0x0500 | first),
                    "IFUNCF: given up on"
                );
                assert_eq!(header(0x3_0500 | (first + 2)), Some(STARTINS), "JFUNCF");
            }
        }
    }

    #[test]
    fn the_prototype_of_an_instruction_is_found_backwards() {
        for mode in MODES {
            let (image, _, code) = vm(mode);
            let fields = mode.fields();
            let last = code.bytecode + 4 * 19;
            assert_eq!(ProtoCode::containing(&image, fields, last), Some(code));
            assert_eq!(ProtoCode::containing(&image, fields, last + 4), None);
            assert_eq!(ProtoCode::containing(&image, fields, last + 1), None);
            assert_eq!(ProtoCode::containing(&image, fields, u64::MAX - 3), None);
        }
    }
}
