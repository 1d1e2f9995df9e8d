//! Samples whose mappings must be read before they can be counted: the process is new, or has changed.

use std::sync::Arc;

use moonscope_process::Pid;
use moonscope_unwind::{Registers, StackCopy, WalkFrame, abi};

use super::{Drain, ENDED_EARLY};
use crate::comparison::was_copied_for_comparison;
use crate::frames::{cut_of, lookup_addr, moved, place_in_file};
use crate::generation::Generation;
use crate::lua::{UserFrame, native_frames, user_frames};
use crate::sample::{RawSample, comm_text};
use crate::user_walk::walk_copy;

/// Why a stack is cut, where no walk got to say so.
const MAPPING_CHANGED: &str = "mapping changed while the sample was taken";
const NOT_PERMITTED: &str = "mappings of the process may not be read";
/// The walk would need more of the stack than there was room for.
const NO_ROOM: &str = "stack copy cut short: ring buffer nearly full";

impl Drain {
    /// Reads the mappings of the process of a sample, or takes what it was seen to map. Gives the reason
    /// if neither is to be had.
    pub(super) fn look_again(&mut self, sample: &RawSample<'_>) -> Option<&'static str> {
        let head = &sample.head;
        let believed = self.processes.exec_vm(head.pid);
        let Err(err) = self.scan(head.pid) else {
            let newest = self.processes.newest(head.pid).map(|newest| newest.number);
            let changed_nothing =
                newest == Some(head.generation) && self.processes.exec_vm(head.pid) == believed;
            if changed_nothing && head.flags & abi::MS_SAMPLE_MAPS_CHANGED != 0 {
                self.processes.learn_exec_vm(head.pid, head.exec_vm);
            }
            return None;
        };
        // with /proc mounted hidepid=2 what may not be read looks like what is not there
        let reason = if err.is_permission() || is_hidden(head.pid) {
            NOT_PERMITTED
        } else {
            ENDED_EARLY
        };
        (!self.use_what_was_seen(sample, reason == ENDED_EARLY)).then_some(reason)
    }

    pub(super) fn use_what_was_seen(&mut self, sample: &RawSample<'_>, has_ended: bool) -> bool {
        let head = &sample.head;
        if self.watch.began_within(head.pid, head.time, u64::MAX) {
            return false; // what was seen is another program's, or another process's
        }
        let seen = self.watch.seen(head.pid).unwrap_or_default();
        let comm = comm_text(sample);
        self.processes
            .add_seen(head.pid, &comm, &seen, has_ended, &mut self.executables)
    }

    /// Counts a sample for which the mappings were read (or `failed` to be) after it was taken.
    pub(super) fn count_late(&mut self, sample: &RawSample<'_>, failed: Option<&'static str>) {
        let head = &sample.head;
        let is_of_next = |read_at| self.watch.began_within(head.pid, head.time, read_at);
        let newest = match self.processes.newest_read_at(head.pid) {
            Some(read_at) if is_of_next(read_at) => None,
            _ => self.processes.newest(head.pid).cloned(),
        };
        let used = self.generation_of(sample);
        let was_true = self
            .processes
            .generation(head.pid, head.generation, head.time)
            .is_some_and(|(_, was)| was);
        if was_true && was_copied_for_comparison(sample) {
            self.compare(sample, used.as_deref());
        }
        let (generation, frames, cut) = match (sample.copy(), &newest, &used) {
            // what the kernel side walked with was true, whatever came after
            (_, _, Some(used)) if was_true && sample.end().is_complete() => {
                (Some(used), user_frames(sample.user()), None)
            }
            // and so it was where its frames are: generated code comes and goes
            (Some(_), Some(newest), Some(used))
                if sample.end().is_complete()
                    && !native_frames(sample.user())
                        .iter()
                        .any(|frame| self.has_moved(head, frame, used, newest)) =>
            {
                (Some(newest), user_frames(sample.user()), None)
            }
            (Some(copy), Some(newest), used) => {
                let (frames, cut) = self.walk_here(sample, &copy, newest, used.as_deref());
                return self.place_walked_here(sample, Some(Arc::clone(newest)), frames, cut);
            }
            (Some((registers, _)), None, _) => {
                let addr = registers.regs[abi::MS_REG_RIP as usize];
                let leaf = WalkFrame {
                    addr,
                    exact: true,
                    fp: false,
                };
                let leaf = vec![UserFrame::Native(leaf)];
                (None, leaf, Some(failed.unwrap_or(ENDED_EARLY)))
            }
            (None, newest, used) => {
                let frames = user_frames(sample.user());
                let cut = cut_of(sample.end());
                match (&newest, &used) {
                    (Some(newest), Some(used)) => self.with_moved(head, (newest, used), frames, cut),
                    _ => (used.as_ref().or(newest.as_ref()), frames, cut),
                }
            }
        };
        let generation = generation.map(Arc::clone);
        self.place_and_add(sample, generation, frames, cut);
    }

    /// What is true of frames that were walked with the mappings `used`, where something else is mapped at some of them
    /// now. Other code may have another caller: but not where the same rule is in force in both.
    fn with_moved<'a>(
        &self,
        head: &abi::ms_sample,
        (newest, used): (&'a Arc<Generation>, &'a Arc<Generation>),
        mut frames: Vec<UserFrame>,
        cut: Option<&'static str>,
    ) -> (Option<&'a Arc<Generation>>, Vec<UserFrame>, Option<&'static str>) {
        let has_moved = |frame: &UserFrame| matches!(frame, UserFrame::Native(frame) if self.has_moved(head, frame, used, newest));
        let Some(unchanged) = frames.iter().position(has_moved) else {
            return (Some(used), frames, cut);
        };
        let rule = |generation: &Generation, frame: &WalkFrame| {
            let (executable, vaddr) = place_in_file(frame, generation)?;
            self.executables.rule_at(executable, vaddr, &self.tables)
        };
        let kept = frames.iter().enumerate().find_map(|(at, frame)| match frame {
            UserFrame::Native(native)
                if !self
                    .processes
                    .had(head.pid, newest, head.time, lookup_addr(native)) =>
            {
                Some(at)
            }
            UserFrame::Native(native) if has_moved(frame) => {
                let is_same = rule(used, native).is_some_and(|then| rule(newest, native) == Some(then));
                (!is_same).then_some(at + 1)
            }
            _ => None,
        });
        match kept {
            None => (Some(newest), frames, cut),
            Some(kept) if kept > unchanged => {
                frames.truncate(kept);
                (Some(newest), frames, Some(MAPPING_CHANGED))
            }
            Some(_) => {
                frames.truncate(unchanged);
                (Some(used), frames, Some(MAPPING_CHANGED))
            }
        }
    }

    /// Was something else mapped at this frame when the sample was taken than what it was walked with?
    fn has_moved(
        &self,
        head: &abi::ms_sample,
        frame: &WalkFrame,
        used: &Generation,
        newest: &Generation,
    ) -> bool {
        let addr = lookup_addr(frame);
        let is_there = used.find(addr).is_some();
        moved(frame, used, newest) || (is_there && !self.processes.had(head.pid, used, head.time, addr))
    }

    /// Walks a stack copy.
    fn walk_here(
        &mut self,
        sample: &RawSample<'_>,
        (registers, stack): &(Registers, StackCopy<'_>),
        newest: &Generation,
        used: Option<&Generation>,
    ) -> (Vec<UserFrame>, Option<&'static str>) {
        let head = &sample.head;
        let interval = self.interval_of(head.time);
        self.received_in(interval).walked_here += 1;
        let walk = walk_copy(
            newest,
            &mut self.executables,
            head.pid,
            (*registers, stack),
            sample.called(),
            self.max_depth,
        );
        let mut cut = cut_of(walk.end);
        let mut frames = walk.frames;
        let other = frames.iter().position(|frame| {
            let addr = lookup_addr(frame);
            newest.find(addr).is_some() && !self.processes.had(head.pid, newest, head.time, addr)
        });
        if let Some(other) = other {
            frames.truncate(other);
            cut = Some(MAPPING_CHANGED);
        }
        if cut.is_some() && head.flags & abi::MS_SAMPLE_NO_ROOM != 0 {
            cut = Some(NO_ROOM);
            // the kernel side had all of the stack, and may have come further
            let theirs = native_frames(sample.user());
            if let Some(used) = used
                && theirs.len() > frames.len()
                && !theirs
                    .iter()
                    .any(|frame| self.has_moved(head, frame, used, newest))
            {
                return (user_frames(sample.user()), cut);
            }
        }
        (frames.into_iter().map(UserFrame::Native).collect(), cut)
    }

    /// Walks a sample once more, as the oracle of the walk in the kernel.
    fn compare(&mut self, sample: &RawSample<'_>, used: Option<&Generation>) {
        let (Some((registers, stack)), Some(used)) = (sample.copy(), used) else {
            return;
        };
        let files = &mut self.executables;
        let (pid, called) = (sample.head.pid, sample.called());
        let walk = walk_copy(used, files, pid, (registers, &stack), called, self.max_depth);
        let comparison = &mut self.received.comparison;
        comparison.add(&native_frames(sample.user()), sample.end(), &walk);
    }
}

/// Is the process there although `/proc` does not show it?
fn is_hidden(pid: Pid) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    let is_there = !matches!(
        rustix::process::test_kill_process(id),
        Err(rustix::io::Errno::SRCH)
    );
    is_there && !std::path::Path::new(&format!("/proc/{pid}")).exists()
}
