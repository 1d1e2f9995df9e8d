//! A thread that runs: caught while it is off its processor, or else at a tick of its clock.

use std::io;
use std::time::{Duration, Instant};

use moonscope_luajit::VmState;
use moonscope_process::{Pid, RemoteMemory, read_maps};
use moonscope_unwind::{Registers, WalkEnd, abi};

use super::files::Walked;
use super::running::{Catcher, Moment};
use super::standstill::{Standstill, Where};
use super::threads::{TRIES, When, coroutines_of};
use super::{LiveStack, Look, VmMoment};
use crate::affinity::OnProcessor;
use crate::frames::cut_of;
use crate::generation::code_mappings;
use crate::lua::{LuaWord, UserFrame};

/// How long a thread that should be running is waited for, and all of a process: on a busy machine it may wait for a
/// processor for long.
const PATIENCE: Duration = Duration::from_millis(200);
pub(super) const PATIENCE_OF_PROCESS: Duration = Duration::from_secs(2);

/// How long it is tried to find it off its processor: on an idle machine that comes about at once. Not more than a quarter of
/// what is left for all threads.
const PATIENCE_FOR_STANDSTILL: Duration = Duration::from_millis(400);

/// How long it is left alone between two tries.
const PAUSE: Duration = Duration::from_millis(1);

/// What is not certain of the stack of a thread that runs.
pub(super) const RAN: &str =
    "it runs: its native frames are those of one moment, its Lua frames were read right after it";

/// What became of a thread that ran.
pub(super) enum Running {
    /// Its stack, and the coroutines in it.
    Caught(LiveStack, Vec<u64>),
    /// It waits for something now, or did: this is what it did before that.
    Waits(LiveStack, Vec<u64>),
    /// It did not run while it was waited for.
    NotCaught,
}

/// It was taken off its processor as it waits for something.
struct Waits;

/// What a thread was found doing.
struct Caught {
    walked: Walked,
    when: When,
    /// What the VMs on its stack were doing then; `None`: nobody knows, it went on meanwhile.
    vms: Option<Vec<(u64, VmMoment)>>,
}

impl Look<'_> {
    /// Catches a thread that runs.
    pub(super) fn running(&mut self, tid: Pid) -> io::Result<Running> {
        if self.patience.is_zero() {
            return Ok(Running::NotCaught);
        }
        let start = Instant::now();
        let mut catcher = Catcher::new(tid)?;
        let moment = catcher.next(PATIENCE.min(self.patience));
        let caught = moment.map(|moment| self.catch(tid, &mut catcher, &moment));
        self.patience = self.patience.saturating_sub(start.elapsed());
        let Some((Caught { walked, when, vms }, waits)) = caught else {
            return Ok(Running::NotCaught);
        };
        let stack = LiveStack {
            uncertain: vms.is_none().then_some(RAN),
            ..self.name(&walked.frames, cut_of(walked.end), when)
        };
        self.moments.extend(vms.unwrap_or_default());
        let lua = coroutines_of(&walked.frames);
        Ok(match waits {
            true => Running::Waits(stack, lua),
            false => Running::Caught(stack, lua),
        })
    }

    /// Catches it; says whether it waited for something meanwhile.
    fn catch(&mut self, tid: Pid, catcher: &mut Catcher, moment: &Moment) -> (Caught, bool) {
        // the first walk takes long: tables are built for it
        let mut last = self.caught_at(moment);
        if let Ok(mut still) = Standstill::new(tid, moment.cpu) {
            match self.at_standstill(&mut still) {
                Ok(Some(stood)) => return (stood, false),
                Ok(None) => {}
                Err(Waits) => return (last, true),
            }
        }
        let deadline = Instant::now() + PATIENCE.min(self.patience);
        for _ in 0..TRIES {
            let Some(moment) = catcher.next(deadline.saturating_duration_since(Instant::now())) else {
                break;
            };
            last = self.caught_at(&moment);
            if self.fits_together(&last) {
                break;
            }
            self.note_new_code(last.walked.end);
        }
        (last, false)
    }

    /// What a thread does while it stands still, if that comes about.
    fn at_standstill(&mut self, still: &mut Standstill) -> Result<Option<Caught>, Waits> {
        let deadline = Instant::now() + PATIENCE_FOR_STANDSTILL.min(self.patience / 4);
        let mut here = OnProcessor::any();
        let (mut last, mut tries) = (None, 0);
        while tries < TRIES && Instant::now() < deadline {
            // whoever runs there is what the thread does not run beside of
            here.go(still.cpu());
            match still.look() {
                Where::Off(registers) => {
                    if let Some(stood) = self.while_still(still, &registers) {
                        tries += 1;
                        if self.fits_together(&stood) {
                            return Ok(Some(stood));
                        }
                        self.note_new_code(stood.walked.end);
                        last = Some(stood);
                    }
                }
                // as it is no longer what it was, this is not a moment in which it ran
                Where::Waits if last.is_none() => return Err(Waits),
                Where::Waits | Where::Leaving(_) | Where::Unknown => {}
            }
            std::thread::sleep(PAUSE);
        }
        Ok(last)
    }

    /// What a thread does that is off its processor now, if it was not put back while that was read.
    fn while_still(&mut self, still: &mut Standstill, registers: &Registers) -> Option<Caught> {
        let walked = self.walk_from(registers);
        let vms = self.vms_in(&walked);
        let at = Instant::now();
        still.has_not_moved().then(|| {
            let innermost = vms.first().map(|(_, vm)| vm.state.activity.number());
            Caught {
                walked,
                when: When {
                    at,
                    vmstate: innermost.unwrap_or(!0),
                },
                vms: Some(vms),
            }
        })
    }

    /// What a thread did at a tick, as far as it can be told afterwards.
    fn caught_at(&mut self, moment: &Moment) -> Caught {
        Caught {
            walked: self.walk_moment(moment),
            when: When::now(),
            vms: None,
        }
    }

    /// What the VMs of a stack are doing now, the innermost first.
    fn vms_in(&self, walked: &Walked) -> Vec<(u64, VmMoment)> {
        let memory = self.lua.memory();
        let mut vms: Vec<(u64, VmMoment)> = Vec::new();
        for frame in &walked.frames {
            let UserFrame::Lua(LuaWord::Segment { g, .. }) = frame else {
                continue;
            };
            let known = self.lua.vms().iter().find(|vm| vm.g == *g);
            if vms.iter().all(|(seen, _)| seen != g)
                && let Some(layout) = known.map(|vm| vm.layout())
                && let Some(state) = VmState::read(memory, *g, layout)
            {
                let running = state.running(memory, layout);
                vms.push((*g, VmMoment { state, running }));
            }
        }
        vms
    }

    fn walk_moment(&mut self, moment: &Moment) -> Walked {
        let memory = self.lua.memory();
        self.files.walk(
            &self.generation,
            self.lua.to_kernel(),
            &moment.registers,
            self.max_depth,
            |addr, into| moment.read(addr, into).is_some() || memory.read_exact(addr, into).is_ok(),
        )
    }

    /// A walk that came to code which was not there when the mappings were read: they are read again.
    fn note_new_code(&mut self, end: WalkEnd) {
        if end != WalkEnd::NoMapping {
            return;
        }
        if let Ok(maps) = read_maps(self.pid) {
            self.generation.mappings = code_mappings(self.pid, &maps, self.files.executables()).mappings;
            self.maps = maps;
        }
    }

    /// Had the thread gone on before its Lua stack was read, this would be seen: its base is another one then, or it has
    /// left compiled code, or entered it. One that stood still may be between two states of the VM: the next moment is
    /// as good.
    fn fits_together(&self, caught: &Caught) -> bool {
        let walked = &caught.walked;
        let is_generated = |frame: &UserFrame| match frame {
            UserFrame::Native(native) => {
                let mapping = self.generation.find(native.addr);
                mapping.is_some_and(|mapping| mapping.executable.is_none())
            }
            UserFrame::Lua(_) => false,
        };
        let first = walked
            .frames
            .iter()
            .position(|frame| matches!(frame, UserFrame::Lua(LuaWord::Segment { .. })));
        let is_sound = |frame: &UserFrame| match frame {
            UserFrame::Lua(LuaWord::Segment { l, flags, .. }) => {
                let bad = abi::MS_SEGMENT_GUESSED | abi::MS_SEGMENT_LOST | abi::MS_SEGMENT_NO_STATE;
                *l != 0 && flags & bad == 0
            }
            UserFrame::Lua(LuaWord::Broken(_)) => false,
            _ => true,
        };
        let is_innermost_sound = first.is_none_or(|first| {
            let before = walked.frames.get(..first).unwrap_or_default();
            let in_trace = matches!(
                walked.frames.get(first),
                Some(UserFrame::Lua(LuaWord::Segment { flags, .. })) if flags & abi::MS_SEGMENT_TRACE != 0
            );
            in_trace == before.last().is_some_and(is_generated)
        });
        cut_of(walked.end).is_none() && is_innermost_sound && walked.frames.iter().all(is_sound)
    }
}
