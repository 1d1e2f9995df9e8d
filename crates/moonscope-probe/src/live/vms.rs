//! Lua VMs and their coroutines, from the memory that they are in.

use moonscope_luajit::coroutines::{CoroutineStatus, ListBudget, coroutines, first_function};
use moonscope_luajit::lua_stack::{FrameKind, LuaEnd};
use moonscope_luajit::{
    Activity, Base, Function, Layout, LuaState, LuaWalk, SegmentEnd, VmState, frames, vms,
};
use moonscope_process::thread::Place;
use moonscope_unwind::{WalkEnd, abi};

use super::catch::RAN;
use super::threads::{TRIES, When};
use super::{AS_STORED, LiveCoroutine, LiveStack, LiveThread, LiveVm, Look, VmMoment};
use crate::frames::cut_of;
use crate::lua::{LuaWord, UserFrame};

/// Coroutines of one VM whose stacks are read: some 20 microseconds each. Those beyond are counted.
const MAX_COROUTINES: usize = 1 << 16;

/// Without the instruction pointer of the thread it is not known where in a trace it is.
const COMPILED: &str =
    "in compiled code: functions inlined there are missing, and the innermost line is that of the definition";
/// Its thread had left it, or not come to it yet.
const RAN_LATER: &str =
    "it did not run when its thread was looked at, but when it was itself, a moment later";
const BROKEN: &str = "Lua stack not consistent";

/// A coroutine as it was read: twice the same, or it is changing.
struct Reading {
    state: LuaState,
    walk: Option<LuaWalk>,
    changing: bool,
}

impl Look<'_> {
    /// Looks at all VMs. Which coroutines are in the stacks of threads is known already.
    pub(super) fn vms(&mut self, threads: &[LiveThread]) -> Vec<LiveVm> {
        let known: Vec<_> = self.lua.vms().iter().map(|vm| (vm.g, vm.number)).collect();
        let mut found: Vec<LiveVm> = known
            .into_iter()
            .filter_map(|(g, number)| self.vm(g, number, threads))
            .collect();
        found.sort_by_key(|vm| vm.g);
        found
    }

    fn vm(&mut self, g: u64, number: u32, threads: &[LiveThread]) -> Option<LiveVm> {
        let build = self.lua.builds().iter().find(|build| build.number == number)?;
        let (layout, code) = (build.layout, build.code.clone());
        let file = self.files.name_of(&self.generation, &code);
        let memory = self.lua.memory();
        let main = vms::main_thread(memory, g, &layout).ok()?;
        let list = coroutines(memory, g, &layout, ListBudget::default());
        // what its thread was caught at, rather than what has become of it since
        let moment = self.moments.get(&g).copied();
        let (state, running) = match moment {
            Some(VmMoment { state, running }) => (state, running),
            None => {
                let state = VmState::read(memory, g, &layout)?;
                let is_elsewhere = |l: &LuaState| !are_certain(threads) || is_in_thread(l.addr, threads);
                (state, state.running(memory, &layout).filter(is_elsewhere))
            }
        };
        let mut vm = LiveVm {
            g,
            mode: layout.mode,
            file,
            activity: state.activity,
            is_running: running.is_some(),
            thread: running.and_then(|l| self.thread_of(l.cframe, threads)),
            coroutines: Vec::new(),
            more_coroutines: list.found.len().saturating_sub(MAX_COROUTINES),
            gone_coroutines: 0,
            objects: list.objects,
            list: list.end,
        };
        // the one that runs is known even if the list does not lead to it
        let mut all: Vec<u64> = running.iter().map(|l| l.addr).chain([main]).collect();
        all.extend(list.found.iter().take(MAX_COROUTINES));
        let mut seen = rustc_hash::FxHashSet::default();
        all.retain(|&l| seen.insert(l));
        for l in all {
            let coroutine = self.coroutine(g, &layout, l, l == main, threads);
            match coroutine {
                Some(coroutine) => vm.coroutines.push(coroutine),
                None => vm.gone_coroutines += 1,
            }
        }
        vm.is_running |= vm
            .coroutines
            .iter()
            .any(|one| one.in_thread.is_some() || one.status == CoroutineStatus::Normal);
        Some(vm)
    }

    /// The thread on whose stack this frame of a VM is: the one that stands below it in the same mapping.
    fn thread_of(&self, cframe: u64, threads: &[LiveThread]) -> Option<moonscope_process::Pid> {
        let mapping = self.maps.iter().find(|map| map.contains(cframe))?;
        let below = |thread: &&LiveThread| match thread.place {
            Place::Waiting { sp, .. } => sp <= cframe && mapping.contains(sp),
            // the kernel names the stack of the first thread
            Place::Running => thread.tid == self.pid && mapping.name == moonscope_process::MappingName::Stack,
            _ => false,
        };
        // of several, whose stacks lie side by side, the nearest
        let sp = |thread: &&LiveThread| match thread.place {
            Place::Waiting { sp, .. } => sp,
            _ => 0,
        };
        threads
            .iter()
            .filter(below)
            .max_by_key(sp)
            .map(|thread| thread.tid)
    }

    /// Looks at a coroutine; `None` if there is none, or it ended.
    fn coroutine(
        &mut self,
        g: u64,
        layout: &Layout,
        l: u64,
        is_main: bool,
        threads: &[LiveThread],
    ) -> Option<LiveCoroutine> {
        let (reading, status, base, vm) = self.read(g, layout, l)?;
        let in_thread = threads
            .iter()
            .find(|thread| thread.lua.contains(&l))
            .map(|thread| thread.tid);
        // results that a finished coroutine left look like arguments of one that has not begun
        let memory = self.lua.memory();
        let first = first_function(memory, layout.mode, &reading.state);
        let is_later = in_thread.is_none() && status == CoroutineStatus::Running && are_certain(threads);
        let status = match (in_thread, self.moments.get(&g)) {
            (Some(_), Some(vm)) if vm.state.cur_l == l => CoroutineStatus::Running,
            (Some(_), Some(_)) => CoroutineStatus::Normal,
            _ => status,
        };
        let status = match status {
            CoroutineStatus::NotStarted if is_main || first.is_none() => CoroutineStatus::Ended,
            status => status,
        };
        let mut coroutine = LiveCoroutine {
            l,
            is_main,
            status,
            in_thread,
            stack: LiveStack::default(),
        };
        if in_thread.is_some() || status == CoroutineStatus::Ended {
            return Some(coroutine);
        }
        let is_compiled = base != Base::stored();
        let mut words = vec![LuaWord::Segment {
            l,
            g,
            flags: if is_compiled { abi::MS_SEGMENT_TRACE } else { 0 },
        }];
        let cut = match (&reading.walk, status) {
            (_, CoroutineStatus::NotStarted) => {
                let memory = self.lua.memory();
                let function = first.and_then(|addr| Function::read(memory, layout.fields(), addr));
                words.extend(function.map(|function| match function {
                    Function::Lua(code) => LuaWord::Function {
                        proto: code.proto,
                        at: None,
                        print: 0,
                        closure: None,
                    },
                    Function::C { f } => LuaWord::CFunction {
                        code: f,
                        object: first.unwrap_or(0),
                    },
                    Function::Builtin { ffid } => LuaWord::Builtin { ffid },
                }));
                None
            }
            (None, _) => Some(BROKEN),
            (Some(walk), _) => {
                let depth = self.max_depth as usize;
                words.extend(walk.frames.iter().take(depth).map(|frame| word(frame.kind)));
                match walk.end {
                    _ if walk.frames.len() > depth => cut_of(WalkEnd::Depth),
                    LuaEnd::Broken(_) => Some(BROKEN),
                    _ => None,
                }
            }
        };
        let words: Vec<UserFrame> = words.into_iter().map(UserFrame::Lua).collect();
        coroutine.stack = LiveStack {
            changing: reading.changing,
            uncertain: match status {
                _ if is_later => Some(RAN_LATER),
                CoroutineStatus::Running if is_compiled => Some(COMPILED),
                // what calls C stores its base before
                CoroutineStatus::Running if vm.is_none_or(|vm| vm.activity != Activity::C) => Some(AS_STORED),
                _ => None,
            },
            ..self.name(&words, cut, When::now())
        };
        Some(coroutine)
    }

    /// Reads a coroutine until two readings agree.
    fn read(
        &self,
        g: u64,
        layout: &Layout,
        l: u64,
    ) -> Option<(Reading, CoroutineStatus, Base, Option<VmState>)> {
        let memory = self.lua.memory();
        let once = || {
            let state = LuaState::read(memory, layout.mode, l).ok()?;
            if state.glref != g {
                return None;
            }
            let vm = VmState::read(memory, g, layout);
            let running = vm.filter(|vm| vm.cur_l == l && state.cframe != 0);
            let base = match running {
                Some(vm) if vm.jit_base != 0 => Base::at(vm.jit_base),
                _ => Base::stored(),
            };
            let status = CoroutineStatus::of(&state, layout.mode, running.map(|vm| vm.cur_l));
            let walk = match status {
                CoroutineStatus::Ended | CoroutineStatus::NotStarted => None,
                _ => frames(memory, layout, l, base, SegmentEnd::Bottom).ok(),
            };
            Some((state, walk, status, base, running))
        };
        let mut last = once()?;
        let mut changing = true;
        for _ in 0..TRIES {
            let again = once()?;
            changing = again != last;
            last = again;
            if !changing {
                break;
            }
        }
        let (state, walk, status, base, vm) = last;
        let reading = Reading {
            state,
            walk,
            changing,
        };
        Some((reading, status, base, vm))
    }
}

/// Is it known of each thread which coroutines are on its stack?
fn are_certain(threads: &[LiveThread]) -> bool {
    let is_certain = |thread: &LiveThread| {
        let LiveStack {
            cut,
            changing,
            uncertain,
            ..
        } = thread.stack;
        cut.is_none() && !changing && uncertain != Some(RAN)
    };
    threads.iter().all(is_certain)
}

fn is_in_thread(l: u64, threads: &[LiveThread]) -> bool {
    threads.iter().any(|thread| thread.lua.contains(&l))
}

fn word(kind: FrameKind) -> LuaWord {
    match kind {
        FrameKind::Lua { proto, pos } => LuaWord::Function {
            proto,
            // positions in words of a walk are behind their instruction
            at: pos.and_then(|pos| pos.checked_add(1)),
            print: 0,
            closure: None,
        },
        FrameKind::C { f, function } => LuaWord::CFunction {
            code: f,
            object: function,
        },
        FrameKind::Builtin { ffid } => LuaWord::Builtin { ffid },
    }
}
