//! What is known of each process: its program, and its executable mappings at several moments.

mod forget;
mod moments;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use moonscope_process::{Mapping, Pid, Process, ProcessError, StartTime, cgroup, read_maps};
use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use crate::executables::Executables;
use crate::generation::{CodeMapping, CodeMappings, Generation, code_mappings, exec_vm, seen_mapping};
use crate::limits::{KEPT_GENERATIONS, ROOM_REST};
use crate::numbered::Numbered;
use crate::published::Published;
use crate::tables::TableStore;

use moments::MappedLater;

/// A process of a recording: one program run by one pid. After an exec, or when the pid is used again,
/// it is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

/// What is remembered of a process for the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: Pid,
    /// Name of its main thread when it was looked at.
    pub comm: Arc<str>,
    /// Its pid as it knows it itself, in its own pid namespace; `None` if it was gone too soon.
    pub pid_inside: Option<Pid>,
    /// Its control group, the whole path; empty if it was gone too soon.
    pub cgroup: Arc<str>,
}

impl ProcessInfo {
    /// Looks where a process is.
    pub(crate) fn look(pid: Pid, comm: &str) -> Self {
        let cgroup = cgroup::deepest(pid).unwrap_or_default();
        Self {
            pid,
            comm: Arc::from(comm),
            pid_inside: Process::find(pid).ok().map(|process| process.pid_inside()),
            cgroup: Arc::from(cgroup.to_string_lossy()),
        }
    }
}

struct Known {
    id: ProcessId,
    /// `None` until it was looked at itself.
    start: Option<StartTime>,
    /// It was gone when it was looked at.
    has_ended: bool,
    /// Of the array of mappings; empty if there was no room.
    slice: Range<usize>,
    /// When room was looked for, for the slice and for tables.
    placed_at: Instant,
    exec_vm: u64,
    mapped: MappedLater,
    /// Newest first. Samples on their way may have used an older one.
    generations: VecDeque<Kept>,
}

/// A generation, and when the mappings were found so.
#[derive(Clone)]
struct Kept {
    generation: Arc<Generation>,
    /// First.
    read: Reading,
    /// Last, with nothing mapped in between.
    confirmed: Reading,
}

/// When the mappings were read: begin and end. What the process mapped in between may be in them, or not.
#[derive(Clone, Copy)]
struct Reading {
    from: u64,
    to: u64,
}

impl Reading {
    /// Without a look at the process.
    fn now() -> Self {
        let now = monotonic_now();
        Self { from: now, to: now }
    }
}

/// What was found out about a process.
struct Found {
    comm: Arc<str>,
    start: Option<StartTime>,
    has_ended: bool,
    exec_vm: u64,
    read: Reading,
    mappings: Vec<CodeMapping>,
}

impl Known {
    fn newest(&self) -> Option<&Arc<Generation>> {
        self.generations.front().map(|kept| &kept.generation)
    }
}

/// Events that limits or races caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Processes that ended before their mappings could be read.
    pub ended_early: u64,
    /// No room in the array of mappings or in the map of processes.
    pub no_room: u64,
    /// Processes known only by records of what they mapped.
    pub from_records: u64,
    /// Files of executable mappings that could not be opened as too many were open.
    pub over_file_limit: u64,
    /// Generated code was met in more processes than perf maps are held open of.
    pub perf_maps_not_held: u64,
    /// How often mappings were read.
    pub scans: u64,
}

/// All known processes.
pub struct Processes {
    published: Published,
    known: FxHashMap<Pid, Known>,
    infos: Numbered<ProcessInfo>,
    last_generation: u64,
    /// Whose mappings changed since this was last taken.
    changed: Vec<Pid>,
    /// Those that we may not look at: their mappings, or none of the files that they map.
    pub refused: BTreeSet<Pid>,
    /// What happened.
    pub counts: ProcessCounts,
}

impl Processes {
    /// None known yet.
    pub fn new(published: Published) -> Self {
        Self {
            published,
            known: FxHashMap::default(),
            infos: Numbered::default(),
            last_generation: 0,
            changed: Vec::new(),
            refused: BTreeSet::new(),
            counts: ProcessCounts::default(),
        }
    }

    /// How many processes are known now.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Processes whose mappings changed since the last call.
    pub fn take_changed(&mut self) -> Vec<Pid> {
        std::mem::take(&mut self.changed)
    }

    /// All known now.
    pub fn pids(&self) -> Vec<Pid> {
        self.known.keys().copied().collect()
    }

    /// One of the processes that were met and are not forgotten.
    pub fn info(&self, id: ProcessId) -> Option<&ProcessInfo> {
        self.infos.get(id.0)
    }

    /// How many of them there are.
    pub fn infos_len(&self) -> usize {
        self.infos.len()
    }

    /// The newest mappings of a process.
    pub fn newest(&self, pid: Pid) -> Option<&Arc<Generation>> {
        self.known.get(&pid)?.newest()
    }

    /// A sample says that `mm->exec_vm` is not what the mappings add up to, and reading them anew changed
    /// nothing: what the kernel counts is taken for them, so that not every sample asks again.
    pub fn learn_exec_vm(&mut self, pid: Pid, counted: u64) {
        if let Some(known) = self.known.get_mut(&pid) {
            known.exec_vm = counted;
            tell(&self.published, pid, known);
        }
    }

    /// What the kernel side believes `mm->exec_vm` to be.
    pub fn exec_vm(&self, pid: Pid) -> Option<u64> {
        self.known.get(&pid).map(|known| known.exec_vm)
    }

    /// The process ended or runs another program now.
    pub fn forget(&mut self, pid: Pid, executables: &mut Executables) {
        if let Some(known) = self.known.remove(&pid) {
            // The kernel side forgot it when that happened. But it may have been told of the process after that.
            self.published.withdraw(pid);
            self.release(&known, executables);
        }
    }

    /// Gives back what was in use for the newest mappings; the kernel side must no longer be led to them.
    fn release(&mut self, known: &Known, executables: &mut Executables) {
        for executable in known.newest().into_iter().flat_map(|newest| newest.executables()) {
            executables.remove_user(executable);
        }
        self.published.give(known.slice.clone());
    }

    /// Reads the mappings of a process, loads the tables they need and tells the kernel side.
    pub fn scan(
        &mut self,
        pid: Pid,
        executables: &mut Executables,
        store: &mut TableStore,
    ) -> Result<(), ProcessError> {
        self.counts.scans += 1;
        let outcome = self.try_scan(pid, executables, store);
        match &outcome {
            Err(err) if err.is_permission() => drop(self.refused.insert(pid)),
            Err(_) => self.counts.ended_early += 1,
            Ok(()) => {}
        }
        outcome
    }

    fn try_scan(
        &mut self,
        pid: Pid,
        executables: &mut Executables,
        store: &mut TableStore,
    ) -> Result<(), ProcessError> {
        let process = Process::find(pid)?;
        let from = monotonic_now();
        let maps = read_maps(pid)?;
        let CodeMappings {
            mappings,
            is_refused,
            over_file_limit,
        } = code_mappings(pid, &maps, executables);
        let read = Reading {
            from,
            to: monotonic_now(),
        };
        self.counts.over_file_limit += over_file_limit;
        if is_refused {
            self.refused.insert(pid);
        }
        let is_other =
            |known: &Known| known.has_ended || known.start.is_some_and(|start| start != process.start);
        if self.known.get(&pid).is_some_and(is_other) {
            self.forget(pid, executables);
        }
        let found = Found {
            comm: process.comm.as_str().into(),
            start: Some(process.start),
            has_ended: false,
            exec_vm: exec_vm(&maps),
            read,
            mappings,
        };
        if !self.confirm(pid, &found, executables, store) {
            self.replace(pid, found, executables, Some(store));
        }
        Ok(())
    }

    /// A process that ended, or whose mappings we may not read: adds what it was seen to map to what is
    /// known of it. Says whether anything is known now. The kernel side does not use this.
    pub fn add_seen(
        &mut self,
        pid: Pid,
        comm: &str,
        seen: &[Mapping],
        has_ended: bool,
        executables: &mut Executables,
    ) -> bool {
        let stays = |old: &&CodeMapping| !seen.iter().any(|new| old.start < new.end && new.start < old.end);
        let before = self
            .newest(pid)
            .map(|newest| newest.mappings.as_slice())
            .unwrap_or_default();
        let mut mappings: Vec<_> = before.iter().filter(stays).cloned().collect();
        mappings.extend(seen.iter().map(|mapping| seen_mapping(mapping, executables)));
        mappings.sort_by_key(|mapping| mapping.start);
        if mappings.is_empty() {
            return false;
        }
        self.counts.from_records += 1;
        let found = Found {
            comm: comm.into(),
            start: self.known.get(&pid).and_then(|known| known.start),
            has_ended,
            exec_vm: 0,
            read: Reading::now(),
            mappings,
        };
        self.replace(pid, found, executables, None);
        true
    }

    /// A new process begins with the mappings of its parent, if those are known.
    pub fn adopt(
        &mut self,
        child: Pid,
        parent: Pid,
        executables: &mut Executables,
        store: &mut TableStore,
    ) -> bool {
        let Some((known, newest)) = self
            .known
            .get(&parent)
            .and_then(|known| Some((known, known.newest()?)))
        else {
            return false;
        };
        let found = Found {
            comm: Arc::clone(&self.infos[newest.process.0].comm),
            start: None,
            has_ended: false,
            exec_vm: known.exec_vm,
            read: Reading::now(),
            mappings: newest.mappings.clone(),
        };
        self.forget(child, executables);
        self.replace(child, found, executables, Some(store));
        true
    }

    /// If nothing but generated code came or went, what the walk uses stays as it is. Not if something had no
    /// room and there is some now.
    fn confirm(
        &mut self,
        pid: Pid,
        found: &Found,
        executables: &mut Executables,
        store: &mut TableStore,
    ) -> bool {
        let Some(known) = self.known.get_mut(&pid) else {
            return false;
        };
        let Some(newest) = known.generations.front_mut() else {
            return false;
        };
        // what was mapped and unmapped in between may have been sampled
        let has_changed = known.mapped.any(newest.confirmed.from, found.read.to, None);
        if has_changed || newest.generation.mappings != found.mappings {
            return false;
        }
        newest.confirmed = found.read;
        let newest = Arc::clone(&newest.generation);
        known.start = found.start;
        known.exec_vm = found.exec_vm;
        if known.placed_at.elapsed() >= ROOM_REST {
            known.placed_at = Instant::now();
            let wanted = newest.mappings.len();
            let may_have_slice = known.slice.len() < wanted && self.published.room() >= wanted;
            if executables.look_for_room(newest.executables(), store) || may_have_slice {
                return false;
            }
        }
        tell(&self.published, pid, known);
        true
    }

    /// Makes these mappings the newest of a process; with `store` also for the kernel side.
    fn replace(
        &mut self,
        pid: Pid,
        found: Found,
        executables: &mut Executables,
        store: Option<&mut TableStore>,
    ) {
        self.last_generation += 1;
        self.changed.push(pid);
        let old = self.known.remove(&pid);
        let process = match &old {
            Some(old) => old.id,
            None => self.add_info(pid, &found.comm),
        };
        let generation = Arc::new(Generation {
            number: self.last_generation,
            process,
            mappings: found.mappings,
        });
        // before the old ones go, so that no table is out of use in between
        for executable in generation.executables() {
            executables.add_user(executable);
        }
        let is_visible = store.is_some();
        let slice = store.map_or(0..0, |store| self.write_mappings(&generation, executables, store));
        let newest = Kept {
            generation,
            read: found.read,
            confirmed: found.read,
        };
        let mut known = Known {
            id: process,
            start: found.start,
            has_ended: found.has_ended,
            slice,
            placed_at: Instant::now(),
            exec_vm: found.exec_vm,
            mapped: MappedLater::default(),
            generations: VecDeque::from([newest]),
        };
        if !is_visible {
            self.published.withdraw(pid);
        } else if !tell(&self.published, pid, &known) {
            self.counts.no_room += 1;
        }
        if let Some(mut old) = old {
            known.mapped = std::mem::take(&mut old.mapped);
            known
                .generations
                .extend(old.generations.iter().take(KEPT_GENERATIONS - 1).cloned());
            self.release(&old, executables);
        }
        self.known.insert(pid, known);
    }

    fn add_info(&mut self, pid: Pid, comm: &str) -> ProcessId {
        ProcessId(self.infos.add(ProcessInfo::look(pid, comm)))
    }

    /// Writes the mappings where the kernel side can read them. Empty if there is no room: then each
    /// sample is walked in user space.
    fn write_mappings(
        &mut self,
        generation: &Generation,
        executables: &mut Executables,
        store: &mut TableStore,
    ) -> Range<usize> {
        let lines: Vec<abi::ms_mapping> = generation
            .mappings
            .iter()
            .map(|mapping| {
                let table = mapping.executable.map(|id| executables.table(id, store));
                abi::ms_mapping {
                    start: mapping.start,
                    end: mapping.end,
                    bias: mapping.bias,
                    // what has no place for a table says so by its kind
                    table: table.flatten().map_or(0, |slot| slot.0),
                    kind: match table {
                        Some(Some(_)) => abi::MS_MAPPING_FILE,
                        Some(None) => abi::MS_MAPPING_NO_TABLE,
                        None => abi::MS_MAPPING_ANON,
                    },
                }
            })
            .collect();
        self.published.write(&lines).unwrap_or_else(|| {
            self.counts.no_room += 1;
            0..0
        })
    }
}

/// Tells the kernel side of the newest mappings of a process; says whether there was room.
fn tell(published: &Published, pid: Pid, known: &Known) -> bool {
    known
        .newest()
        .is_none_or(|newest| published.tell(pid, newest, &known.slice, known.exec_vm))
}

/// The clock of samples and of perf records.
pub fn monotonic_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
