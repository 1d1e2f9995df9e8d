//! Walks in user space what the kernel side could not: samples of processes it did not know yet.

use std::sync::Arc;

use moonscope_process::{Pid, ProcessMemory, RemoteMemory};
use moonscope_unwind::{ModuleAt, Modules, Registers, StackCopy, UnwindData, Walk, WalkFrame, abi, walk};

use crate::executables::Executables;
use crate::generation::Generation;

/// Walks a shipped stack with the mappings of a process. `called`: it was taken where a function was called, so many words
/// below its return address.
pub fn walk_copy(
    generation: &Generation,
    executables: &mut Executables,
    pid: Pid,
    (registers, stack): (Registers, &StackCopy<'_>),
    called: Option<u32>,
    max_depth: u32,
) -> Walk {
    let data = generation
        .mappings
        .iter()
        .map(|mapping| mapping.executable.and_then(|id| executables.unwind_data(id)))
        .collect();
    let modules = MappedModules {
        generation,
        data,
        memory: ProcessMemory::new(pid),
    };
    let max_depth = max_depth as usize;
    let Some((function, caller)) = called.and_then(|words| return_from_call(registers, stack, words)) else {
        return walk(&modules, registers, stack, max_depth);
    };
    let mut walked = walk(&modules, caller, stack, max_depth.saturating_sub(1));
    if let Some(caller) = walked.frames.first_mut() {
        caller.exact = false;
    }
    walked.frames.insert(0, function);
    walked
}

/// The function that was called just now, and the registers of its caller, who has changed none of them since.
fn return_from_call(
    registers: Registers,
    stack: &StackCopy<'_>,
    words: u32,
) -> Option<(WalkFrame, Registers)> {
    const SP: usize = abi::MS_REG_RSP as usize;
    const PC: usize = abi::MS_REG_RIP as usize;
    let at = registers.get(SP)?.wrapping_add(8 * u64::from(words));
    let start = usize::try_from(at.checked_sub(stack.sp)?).ok()?;
    let address = stack.bytes.get(start..)?.first_chunk().copied()?;
    let function = WalkFrame {
        addr: registers.get(PC)?,
        exact: true,
        fp: false,
    };
    let mut caller = registers;
    caller.set(PC, Some(u64::from_le_bytes(address)));
    caller.set(SP, Some(at.wrapping_add(8)));
    Some((function, caller))
}

struct MappedModules<'a> {
    generation: &'a Generation,
    /// For each mapping.
    data: Vec<Option<Arc<UnwindData>>>,
    memory: ProcessMemory,
}

impl Modules for MappedModules<'_> {
    fn find(&self, address: u64) -> Option<ModuleAt<'_>> {
        let after = self
            .generation
            .mappings
            .partition_point(|mapping| mapping.start <= address);
        let index = after.checked_sub(1)?;
        let mapping = self
            .generation
            .mappings
            .get(index)
            .filter(|mapping| address < mapping.end)?;
        Some(match &self.data[index] {
            Some(data) => ModuleAt::File {
                bias: mapping.bias,
                data,
            },
            None => ModuleAt::Anonymous,
        })
    }

    fn code(&self, address: u64, into: &mut [u8]) -> bool {
        self.memory.read_exact(address, into).is_ok()
    }
}
