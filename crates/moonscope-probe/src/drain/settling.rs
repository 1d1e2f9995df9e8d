//! Stacks of which something was not known when they came are told again when they have values.

use moonscope_unwind::abi;

use super::Drain;
use crate::definitions::Definition;

impl Drain {
    /// What is known of a stack by now.
    pub(super) fn settled(&mut self, id: abi::ms_stack_id) -> Option<Definition> {
        self.try_again(id);
        self.definitions.get(id)
    }

    fn try_again(&mut self, id: abi::ms_stack_id) {
        let Some(unsettled) = self.definitions.take_unsettled(id) else {
            return;
        };
        let sample = unsettled.sample();
        let pid = sample.head.pid;
        let generation = unsettled.generation.as_deref();
        // what is read of another program says nothing of this one
        let runs = self.processes.newest(pid).map(|newest| newest.process);
        if self.lua.get(pid).is_none() || runs != generation.map(|generation| generation.process) {
            return;
        }
        let (stack, verdict) = self.place(&sample, generation, &unsettled.user, unsettled.cut);
        if !verdict.is_provisional {
            self.definitions.settle(id, (stack, verdict));
        } else if let Some(unsettled) = unsettled.again() {
            self.definitions.insert_unsettled(id, unsettled);
        }
    }
}
