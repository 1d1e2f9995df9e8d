//! Perf maps of processes that run generated code: found when the first sample of such code comes, and held open, so that
//! the names are there when the process, its mount namespace or the file is not.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moonscope_process::{PerfMap, Pid};
use rustc_hash::FxHashMap;

use crate::limits::MAX_PERF_MAPS;
use crate::processes::ProcessId;

/// How often is looked whether a file is there now, or another one. A look takes some 10 microseconds.
const LOOK: Duration = Duration::from_secs(1);

/// The maps of all processes that need one.
#[derive(Debug)]
pub struct PerfMaps {
    held: FxHashMap<ProcessId, Held>,
    looked: Instant,
}

#[derive(Debug)]
struct Held {
    /// `None`: it was gone before anything of it could be opened.
    map: Option<PerfMap>,
    /// Its program runs still.
    is_running: bool,
}

/// There are too many maps already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl PerfMaps {
    /// None yet.
    pub fn new() -> Self {
        Self {
            held: FxHashMap::default(),
            looked: Instant::now(),
        }
    }

    /// Code of this process was seen that no file holds.
    pub fn note(&mut self, process: ProcessId, pid: Pid) -> Result<(), TooMany> {
        if self.held.contains_key(&process) {
            return Ok(());
        }
        if self.held.len() >= MAX_PERF_MAPS {
            return Err(TooMany);
        }
        let map = PerfMap::of(pid);
        let is_running = map.is_some();
        self.held.insert(process, Held { map, is_running });
        Ok(())
    }

    /// Its program is gone: what was written until then is all there is.
    pub fn end(&mut self, process: ProcessId) {
        if let Some(held) = self.held.get_mut(&process) {
            held.look();
            held.is_running = false;
        }
    }

    /// Looks for new maps, if it is time for that.
    pub fn tend(&mut self) {
        if self.looked.elapsed() >= LOOK {
            self.look();
        }
    }

    /// Looks for new maps.
    pub fn look(&mut self) {
        self.looked = Instant::now();
        self.held.values_mut().for_each(Held::look);
    }

    /// The map of a process, if there is one.
    pub fn file(&self, process: ProcessId) -> Option<&Arc<File>> {
        self.held.get(&process)?.map.as_ref()?.file()
    }

    /// Closes those of which `is_needed` does not say that they are asked for still.
    pub fn forget_unused(&mut self, is_needed: impl Fn(ProcessId) -> bool) {
        self.held.retain(|&process, _| is_needed(process));
    }
}

impl Held {
    fn look(&mut self) {
        if let Some(map) = self.map.as_mut().filter(|_| self.is_running) {
            map.look();
        }
    }
}
