//! Which mappings of a process were true at which moment.
//!
//! They are read now and then. In between the kernel tells of what is mapped (`mmap_watch.rs`), but not of what is unmapped:
//! a library may come and go, and another one stand at its addresses.

use std::collections::VecDeque;
use std::sync::Arc;

use moonscope_process::{Mapping, Pid};

use super::{Kept, Known, Processes};
use crate::generation::{CodeMapping, Generation};

/// How many are remembered of each process (24 bytes each).
const MAX_MAPPED: usize = 256;

/// Code that a process mapped, as far as the kernel told of it.
#[derive(Default)]
pub(super) struct MappedLater {
    newest_last: VecDeque<Mapped>,
    /// What was mapped up to here may be forgotten.
    forgotten_until: u64,
}

struct Mapped {
    at: u64,
    start: u64,
    end: u64,
}

impl MappedLater {
    fn add(&mut self, at: u64, mapping: &Mapping) {
        if self.newest_last.len() >= MAX_MAPPED
            && let Some(oldest) = self.newest_last.pop_front()
        {
            self.forgotten_until = self.forgotten_until.max(oldest.at);
        }
        self.newest_last.push_back(Mapped {
            at,
            start: mapping.start,
            end: mapping.end,
        });
    }

    /// Was anything mapped after the one moment and until the other, whichever is first; at this address, or at all?
    pub(super) fn any(&self, one: u64, other: u64, addr: Option<u64>) -> bool {
        let (from, to) = (one.min(other), one.max(other));
        let is_within = |mapped: &Mapped| {
            from < mapped.at
                && mapped.at <= to
                && addr.is_none_or(|addr| (mapped.start..mapped.end).contains(&addr))
        };
        (from < to && from < self.forgotten_until) || self.newest_last.iter().any(is_within)
    }
}

impl Known {
    /// Whether these mappings were true at a time: at this address, or as a whole.
    fn held(&self, kept: &Kept, time: u64, addr: Option<u64>) -> bool {
        [kept.read, kept.confirmed].into_iter().any(|found| {
            let (from, to) = (found.from.min(time), found.to.max(time));
            !self.mapped.any(from, to, addr)
        })
    }

    fn kept(&self, number: u64) -> Option<&Kept> {
        self.generations
            .iter()
            .find(|kept| kept.generation.number == number)
    }
}

impl Processes {
    /// The mappings that a sample was walked with, if they are still kept, and whether they were
    /// true when it was taken.
    pub fn generation(&self, pid: Pid, number: u64, taken_at: u64) -> Option<(&Arc<Generation>, bool)> {
        let known = self.known.get(&pid)?;
        let kept = known.kept(number)?;
        Some((&kept.generation, known.held(kept, taken_at, None)))
    }

    /// Whether what these mappings have at an address was there when a sample was taken, if code was executed there then.
    pub fn had(&self, pid: Pid, generation: &Generation, taken_at: u64, addr: u64) -> bool {
        generation.find(addr).is_some()
            && self.known.get(&pid).is_some_and(|known| {
                let kept = known.kept(generation.number);
                kept.is_some_and(|kept| known.held(kept, taken_at, Some(addr)))
            })
    }

    /// A process mapped something executable at this time. Says whether what is known of it is no longer
    /// true.
    pub fn note_mapping(&mut self, pid: Pid, at: u64, mapping: &Mapping) -> bool {
        let Some(known) = self.known.get_mut(&pid) else {
            return false;
        };
        // Generated code comes and goes, and matters only where something of a name was.
        let replaces = |old: &CodeMapping| {
            old.start < mapping.end && mapping.start < old.end && old.executable.is_some()
        };
        let mut generations = known.generations.iter();
        if mapping.path().is_some() || generations.any(|kept| kept.generation.mappings.iter().any(replaces)) {
            known.mapped.add(at, mapping);
        }
        let newest = known.generations.front();
        newest.is_some_and(|newest| known.mapped.any(newest.confirmed.from, u64::MAX, None))
    }

    /// Until when the newest mappings of a process were read.
    pub fn newest_read_at(&self, pid: Pid) -> Option<u64> {
        Some(self.known.get(&pid)?.generations.front()?.confirmed.to)
    }
}

#[cfg(test)]
mod tests {
    use moonscope_process::MappingName;

    use super::*;

    fn mapping(start: u64) -> Mapping {
        Mapping {
            start,
            end: start + 0x1000,
            offset: 0,
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            device: (0, 0),
            inode: 0,
            name: MappingName::Anonymous,
        }
    }

    #[test]
    fn what_was_mapped_between_two_moments_is_seen_from_both() {
        let mut mapped = MappedLater::default();
        mapped.add(10, &mapping(0x1000));
        mapped.add(20, &mapping(0x5000));
        for (one, other, at_all, there) in [
            (0, 9, false, false),
            (9, 10, true, true),
            (10, 15, false, false),
            (10, 20, true, false),
            (20, 99, false, false),
            (20, 20, false, false),
            (0, 99, true, true),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(mapped.any(one, other, None), at_all, "{one} {other}");
                assert_eq!(mapped.any(one, other, Some(0x1fff)), there, "{one} {other}");
                assert!(!mapped.any(one, other, Some(0x2000)));
            }
        }
    }

    #[test]
    fn what_is_forgotten_may_have_been_anywhere() {
        let mut mapped = MappedLater::default();
        for at in 0..2 * MAX_MAPPED as u64 {
            mapped.add(at, &mapping(0x1000));
        }
        assert!(mapped.any(0, 5, Some(0x9000)));
        assert!(!mapped.any(300, 400, Some(0x9000)));
    }
}
