//! A recording: from loading the programs to the last sample.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libbpf_rs::skel::Skel;
use libbpf_rs::{MapCore, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};
use moonscope_process::{Executable, Pid, Process, process};
use moonscope_unwind::abi;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::clock::{Clock, ClockKind, online_cpus};
use crate::drain::{Change, Drain, Received};
use crate::error::ProbeError;
use crate::executables::{ExecutableId, Executables, TableCounts};
use crate::limits::{Limits, MAPPINGS_REST, TABLES_AT_START};
use crate::lua::{LuaCounts, LuaFunction, LuaFunctionId, LuaProcesses, ParentCounts};
use crate::mmap_watch::MmapWatch;
use crate::object::{Object, Settings, WalkLoop};
use crate::processes::{ProcessCounts, ProcessId, ProcessInfo, Processes};
use crate::published::Published;
use crate::shared_array::SharedArray;
use crate::stacks::RawStacks;
use crate::statistics::{RunTime, StatsSwitch};
use crate::tables::TableStore;

/// Whose samples are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every task of the machine.
    All,
    /// These processes, and those added later.
    Processes(BTreeSet<Pid>),
    /// Everything below a cgroup of the unified hierarchy, and these processes.
    Cgroup {
        /// Inode number of its directory.
        id: u64,
        /// Its depth: the root is 0.
        level: u32,
        /// Processes in it now, so that they are known from the first sample.
        members: BTreeSet<Pid>,
    },
}

/// How to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whose samples.
    pub scope: Scope,
    /// Ticks per second and CPU.
    pub hz: u64,
    /// User frames at most, up to `MS_MAX_DEPTH`.
    pub max_depth: u32,
    /// Take kernel stacks.
    pub kernel_stacks: bool,
    /// Take user stacks.
    pub user_stacks: bool,
    /// Children of targets are targets.
    pub follow_forks: bool,
    /// Report each exec of the machine as a change.
    pub report_all_execs: bool,
    /// Put the logical parents of ngx_lua's coroutines above them.
    pub coroutine_parents: bool,
    /// Measure our own programs with the kernel's statistics.
    pub measure_cost: bool,
    /// Ship a stack copy with each sample (tests).
    pub always_copy_stack: bool,
    /// Use this walker loop only (tests).
    pub force_loop: Option<WalkLoop>,
    /// Sizes of the kernel side; `None`: those that suit the scope, see [`Limits::new`].
    pub limits: Option<Limits>,
}

/// Ticks by what became of them in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// All.
    pub fired: u64,
    /// The CPU was idle.
    pub idle: u64,
    /// The task was not wanted.
    pub filtered: u64,
    /// Shipped to user space.
    pub sent: u64,
    /// The ring buffer was full.
    pub lost_ring: u64,
    /// On a CPU that did not exist when recording began.
    pub lost_cpu: u64,
}

/// What a recording says of itself at its end.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Ticks in the kernel.
    pub ticks: Ticks,
    /// Samples received.
    pub received: Received,
    /// Tables.
    pub tables: TableCounts,
    /// Bytes of tables in the kernel's reach.
    pub table_bytes: usize,
    /// Processes.
    pub processes: ProcessCounts,
    /// Records of new mappings that were lost: samples shortly after them may be cut.
    pub mapping_records_lost: u64,
    /// Lua.
    pub lua: LuaCounts,
    /// Time in our sampling program; zero without [`Options::measure_cost`].
    pub run_time: RunTime,
}

/// A running recording.
pub struct Session {
    // Order matters: the ring and its callback go before what they refer to.
    ring: RingBuffer<'static>,
    drain: Rc<RefCell<Drain>>,
    clock: Clock,
    object: Object,
    targets: MapHandle,
    counters: SharedArray<abi::ms_counters>,
    live: BTreeSet<Pid>,
    looked_at_mappings: Instant,
    _stats: Option<StatsSwitch>,
}

impl Session {
    /// Loads and attaches everything and reads the mappings of the processes that are there; the clock
    /// stands still until [`Session::start`].
    pub fn prepare(options: &Options) -> Result<Self, ProbeError> {
        let limits = options.limits.map_or_else(
            || Limits::new(matches!(options.scope, Scope::All)),
            Limits::possible,
        );
        // The rate may be refused, and that needs no loaded object.
        let cpus = online_cpus()?;
        let clock = Clock::open(options.hz, &cpus)?;
        let watch = MmapWatch::start(&cpus).map_err(|source| ProbeError::Io {
            what: "cannot watch for new mappings",
            source,
        })?;
        let mut object = Object::load(&settings(options), &limits)?;
        let handle = |map: &libbpf_rs::MapMut<'_>, name| {
            MapHandle::try_from(map).map_err(|err| ProbeError::Map {
                map: name,
                source: std::io::Error::other(err),
            })
        };
        let all = object.skel.object();
        let tables = TableStore::new(all, &limits)?;
        let processes = handle(&object.skel.maps.processes, "processes")?;
        let processes = Processes::new(Published::new(processes, all, &limits)?);
        let counters = SharedArray::of_section(all, ".bss.counters")?;
        let maps = &object.skel.maps;
        let executables = Executables::new().map_err(|source| ProbeError::Io {
            what: "cannot start the thread that builds tables",
            source,
        })?;
        let targets = handle(&maps.targets, "targets")?;
        let drain = Rc::new(RefCell::new(Drain::new(
            executables,
            processes,
            tables,
            watch,
            LuaProcesses::new(handle(&object.skel.maps.lua_processes, "lua_processes")?),
            options.max_depth,
        )));
        drain.borrow_mut().lua.counts.parents = options.coroutine_parents.then(ParentCounts::default);
        let receiver = Rc::clone(&drain);
        let mut builder = RingBufferBuilder::new();
        let ring_error = |err: libbpf_rs::Error| ProbeError::Map {
            map: "events",
            source: std::io::Error::other(err),
        };
        builder
            .add(&maps.events, move |bytes| {
                receiver.borrow_mut().take(bytes);
                0
            })
            .map_err(ring_error)?;
        let ring = builder.build().map_err(ring_error)?;

        object.attach_lifecycle()?;
        let stats = options.measure_cost.then(StatsSwitch::on).flatten();
        let mut session = Self {
            ring,
            drain,
            clock,
            object,
            targets,
            counters,
            live: BTreeSet::new(),
            looked_at_mappings: Instant::now(),
            _stats: stats,
        };
        session.add_first_targets(&options.scope)?;
        session.drain.borrow_mut().wait_for_tables(TABLES_AT_START);
        session.drain.borrow_mut().look_for_lua();
        session.object.attach_clock(session.clock.events())?;
        Ok(session)
    }

    fn add_first_targets(&mut self, scope: &Scope) -> Result<(), ProbeError> {
        match scope {
            Scope::All => Ok(()),
            Scope::Processes(pids) => pids.iter().try_for_each(|&pid| self.add_target(pid)),
            Scope::Cgroup { members, .. } => {
                for &pid in members {
                    let _ = self.drain.borrow_mut().scan(pid);
                }
                Ok(())
            }
        }
    }

    /// Starts the ticks.
    pub fn start(&self) -> Result<(), ProbeError> {
        self.clock.start()
    }

    /// Samples this process too from now on. That it cannot be read, or ended, is no failure: its
    /// samples will say so.
    pub fn add_target(&mut self, pid: Pid) -> Result<(), ProbeError> {
        self.targets
            .update(&pid.to_ne_bytes(), &1u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(|err| ProbeError::Map {
                map: "targets",
                source: std::io::Error::other(err),
            })?;
        self.live.insert(pid);
        let _ = self.drain.borrow_mut().scan(pid);
        if has_ended(pid) {
            // before it was a target, perhaps: then no event told, and whoever gets this pid would be one
            self.live.remove(&pid);
            let _ = self.targets.delete(&pid.to_ne_bytes());
        }
        Ok(())
    }

    /// Receives what comes within this time, or returns earlier when something new must be looked at.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<Change>, ProbeError> {
        // SAFETY: the ring owns its descriptor and lives longer than this call.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) };
        // on a machine where processes start all the time, new mappings shall not keep us busy
        let rest = MAPPINGS_REST
            .saturating_sub(self.looked_at_mappings.elapsed())
            .min(timeout);
        if !rest.is_zero() && wait_for(&[ring], rest)? {
            return self.receive();
        }
        let drain = self.drain.borrow();
        let events: Vec<_> = std::iter::once(ring).chain(drain.watch.events()).collect();
        wait_for(&events, timeout - rest)?;
        drop(events);
        drop(drain);
        self.looked_at_mappings = Instant::now();
        self.receive()
    }

    fn receive(&mut self) -> Result<Vec<Change>, ProbeError> {
        self.drain.borrow_mut().begin();
        // samples come without a wake-up, so what is there must be asked for
        self.ring.consume().map_err(|err| ProbeError::Map {
            map: "events",
            source: std::io::Error::other(err),
        })?;
        let mut drain = self.drain.borrow_mut();
        drain.settle();
        let changes = std::mem::take(&mut drain.changes);
        for change in &changes {
            match change {
                Change::Forked(pid) => {
                    self.live.insert(*pid);
                }
                Change::Ended(pid) => {
                    self.live.remove(pid);
                }
                Change::Executed(_) => {}
            }
        }
        Ok(changes)
    }

    /// How many processes that were added, or are children of such, still live.
    pub fn live_targets(&self) -> usize {
        self.live.len()
    }

    /// What makes the ticks.
    pub fn clock(&self) -> ClockKind {
        self.clock.kind()
    }

    /// Which loop walks.
    pub fn walk_loop(&self) -> WalkLoop {
        self.object.walk_loop
    }

    /// Ticks so far.
    pub fn ticks(&self) -> Ticks {
        let count = |which: u32| {
            (0..self.object.cpus)
                .filter_map(|cpu| Some(self.counters.read(cpu)?.count[which as usize]))
                .sum()
        };
        Ticks {
            fired: count(abi::MS_COUNT_FIRED),
            idle: count(abi::MS_COUNT_IDLE),
            filtered: count(abi::MS_COUNT_FILTERED),
            sent: count(abi::MS_COUNT_SENT),
            lost_ring: count(abi::MS_COUNT_LOST_RING),
            lost_cpu: count(abi::MS_COUNT_LOST_CPU),
        }
    }

    /// Samples received so far, and processes known now.
    pub fn progress(&self) -> (u64, usize) {
        let drain = self.drain.borrow();
        (drain.received.samples(), drain.processes.len())
    }

    /// Ends the ticks, receives the rest and gives everything out.
    pub fn finish(mut self) -> Result<(Totals, Recorded), ProbeError> {
        self.clock.stop()?;
        self.receive()?;
        let ticks = self.ticks();
        let run_time = self.object.run_time();
        self.object.detach();
        // events that came between
        self.receive()?;
        let mut drain = self.drain.borrow_mut();
        let totals = Totals {
            ticks,
            received: drain.received.clone(),
            tables: drain.executables.counts,
            table_bytes: drain.tables.used_bytes(),
            processes: drain.processes.counts,
            mapping_records_lost: drain.watch.lost,
            lua: drain.lua_counts(),
            run_time,
        };
        let recorded = Recorded {
            stacks: std::mem::take(&mut drain.stacks),
            files: drain.executables.files().cloned().collect(),
            processes: drain.processes.infos().to_vec(),
            lua: drain.lua.functions.take(),
        };
        Ok((totals, recorded))
    }
}

/// What was recorded: raw stacks, and what they refer to.
pub struct Recorded {
    /// Stacks and counts.
    pub stacks: RawStacks,
    files: Vec<Arc<Executable>>,
    processes: Vec<ProcessInfo>,
    lua: Vec<LuaFunction>,
}

impl Recorded {
    /// Stacks, and what their frames refer to: each list by the ids of its items.
    pub(crate) fn new(
        stacks: RawStacks,
        files: Vec<Arc<Executable>>,
        processes: Vec<ProcessInfo>,
        lua: Vec<LuaFunction>,
    ) -> Self {
        Self {
            stacks,
            files,
            processes,
            lua,
        }
    }

    /// A Lua function of a frame.
    pub fn lua_function(&self, id: LuaFunctionId) -> Option<&LuaFunction> {
        self.lua.get(id.0 as usize)
    }

    /// The file of a frame.
    pub fn file(&self, id: ExecutableId) -> Option<&Arc<Executable>> {
        self.files.get(id.0 as usize)
    }

    /// The process of a sample or frame.
    pub fn process(&self, id: ProcessId) -> Option<&ProcessInfo> {
        self.processes.get(id.0 as usize)
    }
}

/// Waits until one of these is readable; says whether one is.
fn wait_for(events: &[BorrowedFd<'_>], timeout: Duration) -> Result<bool, ProbeError> {
    let mut events: Vec<_> = events
        .iter()
        .map(|event| PollFd::new(event, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut events, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(err) => Err(ProbeError::Io {
            what: "cannot wait for samples",
            source: err.into(),
        }),
    }
}

/// Is nothing left of a process that could run? A process lives on when only its first thread has ended.
fn has_ended(pid: Pid) -> bool {
    match Process::find(pid) {
        Ok(process) => process.is_zombie && process::threads(pid).is_ok_and(|threads| threads.len() <= 1),
        Err(err) => err.is_gone(),
    }
}

fn settings(options: &Options) -> Settings {
    let (scope, cgroup) = match &options.scope {
        Scope::All => (abi::MS_SCOPE_ALL, (0, 0)),
        Scope::Processes(_) => (abi::MS_SCOPE_PIDS, (0, 0)),
        Scope::Cgroup { id, level, .. } => (abi::MS_SCOPE_CGROUP, (*id, *level)),
    };
    Settings {
        scope,
        cgroup,
        follow_forks: options.follow_forks,
        report_all_execs: options.report_all_execs,
        max_depth: options.max_depth.clamp(1, abi::MS_MAX_DEPTH),
        kernel_stacks: options.kernel_stacks,
        user_stacks: options.user_stacks,
        coroutine_parents: options.coroutine_parents,
        always_copy_stack: options.always_copy_stack,
        force_loop: options.force_loop,
    }
}
