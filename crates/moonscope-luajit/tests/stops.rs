//! Programs stopped at random moments: what is read from outside must be a stack that the program, by its
//! own remarks, can have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use moonscope_luajit::lua_stack::{Base, LuaEnd, SegmentEnd, frames};
use moonscope_luajit::snapshot::expand;
use moonscope_luajit::{FrameKind, GcMode, InlinedFrame, LuaState, TraceKeeper};
use moonscope_process::RemoteMemory;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use support::annotations::{Annotations, Place};
use support::vm::Vm;
use support::{Program, luajits, stops};

/// Where a stopped thread was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    /// In the machine code of a trace.
    Trace,
    /// In C code that a trace called.
    BelowTrace,
    /// In the interpreter, at a bytecode instruction.
    Bytecode,
    /// In C code that the interpreter called.
    C,
    /// Where this test cannot know the truth: between two states of the VM.
    Between,
}

struct Session<'a> {
    program: &'a Program,
    vm: Vm,
    keeper: TraceKeeper,
    annotations: Annotations,
}

impl Session<'_> {
    fn look(&mut self, regs: &libc::user_regs_struct) -> (At, Result<Vec<Place>, String>) {
        let memory = &self.program.memory;
        let build = self.vm.layout.build;
        let l = self.vm.reference(memory, build.cur_l);
        let jit_base = self.vm.reference(memory, build.jit_base);
        if self.vm.layout.build.trace != 0 {
            self.keeper.poll(memory, Instant::now()).unwrap();
        }
        if let Ok(trace) = self.keeper.find(regs.rip, Instant::now()) {
            let offset = regs.rip - trace.mcode;
            return (At::Trace, self.on_trace(l, jit_base, regs.rip, offset));
        }
        let Ok(state) = LuaState::read(memory, self.vm.layout.mode, l) else {
            return (At::Between, Ok(Vec::new()));
        };
        let (first, last) = self.vm.handlers;
        if jit_base == 0 && (first..last).contains(&regs.rip) {
            let base = regs.rdx
                & if self.vm.layout.mode == GcMode::Gc32 {
                    0xffff_ffff
                } else {
                    u64::MAX
                };
            let walk = self.walk(l, Base::at(base).with_pc(regs.rbx));
            let is_between = walk.as_ref().map_or(true, |(kinds, _)| {
                !matches!(kinds.first(), Some(FrameKind::Lua { pos: Some(_), .. }))
            });
            return match is_between {
                true => (At::Between, Ok(Vec::new())),
                false => (At::Bytecode, walk.map(|(kinds, _)| self.places(&kinds))),
            };
        }
        if state.cframe == 0 || regs.rsp + 8 >= state.cframe {
            return (At::Between, Ok(Vec::new()));
        }
        if jit_base == 0 {
            let walk = self.walk(l, Base::stored());
            let walk = walk.map_err(|why| format!("{why}, at {:#x}", regs.rip));
            return (At::C, walk.map(|(kinds, _)| self.places(&kinds)));
        }
        // Trace code is followed on the native stack by its spilled registers, then by the VM's frame.
        let depth = (state.cframe - regs.rsp) / 8;
        let returns = (1..=depth).filter_map(|back| {
            let at = state.cframe - 8 * back;
            let address = memory.read_u64(at).ok()?;
            let trace = self.keeper.find(address.wrapping_sub(1), Instant::now()).ok()?;
            // Left-over return addresses may lie among the spilled registers: the trace's own frame is
            // spadjust and 16 bytes.
            let spadjust = self.vm.spadjust(memory, trace.traceno);
            (state.cframe - at == 24 + spadjust).then_some((address, address - 1 - trace.mcode))
        });
        // The frame of one trace may hold what another left there: then nothing tells which is in use.
        match returns.collect::<Vec<_>>().as_slice() {
            &[(address, offset)] => (At::BelowTrace, self.on_trace(l, jit_base, address - 1, offset)),
            _ => (At::Between, Ok(Vec::new())),
        }
    }

    fn walk(&self, l: u64, base: Base) -> Result<(Vec<FrameKind>, LuaEnd), String> {
        let walk = frames(&self.program.memory, &self.vm.layout, l, base, SegmentEnd::Bottom)
            .map_err(|err| err.to_string())?;
        match walk.end {
            LuaEnd::Bottom => Ok((walk.frames.iter().map(|frame| frame.kind).collect(), walk.end)),
            end => Err(format!("{end:?} below {:x?}", walk.frames)),
        }
    }

    fn on_trace(&self, l: u64, jit_base: u64, pc: u64, offset: u64) -> Result<Vec<Place>, String> {
        let trace = self
            .keeper
            .find(pc, Instant::now())
            .map_err(|err| err.to_string())?;
        let expansion = expand(trace, offset).map_err(|err| err.to_string())?;
        let (below, _) = self.walk(l, Base::at(jit_base))?;
        let bottom = expansion.frames.last().and_then(|frame| frame.kind);
        let same = match (bottom, below.first()) {
            (Some(FrameKind::Lua { proto: a, .. }), Some(FrameKind::Lua { proto: b, .. })) => a == *b,
            _ => false,
        };
        if !same && !expansion.tail_called {
            return Err(format!("{bottom:?} is not {:?}, {expansion:?}", below.first()));
        }
        // A built-in function that the trace is not bound to has no kind; its bytecode is in the VM's state.
        let in_vm = self.vm.g..self.vm.g + u64::from(self.vm.layout.build.g2disp) + 0x880;
        let is_builtin = |frame: &InlinedFrame| frame.kind.is_none() && in_vm.contains(&frame.pc);
        let known = expansion.frames.iter().filter(|frame| !is_builtin(frame));
        let kinds: Option<Vec<_>> = known.map(|frame| frame.kind).collect();
        let mut kinds =
            kinds.ok_or_else(|| format!("a frame of unknown kind: {expansion:x?} in {trace:x?}"))?;
        kinds.extend(below.iter().skip(1));
        Ok(self.places(&kinds))
    }

    fn places(&self, kinds: &[FrameKind]) -> Vec<Place> {
        let place = |kind| {
            self.annotations
                .place(&self.program.memory, &self.vm.layout, kind)
        };
        kinds.iter().filter_map(place).collect()
    }
}

/// How many stops there were of each kind, what was wrong, and where the innermost frames were.
#[derive(Default)]
struct Seen {
    counts: BTreeMap<At, usize>,
    wrong: BTreeMap<At, Vec<String>>,
    leaves: BTreeMap<Place, usize>,
}

impl Seen {
    fn add(&mut self, annotations: &Annotations, (at, stack): (At, Result<Vec<Place>, String>)) {
        *self.counts.entry(at).or_default() += 1;
        if at == At::Between {
            return;
        }
        let why = match stack {
            Err(why) => Some(why),
            Ok(stack) => {
                if let Some(leaf) = stack.first() {
                    *self.leaves.entry(leaf.clone()).or_default() += 1;
                }
                let violation = annotations.violation(&stack, &ROOTS);
                violation.map(|why| format!("{why} in {stack:?}"))
            }
        };
        self.wrong.entry(at).or_default().extend(why);
    }

    fn print(&self) {
        for (at, count) in &self.counts {
            let wrong = self.wrong.get(at).map_or(&[][..], Vec::as_slice);
            eprintln!("  {at:?}: {count}, wrong {}", wrong.len());
            wrong.iter().take(5).for_each(|why| eprintln!("    {why}"));
        }
    }

    /// Nothing is wrong. While C code moves a Lua stack to another place (lj_state_growstack), the old one is
    /// freed and still referred to: then a walk may end early, and says so.
    fn assert_right(&self) {
        for (at, wrong) in &self.wrong {
            let (short, wrong): (Vec<_>, Vec<_>) = wrong.iter().partition(|why| why.starts_with("Broken"));
            // Steps stay in there for as long as copying takes.
            let few = if *at == At::C { 2 + self.counts[at] / 20 } else { 0 };
            assert!(
                short.len() <= few,
                "{at:?}: {} are short, as {}",
                short.len(),
                short[0]
            );
            assert!(
                wrong.is_empty(),
                "{at:?}: {} are wrong, as {}",
                wrong.len(),
                wrong[0]
            );
        }
    }
}

fn with_session<T>(luajit: &Path, script: &str, options: &[&str], run: impl FnOnce(&mut Session) -> T) -> T {
    let program = Program::start(luajit, script, options);
    let with_traces = !options.contains(&"-joff");
    let vm = program.stopped(|_| Vm::find(program.pid, &program.memory, with_traces));
    let vm = vm.unwrap_or_else(|| panic!("no VM in {}", luajit.display()));
    eprintln!("{} {options:?} {script} {:?}", luajit.display(), vm.layout.mode);
    let keeper = TraceKeeper::new(vm.layout, vm.g);
    let annotations = Annotations::of(script);
    run(&mut Session {
        program: &program,
        vm,
        keeper,
        annotations,
    })
}

fn at_random(luajit: &Path, script: &str, options: &[&str]) -> Seen {
    with_session(luajit, script, options, |session| {
        let mut seen = Seen::default();
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..stops() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            std::thread::sleep(Duration::from_micros(200 + random % 900));
            let found = session.program.stopped(|regs| session.look(regs));
            seen.add(&session.annotations, found);
        }
        seen.print();
        seen
    })
}

fn step_by_step(luajit: &Path, script: &str) -> Seen {
    with_session(luajit, script, &[], |session| {
        let mut seen = Seen::default();
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(3));
            session.program.stepped(stops() * 4, |regs| {
                let found = session.look(regs);
                seen.add(&session.annotations, found);
            });
        }
        seen.print();
        seen
    })
}

const ROOTS: [&str; 4] = ["main", "body", "inner", "fibonacci"];

#[test]
fn root_stacks_of_interpreted_code_follow_the_program() {
    for luajit in luajits() {
        at_random(&luajit, "calls.lua", &["-joff"]).assert_right();
    }
}

#[test]
fn root_stacks_of_compiled_code_follow_the_program() {
    for luajit in luajits() {
        at_random(&luajit, "calls.lua", &[]).assert_right();
    }
}

#[test]
fn root_every_instruction_of_a_recursive_trace_has_the_right_stack() {
    for luajit in luajits() {
        step_by_step(&luajit, "recursion.lua").assert_right();
    }
}

#[test]
fn root_every_instruction_of_all_kinds_of_calls_has_the_right_stack() {
    for luajit in luajits() {
        step_by_step(&luajit, "calls.lua").assert_right();
    }
}

#[test]
fn root_inlined_calls_have_the_shares_that_they_have_when_interpreted() {
    for luajit in luajits() {
        let share = |options: &[&str]| {
            let seen = at_random(&luajit, "inlined.lua", options);
            seen.assert_right();
            let total: usize = seen.leaves.values().sum();
            ["one", "two", "three"].map(|name| {
                let own = seen.leaves.iter().filter(|(place, _)| place.function == name);
                own.map(|(_, count)| count).sum::<usize>() as f64 / total as f64
            })
        };
        let (interpreted, compiled) = (share(&["-joff"]), share(&[]));
        eprintln!("  interpreted {interpreted:.3?}, compiled {compiled:.3?}");
        for (a, b) in interpreted.iter().zip(compiled) {
            assert!((a - b).abs() < 0.1, "{interpreted:.3?} and {compiled:.3?}");
        }
    }
}
