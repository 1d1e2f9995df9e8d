//! Reads offsets from the instructions of the VM.

use iced_x86::{Instruction, Mnemonic, Register};

use super::code::{Code, Place, immediate, load, registers, store, store_constant};
use super::vm::compiled_code_jump;
use crate::decode::LayoutError;
use crate::layout::{BuildOffsets, CFrame, Fields, Layout};
use crate::traces::current_fields;
use crate::vm_text::VmText;

/// `sizeof(GG_State)` is below this: 10 KiB in the largest build known.
const MAX_OFFSET: i64 = 1 << 16;
/// Instructions that are looked at for one thing.
const REACH: usize = 64;

pub(crate) fn decode(bytes: &[u8], vm: &VmText) -> Result<Layout, LayoutError> {
    let code = Code::decode(bytes, vm.start);
    let fields = vm.mode.fields();
    let call = Part {
        name: "lj_vm_call",
        code: code.range(vm.entries.call, vm.dispatch.end),
    };
    let g2disp = call.find("g2disp", |insn| {
        immediate(insn, Mnemonic::Add).filter(|(register, _)| *register == Register::R14)
    })?;
    let g2disp = plausible("g2disp", g2disp.1)?;
    let in_g = |field, offset: i32| plausible(field, i64::from(g2disp) + i64::from(offset));

    check_lua_state(&code, vm, &call, fields)?;
    let cframe = cframe(&call, vm)?;
    let vmstate = call.find("vmstate", |insn| {
        store_constant(insn).filter(|(value, place)| *value == u32::MAX && place.base == Register::R14)
    })?;
    let cur_l = stored_to_g(call.code, Register::RBP).ok_or(LayoutError::LuaJit20)?;
    let cur_l = in_g("cur_L", cur_l)?;
    let mut build = BuildOffsets {
        g2disp,
        vmstate: in_g("vmstate", vmstate.1.offset)?,
        cur_l,
        // without a compiler nothing names it; the two have always stood together (lj_obj.h)
        jit_base: cur_l + u32::from(fields.ref_size),
        trace: 0,
        sizetrace: 0,
        gc_total: 0,
    };
    if let Some(total) = gc_total(&code, fields) {
        build.gc_total = in_g("gc.total", total)?;
    }
    let trace = match compiled_code(&code, vm)? {
        None => None,
        Some(compiled) => {
            build.jit_base = in_g("jit_base", compiled.jit_base)?;
            build.trace = in_g("J.trace", compiled.trace)?;
            // jit_State: trace (an address), freetrace (4 bytes), sizetrace: so in all of 2.1 (lj_jit.h)
            build.sizetrace = build.trace + 12;
            current_fields(vm.mode)
                .filter(|fields| i32::from(fields.mcode) == compiled.mcode && has_snapshot_mcofs(&code, vm))
        }
    };
    Ok(Layout {
        mode: vm.mode,
        cframe,
        build,
        trace: trace.copied(),
    })
}

/// A part of the VM, for messages.
struct Part<'a> {
    name: &'static str,
    code: &'a [Instruction],
}

impl Part<'_> {
    fn find<T>(
        &self,
        field: &'static str,
        what: impl Fn(&Instruction) -> Option<T>,
    ) -> Result<T, LayoutError> {
        let place = self.name;
        self.code
            .iter()
            .find_map(what)
            .ok_or(LayoutError::Missing { place, field })
    }

    /// Offset from this register of a plain load to that register.
    fn loaded(&self, field: &'static str, to: Register, base: Register) -> Result<i32, LayoutError> {
        self.find(field, |insn| match load(insn)? {
            (register, _, place) if register == to && place.base == base => Some(place.offset),
            _ => None,
        })
    }
}

fn plausible(field: &'static str, decoded: i64) -> Result<u32, LayoutError> {
    u32::try_from(decoded)
        .ok()
        .filter(|&offset| offset > 0 && i64::from(offset) < MAX_OFFSET && offset % 4 == 0)
        .ok_or(LayoutError::Implausible { field, decoded })
}

fn stored_to_g(code: &[Instruction], from: Register) -> Option<i32> {
    code.iter().find_map(|insn| match store(insn)? {
        (register, _, place) if register == from && place.base == Register::R14 => Some(place.offset),
        _ => None,
    })
}

/// Compares what the code says of `lua_State` and others with the known offsets.
fn check_lua_state(code: &Code, vm: &VmText, call: &Part<'_>, fields: &Fields) -> Result<(), LayoutError> {
    let check = |field, decoded: i32, expected: u16| {
        let (decoded, expected) = (i64::from(decoded), i64::from(expected));
        (decoded == expected).then_some(()).ok_or(LayoutError::Mismatch {
            field,
            decoded,
            expected,
        })
    };
    let rbp = Register::RBP;
    check(
        "lua_State.glref",
        call.loaded("lua_State.glref", Register::R14, rbp)?,
        fields.l_glref,
    )?;
    check(
        "lua_State.cframe",
        call.loaded("lua_State.cframe", Register::R15, rbp)?,
        fields.l_cframe,
    )?;
    check(
        "lua_State.base",
        call.loaded("lua_State.base", Register::RDX, rbp)?,
        fields.l_base,
    )?;
    check(
        "lua_State.top",
        call.loaded("lua_State.top", Register::RAX, rbp)?,
        fields.l_top,
    )?;

    let cpcall = Part {
        name: "lj_vm_cpcall",
        code: head(code.from(vm.entries.cpcall)),
    };
    check(
        "lua_State.stack",
        cpcall.loaded("lua_State.stack", Register::R15, rbp)?,
        fields.l_stack,
    )?;

    let leave = Part {
        name: "lj_vm_return",
        code: head(code.from(vm.handlers_end)),
    };
    let maxstack = leave.find("lua_State.maxstack", |insn| {
        let compared = insn.mnemonic() == Mnemonic::Cmp
            && insn.op0_register().full_register() == Register::RDX
            && insn.memory_base() == rbp;
        compared.then(|| insn.memory_displacement64() as i32)
    })?;
    check("lua_State.maxstack", maxstack, fields.l_maxstack)?;

    // the jump into the Lua function behind the store of its link
    let enter = Part {
        name: "lj_vm_call_dispatch_f",
        code: head(code.from(vm.dispatch.end)),
    };
    check(
        "GCfunc.pc",
        enter.loaded("GCfunc.pc", Register::RBX, rbp)?,
        fields.fn_pc,
    )?;

    // lj_vm_growstack_f reads the frame size of the prototype that ends where the bytecode begins; PC is
    // behind the first instruction
    let grow = Part {
        name: "lj_vm_growstack_f",
        code: code.range(vm.handlers_end, vm.entries.resume),
    };
    let framesize = grow.find("GCproto.framesize", |insn| {
        (insn.mnemonic() == Mnemonic::Movzx
            && insn.memory_base() == Register::RBX
            && insn.op0_register().full_register() == Register::RCX)
            .then(|| insn.memory_displacement64() as i32)
    })?;
    let size = i32::from(fields.pt_numparams) + 1 - 4 - framesize;
    check("the end of GCproto", size, fields.pt_size)
}

/// Where `gc.total` is, from the dispatch table: what the VM compares with the field behind it, `gc.threshold`, before it
/// allocates. The whole of `GCState` is as it should be if `gc.grayagain`, which it replaces by a table that it writes to,
/// is where it belongs.
fn gc_total(code: &Code, fields: &Fields) -> Option<i32> {
    let size = i32::from(fields.ref_size);
    let of_g = |insn: &Instruction| {
        let (register, _, place) = load(insn)?;
        (place.base == Register::R14).then_some((register, place.offset))
    };
    let total = code.all().windows(2).find_map(|two| {
        let [total, compare] = two else { return None };
        let (register, offset) = of_g(total)?;
        let is_compared = compare.mnemonic() == Mnemonic::Cmp
            && compare.op0_register().full_register() == register
            && compare.memory_base() == Register::R14
            && compare.memory_displacement64() as i32 == offset + size;
        is_compared.then_some(offset)
    })?;
    let grayagain = total + i32::from(fields.gc_grayagain);
    let is_there = code.all().windows(2).any(|two| {
        let [old, new] = two else { return false };
        of_g(old).is_some_and(|(_, offset)| offset == grayagain)
            && store(new)
                .is_some_and(|(_, _, place)| (place.base, place.offset) == (Register::R14, grayagain))
    });
    is_there.then_some(total)
}

fn head(code: &[Instruction]) -> &[Instruction] {
    code.get(..REACH.min(code.len())).unwrap_or_default()
}

/// The fields of the VM's frame.
fn cframe(call: &Part<'_>, vm: &VmText) -> Result<CFrame, LayoutError> {
    let saved = |field, from: Register, bytes: usize| {
        let offset = call.find(field, |insn| match store(insn)? {
            (register, size, Place { base, offset })
                if register == from && size == bytes && base == Register::RSP =>
            {
                Some(offset)
            }
            _ => None,
        })?;
        u16::try_from(offset)
            .ok()
            .filter(|&offset| offset < vm.cframe_size)
            .ok_or(LayoutError::Implausible {
                field,
                decoded: offset.into(),
            })
    };
    let reference = usize::from(vm.mode.fields().ref_size);
    Ok(CFrame {
        size: vm.cframe_size,
        l: saved("SAVE_L", Register::RDI, reference)?,
        pc: saved("SAVE_PC", Register::RBP, reference)?,
        prev: saved("SAVE_CFRAME", Register::R15, 8)?,
        nres: saved("SAVE_NRES", Register::RDX, 4)?,
    })
}

/// What the jump into compiled code names, relative to the dispatch table or the trace.
struct CompiledCode {
    jit_base: i32,
    trace: i32,
    mcode: i32,
}

/// `None` for a build without a compiler, which has no such jump.
fn compiled_code(code: &Code, vm: &VmText) -> Result<Option<CompiledCode>, LayoutError> {
    const BEFORE: usize = 8;
    let Some((reserve, _)) = compiled_code_jump(code, vm.handlers_end) else {
        return Ok(None);
    };
    let before = code.before(reserve.ip());
    let place = Part {
        name: "BC_JLOOP",
        code: before
            .get(before.len().saturating_sub(BEFORE)..)
            .unwrap_or_default(),
    };
    let missing = |field| LayoutError::Missing {
        place: place.name,
        field,
    };
    // array of traces; the trace of that number; its machine code
    let traces = place.loaded("J.trace", Register::RCX, Register::R14)?;
    let mcode = place.loaded("GCtrace.mcode", Register::RAX, Register::RAX)?;
    let scale = u32::from(vm.mode.fields().ref_size);
    let indexed = place.code.iter().any(|insn| {
        insn.memory_base() == Register::RCX
            && insn.memory_index() == Register::RAX
            && insn.memory_index_scale() == scale
    });
    let jit_base = stored_to_g(place.code, Register::RDX).ok_or(missing("jit_base"))?;
    indexed.then_some(()).ok_or(missing("the number of the trace"))?;
    Ok(Some(CompiledCode {
        jit_base,
        trace: traces,
        mcode,
    }))
}

/// Do snapshots say where in the machine code they belong? They do since LuaJIT unwinds compiled code
/// (commit a32aeadc, 2021-03), and since then the VM passes an error from compiled code on with its number
/// negated in the second argument (`lj_err_trace`).
fn has_snapshot_mcofs(code: &Code, vm: &VmText) -> bool {
    code.from(vm.entries.cpcall).windows(4).any(|four| {
        let [number, state, negate, call] = four else {
            return false;
        };
        registers(number, Mnemonic::Mov) == Some((Register::RSI, Register::RAX))
            && registers(state, Mnemonic::Mov) == Some((Register::RDI, Register::RBP))
            && negate.mnemonic() == Mnemonic::Neg
            && negate.op0_register().full_register() == Register::RSI
            && call.mnemonic() == Mnemonic::Call
    })
}
