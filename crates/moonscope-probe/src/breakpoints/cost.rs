//! What a breakpoint costs on this very machine, measured on ourselves before anything of the target is touched.
//!
//! An instruction that has a breakpoint in its place is emulated by the kernel where that is easy (`push`, jumps,
//! arch/x86/kernel/uprobes.c), else a copy of it is single-stepped, which is a second exception: 0.5 µs on one machine, and
//! 10 µs in a virtual machine whose host looks at each.

use std::ffi::CString;
use std::time::Instant;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use moonscope_process::{Executable, read_maps};

use super::kind_of;
use crate::perf_event::{self, Attr, Whose};

/// A function whose first instruction the kernel emulates.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn moonscope_cost_emulated() {
    std::arch::naked_asm!("push rax", "pop rax", "ret")
}

/// One whose first instruction is single-stepped.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn moonscope_cost_stepped() {
    std::arch::naked_asm!("lea rax, [rdi + 1]", "ret")
}

/// What a breakpoint costs, nanoseconds, without the program that runs there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// At an instruction that the kernel emulates.
    pub emulated: f64,
    /// At any other.
    pub stepped: f64,
}

impl Cost {
    /// Measures it; `None`: that cannot be done here. Takes a few milliseconds.
    pub fn measure() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            Some(Self {
                emulated: of_function(moonscope_cost_emulated)?,
                stepped: of_function(moonscope_cost_stepped)?,
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Of these, given as whether their instruction is emulated.
    pub fn of(&self, breakpoints: impl IntoIterator<Item = bool>) -> f64 {
        let each = |is_emulated| if is_emulated { self.emulated } else { self.stepped };
        breakpoints.into_iter().map(each).sum()
    }
}

#[cfg(target_arch = "x86_64")]
fn of_function(function: unsafe extern "C" fn()) -> Option<f64> {
    const CALLS: u32 = 50;
    let address = function as usize as u64;
    let maps = read_maps(std::process::id()).ok()?;
    let offset = maps.iter().find_map(|mapping| mapping.file_offset(address))?;
    let path = CString::new("/proc/self/exe").ok()?;
    let attr = Attr::probe(kind_of("uprobe")?, false, &path, offset, 0);
    let probe = perf_event::open_for(&attr, Whose::Process(std::process::id())).ok()?;
    let mut best = f64::INFINITY;
    // whatever else this machine does makes it longer, never shorter
    for _ in 0..4 {
        let begin = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: a function of a few instructions above, which takes nothing and keeps all registers but rax.
            unsafe { function() };
        }
        best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    drop(probe);
    Some(best)
}

/// Does the kernel emulate the instruction at this place in a file?
pub fn is_emulated(file: &Executable, offset: u64) -> bool {
    let mut code = [0; 16];
    if file.read_exact_at(&mut code, offset).is_err() {
        return false;
    }
    emulates(&Decoder::new(64, &code, DecoderOptions::NONE).decode())
}

/// Does the kernel emulate this instruction (`arch_uprobe_analyze_insn`, arch/x86/kernel/uprobes.c)?
pub fn emulates(instruction: &Instruction) -> bool {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call => {
            instruction.op0_kind() == OpKind::NearBranch64
        }
        _ => match instruction.mnemonic() {
            Mnemonic::Push => instruction.op0_kind() == OpKind::Register,
            Mnemonic::Nop => instruction.len() == 1,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_breakpoint_has_its_price() {
        let cost = Cost {
            emulated: 500.0,
            stepped: 1000.0,
        };
        assert_eq!(cost.of([true]), 500.0);
        assert_eq!(cost.of([true, false]), 1500.0);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn root_our_own_breakpoints_are_measured_and_gone() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let cost = Cost::measure().unwrap();
        assert!(cost.emulated > 50.0 && cost.stepped > 50.0, "{cost:?}");
        // SAFETY: code of ours, read only.
        let byte = unsafe { *(moonscope_cost_stepped as *const u8) };
        assert_ne!(byte, 0xcc);
    }
}
