//! What was recorded: raw stacks, and what they refer to.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use moonscope_process::Executable;
use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use crate::collector::{AnyCollector, Column};
use crate::executables::ExecutableId;
use crate::lua::{LuaFunction, LuaFunctionId};
use crate::processes::{ProcessId, ProcessInfo};
use crate::stacks::{RawStacks, What};
use crate::unfinished::UnfinishedProcess;

/// What was recorded: raw stacks, and what they refer to.
pub struct Recorded {
    /// Stacks and sums.
    pub stacks: RawStacks,
    pub(crate) files: FxHashMap<ExecutableId, Arc<Executable>>,
    pub(crate) processes: FxHashMap<ProcessId, ProcessInfo>,
    pub(crate) perf_maps: FxHashMap<ProcessId, Arc<File>>,
    pub(crate) lua: FxHashMap<LuaFunctionId, LuaFunction>,
    pub(crate) sites: Vec<Arc<str>>,
    pub(crate) measured: Measured,
    /// Processes in which something lasts.
    pub unfinished: Vec<UnfinishedProcess>,
}

impl Recorded {
    /// A Lua function of a frame.
    pub fn lua_function(&self, id: LuaFunctionId) -> Option<&LuaFunction> {
        self.lua.get(&id)
    }

    /// The file of a frame.
    pub fn file(&self, id: ExecutableId) -> Option<&Arc<Executable>> {
        self.files.get(&id)
    }

    /// Lines about what each event measured as a whole.
    pub fn summaries(&self) -> Vec<String> {
        let mut by_event: BTreeMap<u16, BTreeMap<u32, abi::ms_sum>> = BTreeMap::new();
        for (_, _, what, sum) in self.stacks.sums() {
            let all = by_event
                .entry(what.event)
                .or_default()
                .entry(what.tag)
                .or_default();
            all.count += sum.count;
            for (total, value) in all.value.iter_mut().zip(sum.value) {
                *total += value;
            }
        }
        let collectors = self.measured.collectors.read();
        collectors
            .iter()
            .enumerate()
            .flat_map(|(event, collector)| {
                let sums = by_event.get(&(event as u16)).cloned().unwrap_or_default();
                collector.summary(&sums)
            })
            .collect()
    }

    /// Leaves out how it stood at the end, as another interval comes after this one.
    pub fn forget_standing(&mut self) {
        let collectors = self.measured.collectors.read();
        self.stacks.retain(|what| {
            let collector = collectors.get(usize::from(what.event));
            !collector.is_some_and(|collector| collector.is_standing(what.tag))
        });
    }

    /// The process of a sample or frame.
    pub fn process(&self, id: ProcessId) -> Option<&ProcessInfo> {
        self.processes.get(&id)
    }

    /// Where names of the generated code of a process are, if it wrote some.
    pub fn perf_map(&self, id: ProcessId) -> Option<&File> {
        self.perf_maps.get(&id).map(Arc::as_ref)
    }

    /// Labels that the event gives a sample; `kernel` are the kernel's functions on its stack, leaf first.
    pub fn labels(&self, what: What, kernel: &[&str]) -> Vec<(&'static str, String)> {
        let mut labels = self.measured.labels(what, kernel);
        let site = what
            .tag
            .checked_sub(1)
            .and_then(|site| self.sites.get(site as usize));
        if let (Some(label), Some(site)) = (self.measured.site_label(what), site) {
            labels.push((label, site.to_string()));
        }
        labels
    }

    /// What the numbers of a sample mean.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }
}

/// The collectors of a recording. While it goes on, what was recorded already is given its names in another thread.
#[derive(Clone, Default)]
pub struct Collectors(Arc<RwLock<Vec<AnyCollector>>>);

impl Collectors {
    /// These.
    pub(crate) fn new(collectors: Vec<AnyCollector>) -> Self {
        Self(Arc::new(RwLock::new(collectors)))
    }

    /// To ask what values mean.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Vec<AnyCollector>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To begin and end measuring.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Vec<AnyCollector>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of a recording, and the columns that they fill.
#[derive(Clone, Default)]
pub struct Measured {
    collectors: Collectors,
    has_wall: bool,
    columns: Vec<Column>,
}

/// The column of the event `wall`.
const WALL: Column = Column::new("wall", "nanoseconds");

impl Measured {
    /// The columns of these events; with `has_wall` the sum of their times before them.
    pub(crate) fn new(collectors: Collectors, has_wall: bool) -> Self {
        let mut columns: Vec<Column> = has_wall.then_some(WALL).into_iter().collect();
        for column in collectors.read().iter().flat_map(|collector| collector.columns()) {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        Self {
            collectors,
            has_wall,
            columns,
        }
    }

    /// What each number of a sample means.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The numbers of a sample, one for each column.
    pub fn row(&self, what: What, sum: &abi::ms_sum) -> Vec<i64> {
        let mut row = vec![0; self.columns.len()];
        let collectors = self.collectors.read();
        let Some(collector) = collectors.get(usize::from(what.event)) else {
            return row;
        };
        if self.has_wall {
            row[0] = collector.wall_time(what.tag, sum);
        }
        for (column, value) in collector.columns().iter().zip(collector.row(what.tag, sum)) {
            if let Some(place) = self.columns.iter().position(|other| other == column) {
                row[place] = value;
            }
        }
        row
    }

    fn site_label(&self, what: What) -> Option<&'static str> {
        self.collectors.read().get(usize::from(what.event))?.site_label()
    }

    fn labels(&self, what: What, kernel: &[&str]) -> Vec<(&'static str, String)> {
        self.collectors
            .read()
            .get(usize::from(what.event))
            .map_or_else(Vec::new, |collector| collector.labels(what.tag, kernel))
    }
}
