//! Threads: where each stands, and the walk from there. Those that run are caught: `catch`.

use std::time::{Duration, Instant};

use moonscope_luajit::VmState;
use moonscope_process::thread::Place;
use moonscope_process::{Pid, RemoteMemory, Thread};
use moonscope_unwind::{Registers, WalkEnd, abi};

use super::catch::Running;
use super::files::Walked;
use super::{AS_STORED, LiveStack, LiveThread, Look};
use crate::frames::{cut_of, locate};
use crate::lua::{LuaView, LuaVm, LuaWord, UserFrame, splice};
use crate::stacks::{RawFrame, TOO_MANY_STACKS};

/// How often a thread is looked at that runs meanwhile.
pub(super) const TRIES: usize = 5;
/// And how long it is left alone in between.
const PAUSE: Duration = Duration::from_millis(1);

/// How far above its last known frame the frame of a VM is looked for: as in `bpf/lua.h`, `LUA_GAP_STACK`.
const MAX_GAP: u64 = 65536;

/// Why nothing is known of a thread's stack.
const RUNNING: &str = "it runs, and no clock of it could be had that tells where (perf_event_open)";
const NOT_CAUGHT: &str = "it was running or waiting for a processor, and did not run any more";
const NOT_TOLD: &str = "the kernel does not tell where the thread stands (/proc/PID/task/TID/syscall)";

/// A thread of whose stack nothing is known, for this reason.
fn nothing(cut: Option<&'static str>) -> (LiveStack, Vec<u64>) {
    let stack = LiveStack {
        cut,
        ..LiveStack::default()
    };
    (stack, Vec::new())
}

/// Coroutine and flags of each segment.
pub(super) fn segments(frames: &[UserFrame]) -> impl Iterator<Item = (u64, u64)> {
    frames.iter().filter_map(|frame| match frame {
        UserFrame::Lua(LuaWord::Segment { l, flags, .. }) => Some((*l, *flags)),
        _ => None,
    })
}

pub(super) fn coroutines_of(frames: &[UserFrame]) -> Vec<u64> {
    let mut coroutines: Vec<u64> = segments(frames).map(|(l, _)| l).filter(|&l| l != 0).collect();
    coroutines.dedup();
    coroutines
}

/// When frames were read, and what the innermost VM was doing then.
pub(super) struct When {
    pub(super) at: Instant,
    pub(super) vmstate: i32,
}

impl When {
    /// Just now; a thread that is blocked does not leave compiled code.
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            vmstate: !0,
        }
    }
}

impl Look<'_> {
    /// Looks at a thread; `None` if it is gone.
    pub(super) fn thread(&mut self, tid: Pid) -> Option<LiveThread> {
        let mut seen = None;
        for _ in 0..TRIES {
            let before = Thread::read(self.pid, tid).ok()?;
            let (stack, lua) = match before.place {
                Place::Running => match self.running(tid) {
                    Ok(Running::Caught(stack, lua)) => (stack, lua),
                    // where it waits is certain
                    Ok(Running::Waits(stack, lua)) => {
                        seen = Some((before, stack, lua, false));
                        continue;
                    }
                    Ok(Running::NotCaught) => nothing(Some(NOT_CAUGHT)),
                    Err(_) => nothing(Some(RUNNING)),
                },
                _ => self.stack_of(&before),
            };
            let after = Thread::read(self.pid, tid).ok()?;
            let stood_still = before.stood_still(&after);
            let has_stack = matches!(before.place, Place::Waiting { .. });
            seen = Some((before, stack, lua, has_stack && !stood_still));
            if stood_still || !has_stack {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let (thread, stack, lua, changing) = seen?;
        Some(LiveThread {
            tid,
            comm: thread.comm,
            state: thread.state,
            place: thread.place,
            stack: LiveStack { changing, ..stack },
            lua,
        })
    }

    /// The stack of a thread that stands where it was seen, and the coroutines in it.
    fn stack_of(&mut self, thread: &Thread) -> (LiveStack, Vec<u64>) {
        let (sp, pc) = match thread.place {
            Place::Waiting { sp, pc, .. } => (sp, pc),
            Place::Running => return nothing(Some(RUNNING)),
            Place::Unknown => return nothing(Some(NOT_TOLD)),
            Place::NoUserCode => return nothing(None),
        };
        let mut walked = self.walk(sp, pc);
        let mut not_told = None;
        if matches!(walked.end, WalkEnd::LostRegister | WalkEnd::NoRow) {
            match self.files.registers_of(self.pid, thread) {
                Ok(Some(registers)) => walked = self.walk_from(&registers),
                // it is looked at again
                Ok(None) => {}
                Err(why) => not_told = Some(why.phrase()),
            }
        }
        let Walked {
            mut frames,
            mut end,
            sp,
        } = walked;
        if end == WalkEnd::LostRegister
            && let Some((above, rest)) = self.beyond(sp)
        {
            frames.extend(rest);
            end = above;
        }
        let cut = not_told.filter(|_| end == WalkEnd::LostRegister).or(cut_of(end));
        let guessed = segments(&frames).any(|(_, flags)| flags & abi::MS_SEGMENT_GUESSED != 0);
        let stack = LiveStack {
            uncertain: guessed.then_some(AS_STORED),
            ..self.name(&frames, cut, When::now())
        };
        (stack, coroutines_of(&frames))
    }

    fn walk(&mut self, sp: u64, pc: u64) -> Walked {
        let mut registers = Registers {
            regs: [0; abi::MS_NR_REGS as usize],
            valid: 0,
        };
        registers.set(abi::MS_REG_RSP as usize, Some(sp));
        registers.set(abi::MS_REG_RIP as usize, Some(pc));
        self.walk_from(&registers)
    }

    /// The walk of a thread that stands still.
    pub(super) fn walk_from(&mut self, registers: &Registers) -> Walked {
        let memory = self.lua.memory();
        self.files.walk(
            &self.generation,
            self.lua.to_kernel(),
            registers,
            self.max_depth,
            |addr, into| memory.read_exact(addr, into).is_ok(),
        )
    }

    /// A walk that needed a register that nobody has saved goes on at the nearest frame of a VM on this stack: C code
    /// that Lua has called is left out, and said to be missing.
    fn beyond(&mut self, sp: u64) -> Option<(WalkEnd, Vec<UserFrame>)> {
        let mapping = self.maps.iter().find(|map| map.contains(sp))?;
        let reach = sp..mapping.end.min(sp.saturating_add(MAX_GAP));
        let memory = self.lua.memory();
        let cframe_of = |vm: &LuaVm| {
            let running = VmState::read(memory, vm.g, vm.layout())?.running(memory, vm.layout())?;
            reach
                .contains(&running.cframe)
                .then_some((running.cframe, vm.number))
        };
        let (cframe, number) = self.lua.vms().iter().filter_map(cframe_of).min()?;
        let code = self.lua.builds().iter().find(|build| build.number == number)?;
        // as if the thread stood in the VM's first handler
        let walked = self.walk(cframe, code.code.start);
        let mut frames = walked.frames.into_iter().skip(1);
        let Some(UserFrame::Lua(LuaWord::Segment { l, g, flags })) = frames.next() else {
            return None;
        };
        let flags = flags & !abi::MS_SEGMENT_GUESSED | abi::MS_SEGMENT_GAP;
        let segment = UserFrame::Lua(LuaWord::Segment { l, g, flags });
        Some((walked.end, std::iter::once(segment).chain(frames).collect()))
    }

    /// Keeps the frames of a walk, leaf first.
    pub(super) fn name(&mut self, frames: &[UserFrame], cut: Option<&'static str>, when: When) -> LiveStack {
        let lua = LuaView {
            wants_site: false,
            process: &mut self.lua,
            functions: &mut self.functions,
            counts: &mut self.counts,
            at: when.at,
            vmstate: when.vmstate,
        };
        let generation = Some(&self.generation);
        let spliced = splice(frames, Some(lua), |frame, called_by| {
            locate(frame, called_by, generation)
        });
        let is_empty = spliced.frames.is_empty();
        let id = self.stacks.intern(
            cut.map(RawFrame::Cut)
                .filter(|_| !is_empty)
                .into_iter()
                .chain(spliced.frames.into_iter().rev()),
        );
        let no_room = (id.is_none() && !is_empty).then_some(TOO_MANY_STACKS);
        LiveStack {
            id,
            cut: cut.or(spliced.lacks_lua).or(no_room),
            ..LiveStack::default()
        }
    }
}
