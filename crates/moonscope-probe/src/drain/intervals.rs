//! Intervals of a recording: what was measured in the one that has ended, and what nobody needs after it.

use std::fs::File;
use std::sync::Arc;

use libbpf_rs::{MapCore, MapHandle};
use moonscope_process::Executable;
use moonscope_unwind::abi;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Drain;
use crate::executables::ExecutableId;
use crate::limits::{FEW_FILES, FEW_FUNCTIONS, FEW_NODES, FEW_PROCESSES};
use crate::lua::{LuaFunction, LuaFunctionId};
use crate::processes::{ProcessId, ProcessInfo, monotonic_now};
use crate::received::Received;
use crate::stacks::{RawFrame, RawStacks, StackSums};

/// A process that was seen only after its end is remembered for this long, nanoseconds: samples of it may come late.
const ENDED_KEPT: u64 = 10_000_000_000;

/// Which of two intervals something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// The one at hand.
    AtHand,
    /// The one before it.
    Ended,
}

/// The interval before the one at hand.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// When it ended (CLOCK_MONOTONIC, nanoseconds).
    at: u64,
    pub(super) sums: StackSums,
    pub(super) received: Received,
}

/// What was measured in an interval, with all that it refers to.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Stacks and sums.
    pub stacks: RawStacks,
    /// What came.
    pub received: Received,
    /// Files of frames.
    pub files: FxHashMap<ExecutableId, Arc<Executable>>,
    /// Processes of threads and frames.
    pub processes: FxHashMap<ProcessId, ProcessInfo>,
    /// Perf maps of those of them that run generated code.
    pub perf_maps: FxHashMap<ProcessId, Arc<File>>,
    /// Functions of frames.
    pub lua: FxHashMap<LuaFunctionId, LuaFunction>,
}

/// How much there is of what grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    nodes: usize,
    files: usize,
    processes: usize,
    functions: usize,
}

impl Size {
    /// Is something twice as much as it was, and not few?
    fn has_doubled(self, before: Self) -> bool {
        self.nodes > FEW_NODES.max(2 * before.nodes)
            || self.files > FEW_FILES.max(2 * before.files)
            || self.processes > FEW_PROCESSES.max(2 * before.processes)
            || self.functions > FEW_FUNCTIONS.max(2 * before.functions)
    }
}

/// What frames and threads refer to.
#[derive(Debug, Default)]
struct Referred {
    files: FxHashSet<ExecutableId>,
    processes: FxHashSet<ProcessId>,
    functions: FxHashSet<LuaFunctionId>,
}

impl Referred {
    fn add(&mut self, frame: &RawFrame) {
        match frame {
            RawFrame::File { executable, .. } => {
                self.files.insert(*executable);
            }
            RawFrame::Memory { process, .. } => {
                self.processes.insert(*process);
            }
            RawFrame::Lua { function, .. } => {
                self.functions.insert(*function);
            }
            RawFrame::LuaC { native, .. } => self.add(native),
            _ => {}
        }
    }
}

impl Drain {
    /// What was taken until `at` (CLOCK_MONOTONIC, nanoseconds) belongs to the interval that ends, what comes after to the
    /// next one.
    pub fn end_interval(&mut self, at: u64) {
        self.ended = Some(Ended {
            at,
            sums: self.stacks.take_sums(),
            received: std::mem::take(&mut self.received),
        });
    }

    /// Which interval a sample belongs to, by its own time stamp.
    pub(super) fn interval_of(&self, time: u64) -> Interval {
        match &self.ended {
            Some(ended) if time <= ended.at => Interval::Ended,
            _ => Interval::AtHand,
        }
    }

    pub(super) fn received_in(&mut self, interval: Interval) -> &mut Received {
        match (&mut self.ended, interval) {
            (Some(ended), Interval::Ended) => &mut ended.received,
            _ => &mut self.received,
        }
    }

    /// Everything of the interval that has ended; nothing of it may come any more.
    pub fn take_ended(&mut self) -> Gathered {
        self.place_all();
        let Ended { sums, received, .. } = self.ended.take().unwrap_or_default();
        self.gathered(sums, received)
    }

    /// Everything of the interval at hand, which is the last one.
    pub fn take_rest(&mut self) -> Gathered {
        self.place_last();
        let (sums, received) = (self.stacks.take_sums(), std::mem::take(&mut self.received));
        self.gathered(sums, received)
    }

    fn gathered(&mut self, sums: StackSums, received: Received) -> Gathered {
        self.perf_maps.look();
        let (mut stacks, renumbered) = self.stacks.part(sums.keys().map(|(stack, ..)| *stack));
        stacks.set_sums(sums, &renumbered);
        let mut referred = Referred::default();
        stacks.frames().iter().for_each(|frame| referred.add(frame));
        let of_threads = stacks.sums().filter_map(|(_, thread, ..)| thread.process);
        referred.processes.extend(of_threads);
        let files = referred.files.into_iter();
        let maps = referred.processes.iter();
        let perf_maps = maps
            .filter_map(|&id| Some((id, Arc::clone(self.perf_maps.file(id)?))))
            .collect();
        let processes = referred.processes.into_iter();
        let functions = referred.functions.into_iter();
        Gathered {
            received,
            perf_maps,
            files: files
                .map(|id| (id, Arc::clone(self.executables.file(id))))
                .collect(),
            processes: processes
                .filter_map(|id| Some((id, self.processes.info(id)?.clone())))
                .collect(),
            lua: functions
                .filter_map(|id| Some((id, self.lua.functions.get(id)?.clone())))
                .collect(),
            stacks,
        }
    }

    /// Forgets what was not needed for a while, so that a recording of any length takes the same memory. `held` tells which
    /// stacks something refers to that lasts; `shipped` is the kernel side's list of the stacks that we have.
    pub fn forget_unused(&mut self, held: impl FnOnce() -> FxHashSet<abi::ms_stack_id>, shipped: &MapHandle) {
        for id in self.definitions.end_interval(held) {
            let [a, b] = [id.a.to_ne_bytes(), id.b.to_ne_bytes()];
            // it may have made room already
            let _ = shipped.delete(&[a, b].concat());
        }
        if self.size().has_doubled(self.looked_through) {
            self.look_through();
            self.looked_through = self.size();
        }
    }

    fn size(&self) -> Size {
        Size {
            nodes: self.stacks.nodes().len(),
            files: self.executables.len(),
            processes: self.processes.len() + self.processes.infos_len(),
            functions: self.lua.functions.len(),
        }
    }

    fn look_through(&mut self) {
        // they refer to files
        self.place_all();
        for pid in self.processes.ended(monotonic_now().saturating_sub(ENDED_KEPT)) {
            self.processes.forget(pid, &mut self.executables);
            self.lua.forget(pid);
        }
        self.remembered.clear();
        let sums = self.stacks.take_sums();
        let used = sums.keys().map(|(stack, ..)| *stack);
        let (mut stacks, renumbered) = self.stacks.part(used.chain(self.definitions.stacks()));
        stacks.index();
        stacks.set_sums(sums, &renumbered);
        self.stacks = stacks;
        self.definitions.renumber(&renumbered);

        let mut referred = Referred::default();
        self.stacks.frames().iter().for_each(|frame| referred.add(frame));
        let of_sums = self.stacks.sums().filter_map(|(_, thread, ..)| thread.process);
        referred.processes.extend(of_sums);
        let of_definitions = self.definitions.threads().filter_map(|thread| thread.process);
        referred.processes.extend(of_definitions);
        referred.files.extend(self.processes.executables());
        referred.functions.extend(self.lua.remembered_functions());
        self.executables
            .forget_unused(&mut self.tables, |id| referred.files.contains(&id));
        self.processes
            .forget_unused(|id| referred.processes.contains(&id));
        let (maps, processes) = (&mut self.perf_maps, &self.processes);
        maps.forget_unused(|id| processes.info(id).is_some());
        self.lua
            .functions
            .forget_unused(|id| referred.functions.contains(&id));
    }
}
