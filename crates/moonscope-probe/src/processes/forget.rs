//! What of processes is needed still, and what nobody needs any more.

use moonscope_process::Pid;
use rustc_hash::FxHashSet;

use super::{Known, ProcessId, Processes};
use crate::executables::ExecutableId;

impl Processes {
    /// Files that known processes have, or had when samples on their way were taken.
    pub fn executables(&self) -> impl Iterator<Item = ExecutableId> {
        let generations = self.known.values().flat_map(|known| &known.generations);
        generations.flat_map(|kept| kept.generation.executables())
    }

    /// Processes that had ended when they were looked at, which was before `before`.
    pub fn ended(&self, before: u64) -> Vec<Pid> {
        let is_old = |known: &Known| {
            let newest = known.generations.front();
            known.has_ended && newest.is_none_or(|newest| newest.confirmed.to < before)
        };
        let known = self.known.iter().filter(|(_, known)| is_old(known));
        known.map(|(&pid, _)| pid).collect()
    }

    /// Forgets names of processes that have ended and of which `is_needed` does not say that they are still asked for.
    pub fn forget_unused(&mut self, is_needed: impl Fn(ProcessId) -> bool) {
        let known: FxHashSet<u32> = self.known.values().map(|known| known.id.0).collect();
        self.infos
            .retain(|id, _| known.contains(&id) || is_needed(ProcessId(id)));
    }
}
