//! Files and tables that make room for others, or that nobody needs any more.

use super::{Entry, ExecutableId, Executables, TableState};
use crate::tables::TableStore;

impl Executables {
    /// Closes files that no process maps and of which `is_needed` does not say that they are: a machine that builds
    /// programs all day meets thousands.
    pub fn forget_unused(&mut self, store: &mut TableStore, is_needed: impl Fn(ExecutableId) -> bool) {
        self.entries.retain(|id, entry| {
            if entry.users > 0 || entry.is_being_built() || is_needed(ExecutableId(id)) {
                return true;
            }
            release(&mut entry.table, store);
            false
        });
        let entries = &self.entries;
        self.by_key.retain(|_, id| entries.get(id.0).is_some());
        self.by_identity.retain(|_, id| entries.get(id.0).is_some());
    }

    /// Takes the place from the file that has been out of use for longest.
    pub(super) fn evict_one(&mut self, store: &mut TableStore, serves: impl Fn(&Entry) -> bool) -> bool {
        let oldest = self
            .entries
            .values_mut()
            .filter(|entry| entry.is_evictable() && serves(entry))
            .min_by_key(|entry| entry.unused_since);
        let Some(entry) = oldest else { return false };
        if !release(&mut entry.table, store) {
            return false;
        }
        entry.unwind = None;
        self.counts.evicted += 1;
        true
    }
}

/// Gives the place of a table back; says whether there was one that can be given.
fn release(table: &mut TableState, store: &mut TableStore) -> bool {
    match std::mem::replace(table, TableState::Missing) {
        TableState::Loaded(slot, words) => store.release(slot, words),
        TableState::Refused(slot) | TableState::NoRoom(slot, ..) => store.release(slot, 0..0),
        TableState::Missing => return false,
        under_way @ (TableState::Begun | TableState::Ordered(_)) => {
            *table = under_way;
            return false;
        }
    }
    true
}
