//! Where the VM's frame is being built or taken down.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, Register};

use super::code::{Code, dwarf, immediate, pop, push, registers, store, target, with_landing_pad};
use super::stubs::Stubs;
use crate::vm_text::{CallerBase, SavedRegister, Window};

/// Instructions looked at for what must be near.
const REACH: usize = 12;
/// From the return to C to the end of what belongs to it: about 90 instructions.
const REACH_LEAVE: usize = 160;

/// The way back to C: `lj_vm_return` to `lj_vm_unwind_ff`.
pub(super) struct Leave {
    /// Behind the last instruction of `lj_vm_return` that leaves the Lua frame as it was.
    pub(super) returning: u64,
    /// Behind the store of the caller's base to `L->base`.
    based: u64,
    /// `lj_vm_leave_unw`: takes down the frame.
    epilogue: u64,
    /// Heads of `lj_vm_unwind_c` and `lj_vm_unwind_ff`, which C calls with the frame's address.
    pub(super) unwinding: [Range<u64>; 2],
}

impl Leave {
    pub(super) fn find(code: &Code, stubs: &Stubs) -> Option<Self> {
        // in front of the stubs; the pattern is in no handler
        let before = code.before(stubs.entries.resume);
        let is_epilogue = |insn: &Instruction| immediate(insn, Mnemonic::Add) == Some((Register::RSP, 40));
        let epilogue = before.iter().position(is_epilogue)?;
        let near = before.get(epilogue.saturating_sub(REACH_LEAVE)..epilogue)?;
        // PC = BASE - delta, by `neg`
        let negate = near.iter().rposition(|insn| {
            insn.mnemonic() == Mnemonic::Neg && insn.op0_register().full_register() == Register::RBX
        })?;
        let based = near.iter().skip(negate).find(|insn| {
            store(insn).is_some_and(|(from, _, place)| from == Register::RBX && place.base == Register::RBP)
        })?;
        let mut heads = before
            .iter()
            .enumerate()
            .skip(epilogue)
            .take(REACH_LEAVE)
            .filter(|(_, insn)| registers(insn, Mnemonic::Mov) == Some((Register::RSP, Register::RDI)))
            .filter_map(|(at, insn)| {
                let head = before.get(at.checked_sub(1)?)?;
                Some(with_landing_pad(code.before(head.ip()), head.ip())..insn.next_ip())
            });
        Some(Self {
            returning: near.get(negate)?.next_ip(),
            based: based.next_ip(),
            epilogue: before.get(epilogue)?.ip(),
            unwinding: [heads.next()?, heads.next()?],
        })
    }
}

/// All windows, sorted.
pub(super) fn all(code: &Code, stubs: &Stubs, leave: &Leave) -> Vec<Window> {
    let entries = &stubs.entries;
    let entered = Frame::default();
    let whole = Frame::whole(stubs.cframe_size);
    let mut windows = Vec::new();
    let mut add = |start, end, frame: &Frame, base| {
        add_rows(&mut windows, code.range(start, end), frame, &whole, base);
    };
    let base = CallerBase::LuaState;
    add(entries.resume, resume_end(code, stubs), &entered, base);
    add(entries.pcall, entries.call, &entered, base);
    add(entries.call, stubs.dispatch, &entered, base);
    add(entries.cpcall, cpcall_end(code, stubs), &entered, base);
    if let Some(callback) = entries.ffi_callback {
        // the trampoline has pushed rbp
        let mut pushed = Frame::default();
        pushed.push(Register::RBP);
        add(callback, callback_end(code, callback), &pushed, base);
    }
    let [unwind_c, unwind_ff] = &leave.unwinding;
    add(leave.returning, leave.based, &whole, CallerBase::PcRegister);
    add(leave.based, unwind_c.start, &whole, base);
    add(unwind_c.end, unwind_ff.start, &whole, base);
    for range in other_ways_out(code, stubs, leave, unwind_ff.end) {
        add(range.start, range.end, &whole, base);
    }
    windows.sort_by_key(|window| window.start);
    // the parts of a VM stand apart from each other; what does not is no VM's code
    windows.dedup_by(|later, earlier| later.start < earlier.end);
    windows
}

/// Behind the store to `G->cur_L` of a coroutine that is resumed after a yield: from there its own frames
/// are at `L->base`.
fn resume_end(code: &Code, stubs: &Stubs) -> u64 {
    let body = code.range(stubs.entries.resume, stubs.entries.pcall);
    let linked = body.iter().position(|insn| {
        store(insn).is_some_and(|(_, size, place)| {
            size == 8 && place.base == Register::RBP && place.offset == stubs.l_cframe
        })
    });
    let Some(linked) = linked else {
        return stubs.entries.pcall;
    };
    let current = body.iter().skip(linked).take(REACH).find(|insn| {
        store(insn).is_some_and(|(from, _, place)| from == Register::RBP && place.base == Register::R14)
    });
    current
        .or(body.get(linked))
        .map_or(stubs.entries.pcall, Instruction::next_ip)
}

/// Behind the jump with which `lj_vm_cpcall` joins `lj_vm_call`. The C function that it calls in between runs
/// with a negative `SAVE_NRES`: no Lua frame belongs to the VM's frame there either.
fn cpcall_end(code: &Code, stubs: &Stubs) -> u64 {
    code.from(stubs.entries.cpcall)
        .iter()
        .take(4 * REACH)
        .find(|insn| insn.mnemonic() == Mnemonic::Jmp && target(insn) == Some(stubs.join))
        .map_or(stubs.entries.cpcall, Instruction::next_ip)
}

/// Behind the call of `lj_ccallback_enter`, which stores to `L->cframe` and pushes the Lua frame.
fn callback_end(code: &Code, callback: u64) -> u64 {
    code.from(callback)
        .iter()
        .take(8 * REACH)
        .find(|insn| insn.mnemonic() == Mnemonic::Call)
        .map_or(callback, Instruction::next_ip)
}

/// Jumps to the epilogue from farther away: the fast function `coroutine.yield`, which clears `L->cframe`,
/// and the end of a callback, after `lj_ccallback_leave` has restored it.
fn other_ways_out(code: &Code, stubs: &Stubs, leave: &Leave, behind: u64) -> Vec<Range<u64>> {
    let all = code.from(behind);
    let jumps = all
        .iter()
        .enumerate()
        .filter(|(_, insn)| insn.mnemonic() == Mnemonic::Jmp && target(insn) == Some(leave.epilogue));
    jumps
        .filter_map(|(at, jump)| {
            let near = all.get(at.saturating_sub(REACH)..at)?;
            let last = near.iter().rev().find(|insn| {
                insn.mnemonic() == Mnemonic::Call
                    || store(insn).is_some_and(|(_, size, place)| size == 8 && place.offset == stubs.l_cframe)
            })?;
            Some(last.next_ip()..jump.next_ip())
        })
        .collect()
}

/// A frame: how far the stack pointer is from the CFA, and what is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    size: u16,
    saved: Vec<SavedRegister>,
}

impl Default for Frame {
    /// At the first instruction of a function: only the return address is on the stack.
    fn default() -> Self {
        Self {
            size: 8,
            saved: Vec::new(),
        }
    }
}

impl Frame {
    /// The VM's frame.
    fn whole(size: u16) -> Self {
        const PUSHED: [Register; 6] = [
            Register::RBP,
            Register::RBX,
            Register::R15,
            Register::R14,
            Register::R13,
            Register::R12,
        ];
        let mut frame = Self::default();
        for register in PUSHED {
            // 40 bytes are not registers
            if frame.size + 40 < size {
                frame.push(register);
            }
        }
        frame.size = size;
        frame
    }

    fn push(&mut self, register: Register) {
        self.size = self.size.saturating_add(8);
        if let (Some(register), Ok(size)) = (dwarf(register), i16::try_from(self.size))
            && self.saved.iter().all(|saved| saved.register != register)
        {
            self.saved.push(SavedRegister {
                register,
                cfa_offset: -size,
            });
        }
    }

    fn pop(&mut self, register: Register) {
        self.size = self.size.saturating_sub(8);
        let number = dwarf(register);
        self.saved.retain(|saved| Some(saved.register) != number);
    }

    /// What this instruction makes of it; `whole` is what holds behind the end of a way out.
    fn step(&mut self, insn: &Instruction, whole: &Self) {
        if let Some(register) = push(insn) {
            self.push(register);
        } else if let Some(register) = pop(insn) {
            self.pop(register);
        } else if let Some((Register::RSP, bytes)) = immediate(insn, Mnemonic::Sub) {
            self.size = self.size.saturating_add(u16::try_from(bytes).unwrap_or(0));
        } else if let Some((Register::RSP, bytes)) = immediate(insn, Mnemonic::Add) {
            self.size = self.size.saturating_sub(u16::try_from(bytes).unwrap_or(0));
        } else if matches!(insn.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp) {
            *self = whole.clone();
        }
    }
}

/// One row for each stretch of code with the same frame.
fn add_rows(
    rows: &mut Vec<Window>,
    code: &[Instruction],
    first: &Frame,
    whole: &Frame,
    caller_base: CallerBase,
) {
    let mut frame = first.clone();
    for insn in code {
        match rows.last_mut() {
            Some(row)
                if row.end == insn.ip()
                    && row.cfa_offset == frame.size
                    && row.saved == frame.saved
                    && row.caller_base == caller_base =>
            {
                row.end = insn.next_ip();
            }
            _ => rows.push(Window {
                start: insn.ip(),
                end: insn.next_ip(),
                cfa_offset: frame.size,
                saved: frame.saved.clone(),
                caller_base,
            }),
        }
        frame.step(insn, whole);
    }
}

/// Rows of ordinary functions that stand one behind the other.
pub(super) fn function_rows(rows: &mut Vec<Window>, code: &[Instruction]) {
    let entered = Frame::default();
    add_rows(rows, code, &entered, &entered, CallerBase::LuaState);
}
