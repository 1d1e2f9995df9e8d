//! What becomes of each record: counted at once, or kept until the mappings of its process are known.

mod intervals;
mod late;
mod settling;
mod unplaced;
mod values;
mod waker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moonscope_process::Pid;
use moonscope_unwind::{WalkEnd, abi};
use rustc_hash::FxHashMap;

use crate::definitions::{Definition, Definitions, Verdict};
use crate::executables::Executables;
use crate::files::FileNames;
use crate::frames::{cut_of, locate};
use crate::generation::Generation;
use crate::limits::{MAX_KEPT_BYTES, REMEMBERED_STACKS};
use crate::lua::{LuaCounts, LuaNotes, LuaProcesses, LuaView, UserFrame, splice, user_frames};
use crate::mmap_watch::MmapWatch;
use crate::perf_maps::PerfMaps;
use crate::processes::{Processes, monotonic_now};
use crate::received::Received;
use crate::sample::{KeptRecord, RawSample, Record, comm_bytes};
use crate::sites::Sites;
use crate::stacks::{LuaState, RawFrame, RawStackId, RawStacks, TOO_MANY_STACKS, Thread, What};
use crate::tables::TableStore;
use crate::unsettled::Unsettled;
use intervals::{Ended, Size};
pub use intervals::{Gathered, Interval};
use unplaced::Unplaced;

/// Why a stack is cut, where no walk got to say so.
const ENDED_EARLY: &str = "process ended before its mappings could be read";

/// Kernel frames at the leaf that may be those of the tracepoint which took the stack: our program, bpf_trace_run,
/// __bpf_trace_*, __traceiter_*.
const TRACING_FRAMES: usize = 4;

/// So many samples that wait are dealt with before tables that were built meanwhile are given out: some milliseconds.
const SAMPLES_BETWEEN_TABLES: usize = 64;

/// What the session wants to hear of while it drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A target has a new child, which is a target too.
    Forked(Pid),
    /// A process runs a new program now.
    Executed(Pid),
    /// A process has another name now.
    Renamed(Pid),
    /// A process ended.
    Ended(Pid),
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// Its process runs another one.
    Replaced,
    /// With its process.
    Ended,
}

/// The receiving end of the ring buffer.
pub struct Drain {
    /// All files met.
    pub executables: Executables,
    /// All processes known.
    pub processes: Processes,
    /// Tables in the kernel's reach.
    pub tables: TableStore,
    /// Lua in these processes.
    pub lua: LuaProcesses,
    /// The result.
    pub stacks: RawStacks,
    /// What came.
    pub received: Received,
    /// The interval before, of which something may come still.
    ended: Option<Ended>,
    /// What there was when it was last looked through.
    looked_through: Size,
    /// Processes that came, changed or went since the last look.
    pub changes: Vec<Change>,
    /// Processes whose mappings were read and are new, since the last look.
    pub remapped: Vec<Pid>,
    /// Files that tags speak of.
    pub files: FileNames,
    /// Names of generated code.
    perf_maps: PerfMaps,
    /// Watches for new mappings.
    pub watch: MmapWatch,
    max_depth: u32,
    /// Up to when it is known what was mapped: later records wait in `later`.
    horizon: u64,
    later: Vec<KeptRecord>,
    /// Processes whose mappings changed.
    outdated: BTreeSet<Pid>,
    /// A process of ours began a program or mapped something, so more mappings are to come; since this was last taken.
    is_loading: bool,
    waiting: Vec<KeptRecord>,
    /// Walked here, and not placed yet.
    unplaced: Vec<Unplaced>,
    /// Of `later` and `waiting`, since the last look at what was mapped.
    kept_bytes: usize,
    remembered: FxHashMap<Box<[u64]>, (RawStackId, Verdict)>,
    definitions: Definitions,
    /// What coroutines call to wait.
    pub sites: Sites,
    key: Vec<u64>,
}

impl Drain {
    /// Nothing received yet.
    pub fn new(
        executables: Executables,
        processes: Processes,
        tables: TableStore,
        watch: MmapWatch,
        lua: LuaProcesses,
        max_depth: u32,
    ) -> Self {
        Self {
            watch,
            horizon: 0,
            later: Vec::new(),
            executables,
            processes,
            tables,
            lua,
            stacks: RawStacks::default(),
            received: Received::default(),
            ended: None,
            looked_through: Size::default(),
            changes: Vec::new(),
            remapped: Vec::new(),
            files: FileNames::default(),
            perf_maps: PerfMaps::new(),
            max_depth,
            outdated: BTreeSet::new(),
            is_loading: false,
            waiting: Vec::new(),
            unplaced: Vec::new(),
            kept_bytes: 0,
            remembered: FxHashMap::default(),
            definitions: Definitions::default(),
            sites: Sites::default(),
            key: Vec::new(),
        }
    }

    /// Looks at what was mapped until now; to be called before records are taken.
    ///
    /// A mapping is told of before it can be executed. So of every record up to the time at which this
    /// begins it is known whether the mappings that it was walked with were true.
    pub fn begin(&mut self) {
        self.horizon = monotonic_now();
        self.kept_bytes = 0;
        self.read_watch();
        for record in std::mem::take(&mut self.later) {
            self.take(record.bytes());
        }
    }

    fn read_watch(&mut self) {
        for (at, pid, mapping) in self.watch.read() {
            if self.processes.note_mapping(pid, at, &mapping) {
                self.outdated.insert(pid);
                self.is_loading = true;
            }
        }
        self.changes
            .extend(self.watch.take_renamed().into_iter().map(Change::Renamed));
    }

    /// Is a process about to map something of which we may not be told at once?
    pub fn take_is_loading(&mut self) -> bool {
        std::mem::take(&mut self.is_loading) && self.watch.is_storm()
    }

    /// Takes one record.
    pub fn take(&mut self, bytes: &[u8]) {
        match Record::parse(bytes) {
            Some(record) if record.time() > self.horizon => {
                let record = self.keep(bytes);
                self.later.push(record);
            }
            Some(Record::Sample(sample)) if self.needs_mappings(&sample) => {
                let record = self.keep(bytes);
                self.waiting.push(record);
            }
            Some(Record::Sample(sample)) => self.count(&sample),
            Some(Record::Event(event)) => self.notice(&event),
            Some(Record::Pair(pair)) => self.definitions.insert_pair(pair),
            Some(Record::File(file)) => self.files.add(&file),
            None => self.received.malformed += 1,
        }
    }

    /// Is as much kept since [`Drain::begin`] as there is room for, until [`Drain::settle`] deals with it?
    pub fn is_full(&self) -> bool {
        self.kept_bytes > MAX_KEPT_BYTES
    }

    /// Did a record come that must wait for the next [`Drain::begin`]? Others behind it would only wait too, and with them the
    /// news of a program that has begun.
    pub fn is_past_horizon(&self) -> bool {
        !self.later.is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) -> KeptRecord {
        self.kept_bytes += bytes.len();
        KeptRecord::new(bytes)
    }

    /// Must the mappings be read before this sample can be counted?
    fn needs_mappings(&self, sample: &RawSample<'_>) -> bool {
        let head = &sample.head;
        let used = self.processes.generation(head.pid, head.generation, head.time);
        sample.copy().is_some() || used.is_some_and(|(_, was_true)| !was_true)
    }

    /// Reads the mappings of a process that will be sampled.
    pub fn scan(&mut self, pid: Pid) -> Result<(), moonscope_process::ProcessError> {
        self.processes.scan(pid, &mut self.executables, &mut self.tables)
    }

    /// Waits until all tables that known processes need are in the kernel's reach.
    ///
    /// Not for longer than `limit`: what is sampled before is walked from stack copies.
    pub fn wait_for_tables(&mut self, limit: Duration) {
        self.executables.wait_for_tables(&mut self.tables, limit);
    }

    /// Looks for Lua in processes that map something new, and in all when a LuaJIT was met.
    pub fn look_for_lua(&mut self) {
        let changed = self.processes.take_changed();
        self.remapped.extend(&changed);
        let pids = if std::mem::take(&mut self.executables.has_new_lua) {
            self.processes.pids()
        } else {
            changed
        };
        for pid in pids {
            if let Some(newest) = self.processes.newest(pid) {
                self.lua.look_at(pid, newest, &self.executables);
            }
        }
        self.lua.refresh();
    }

    /// What happened to Lua.
    pub fn lua_counts(&self) -> LuaCounts {
        LuaCounts {
            refused: self.executables.lua_refused.clone(),
            ..self.lua.counts()
        }
    }

    /// Deals with what waits for mappings.
    pub fn settle(&mut self) {
        self.executables.collect_tables(&mut self.tables);
        self.look_for_lua();
        self.place_waiting();
        let waiting = std::mem::take(&mut self.waiting);
        let mut scanned: FxHashMap<Pid, Option<&'static str>> = FxHashMap::default();
        for sample in waiting.iter().filter_map(KeptRecord::sample) {
            let pid = sample.head.pid;
            scanned.entry(pid).or_insert_with(|| self.look_again(&sample));
        }
        if !waiting.is_empty() {
            // whose mappings were read: those of the program that was sampled, or of the next one?
            self.read_watch();
        }
        for (number, sample) in waiting.iter().filter_map(KeptRecord::sample).enumerate() {
            // each table that the kernel side gets now spares copies of stacks to walk
            if number % SAMPLES_BETWEEN_TABLES == 0 {
                self.executables.collect_tables(&mut self.tables);
            }
            let failed = scanned.get(&sample.head.pid).copied().flatten();
            self.count_late(&sample, failed);
        }
        // no sample asked for these yet: the kernel side should know before one is taken
        for pid in std::mem::take(&mut self.outdated) {
            if !scanned.contains_key(&pid) {
                let _ = self.scan(pid);
            }
        }
        self.executables.release_memory();
        self.perf_maps.tend();
    }

    fn notice(&mut self, event: &abi::ms_event) {
        match event.kind {
            abi::MS_EVENT_FORK => {
                // it may be gone already, and it runs in a copy of what the parent has
                if !self
                    .processes
                    .adopt(event.child, event.pid, &mut self.executables, &mut self.tables)
                {
                    let _ = self.scan(event.child);
                }
                self.lua.adopt(event.child, event.pid);
                if event.wanted != 0 {
                    self.changes.push(Change::Forked(event.child));
                }
            }
            abi::MS_EVENT_EXEC => {
                self.forget(event.pid, Gone::Replaced);
                if event.wanted != 0 {
                    let _ = self.scan(event.pid);
                    self.is_loading = true;
                }
                self.changes.push(Change::Executed(event.pid));
            }
            _ => self.end(event.pid, event.time),
        }
    }

    /// A process ended, at this time or before (CLOCK_MONOTONIC, nanoseconds).
    pub fn end(&mut self, pid: Pid, time: u64) {
        self.forget(pid, Gone::Ended);
        self.watch.forget(pid, time);
        self.changes.push(Change::Ended(pid));
    }

    /// The program that `pid` ran is gone. What waits of it gets what is known.
    fn forget(&mut self, pid: Pid, gone: Gone) {
        let (ours, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|record| record.sample().is_some_and(|sample| sample.head.pid == pid));
        self.waiting = others;
        if !ours.is_empty() {
            // were the mappings that were read last its own, or of who has its pid now?
            self.read_watch();
        }
        let mut failed = None;
        for record in &ours {
            let Some(sample) = record.sample() else { continue };
            // what was seen to be mapped before an exec is forgotten: it belongs to the next program
            let failed = *failed.get_or_insert_with(|| {
                let known = gone == Gone::Ended && self.use_what_was_seen(&sample, true);
                (!known).then_some(ENDED_EARLY)
            });
            self.count_late(&sample, failed);
        }
        if let Some(newest) = self.processes.newest(pid) {
            self.perf_maps.end(newest.process);
        }
        self.processes.forget(pid, &mut self.executables);
        self.lua.forget(pid);
    }

    /// Counts a sample that the kernel side walked with mappings that still hold.
    fn count(&mut self, sample: &RawSample<'_>) {
        let head = &sample.head;
        self.key.clear();
        self.key.extend([
            u64::from(head.pid) << 32 | u64::from(head.end) << 16 | u64::from(head.nr_kernel),
            head.generation,
            u64::from(self.lua.epoch(head.pid)) << 32 | u64::from(head.lua_vmstate.cast_unsigned()),
        ]);
        self.key.extend_from_slice(sample.frames());
        let generation = self.generation_of(sample);
        if let Some(&(stack, verdict)) = self.remembered.get(self.key.as_slice()) {
            let frames = match head.lua {
                abi::MS_LUA_NOT_HERE => Vec::new(),
                _ => user_frames(sample.user()),
            };
            self.lua.note_used(head.pid, &frames);
            self.add(sample, (&frames, stack), generation.as_deref(), verdict);
            return;
        }
        let (frames, cut) = (user_frames(sample.user()), cut_of(sample.end()));
        let (stack, verdict) = self.place_and_add(sample, generation, frames, cut);
        if self.remembered.len() >= REMEMBERED_STACKS {
            self.remembered.clear();
        }
        if !verdict.is_provisional {
            self.remembered
                .insert(self.key.as_slice().into(), (stack, verdict));
        }
    }

    /// Interns the stack of a sample, and counts it.
    fn place_and_add(
        &mut self,
        sample: &RawSample<'_>,
        generation: Option<Arc<Generation>>,
        frames: Vec<UserFrame>,
        cut: Option<&'static str>,
    ) -> (RawStackId, Verdict) {
        let (stack, verdict) = self.place(sample, generation.as_deref(), &frames, cut);
        self.add(sample, (&frames, stack), generation.as_deref(), verdict);
        if verdict.is_provisional {
            let unsettled = Unsettled::new(sample, (frames, cut), generation);
            self.definitions.insert_unsettled(sample.head.stack, unsettled);
        }
        (stack, verdict)
    }

    fn generation_of(&self, sample: &RawSample<'_>) -> Option<Arc<Generation>> {
        let head = &sample.head;
        self.processes
            .generation(head.pid, head.generation, head.time)
            .map(|(generation, _)| Arc::clone(generation))
    }

    /// Interns the stack of a sample: a mark if it is cut for this reason, user frames, kernel frames, root first.
    fn place(
        &mut self,
        sample: &RawSample<'_>,
        generation: Option<&Generation>,
        user: &[UserFrame],
        cut: Option<&'static str>,
    ) -> (RawStackId, Verdict) {
        let kernel = sample.kernel();
        let of_tracepoint = sample.head.flags & abi::MS_SAMPLE_TRACEPOINT != 0;
        let kernel_frames = kernel.iter().enumerate().rev().map(|(depth, &addr)| {
            let addr = if depth == 0 { addr } else { addr.wrapping_sub(1) };
            if of_tracepoint && depth < TRACING_FRAMES {
                RawFrame::KernelTracing(addr)
            } else {
                RawFrame::Kernel(addr)
            }
        });
        let lua = self
            .lua
            .get(sample.head.pid)
            .map(|(process, functions, counts)| LuaView {
                process,
                functions,
                counts,
                at: instant_of(sample.head.time),
                vmstate: sample.head.lua_vmstate,
                wants_site: sample.head.flags & abi::MS_SAMPLE_COROUTINE != 0,
            });
        let spliced = splice(user, lua, |frame, called_by| locate(frame, called_by, generation));
        let is_generated = |frame: &RawFrame| matches!(frame.of_lua(), RawFrame::Memory { .. });
        if let Some(generation) = generation.filter(|_| spliced.frames.iter().any(is_generated))
            && self.perf_maps.note(generation.process, sample.head.pid).is_err()
        {
            self.processes.counts.perf_maps_not_held += 1;
        }
        // a sample without any frame still is one
        let nothing = (user.is_empty() && kernel.is_empty() && cut.is_none()).then_some(RawFrame::Unknown);
        let stack = self.stacks.intern(
            cut.map(RawFrame::Cut)
                .into_iter()
                .chain(spliced.frames.into_iter().rev())
                .chain(kernel_frames)
                .chain(nothing),
        );
        let mut lacks = cut.or(spliced.lacks_lua);
        let stack = stack.unwrap_or_else(|| {
            lacks = Some(TOO_MANY_STACKS);
            self.stacks.intern_overflow()
        });
        let by_frame_pointer = user
            .iter()
            .any(|frame| matches!(frame, UserFrame::Native(frame) if frame.fp));
        let verdict = Verdict {
            lacks,
            by_frame_pointer,
            is_provisional: spliced.is_provisional,
            site: (sample.head.flags & abi::MS_SAMPLE_COROUTINE != 0)
                .then(|| self.sites.number(spliced.site.as_deref()?))
                .flatten(),
        };
        (stack, verdict)
    }

    fn add(
        &mut self,
        sample: &RawSample<'_>,
        (frames, stack): (&[UserFrame], RawStackId),
        generation: Option<&Generation>,
        verdict: Verdict,
    ) {
        let head = &sample.head;
        if verdict.lacks.is_some() && sample.end() == WalkEnd::NoRow {
            self.lua.look_for_vms(head.pid);
        }
        if head.lua != abi::MS_LUA_NOT_HERE {
            self.lua.note_lua(head.pid);
        }
        let definition = Definition {
            stack,
            thread: Thread {
                process: generation.map(|generation| generation.process),
                pid: head.pid,
                tid: head.tid,
                comm: comm_bytes(sample),
                lua: LuaState::of(head),
            },
            verdict,
            lua: (head.lua != abi::MS_LUA_NOT_HERE).then(|| LuaNotes::of(frames)),
        };
        if head.stack == abi::ms_stack_id::default() {
            let what = What {
                event: head.event,
                tag: head.tag,
            };
            self.measure(&definition, what, &head.sum, self.interval_of(head.time));
        } else {
            self.definitions.insert(head.stack, definition);
        }
    }
}

/// The moment of a sample.
fn instant_of(time: u64) -> Instant {
    let ago = Duration::from_nanos(monotonic_now().saturating_sub(time));
    let now = Instant::now();
    now.checked_sub(ago).unwrap_or(now)
}
