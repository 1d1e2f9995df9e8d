//! The entry stubs of the VM: where C code enters, and the code they share.

use iced_x86::{Instruction, Mnemonic, Register};

use super::code::{self, Code, load, push, store, with_landing_pad};
use crate::layout::GcMode;
use crate::vm_text::Entries;

/// Instructions of `lj_vm_call` that are looked at. It has 31 up to the jump into Lua code.
const MAX_CALL: usize = 48;

/// What is known of the stubs.
pub(super) struct Stubs {
    pub(super) entries: Entries,
    pub(super) cframe_size: u16,
    pub(super) mode: GcMode,
    /// `offsetof(lua_State, cframe)`, as the VM stores it.
    pub(super) l_cframe: i32,
    /// Where the other stubs join `lj_vm_call`: behind its store to `L->cframe`.
    pub(super) join: u64,
    /// `lj_vm_call_dispatch`.
    pub(super) dispatch: u64,
    /// Behind the store of the new frame's link.
    pub(super) linked: u64,
}

impl Stubs {
    pub(super) fn find(code: &Code) -> Option<Self> {
        let mut whole = Vec::new();
        let mut ffi_callback = None;
        let mut size = None;
        let all = code.all();
        for at in 0..all.len() {
            let Some(pushes) = pushes_and_reserves(all.get(at..)?) else {
                continue;
            };
            // every stub of a build has the same frame
            if *size.get_or_insert(pushes) != pushes {
                return None;
            }
            let before = all.get(..at)?;
            match before.split_last() {
                Some((rbp, before)) if push(rbp) == Some(Register::RBP) => {
                    whole.push(with_landing_pad(before, rbp.ip()));
                }
                _ if ffi_callback.is_none() => {
                    ffi_callback = Some(with_landing_pad(before, all.get(at)?.ip()));
                }
                _ => return None,
            }
        }
        // in the order of the source
        let &[resume, pcall, call, cpcall] = whole.as_slice() else {
            return None;
        };
        if ffi_callback.is_some_and(|callback| callback < cpcall) {
            return None;
        }
        let entries = Entries {
            resume,
            pcall,
            call,
            cpcall,
            ffi_callback,
        };
        // return address, rbp, the pushes, 40 bytes
        let cframe_size = u16::try_from(8 + 8 + 8 * size? + 40).ok()?;
        Self::read_call(code, entries, cframe_size)
    }

    fn read_call(code: &Code, entries: Entries, cframe_size: u16) -> Option<Self> {
        let body = code.range(entries.call, entries.cpcall);
        let body = body.get(..MAX_CALL.min(body.len()))?;
        let mode = body.iter().find_map(|insn| match load(insn)? {
            (Register::R14, size, place) if place.base == Register::RBP => match size {
                8 => Some(GcMode::Gc64),
                4 => Some(GcMode::Gc32),
                _ => None,
            },
            _ => None,
        })?;
        let (stored, l_cframe) = body.iter().find_map(|insn| match store(insn)? {
            (Register::RSP, 8, place) if place.base == Register::RBP => Some((insn, place.offset)),
            _ => None,
        })?;
        let slot = match mode {
            GcMode::Gc64 => -16,
            GcMode::Gc32 => -8,
        };
        let dispatch = body.iter().find(|insn| {
            load(insn).is_some_and(|(to, _, place)| {
                to == Register::RBP && place.base == Register::RCX && place.offset == slot
            })
        })?;
        let linked = body.iter().find(|insn| {
            store(insn).is_some_and(|(from, _, place)| {
                from == Register::RBX && place.base == Register::RDX && place.offset == slot / 2
            })
        })?;
        (stored.ip() < dispatch.ip() && dispatch.ip() < linked.ip()).then(|| Self {
            entries,
            cframe_size,
            mode,
            l_cframe,
            join: stored.next_ip(),
            dispatch: dispatch.ip(),
            linked: linked.next_ip(),
        })
    }
}

/// How many registers the macro `saveregs_` pushes, if it stands here: rbx, r15, r14, in builds without
/// unwind information r13 and r12 too, then 40 bytes.
fn pushes_and_reserves(code: &[Instruction]) -> Option<usize> {
    const PUSHED: [Register; 5] = [
        Register::RBX,
        Register::R15,
        Register::R14,
        Register::R13,
        Register::R12,
    ];
    let pushes = code
        .iter()
        .zip(PUSHED)
        .take_while(|&(insn, register)| push(insn) == Some(register))
        .count();
    let reserves = code::immediate(code.get(pushes)?, Mnemonic::Sub) == Some((Register::RSP, 40));
    (matches!(pushes, 3 | 5) && reserves).then_some(pushes)
}
