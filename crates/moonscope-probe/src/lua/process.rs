//! Lua in one process: its VMs, and what its functions are called.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use moonscope_luajit::names::{LuaNames, wall_clock};
use moonscope_luajit::{GcMode, Layout, Prototype, PrototypeIdentity, TraceCopy, call_site_name, vms};
use moonscope_process::{Pid, Process, ProcessMemory, read_maps};
use moonscope_unwind::abi;
use rustc_hash::{FxHashMap, FxHashSet};

use super::builds::LuaBuild;
use super::functions::{LuaFunctionId, LuaFunctions};
use super::vm::LuaVm;
use crate::executables::ExecutableId;
use crate::generation::Generation;
use crate::limits::{LUA_SCAN, MAX_LUA_VMS, MAX_PROTOTYPES};

/// The shortest time between two scans of a process's memory for VMs.
const SCAN_REST: Duration = Duration::from_secs(1);

/// How long a prototype is believed to be what it was when a new stack has it: collected ones make room for
/// others.
const BELIEVED: Duration = Duration::from_millis(50);

/// How often those of known stacks are looked at again.
const PROTOTYPES_PERIOD: Duration = Duration::from_secs(1);

/// VM code mapped by a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedBuild {
    /// Number of its layout.
    pub number: u32,
    /// Where its code is in the process.
    pub code: Range<u64>,
    /// Where it keeps things.
    pub layout: Layout,
}

impl MappedBuild {
    /// The VM code in the mappings of a process; `builds`: that of each file.
    pub fn all<'a>(generation: &Generation, builds: impl Fn(ExecutableId) -> &'a [LuaBuild]) -> Vec<Self> {
        let mut all = Vec::new();
        for mapping in &generation.mappings {
            for build in mapping.executable.map(&builds).unwrap_or_default() {
                let code =
                    build.code.start.wrapping_add(mapping.bias)..build.code.end.wrapping_add(mapping.bias);
                if mapping.start <= code.start && code.end <= mapping.end {
                    all.push(Self {
                        number: build.number,
                        code,
                        layout: build.layout,
                    });
                }
            }
        }
        all
    }
}

struct Known {
    prototype: Prototype,
    print: u32,
    function: LuaFunctionId,
    /// It has no name of its own that one can be sure of.
    is_nameless: bool,
    /// The same with what a caller called it.
    hinted: Option<LuaFunctionId>,
    checked: Instant,
}

/// A process with LuaJIT in it.
pub struct LuaProcess {
    memory: ProcessMemory,
    builds: Vec<MappedBuild>,
    vms: Vec<LuaVm>,
    names: LuaNames,
    prototypes: FxHashMap<u64, Known>,
    /// What the function of a print was, if its prototype is gone.
    by_print: FxHashMap<u32, LuaFunctionId>,
    /// Those that samples had since they were last looked at.
    used: FxHashSet<u64>,
    looked_at_prototypes: Instant,
    scanned: Option<Instant>,
    /// The last scan for VMs looked at all memory that can hold one.
    pub scan_was_complete: bool,
    /// Changes when something that was resolved before may now mean something else.
    pub epoch: u32,
    /// Whether the list of VMs is not what the kernel side knows.
    pub is_new: bool,
    /// It has more VMs than are remembered, or than the kernel side looks for.
    pub has_too_many_vms: bool,
    /// Whether that was counted.
    pub is_told: bool,
}

/// Where a Lua function is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaPlace {
    /// The function.
    pub function: LuaFunctionId,
    /// The current line; 0: not known.
    pub line: u32,
    /// It was collected before it could be read: the next one like it may be there.
    pub is_recalled: bool,
    /// Whoever calls it may have a name for it: [`LuaProcess::hint`].
    pub wants_hint: bool,
}

impl LuaProcess {
    /// Lua in this process, of which nothing is read yet.
    pub fn new(pid: Pid, builds: Vec<MappedBuild>) -> Self {
        Self {
            memory: ProcessMemory::new(pid),
            builds,
            vms: Vec::new(),
            names: names(pid),
            prototypes: FxHashMap::default(),
            by_print: FxHashMap::default(),
            used: FxHashSet::default(),
            looked_at_prototypes: Instant::now(),
            scanned: None,
            scan_was_complete: false,
            epoch: 0,
            is_new: true,
            has_too_many_vms: false,
            is_told: false,
        }
    }

    /// The same VMs in another process: what fork(2) makes.
    pub fn copy_for(&self, child: Pid) -> Self {
        let mut copy = Self::new(child, self.builds.clone());
        copy.vms = self
            .vms
            .iter()
            .map(|vm| LuaVm::new(vm.g, vm.number, *vm.layout()))
            .collect();
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
        &self.vms
    }

    /// Functions that are remembered for its prototypes.
    pub fn functions(&self) -> impl Iterator<Item = LuaFunctionId> {
        let known = self.prototypes.values();
        let of_prototypes = known.flat_map(|known| std::iter::once(known.function).chain(known.hinted));
        of_prototypes.chain(self.by_print.values().copied())
    }

    /// Its VMs as the walker wants them, as many as it takes.
    pub fn to_kernel(&self) -> abi::ms_lua_process {
        // GC64 keeps a register for the VM, also in compiled code: an entry without a VM stands for it
        let by_register = self
            .builds
            .iter()
            .filter(|build| build.layout.mode == GcMode::Gc64)
            .map(|build| (0, build.number));
        let known = self.vms.iter().map(|vm| (vm.g, vm.number));
        let mut value = abi::ms_lua_process::default();
        for (slot, (g, number)) in value.vm.iter_mut().zip(by_register.chain(known)) {
            *slot = abi::ms_lua_vm {
                g,
                layout: number.into(),
            };
            value.count += 1;
        }
        value
    }

    /// Looks for VMs in its memory, unless it did a moment ago.
    pub fn scan(&mut self) {
        if self.scanned.is_some_and(|last| last.elapsed() < SCAN_REST) {
            return;
        }
        self.scanned = Some(Instant::now());
        let Ok(maps) = read_maps(self.memory.pid()) else {
            self.scan_was_complete = false;
            return;
        };
        self.scan_was_complete = true;
        for build in self.builds.clone() {
            let found = vms::scan(&self.memory, &maps, build.code.clone(), &build.layout, LUA_SCAN);
            self.scan_was_complete &= found.as_ref().is_ok_and(|found| found.complete);
            for vm in found.map(|found| found.vms).unwrap_or_default() {
                self.add(vm.g, &build);
            }
        }
    }

    fn add(&mut self, g: u64, build: &MappedBuild) {
        if self.vms.iter().any(|vm| vm.g == g) {
            return;
        }
        let is_gc64 = |build: &&MappedBuild| build.layout.mode == GcMode::Gc64;
        // beside the entries without a VM (`to_kernel`)
        let taken = self.builds.iter().filter(is_gc64).count();
        let room = (abi::MS_LUA_VMS as usize).saturating_sub(taken);
        self.has_too_many_vms |= self.vms.len() >= room;
        if self.vms.len() < MAX_LUA_VMS {
            self.vms.push(LuaVm::new(g, build.number, build.layout));
            self.is_new = true;
        }
    }

    /// The VM at `g`, if there is one: known, or met now.
    fn vm(&mut self, g: u64) -> Option<usize> {
        if let Some(known) = self.vms.iter().position(|vm| vm.g == g) {
            return Some(known);
        }
        let build = self
            .builds
            .iter()
            .find(|build| vms::verify(&self.memory, g, &build.layout, build.code.clone()).is_ok())?
            .clone();
        self.add(g, &build);
        self.vms.iter().position(|vm| vm.g == g)
    }

    /// Looks after what changes with time.
    pub fn refresh(&mut self) {
        for vm in &mut self.vms {
            if vm.refresh(&self.memory) {
                self.epoch += 1;
            }
        }
        if self.looked_at_prototypes.elapsed() >= PROTOTYPES_PERIOD {
            self.looked_at_prototypes = Instant::now();
            for proto in std::mem::take(&mut self.used) {
                self.check(proto, Duration::ZERO);
            }
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
            self.prototypes.remove(&proto);
            self.epoch += 1;
        }
    }

    /// The trace that had code at this address at this time.
    pub fn trace(&mut self, g: u64, addr: u64, at: Instant) -> Option<&TraceCopy> {
        let index = self.vm(g)?;
        self.vms[index].trace(&self.memory, addr, at)
    }

    /// The live trace of a VM with this number.
    pub fn live_trace(&mut self, g: u64, number: u16) -> Option<&TraceCopy> {
        let index = self.vm(g)?;
        self.vms[index].live_trace(number)
    }

    /// The name of a function of the library of a VM.
    pub fn builtin(&mut self, g: u64, ffid: u8) -> Arc<str> {
        match self.vm(g) {
            Some(index) => self.vms[index].builtin(&self.memory, ffid).into(),
            None => format!("builtin#{ffid}").into(),
        }
    }

    /// The function of a prototype, and the line of a position in its bytecode (0 is its header). If the prototype
    /// that had this print (`MS_LUA_PRINT`; 0: not known) is not there anymore, its line is not known, and `None` if
    /// none like it was met before.
    pub fn place(
        &mut self,
        g: u64,
        (proto, print): (u64, u32),
        position: Option<u32>,
        functions: &mut LuaFunctions,
    ) -> Option<LuaPlace> {
        let is_there = self.read(g, (proto, print), functions).is_some();
        let Some(known) = self.prototypes.get(&proto).filter(|_| is_there) else {
            // the same definition of the same chunk, loaded anew
            let function = *self.by_print.get(&print).filter(|_| print != 0)?;
            return Some(LuaPlace {
                function,
                line: 0,
                is_recalled: true,
                wants_hint: false,
            });
        };
        let line = position
            .and_then(|position| known.prototype.line_of(&self.memory, position).ok().flatten())
            .unwrap_or(0);
        Some(LuaPlace {
            function: known.hinted.unwrap_or(known.function),
            line,
            is_recalled: false,
            wants_hint: known.is_nameless && known.hinted.is_none(),
        })
    }

    /// The function of a prototype without a name, with what the instruction at a position of its caller calls it. It
    /// keeps the first such name, so that it is one function wherever it is called.
    pub fn hint(
        &mut self,
        g: u64,
        proto: u64,
        (caller, position): (u64, u32),
        functions: &mut LuaFunctions,
    ) -> Option<LuaFunctionId> {
        let name = self.site(g, (caller, position))?;
        let known = self.prototypes.get_mut(&proto)?;
        let hinted = functions.with_hint(known.function, &name)?;
        known.hinted = Some(hinted);
        Some(hinted)
    }

    /// What a known function calls the function that it calls at this position.
    pub fn site(&mut self, g: u64, (proto, position): (u64, u32)) -> Option<String> {
        let index = self.vm(g)?;
        let strings = self.vms[index].strings(&self.memory)?;
        let caller = &self.prototypes.get(&proto)?.prototype;
        let site = call_site_name(&self.memory, &strings, caller, position).ok()??;
        Some(site.name)
    }

    /// Sees to it that a prototype is known; `None` if the one that has this print is not there anymore.
    fn read(&mut self, g: u64, (proto, print): (u64, u32), functions: &mut LuaFunctions) -> Option<()> {
        let index = self.vm(g)?;
        self.used.insert(proto);
        self.check(proto, BELIEVED);
        let is_other = |known: &Known| print != 0 && known.print != print;
        if self.prototypes.get(&proto).is_some_and(is_other) {
            self.prototypes.remove(&proto);
        }
        if !self.prototypes.contains_key(&proto) {
            if self.prototypes.len() >= MAX_PROTOTYPES {
                self.prototypes.clear();
            }
            if self.by_print.len() >= MAX_PROTOTYPES {
                self.by_print.clear();
            }
            let vm = &mut self.vms[index];
            let mode = vm.layout().mode;
            let strings = vm.strings(&self.memory)?;
            let prototype = Prototype::read(&self.memory, mode, &strings, proto).ok()?;
            let name = self.names.name_of(&prototype);
            let is_nameless = name.name.is_none();
            let function = functions.intern(name.into());
            let known = Known {
                is_nameless,
                hinted: None,
                print: print_of(&prototype.identity),
                prototype,
                function,
                checked: Instant::now(),
            };
            self.by_print.insert(known.print, function);
            self.prototypes.insert(proto, known);
        }
        self.prototypes
            .get(&proto)
            .is_some_and(|known| !is_other(known))
            .then_some(())
    }
}

/// `MS_LUA_PRINT`.
fn print_of(identity: &PrototypeIdentity) -> u32 {
    let [_, _, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = identity.chunkname_header;
    let string = [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]].map(u32::from_le_bytes);
    ((identity.chunkname >> 3) as u32)
        .wrapping_mul(abi::MS_LUA_PRINT_CHUNK)
        .wrapping_add(string[0].wrapping_mul(abi::MS_LUA_PRINT_STRING0))
        .wrapping_add(string[1].wrapping_mul(abi::MS_LUA_PRINT_STRING1))
        .wrapping_add(string[2].wrapping_mul(abi::MS_LUA_PRINT_STRING2))
        .wrapping_add(identity.firstline.wrapping_mul(abi::MS_LUA_PRINT_LINE))
        .wrapping_add(identity.numline.wrapping_mul(abi::MS_LUA_PRINT_LINES))
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
