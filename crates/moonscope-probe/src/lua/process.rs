//! Lua in one process: its VMs, and what its functions are called.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use moonscope_luajit::names::{LuaNames, wall_clock};
use moonscope_luajit::{Prototype, Source, TraceCopy, call_site_name, words_of};
use moonscope_process::{Pid, Process, ProcessMemory};
use moonscope_unwind::abi;
use rustc_hash::{FxHashMap, FxHashSet};

use super::builds::MappedBuild;
use super::functions::{LuaFunction, LuaFunctionId, LuaFunctions};
use super::hints::{Hints, Place};
use super::prototypes::{Gone, Known, print_of};
use super::vm::{LuaVm, NotNow};
use super::vms::LuaVms;
use crate::limits::MAX_PROTOTYPES;

/// How long a prototype is believed to be what it was when a new stack has it: collected ones make room for
/// others.
const BELIEVED: Duration = Duration::from_millis(50);

/// How often memory is searched for VMs at once, until none of it went away meanwhile.
const SCANS: usize = 4;
const LONG_SCAN: Duration = Duration::from_millis(200);

/// How often those of known stacks are looked at again.
const PROTOTYPES_PERIOD: Duration = Duration::from_secs(1);

/// How long one that is gone is remembered: longer than any sample waits for its names.
const GONE_KEPT: Duration = Duration::from_secs(5);

/// A process with LuaJIT in it.
pub struct LuaProcess {
    memory: ProcessMemory,
    builds: Vec<MappedBuild>,
    vms: LuaVms,
    names: LuaNames,
    prototypes: FxHashMap<u64, Known>,
    /// Those that were at these addresses last.
    gone: FxHashMap<u64, Gone>,
    hints: Hints,
    /// Prototypes read so far.
    read: u64,
    /// What the function of a print was, if its prototype is gone; `None`: one of several.
    by_print: FxHashMap<u32, Option<LuaFunctionId>>,
    /// Those that samples had since they were last looked at.
    used: FxHashSet<u64>,
    looked_at_prototypes: Instant,
    /// Changes when something that was resolved before may now mean something else.
    pub epoch: u32,
    /// Whether that was counted.
    pub is_told: bool,
    /// It has what its parent has, as fork(2) made it, and has run none of it: it may run another program soon.
    pub is_idle_copy: bool,
}

/// Where a Lua function is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaPlace {
    /// The function.
    pub function: LuaFunctionId,
    /// The current line; 0: not known.
    pub line: u32,
    /// It is not there any more: the next one like it may be.
    pub is_recalled: bool,
    /// It was gone before its line could be read.
    pub lacks_line: bool,
    /// Whoever calls it may have a name for it: [`LuaProcess::hint`].
    pub wants_hint: bool,
}

impl LuaProcess {
    /// Lua in this process, of which nothing is read yet.
    pub fn new(pid: Pid, builds: Vec<MappedBuild>) -> Self {
        Self {
            memory: ProcessMemory::new(pid),
            builds,
            vms: LuaVms::new(),
            names: names(pid),
            prototypes: FxHashMap::default(),
            gone: FxHashMap::default(),
            hints: Hints::default(),
            read: 0,
            by_print: FxHashMap::default(),
            used: FxHashSet::default(),
            looked_at_prototypes: Instant::now(),
            epoch: 0,
            is_told: false,
            is_idle_copy: false,
        }
    }

    /// The same VMs in another process: what fork(2) makes.
    pub fn copy_for(&self, child: Pid) -> Self {
        let mut copy = Self::new(child, self.builds.clone());
        copy.is_idle_copy = true;
        copy.vms = self.vms.copy();
        copy
    }

    /// What its memory is read through.
    pub fn memory(&self) -> &ProcessMemory {
        &self.memory
    }

    /// Its VM code.
    pub fn builds(&self) -> &[MappedBuild] {
        &self.builds
    }

    /// Its VMs.
    pub fn vms(&self) -> &[LuaVm] {
        self.vms.all()
    }

    /// How many VMs it had, those that it has included.
    pub fn vms_met(&self) -> u64 {
        self.vms.met
    }

    /// It had more VMs at a time than are remembered, or than the kernel side looks for.
    pub fn has_too_many_vms(&self) -> bool {
        self.vms.are_too_many
    }

    /// The last scan for VMs looked at all memory that can hold one.
    pub fn scan_was_complete(&self) -> bool {
        self.vms.scan_was_complete
    }

    /// Whether the kernel side is to be told of its VMs; it is then.
    pub fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.vms.is_new)
    }

    /// Functions that are remembered for its prototypes.
    pub fn functions(&self) -> impl Iterator<Item = LuaFunctionId> {
        let known = self.prototypes.values();
        let known = known.chain(self.gone.values().map(|gone| &gone.known));
        let of_prototypes = known.map(|known| known.function);
        of_prototypes
            .chain(self.by_print.values().copied().flatten())
            .chain(self.hints.functions())
    }

    /// Its VMs as the walker wants them, as many as it takes.
    pub fn to_kernel(&self) -> abi::ms_lua_process {
        self.vms.to_kernel(&self.builds)
    }

    /// Looks for VMs in its memory, unless it did a moment ago.
    pub fn scan(&mut self) {
        self.vms.scan(&self.memory, &self.builds);
    }

    /// The same, and again where memory went away meanwhile, as it does in a program that works.
    pub fn scan_until_complete(&mut self) {
        for _ in 0..SCANS {
            let start = Instant::now();
            self.vms.scan_without_rest(&self.memory, &self.builds);
            // what takes long is incomplete as there is too much of it
            if self.scan_was_complete() || start.elapsed() > LONG_SCAN {
                return;
            }
        }
    }

    /// The VM at `g`, if there is one, or was a moment ago.
    fn vm(&mut self, g: u64) -> Option<&mut LuaVm> {
        self.vms.find(g, &self.memory, &self.builds)
    }

    /// Looks after what changes with time.
    pub fn refresh(&mut self) {
        self.vms.refresh(&self.memory, &self.builds);
        for vm in self.vms.all_mut() {
            if vm.refresh(&self.memory) {
                self.epoch += 1;
            }
        }
        if self.looked_at_prototypes.elapsed() >= PROTOTYPES_PERIOD {
            self.looked_at_prototypes = Instant::now();
            for proto in std::mem::take(&mut self.used) {
                self.check(proto, Duration::ZERO);
            }
            self.gone.retain(|_, gone| gone.seen.elapsed() < GONE_KEPT);
        }
    }

    /// A sample has a known stack with this prototype.
    pub fn note_used(&mut self, proto: u64) {
        self.used.insert(proto);
    }

    /// Forgets a prototype if something else stands in its place now.
    fn check(&mut self, proto: u64, believed: Duration) {
        let Some(known) = self.prototypes.get_mut(&proto) else {
            return;
        };
        if known.checked.elapsed() < believed {
            return;
        }
        known.checked = Instant::now();
        if !known.prototype.still_is(&self.memory).unwrap_or(true) {
            self.bury(proto);
        }
    }

    /// A prototype is not there any more.
    fn bury(&mut self, proto: u64) {
        if let Some(known) = self.prototypes.remove(&proto) {
            let seen = Instant::now();
            self.gone.insert(proto, Gone { known, seen });
            self.epoch += 1;
        }
    }

    /// The trace that had code at this address at this time.
    pub fn trace(&mut self, g: u64, addr: u64, at: Instant) -> Option<&TraceCopy> {
        let vm = self.vms.find(g, &self.memory, &self.builds)?;
        vm.trace(&self.memory, addr, at)
    }

    /// The live trace of a VM with this number.
    pub fn live_trace(&mut self, g: u64, number: u16) -> Option<&TraceCopy> {
        self.vm(g)?.live_trace(number)
    }

    /// The name of a function of the library of a VM.
    pub fn builtin(&mut self, g: u64, ffid: u8) -> Arc<str> {
        match self.vms.find(g, &self.memory, &self.builds) {
            Some(vm) => vm.builtin(&self.memory, ffid).into(),
            None => format!("builtin#{ffid}").into(),
        }
    }

    /// May one of these calls of a function object be of Lua?
    pub fn may_be_lua(&mut self, g: u64, closure: u64, callees: &[Source]) -> bool {
        let vm = self.vms.find(g, &self.memory, &self.builds);
        vm.is_none_or(|vm| vm.may_be_lua(&self.memory, closure, callees))
    }

    /// The C function that a call of a function object ends up in for certain, without Lua in between.
    pub fn called_c(&mut self, g: u64, closure: u64, source: &Source) -> Option<u64> {
        let vm = self.vms.find(g, &self.memory, &self.builds)?;
        vm.called_c(&self.memory, closure, source)
    }

    /// What the tables of a VM call the C function with this code and object; an error if that may be known later.
    pub fn c_function(&mut self, g: u64, function: (u64, u64)) -> Result<Option<Arc<str>>, NotNow> {
        let vm = self.vms.find(g, &self.memory, &self.builds).ok_or(NotNow)?;
        vm.c_function(&self.memory, function)
    }

    /// The function of a prototype as it was `at` this time, and the line of a position in its bytecode (0 is its
    /// header). If the prototype that had this print (`MS_LUA_PRINT`; 0: not known) was gone before it could be read,
    /// its line is not known, and `None` if none like it was met before.
    pub fn place(
        &mut self,
        g: u64,
        (proto, print): (u64, u32),
        (position, at): (Option<u32>, Instant),
        functions: &mut LuaFunctions,
    ) -> Option<LuaPlace> {
        let had = |gone: &&Gone| at <= gone.seen && (print == 0 || gone.known.print == print);
        // another one may be in its place already, which is not to be forgotten for a late sample
        let is_late = print != 0 && self.gone.get(&proto).filter(had).is_some();
        if !is_late && self.read(g, (proto, print), functions).is_some() {
            let known = self.prototypes.get(&proto)?;
            return Some(LuaPlace {
                function: self.hints.shown(known.function),
                line: known.line(&self.memory, position),
                is_recalled: false,
                lacks_line: false,
                wants_hint: known.is_nameless,
            });
        }
        let gone = self.gone.get(&proto).filter(had).map(|gone| &gone.known);
        let function = match gone {
            Some(known) => self.hints.shown(known.function),
            // the same definition of the same chunk, loaded anew
            None => self
                .hints
                .shown((*self.by_print.get(&print).filter(|_| print != 0)?)?),
        };
        Some(LuaPlace {
            function,
            line: gone.map_or(0, |known| known.line(&self.memory, position)),
            is_recalled: true,
            lacks_line: gone.is_none() && position.is_some(),
            wants_hint: false,
        })
    }

    /// The function of a prototype without a name, with what the instruction at a position of its caller calls it, as
    /// long as that can be its name ([`Hints`]).
    pub fn hint(
        &mut self,
        g: u64,
        proto: u64,
        (caller, position): (u64, u32),
        functions: &mut LuaFunctions,
    ) -> Option<LuaFunctionId> {
        let callee = self.prototypes.get(&proto)?.function;
        let Known { function, number, .. } = self.prototypes.get(&caller)?;
        let place = Place {
            function: *function,
            position,
            prototype: *number,
        };
        let mut hints = std::mem::take(&mut self.hints);
        let name = || self.site(g, (caller, position));
        let shown = hints.note(callee, place, functions, name);
        self.hints = hints;
        Some(shown)
    }

    /// What a known function calls the function that it calls at this position.
    pub fn site(&mut self, g: u64, (proto, position): (u64, u32)) -> Option<String> {
        let vm = self.vms.find(g, &self.memory, &self.builds)?;
        let strings = vm.strings(&self.memory)?;
        let caller = &self.prototypes.get(&proto)?.prototype;
        let site = call_site_name(&self.memory, &strings, caller, position).ok()??;
        Some(site.name)
    }

    /// Sees to it that a prototype is known; `None` if the one that has this print is not there anymore.
    fn read(&mut self, g: u64, (proto, print): (u64, u32), functions: &mut LuaFunctions) -> Option<()> {
        self.vm(g)?;
        self.used.insert(proto);
        self.check(proto, BELIEVED);
        let is_other = |known: &Known| print != 0 && known.print != print;
        if self.prototypes.get(&proto).is_some_and(is_other) {
            self.bury(proto);
        }
        if !self.prototypes.contains_key(&proto) {
            if self.prototypes.len() >= MAX_PROTOTYPES {
                self.prototypes.clear();
            }
            if self.by_print.len() >= MAX_PROTOTYPES {
                self.by_print.clear();
            }
            let vm = self.vms.find(g, &self.memory, &self.builds)?;
            let mode = vm.layout().mode;
            let strings = vm.strings(&self.memory)?;
            let prototype = Prototype::read(&self.memory, mode, &strings, proto).ok()?;
            // if it goes meanwhile, only its lines are missing
            let _ = prototype.keep_lines(&self.memory);
            let words = || words_of(&self.memory, &strings, &prototype).ok().flatten();
            let name = self.names.name_with(&prototype, words);
            // of stripped bytecode all functions of a chunk are one: what one is called is not the name of another
            let is_nameless = name.name.is_none() && !prototype.is_stripped();
            let function = functions.intern(LuaFunction::new(name, &prototype));
            self.read += 1;
            let known = Known {
                number: self.read,
                is_nameless,
                print: print_of(&prototype.identity),
                prototype,
                function,
                checked: Instant::now(),
            };
            let recalled = self.by_print.entry(known.print).or_insert(Some(function));
            *recalled = recalled.filter(|other| *other == function);
            self.prototypes.insert(proto, known);
        }
        self.prototypes
            .get(&proto)
            .is_some_and(|known| !is_other(known))
            .then_some(())
    }
}

/// Names from the sources that the process sees.
fn names(pid: Pid) -> LuaNames {
    let started = Process::find(pid).ok().and_then(|process| {
        let booted = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let uptime = Duration::new(
            u64::try_from(booted.tv_sec).ok()?,
            u32::try_from(booted.tv_nsec).ok()?,
        );
        let ticks = rustix::param::clock_ticks_per_second();
        wall_clock(
            process.start,
            (uptime, SystemTime::now()),
            u32::try_from(ticks).ok()?,
        )
    });
    let directory: Option<PathBuf> = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    match started {
        Some(started) => LuaNames::new(pid, started, directory),
        None => LuaNames::without_sources(),
    }
}
