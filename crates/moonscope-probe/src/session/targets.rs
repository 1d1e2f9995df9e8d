//! Whose samples are wanted: the processes that were named, and their children.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use moonscope_process::{Pid, Process, StartTime, list, process, read_maps};
use moonscope_unwind::abi;

use super::{Scope, Session};
use crate::drain::{Change, Drain};
use crate::error::ProbeError;
use crate::executables::Executables;
use crate::generation::code_mappings;
use crate::limits::{ALL_AT_START, PROCESSES_AHEAD};
use crate::processes::monotonic_now;

/// How often is looked whether a target has ended without that we were told: the ring buffer was full then.
const LOOK_FOR_ENDED: Duration = Duration::from_secs(1);

/// Whose samples are wanted, and who of them lives.
pub(super) struct Targets {
    reach: Reach,
    /// The kernel side's map: pid to the time since when.
    map: MapHandle,
    /// Those that were named, members of the cgroup at the beginning, and children of all of them.
    live: BTreeSet<Pid>,
    looked_for_ended: Instant,
}

/// What tells the kernel side whether a task is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Nothing: all are.
    All,
    /// The map of targets.
    Named,
    /// Its cgroup, or the map.
    Cgroup,
}

/// Begins to build the tables that these processes will need, while the programs are loaded.
pub(super) fn begin_tables(scope: &Scope, executables: &mut Executables) {
    let (Scope::Processes(pids) | Scope::Cgroup { members: pids, .. }) = scope else {
        return;
    };
    for &pid in pids.iter().take(PROCESSES_AHEAD) {
        let Ok(maps) = read_maps(pid) else { continue };
        let found = code_mappings(pid, &maps, executables).mappings;
        executables.begin_tables(found.iter().filter_map(|mapping| mapping.executable));
    }
}

/// Which processes they are that were named: one may end before it is a target, and another one get its pid.
pub(super) fn started(scope: &Scope) -> BTreeMap<Pid, StartTime> {
    let Scope::Processes(pids) = scope else {
        return BTreeMap::new();
    };
    let start = |&pid: &Pid| Some((pid, start_of(pid)?));
    pids.iter().filter_map(start).collect()
}

fn start_of(pid: Pid) -> Option<StartTime> {
    Some(Process::find(pid).ok()?.start)
}

impl Targets {
    pub(super) fn new(scope: &Scope, map: MapHandle) -> Self {
        Self {
            reach: match scope {
                Scope::All => Reach::All,
                Scope::Processes(_) => Reach::Named,
                Scope::Cgroup { .. } => Reach::Cgroup,
            },
            map,
            live: BTreeSet::new(),
            looked_for_ended: Instant::now(),
        }
    }

    /// Is this process wanted, as far as we know? One that was moved into the cgroup is not known to be.
    pub(super) fn is_wanted(&self, pid: Pid) -> bool {
        self.reach == Reach::All || self.live.contains(&pid)
    }

    /// The same for one that only the kernel side may know to be wanted.
    pub(super) fn may_be_wanted(&self, pid: Pid) -> bool {
        self.reach == Reach::Cgroup || self.is_wanted(pid)
    }

    /// Has the drain notice targets that are gone, if none of us was told.
    pub(super) fn look_for_ended(&mut self, drain: &mut Drain) {
        if self.reach != Reach::Named || self.looked_for_ended.elapsed() < LOOK_FOR_ENDED {
            return;
        }
        self.looked_for_ended = Instant::now();
        for &pid in self.live.iter().filter(|pid| has_ended(**pid)) {
            drain.end(pid, monotonic_now());
        }
    }
}

impl Session {
    /// `is_command`: what is recorded waits to run its program, and is not recorded before.
    pub(super) fn add_first_targets(
        &mut self,
        scope: &Scope,
        started: &BTreeMap<Pid, StartTime>,
        is_command: bool,
    ) -> Result<(), ProbeError> {
        match scope {
            Scope::All => {
                self.look_at_all();
                Ok(())
            }
            Scope::Processes(pids) if is_command => pids.iter().try_for_each(|&pid| self.add_command(pid)),
            Scope::Processes(pids) => pids.iter().try_for_each(|&pid| {
                self.add_target(pid)?;
                // from now on its end is told
                if start_of(pid) != started.get(&pid).copied() {
                    self.drop_target(pid);
                }
                Ok(())
            }),
            Scope::Cgroup { members, .. } => {
                for &pid in members {
                    self.targets.live.insert(pid);
                    let _ = self.drain.borrow_mut().scan(pid);
                }
                Ok(())
            }
        }
    }

    /// Reads the mappings of the processes that are there, as far as the time allows: the others are looked at when
    /// they are sampled. Those that will be sampled most come first, and so do the tables of their files.
    fn look_at_all(&mut self) {
        let start = Instant::now();
        let mut drain = self.drain.borrow_mut();
        let mut processes = list::processes().unwrap_or_default();
        let newest = processes.iter().map(|process| process.start).max();
        processes.sort_by_cached_key(|process| std::cmp::Reverse(use_of_cpu(process, newest)));
        for process in processes {
            if start.elapsed() > ALL_AT_START {
                break;
            }
            if !process.is_kernel_thread && !process.is_zombie {
                let _ = drain.scan(process.pid);
            }
        }
    }

    /// Samples this process too from now on. That it cannot be read, or ended, is no failure: its
    /// samples will say so.
    pub fn add_target(&mut self, pid: Pid) -> Result<(), ProbeError> {
        self.tell_target(pid, monotonic_now())?;
        let _ = self.drain.borrow_mut().scan(pid);
        if has_ended(pid) {
            // before it was a target, perhaps: then no event told, and whoever gets this pid would be one
            self.drop_target(pid);
        } else if self.is_attached {
            self.process_came(pid);
        }
        Ok(())
    }

    fn drop_target(&mut self, pid: Pid) {
        self.targets.live.remove(&pid);
        let _ = self.targets.map.delete(&pid.to_ne_bytes());
    }

    /// A process that will become the command: until then it runs our own program, which nobody wants to see.
    fn add_command(&mut self, pid: Pid) -> Result<(), ProbeError> {
        self.tell_target(pid, abi::MS_TARGET_AFTER_EXEC.cast_unsigned())
    }

    fn tell_target(&mut self, pid: Pid, since: u64) -> Result<(), ProbeError> {
        self.targets
            .map
            .update(&pid.to_ne_bytes(), &since.to_ne_bytes(), MapFlags::ANY)
            .map_err(|err| ProbeError::Map {
                map: "targets",
                source: std::io::Error::other(err),
            })?;
        self.targets.live.insert(pid);
        Ok(())
    }

    fn process_came(&mut self, pid: Pid) {
        for collector in self.collectors.write().iter_mut() {
            collector.process_came(pid, &mut self.object.programs());
        }
    }

    /// Takes note of processes that came and went.
    pub(super) fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Forked(pid) => {
                    self.targets.live.insert(*pid);
                    self.process_came(*pid);
                }
                Change::Ended(pid) => {
                    self.targets.live.remove(pid);
                    for collector in self.collectors.write().iter_mut() {
                        collector.process_went(*pid);
                    }
                }
                Change::Executed(_) | Change::Renamed(_) => {}
            }
        }
    }

    /// Tells collectors of processes that map something new, and lets them look after what they have attached.
    pub(super) fn look_after(&mut self, remapped: &[Pid]) {
        for collector in self.collectors.write().iter_mut() {
            let programs = &mut self.object.programs();
            for &pid in remapped.iter().filter(|pid| self.targets.may_be_wanted(**pid)) {
                collector.process_changed(pid, programs);
            }
            collector.tend(programs);
        }
    }

    /// How many processes that were added, or are children of such, still live.
    pub fn live_targets(&self) -> usize {
        self.targets.live.len()
    }
}

/// How much of the time since its start a process was on a CPU, in thousandths; `newest`: when the last one started.
fn use_of_cpu(process: &Process, newest: Option<StartTime>) -> u64 {
    // one that has just started says little
    const LEAST_AGE: u64 = 100;
    let age = newest.unwrap_or(process.start).0.saturating_sub(process.start.0);
    1000 * process.cpu_ticks / (age + LEAST_AGE)
}

/// Is nothing left of a process that could run? A process lives on when only its first thread has ended.
fn has_ended(pid: Pid) -> bool {
    match Process::find(pid) {
        Ok(process) => process.is_zombie && process::threads(pid).is_ok_and(|threads| threads.len() <= 1),
        Err(err) => err.is_gone(),
    }
}
