//! Walks in user space what the kernel side could not: samples of processes it did not know yet.

use std::sync::Arc;

use moonscope_process::{Pid, ProcessMemory, RemoteMemory};
use moonscope_unwind::{ModuleAt, Modules, Registers, StackCopy, UnwindData, Walk, walk};

use crate::executables::Executables;
use crate::generation::Generation;

/// Walks a shipped stack with the mappings of a process.
pub fn walk_copy(
    generation: &Generation,
    executables: &mut Executables,
    pid: Pid,
    registers: Registers,
    stack: &StackCopy<'_>,
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
    walk(&modules, registers, stack, max_depth as usize)
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
