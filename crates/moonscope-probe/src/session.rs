//! A recording: from loading the programs to the last sample.

mod intervals;
mod receive;
mod targets;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use libbpf_rs::skel::Skel;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use moonscope_process::Pid;
use moonscope_unwind::abi;

use crate::clock::online_cpus;
use crate::collector::{
    AnyCollector, Collector, Context, EventSettings, EventSpec, Leftover, Unfinished, run_time,
};
use crate::collectors;
use crate::drain::{Drain, Interval as Which};
use crate::error::ProbeError;
use crate::executables::{ExecutableId, Executables};
use crate::kernel_types;
use crate::limits::{Limits, TABLES_AT_START};
use crate::lua::{LuaProcesses, ParentCounts};
use crate::mmap_watch::MmapWatch;
use crate::object::{Object, Settings, WalkLoop};
use crate::processes::{Processes, monotonic_now};
use crate::published::Published;
use crate::recorded::{Collectors, Recorded};
use crate::shared_array::SharedArray;
use crate::statistics::StatsSwitch;
use crate::sums::Sums;
use crate::tables::TableStore;
use crate::totals::{EventTotals, Ticks, Totals};
use crate::unfinished::{self, UnfinishedProcess};
pub use intervals::Interval;
use intervals::Intervals;
use receive::STOP;
use targets::Targets;

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
    /// What is measured; none: time on a CPU.
    pub events: Vec<EventSpec>,
    /// Settings of these events.
    pub settings: EventSettings,
    /// The program of a command that waits to be started, if that is what is recorded.
    pub program: Option<PathBuf>,
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

/// A running recording.
pub struct Session {
    // Order matters: the ring and its callback go before what they refer to.
    ring: RingBuffer<'static>,
    drain: Rc<RefCell<Drain>>,
    collectors: Collectors,
    intervals: Intervals,
    /// `None` if no event is summed up in the kernel.
    sums: Option<Sums>,
    has_wall: bool,
    max_depth: u32,
    is_attached: bool,
    object: Object,
    counters: SharedArray<abi::ms_counters>,
    targets: Targets,
    looked_at_mappings: Instant,
    /// A process is about to map more than we are told of.
    is_loading: bool,
    /// Files with LuaJIT that collectors know of.
    lua_files: Vec<ExecutableId>,
    _stats: Option<StatsSwitch>,
}

impl Session {
    /// Loads and attaches everything and reads the mappings of the processes that are there; nothing is
    /// measured until [`Session::start`].
    pub fn prepare(options: &Options) -> Result<Self, ProbeError> {
        Self::prepare_and_tell(options, &mut |_, _| {})
    }

    /// The same; before anything is attached `tell` gets the name of each event and what is to be said of it.
    pub fn prepare_and_tell(
        options: &Options,
        tell: &mut dyn FnMut(&'static str, &str),
    ) -> Result<Self, ProbeError> {
        let limits = options.limits.map_or_else(
            || Limits::new(matches!(options.scope, Scope::All)),
            Limits::possible,
        );
        let cpus = online_cpus()?;
        let mut collectors = collectors_of(options)?;
        collectors::check_told_apart(&collectors)?;
        let context = Context {
            hz: options.hz,
            cpus: &cpus,
            limits: &limits,
            settings: &options.settings,
            scope: &options.scope,
            program: options.program.as_deref(),
        };
        for collector in &mut collectors {
            collector.prepare(&context)?;
            for line in collector.announcement() {
                tell(collector.name(), &line);
            }
        }
        let started = targets::started(&options.scope);
        let watch = MmapWatch::start(&cpus).map_err(|source| ProbeError::Io {
            what: "cannot watch for new mappings",
            source,
        })?;
        let mut executables = Executables::new().map_err(|source| ProbeError::Io {
            what: "cannot start the thread that builds tables",
            source,
        })?;
        if options.program.is_none() {
            targets::begin_tables(&options.scope, &mut executables);
        }
        let mut object = Object::load(&settings(options), &limits, &mut collectors)?;
        kernel_types::forget();
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
        let sums = if collectors.iter().any(|collector| collector.sums_up()) {
            let pair = [
                handle(&maps.sums_even, "sums_even")?,
                handle(&maps.sums_odd, "sums_odd")?,
            ];
            Some(Sums::new(all, pair)?)
        } else {
            None
        };
        let targets = Targets::new(&options.scope, handle(&maps.targets, "targets")?);
        let intervals = Intervals::new(handle(&maps.shipped_stacks, "shipped_stacks")?);
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
                let mut drain = receiver.borrow_mut();
                drain.take(bytes);
                if drain.is_full() || drain.is_past_horizon() {
                    STOP
                } else {
                    0
                }
            })
            .map_err(ring_error)?;
        let ring = builder.build().map_err(ring_error)?;

        object.attach_lifecycle()?;
        let stats = options.measure_cost.then(StatsSwitch::on).flatten();
        let mut session = Self {
            ring,
            drain,
            collectors: Collectors::new(collectors),
            intervals,
            sums,
            max_depth: options.max_depth,
            is_attached: false,
            has_wall: options.events.iter().any(|event| event.name == collectors::WALL),
            object,
            targets,
            counters,
            looked_at_mappings: Instant::now(),
            is_loading: false,
            lua_files: Vec::new(),
            _stats: stats,
        };
        session.add_first_targets(&options.scope, &started, options.program.is_some())?;
        session.drain.borrow_mut().wait_for_tables(TABLES_AT_START);
        session.drain.borrow_mut().look_for_lua();
        for collector in session.collectors.write().iter_mut() {
            for line in collector.try_out(&mut session.object.programs())? {
                tell(collector.name(), &line);
            }
        }
        for collector in session.collectors.write().iter_mut() {
            collector.attach(&mut session.object.programs())?;
        }
        session.attach_to_lua()?;
        session.is_attached = true;
        Ok(session)
    }

    /// Tells collectors of files with LuaJIT, if there are new ones.
    fn attach_to_lua(&mut self) -> Result<(), ProbeError> {
        let drain = self.drain.borrow();
        let files: Vec<_> = drain.executables.with_lua().collect();
        let ids: Vec<_> = files.iter().map(|file| file.id).collect();
        if ids != self.lua_files {
            self.lua_files = ids;
            for collector in self.collectors.write().iter_mut() {
                collector.attach_to_lua(&files, &mut self.object.programs())?;
            }
        }
        Ok(())
    }

    /// Starts to measure.
    pub fn start(&mut self) -> Result<(), ProbeError> {
        self.intervals.begin();
        self.collectors
            .write()
            .iter_mut()
            .try_for_each(|collector| collector.start(&mut self.object.skel))
    }

    /// How each event is measured.
    pub fn how(&self) -> Vec<(&'static str, String)> {
        let collectors = self.collectors.read();
        let how = collectors
            .iter()
            .map(|collector| (collector.name(), collector.how()));
        how.collect()
    }

    /// Which loop walks.
    pub fn walk_loop(&self) -> WalkLoop {
        self.object.walk_loop
    }

    /// What became of everything so far.
    pub fn ticks(&self) -> Ticks {
        let mut all = Ticks::default();
        for event in 0..self.collectors.read().len() {
            all += Ticks::read(&self.counters, self.object.cpus, event);
        }
        all
    }

    /// What became of an event; what the kernel did not run a program for is lost as if it had run for nothing.
    fn ticks_of(&self, event: usize, collector: &dyn Collector) -> Ticks {
        let mut ticks = Ticks::read(&self.counters, self.object.cpus, event);
        let missed = collector.missed(&self.object.skel);
        ticks.fired += missed;
        ticks.lost_busy += missed;
        ticks
    }

    /// Sums of what lasts, of the stacks that the kernel side shipped; counted.
    fn lasting(&mut self, events: &mut [EventTotals]) -> Vec<(abi::ms_sum_key, abi::ms_sum)> {
        let mut all = Vec::new();
        for (number, collector) in self.collectors.write().iter_mut().enumerate() {
            let ticks = &mut events[number].ticks;
            for (mut key, sum) in collector.lasting(&mut self.object.skel) {
                key.event = number as u32;
                ticks.fired += sum.count;
                ticks.summed += sum.count;
                all.push((key, sum));
            }
        }
        all
    }

    fn event_totals(&self) -> Vec<EventTotals> {
        let totals = |(event, collector): (usize, &AnyCollector)| EventTotals {
            name: collector.name(),
            measures: collector.measures(),
            how: collector.how(),
            ticks: self.ticks_of(event, collector.as_ref()),
            run_time: run_time(collector.as_ref(), &self.object.skel, self.object.walk_loop),
        };
        self.collectors.read().iter().enumerate().map(totals).collect()
    }

    /// Samples received so far, and processes known now.
    pub fn progress(&self) -> (u64, usize) {
        let drain = self.drain.borrow();
        let samples = self.intervals.samples() + drain.received.samples();
        (samples, drain.processes.len())
    }

    /// What lasts in threads that wait, by process; and how many processes there was no time to look at.
    fn unfinished(&mut self) -> (Vec<UnfinishedProcess>, u64) {
        let skel = &mut self.object.skel;
        let mut collectors = self.collectors.write();
        let lasting: Vec<_> = collectors
            .iter_mut()
            .map(|collector| collector.unfinished(skel))
            .collect();
        let lasting: Vec<(u16, &dyn Collector, Unfinished)> = lasting
            .into_iter()
            .enumerate()
            .filter_map(|(event, lasting)| Some((event as u16, collectors[event].as_ref(), lasting?)))
            .collect();
        if lasting.is_empty() {
            return (Vec::new(), 0);
        }
        let known = self.drain.borrow().processes.pids();
        let wanted = known.into_iter().filter(|pid| self.targets.may_be_wanted(*pid));
        unfinished::look(
            &wanted.collect(),
            |pid| self.targets.is_wanted(pid),
            &lasting,
            skel,
            self.max_depth,
        )
    }

    /// Measures no more, receives the rest and gives everything out that is not in an interval before.
    pub fn finish(mut self) -> Result<(Totals, Recorded), ProbeError> {
        for collector in self.collectors.write().iter_mut() {
            collector.stop(&mut self.object.skel)?;
        }
        let skel = &mut self.object.skel;
        let leftovers: Vec<Leftover> = self
            .collectors
            .write()
            .iter_mut()
            .flat_map(|collector| collector.leftovers(skel))
            .collect();
        let (unfinished, not_looked_at) = self.unfinished();
        self.receive(usize::MAX)?;
        let mut events = self.event_totals();
        self.object.detach();
        // events that came between
        self.receive(usize::MAX)?;
        let lasting = self.lasting(&mut events);
        let sums = match &mut self.sums {
            Some(sums) => sums.finish(),
            None => Vec::new(),
        };
        let standing = self.standing(&sums, Some(monotonic_now()));
        let mut drain = self.drain.borrow_mut();
        drain.take_sums(&sums, Which::AtHand);
        drain.take_uncounted(&leftovers, Which::AtHand);
        drain.take_uncounted(&standing, Which::AtHand);
        drain.take_sums(&lasting, Which::AtHand);
        drain.received.not_looked_at = not_looked_at;
        if let Some(sums) = &self.sums {
            let summed = |event| Ticks::read(&self.counters, self.object.cpus, event).summed;
            drain.received.unread = sums.unread(std::array::from_fn(summed));
        }
        self.intervals.part(&mut events);
        for process in &unfinished {
            for &(thread, what, _) in &process.threads {
                drain.received.count(process.live.threads[thread].stack.cut, 1);
                let ticks = &mut events[usize::from(what.event)].ticks;
                ticks.fired += 1;
                ticks.summed += 1;
            }
        }
        let gathered = drain.take_rest();
        drop(drain);
        let ticks = self.intervals.balance(&events, &gathered.received, true);
        Ok(self.give_out((events, ticks), gathered, unfinished))
    }
}

fn collectors_of(options: &Options) -> Result<Vec<AnyCollector>, ProbeError> {
    if options.events.is_empty() {
        collectors::create(&[EventSpec::parse("cpu")])
    } else {
        collectors::create(&options.events)
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
