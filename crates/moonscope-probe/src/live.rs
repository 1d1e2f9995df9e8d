//! What a process is doing right now: the stack of each thread and of each Lua coroutine, read from outside, without
//! stopping it. BPF is used where a stack of a thread that waits cannot be walked without its registers (`registers`), if it
//! can be.
//!
//! The walker is the one of the kernel side, compiled for the host, so that a stack here is what a sample taken at
//! this moment would have shown. The way: `files` (unwind tables on demand) → `threads` (where each stands, and the
//! walk) and `catch` (one that runs: `running`, `standstill`) → `vms` (coroutines, from the memory of their VM) →
//! [`Recorded`], to be named like a recording. Where nothing but VMs is asked for, `lua` finds them: [`LiveLua`].

mod catch;
mod files;
mod lua;
pub(crate) mod registers;
mod running;
mod standstill;
mod threads;
mod vms;

use std::time::{Duration, Instant};

use moonscope_luajit::coroutines::{CoroutineStatus, ListEnd};
use moonscope_luajit::{Activity, GcMode, LuaState, VmState};
use moonscope_process::thread::Place;
use moonscope_process::{PerfMap, Pid, Process, ProcessError, process};
use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

pub use files::LiveFiles;
pub use lua::{FoundVm, LiveLua};

use crate::generation::Generation;
use crate::lua::{LuaCounts, LuaFunctions, LuaProcess};
use crate::processes::{ProcessId, ProcessInfo};
use crate::recorded::{Measured, Recorded};
use crate::stacks::{RawStackId, RawStacks};

/// Threads of one process that are looked at: a walk takes some 50 microseconds.
const MAX_THREADS: usize = 1 << 14;

/// What becomes of threads that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// They are caught at a tick of their clocks.
    Caught,
    /// They have no stacks.
    LeftOut,
}

/// A process at one moment; stacks refer to `recorded`.
pub struct LiveProcess {
    /// The process.
    pub process: Process,
    /// How long it took to look at it.
    pub took: Duration,
    /// Its threads, by number.
    pub threads: Vec<LiveThread>,
    /// More threads than are looked at.
    pub more_threads: usize,
    /// Its Lua VMs, by address.
    pub vms: Vec<LiveVm>,
    /// Part of the memory that may hold VMs was not looked at.
    pub more_vms: bool,
    /// LuaJITs of its files that cannot be read, and why.
    pub refused: Vec<String>,
    /// Stacks, files, functions.
    pub recorded: Recorded,
}

/// The interpreter keeps the base of the running function in a register.
const AS_STORED: &str = "as the VM last stored it: the innermost functions may be missing, or left already";

/// A stack at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LiveStack {
    /// The frames; `None` if there are none.
    pub id: Option<RawStackId>,
    /// Why its outermost frames, or Lua frames in it, are missing.
    pub cut: Option<&'static str>,
    /// It changed each time it was read.
    pub changing: bool,
    /// What of it is not certain, and why.
    pub uncertain: Option<&'static str>,
}

/// A thread.
pub struct LiveThread {
    /// Its id.
    pub tid: Pid,
    /// Its name.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, … (proc(5)).
    pub state: char,
    /// Where it is.
    pub place: Place,
    /// Native and Lua frames.
    pub stack: LiveStack,
    /// Coroutines (`lua_State`) whose frames are in the stack.
    pub lua: Vec<u64>,
}

/// A Lua VM.
pub struct LiveVm {
    /// Address of its `global_State`.
    pub g: u64,
    /// Size of its references.
    pub mode: GcMode,
    /// The file that LuaJIT is in, as the process names it.
    pub file: String,
    /// What it does, or did last.
    pub activity: Activity,
    /// A coroutine of it has a frame on a native stack.
    pub is_running: bool,
    /// The thread that runs it, as far as that shows.
    pub thread: Option<Pid>,
    /// Its coroutines.
    pub coroutines: Vec<LiveCoroutine>,
    /// Coroutines of which nothing but the number is known: too many.
    pub more_coroutines: usize,
    /// Coroutines that were collected before they could be looked at.
    pub gone_coroutines: usize,
    /// Objects that were looked at to find them.
    pub objects: u64,
    /// Whether all were found.
    pub list: ListEnd,
}

/// A coroutine.
pub struct LiveCoroutine {
    /// Address of its `lua_State`.
    pub l: u64,
    /// The one that the VM was made with.
    pub is_main: bool,
    /// What it does.
    pub status: CoroutineStatus,
    /// The thread in whose stack its frames are; then `stack` has none.
    pub in_thread: Option<Pid>,
    /// Its Lua frames.
    pub stack: LiveStack,
}

/// A VM while the thread that runs it stood still.
#[derive(Clone, Copy)]
struct VmMoment {
    state: VmState,
    running: Option<LuaState>,
}

/// What is being looked at.
struct Look<'a> {
    pid: Pid,
    files: &'a mut LiveFiles,
    generation: Generation,
    lua: LuaProcess,
    functions: LuaFunctions,
    counts: LuaCounts,
    stacks: RawStacks,
    max_depth: u32,
    /// How long threads that run are waited for still.
    patience: Duration,
    /// What VMs were doing when the threads that run them were caught, by address.
    moments: FxHashMap<u64, VmMoment>,
    /// All mappings: those of stacks tell which thread a frame belongs to.
    maps: Vec<moonscope_process::Mapping>,
}

impl LiveProcess {
    /// Looks at a process. Stacks have at most `max_depth` frames.
    pub fn look_at(
        pid: Pid,
        files: &mut LiveFiles,
        max_depth: u32,
        running: Running,
    ) -> Result<Self, ProcessError> {
        let start = Instant::now();
        let LiveLua {
            process,
            maps,
            generation,
            lua,
            refused,
            more_vms,
        } = LiveLua::look_at(pid, files)?;
        let mut look = Look {
            pid,
            files,
            generation,
            lua,
            functions: LuaFunctions::default(),
            counts: LuaCounts::default(),
            stacks: RawStacks::default(),
            max_depth: max_depth.min(abi::MS_MAX_DEPTH),
            patience: match running {
                Running::Caught => catch::PATIENCE_OF_PROCESS,
                Running::LeftOut => Duration::ZERO,
            },
            moments: FxHashMap::default(),
            maps,
        };
        let mut tids = process::threads(pid)?;
        tids.sort_unstable();
        let more_threads = tids.len().saturating_sub(MAX_THREADS);
        tids.truncate(MAX_THREADS);
        let threads: Vec<LiveThread> = tids.iter().filter_map(|&tid| look.thread(tid)).collect();
        let vms = look.vms(&threads);
        if process.has_exited() {
            return Err(ProcessError::Exited { pid });
        }
        let info = ProcessInfo::look(pid, &process.comm);
        let perf_map = PerfMap::of(pid).and_then(|map| map.file().cloned());
        let Look {
            stacks,
            functions,
            files,
            ..
        } = look;
        Ok(Self {
            threads,
            more_threads,
            vms,
            more_vms,
            refused,
            recorded: Recorded {
                sites: Vec::new(),
                stacks,
                files: files.all(),
                processes: FxHashMap::from_iter([(ProcessId(0), info)]),
                perf_maps: perf_map.into_iter().map(|map| (ProcessId(0), map)).collect(),
                lua: functions
                    .all()
                    .map(|(id, function)| (id, function.clone()))
                    .collect(),
                measured: Measured::default(),
                unfinished: Vec::new(),
            },
            process,
            took: start.elapsed(),
        })
    }
}
