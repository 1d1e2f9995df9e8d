//! The Lua VMs of one process: those that it has, and for a while those that it had.
//!
//! A VM that was closed is no VM any more, and its place is free: its memory is given back, or holds what `lua_close` leaves
//! ([`vms::verify`]). Samples of it may be on their way still, so what was read of it is kept for a moment, unless another VM
//! is at its address meanwhile.

use std::time::{Duration, Instant};

use moonscope_luajit::{GcMode, vms};
use moonscope_process::{ProcessMemory, read_maps};
use moonscope_unwind::abi;

use super::builds::MappedBuild;
use super::vm::LuaVm;
use crate::limits::{LUA_SCAN, MAX_LUA_VMS};

/// The shortest time between two scans of a process's memory for VMs: so many times as long as the last one took, between
/// these two.
const SCAN_REST: u32 = 20;
const MIN_SCAN_REST: Duration = Duration::from_millis(50);
const MAX_SCAN_REST: Duration = Duration::from_secs(1);

/// How often it is looked whether VMs were closed.
const CLOSED_PERIOD: Duration = Duration::from_secs(1);

/// How long one that was closed is remembered: longer than any sample waits for its names.
const GONE_KEPT: Duration = Duration::from_secs(5);

/// How it was found that a VM is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// By a scan: it may never run.
    InMemory,
    InSample,
}

/// The VMs of a process.
pub(super) struct LuaVms {
    /// Those that are there.
    all: Vec<LuaVm>,
    /// Those that were closed, and when that was seen; at other addresses.
    gone: Vec<(LuaVm, Instant)>,
    /// How many were met.
    pub(super) met: u64,
    /// No scan before this time.
    scan_again: Option<Instant>,
    looked_for_closed: Instant,
    /// The last scan looked at all memory that can hold one.
    pub(super) scan_was_complete: bool,
    /// Whether the list is not what the kernel side knows.
    pub(super) is_new: bool,
    /// There were more at a time than are remembered, or than the kernel side looks for.
    pub(super) are_too_many: bool,
}

impl LuaVms {
    pub(super) fn new() -> Self {
        Self {
            all: Vec::new(),
            gone: Vec::new(),
            met: 0,
            scan_again: None,
            looked_for_closed: Instant::now(),
            scan_was_complete: false,
            is_new: true,
            are_too_many: false,
        }
    }

    /// The same VMs in a copy of the process.
    pub(super) fn copy(&self) -> Self {
        let copy = |vm: &LuaVm| LuaVm::new(vm.g, vm.number, *vm.layout());
        let all: Vec<LuaVm> = self.all.iter().map(copy).collect();
        Self {
            met: all.len() as u64,
            all,
            ..Self::new()
        }
    }

    /// Those that are there, as far as is known.
    pub(super) fn all(&self) -> &[LuaVm] {
        &self.all
    }

    /// The same, to be looked after.
    pub(super) fn all_mut(&mut self) -> &mut [LuaVm] {
        &mut self.all
    }

    /// As the walker wants them, as many as it takes.
    pub(super) fn to_kernel(&self, builds: &[MappedBuild]) -> abi::ms_lua_process {
        let by_register = by_register(builds).map(|build| (0, build.number));
        let known = self.all.iter().map(|vm| (vm.g, vm.number));
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

    /// Looks for VMs in the memory of the process, unless it did a moment ago.
    pub(super) fn scan(&mut self, memory: &ProcessMemory, builds: &[MappedBuild]) {
        let start = Instant::now();
        if self.scan_again.is_some_and(|again| start < again) {
            return;
        }
        self.bury_closed(memory, builds);
        self.scan_was_complete = true;
        match read_maps(memory.pid()) {
            Err(_) => self.scan_was_complete = false,
            Ok(maps) => {
                for build in builds {
                    let found = vms::scan(memory, &maps, build.code.clone(), &build.layout, LUA_SCAN);
                    self.scan_was_complete &= found.as_ref().is_ok_and(|found| found.complete);
                    for vm in found.map(|found| found.vms).unwrap_or_default() {
                        self.add(vm.g, build, memory, builds, Met::InMemory);
                    }
                }
            }
        }
        if self.are_too_many {
            self.give_idle_ones_a_turn(builds);
        }
        let rest = (start.elapsed() * SCAN_REST).clamp(MIN_SCAN_REST, MAX_SCAN_REST);
        self.scan_again = Instant::now().checked_add(rest);
    }

    /// The same, also if it did a moment ago.
    pub(super) fn scan_without_rest(&mut self, memory: &ProcessMemory, builds: &[MappedBuild]) {
        self.scan_again = None;
        self.scan(memory, builds);
    }

    /// The VM at `g`, if there is one, or was a moment ago: known, or met now.
    pub(super) fn find(
        &mut self,
        g: u64,
        memory: &ProcessMemory,
        builds: &[MappedBuild],
    ) -> Option<&mut LuaVm> {
        if let Some(known) = self.all.iter().position(|vm| vm.g == g) {
            let known = self.all.get_mut(known)?;
            known.was_asked_for = true;
            return Some(known);
        }
        let is_there = |build: &&MappedBuild| is_there(memory, g, build);
        if let Some(build) = builds.iter().find(is_there) {
            self.add(g, build, memory, builds, Met::InSample);
            return self.all.iter_mut().find(|vm| vm.g == g);
        }
        let mut gone = self.gone.iter_mut();
        gone.find(|(vm, _)| vm.g == g).map(|(vm, _)| vm)
    }

    /// Gives the places of VMs back that were closed, if it is time to look.
    pub(super) fn refresh(&mut self, memory: &ProcessMemory, builds: &[MappedBuild]) {
        if self.looked_for_closed.elapsed() >= CLOSED_PERIOD {
            self.bury_closed(memory, builds);
            self.gone.retain(|(_, seen)| seen.elapsed() < GONE_KEPT);
        }
    }

    fn add(&mut self, g: u64, build: &MappedBuild, memory: &ProcessMemory, builds: &[MappedBuild], met: Met) {
        if self.all.iter().any(|vm| vm.g == g) {
            return;
        }
        let room = room_in_kernel(builds);
        if self.all.len() >= room {
            self.bury_closed(memory, builds);
        }
        if self.all.len() >= MAX_LUA_VMS && met == Met::InSample {
            self.put_one_out();
        }
        self.are_too_many |= self.all.len() >= room;
        if self.all.len() < MAX_LUA_VMS {
            // whatever was there before is another one
            self.gone.retain(|(vm, _)| vm.g != g);
            let mut vm = LuaVm::new(g, build.number, build.layout);
            vm.was_asked_for = met == Met::InSample;
            self.all.push(vm);
            self.met += 1;
            self.is_new = true;
        }
    }

    /// Forgets the VM that was found first of those that no sample had since all of them had one.
    fn put_one_out(&mut self) {
        if self.all.iter().all(|vm| vm.was_asked_for) {
            self.all.iter_mut().for_each(|vm| vm.was_asked_for = false);
        }
        if let Some(idle) = self.all.iter().position(|vm| !vm.was_asked_for) {
            self.all.remove(idle);
        }
    }

    /// Only the kernel side finds out which ones run, and it has no room for all: those that samples had stay, of the others
    /// the next ones come.
    fn give_idle_ones_a_turn(&mut self, builds: &[MappedBuild]) {
        let (mut all, mut idle): (Vec<_>, Vec<_>) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|vm| vm.was_asked_for);
        let tried = room_in_kernel(builds).saturating_sub(all.len()).min(idle.len());
        idle.rotate_left(tried);
        all.extend(idle);
        self.all = all;
        self.is_new = true;
    }

    fn bury_closed(&mut self, memory: &ProcessMemory, builds: &[MappedBuild]) {
        let seen = Instant::now();
        self.looked_for_closed = seen;
        let is_closed = |vm: &mut LuaVm| {
            let build = builds.iter().find(|build| build.number == vm.number);
            // what changes while it is read is not closed
            build.is_none_or(|build| !is_there(memory, vm.g, build) && !is_there(memory, vm.g, build))
        };
        let closed: Vec<LuaVm> = self.all.extract_if(.., is_closed).collect();
        self.is_new |= !closed.is_empty();
        self.gone.extend(closed.into_iter().map(|vm| (vm, seen)));
        // those that were closed last are asked for
        let too_many = self.gone.len().saturating_sub(MAX_LUA_VMS);
        self.gone.drain(..too_many);
    }
}

/// How many VMs the kernel side takes, beside the entries without one ([`LuaVms::to_kernel`]).
fn room_in_kernel(builds: &[MappedBuild]) -> usize {
    (abi::MS_LUA_VMS as usize).saturating_sub(by_register(builds).count())
}

/// GC64 keeps a register for the VM, also in compiled code: an entry without a VM stands for it.
fn by_register(builds: &[MappedBuild]) -> impl Iterator<Item = &MappedBuild> {
    builds.iter().filter(|build| build.layout.mode == GcMode::Gc64)
}

fn is_there(memory: &ProcessMemory, g: u64, build: &MappedBuild) -> bool {
    vms::verify(memory, g, &build.layout, build.code.clone()).is_ok()
}
