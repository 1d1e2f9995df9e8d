//! All processes of a recording that have LuaJIT in them.

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use moonscope_process::Pid;
use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use super::builds::MappedBuild;
use super::functions::{LuaFunctionId, LuaFunctions};
use super::parents::ParentCounts;
use super::process::LuaProcess;
use super::words::{LuaWord, UserFrame};
use crate::executables::Executables;
use crate::generation::Generation;

/// What happened to Lua.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LuaCounts {
    /// Processes with LuaJIT.
    pub processes: u64,
    /// VMs found.
    pub vms: u64,
    /// Processes with more VMs than are looked for.
    pub with_too_many_vms: u64,
    /// LuaJITs in files that cannot be read, and why.
    pub refused: Vec<String>,
    /// Samples with at least one Lua frame.
    pub samples: u64,
    /// Of these: native frames are missing between C code without unwind information and the VM.
    pub gaps: u64,
    /// Of these: the innermost Lua frames may be others, as the VM was between two states.
    pub guessed: u64,
    /// Frames of compiled code whose trace was not known: without inlined frames and line.
    pub unknown_traces: u64,
    /// Frames whose function could not be read.
    pub unknown_functions: u64,
    /// Frames without a line, as their functions were gone before it could be read.
    pub without_line: u64,
    /// The search for parents of coroutines, where it was asked for.
    pub parents: Option<ParentCounts>,
}

/// What is counted of the Lua frames of a stack.
#[derive(Clone, Debug, Default)]
pub struct LuaNotes {
    has_gap: bool,
    is_guessed: bool,
    parents: ParentCounts,
}

impl LuaNotes {
    /// Of a sample with Lua in it.
    pub fn of(frames: &[UserFrame]) -> Self {
        let has = |flag: u64| {
            let is_so = |frame: &UserFrame| matches!(frame, UserFrame::Lua(LuaWord::Segment { flags, .. }) if flags & flag != 0);
            frames.iter().any(is_so)
        };
        Self {
            has_gap: has(abi::MS_SEGMENT_GAP),
            is_guessed: has(abi::MS_SEGMENT_GUESSED),
            parents: ParentCounts::of(frames),
        }
    }
}

impl LuaCounts {
    fn add_process(&mut self, process: &LuaProcess) {
        if !process.is_idle_copy {
            self.processes += 1;
            self.vms += process.vms_met();
        }
    }

    /// Counts samples of one stack with Lua in it.
    pub fn add_samples(&mut self, notes: &LuaNotes, samples: u64) {
        self.samples += samples;
        self.gaps += u64::from(notes.has_gap) * samples;
        self.guessed += u64::from(notes.is_guessed) * samples;
        if let Some(parents) = &mut self.parents {
            parents.add(&notes.parents, samples);
        }
    }
}

/// All processes with LuaJIT.
pub struct LuaProcesses {
    map: MapHandle,
    processes: FxHashMap<Pid, LuaProcess>,
    /// All functions met.
    pub functions: LuaFunctions,
    /// What happened; processes and VMs are those of `processes` that are gone.
    pub counts: LuaCounts,
}

impl LuaProcesses {
    /// Takes the map `lua_processes` of a loaded object.
    pub fn new(map: MapHandle) -> Self {
        Self {
            map,
            processes: FxHashMap::default(),
            functions: LuaFunctions::default(),
            counts: LuaCounts::default(),
        }
    }

    /// The mappings of a process are known, and what their files hold: is there LuaJIT?
    pub fn look_at(&mut self, pid: Pid, generation: &Generation, executables: &Executables) {
        let builds = MappedBuild::all(generation, |id| executables.lua(id));
        if builds.is_empty() {
            self.forget(pid);
            return;
        }
        if self
            .processes
            .get(&pid)
            .is_none_or(|known| known.builds() != builds)
        {
            let mut process = LuaProcess::new(pid, builds);
            process.scan();
            self.processes.insert(pid, process);
        }
        self.publish(pid);
    }

    /// A new process has a copy of what its parent has.
    pub fn adopt(&mut self, child: Pid, parent: Pid) {
        if let Some(parent) = self.processes.get(&parent) {
            let copy = parent.copy_for(child);
            self.processes.insert(child, copy);
            self.publish(child);
        }
    }

    /// The program that a process ran is gone.
    pub fn forget(&mut self, pid: Pid) {
        if let Some(process) = self.processes.remove(&pid) {
            self.counts.add_process(&process);
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> LuaCounts {
        let mut counts = self.counts.clone();
        self.processes
            .values()
            .for_each(|process| counts.add_process(process));
        counts
    }

    /// A sample of this process has Lua in it.
    pub fn note_lua(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.is_idle_copy = false;
        }
    }

    /// Lua in a process, with where functions are kept and what is counted.
    pub fn get(&mut self, pid: Pid) -> Option<(&mut LuaProcess, &mut LuaFunctions, &mut LuaCounts)> {
        let process = self.processes.get_mut(&pid)?;
        Some((process, &mut self.functions, &mut self.counts))
    }

    /// Functions that processes may show again without reading them.
    pub fn remembered_functions(&self) -> impl Iterator<Item = LuaFunctionId> {
        self.processes.values().flat_map(LuaProcess::functions)
    }

    /// A sample has a stack that is known.
    pub fn note_used(&mut self, pid: Pid, frames: &[UserFrame]) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        for frame in frames {
            if let UserFrame::Lua(LuaWord::Function { proto, .. }) = frame {
                process.note_used(*proto);
            }
        }
    }

    /// Changes when what was resolved before may mean something else.
    pub fn epoch(&self, pid: Pid) -> u32 {
        self.processes.get(&pid).map_or(0, |process| process.epoch)
    }

    /// A walk in code that no file has came to its end where a VM may be above it that is not known.
    pub fn look_for_vms(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.scan();
        if process.take_new() {
            self.publish(pid);
        }
    }

    /// Looks after what changes with time; tells the kernel side of VMs met meanwhile.
    pub fn refresh(&mut self) {
        let mut new = Vec::new();
        for (&pid, process) in &mut self.processes {
            process.refresh();
            if process.take_new() {
                new.push(pid);
            }
        }
        for pid in new {
            self.publish(pid);
        }
    }

    /// Tells the kernel side which VMs a process has.
    fn publish(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.take_new();
        if process.has_too_many_vms() && !process.is_told {
            process.is_told = true;
            self.counts.with_too_many_vms += 1;
        }
        let value = process.to_kernel();
        // SAFETY: plain data without padding, as `bpf/abi.h` lays it out.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&value).cast::<u8>(), size_of_val(&value))
        };
        // no room: code without unwind information ends its walks, which is counted
        let _ = self.map.update(&pid.to_ne_bytes(), bytes, MapFlags::ANY);
    }
}
