//! What a collector is: programs in one file of `bpf/`, and here what they measure and how they are attached.
//!
//! A collector owns one *event* of a recording. Its programs count each thing that happens, take the stack of what was
//! asked for (`bpf/stack.h`) and put up to [`VALUES`] numbers and a tag beside it; equal stacks are summed up in the
//! kernel where things happen often. All else (walking, Lua, symbols, accounting, files) is the same for every event.
//! `docs/adding-a-collector.md` makes one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use libbpf_rs::skel::Skel;
use libbpf_rs::{Link, MapCore, MapFlags, ProgramMut};
use moonscope_process::Pid;
use moonscope_unwind::abi;

use crate::error::ProbeError;
use crate::executables::LuaFile;
use crate::files::FileNames;
use crate::limits::Limits;
use crate::object::WalkLoop;
use crate::session::Scope;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};
use crate::statistics::{RunTime, program_info};

/// Numbers that an event has for each stack, besides how often it happened.
pub const VALUES: usize = abi::MS_VALUES as usize;

/// What one number of a sample means: a column of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// What is measured: `samples`, `offcpu`, …
    pub kind: &'static str,
    /// The unit, in the words of pprof: `count`, `nanoseconds`, `bytes`.
    pub unit: &'static str,
}

impl Column {
    /// A column.
    pub const fn new(kind: &'static str, unit: &'static str) -> Self {
        Self { kind, unit }
    }
}

/// An event as a person asked for it: `probe:p:libc.so.6:malloc` is the name `probe` with an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSpec {
    /// Which event.
    pub name: String,
    /// What stands behind its name.
    pub argument: Option<String>,
}

impl EventSpec {
    /// Takes `NAME` or `NAME:ARGUMENT` apart.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((name, argument)) => Self {
                name: name.to_owned(),
                argument: Some(argument.to_owned()),
            },
            None => Self {
                name: text.to_owned(),
                argument: None,
            },
        }
    }
}

/// What may be set for a recording's events, by name: `min-block` to nanoseconds and the like. A collector takes what
/// it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSettings(pub BTreeMap<&'static str, u64>);

impl EventSettings {
    /// A setting, if it was given.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

/// What a collector may look at when it is made ready.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Ticks per second and CPU.
    pub hz: u64,
    /// The CPUs that are running.
    pub cpus: &'a [u32],
    /// Sizes of the kernel side.
    pub limits: &'a Limits,
    /// Settings of events.
    pub settings: &'a EventSettings,
    /// Whose samples are wanted.
    pub scope: &'a Scope,
    /// The program of a command that has not started yet.
    pub program: Option<&'a Path>,
}

/// A collector of whatever kind.
pub type AnyCollector = Box<dyn Collector>;

/// One event of a recording, from before its programs are loaded to the names in the profile. What values mean is asked in
/// another thread while measuring goes on.
pub trait Collector: Send + Sync {
    /// The name under which it was asked for.
    fn name(&self) -> &'static str;

    /// What exactly is measured, in a word: where `cpu` is measured by a clock, the clock.
    fn measures(&self) -> &'static str {
        self.name()
    }

    /// The columns that it has in the profile.
    fn columns(&self) -> &'static [Column];

    /// Takes another argument of the same event, where one recording can have several; false: it cannot.
    fn add_argument(&mut self, _spec: &EventSpec) -> Result<bool, ProbeError> {
        Ok(false)
    }

    /// Opens what it needs besides programs. Called first.
    fn prepare(&mut self, _context: &Context<'_>) -> Result<(), ProbeError> {
        Ok(())
    }

    /// What whoever asked for it should know before anything is attached: what was found, what it will cost.
    fn announcement(&self) -> Vec<String> {
        Vec::new()
    }

    /// Its programs in `bpf/`: of those that walk, the name that both variants begin with.
    fn programs(&self) -> &'static [&'static str];

    /// Are its values summed up in the kernel?
    fn sums_up(&self) -> bool {
        false
    }

    /// Sets constants and sizes of maps, before the programs are loaded. `number` is the one of its event.
    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        limits: &Limits,
    ) -> Result<(), libbpf_rs::Error>;

    /// Looks at the target for a moment, with its programs, to tell what measuring will cost: lines for whoever asked. What
    /// it attaches is gone when this returns.
    fn try_out(&mut self, _programs: &mut Programs<'_>) -> Result<Vec<String>, ProbeError> {
        Ok(Vec::new())
    }

    /// Attaches the programs: the best way that this kernel takes.
    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError>;

    /// A process is wanted that was not there when the programs were attached.
    fn process_came(&mut self, _pid: Pid, _programs: &mut Programs<'_>) {}

    /// A process maps other code than when it came, as far as that was noticed: it executed another program, or loaded a
    /// library. It may be told of one that has changed nothing.
    fn process_changed(&mut self, _pid: Pid, _programs: &mut Programs<'_>) {}

    /// A process ended.
    fn process_went(&mut self, _pid: Pid) {}

    /// Looks after what is attached: called many times a second while it measures.
    fn tend(&mut self, _programs: &mut Programs<'_>) {}

    /// Attaches what belongs to files with LuaJIT: those that are known when it is attached, and whenever there are more.
    /// It is called with all of them each time.
    fn attach_to_lua(
        &mut self,
        _files: &[LuaFile<'_>],
        _programs: &mut Programs<'_>,
    ) -> Result<(), ProbeError> {
        Ok(())
    }

    /// Begins to measure.
    fn start(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        Ok(())
    }

    /// Measures no more when this returns; programs may still be attached.
    fn stop(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        Ok(())
    }

    /// What had begun in some threads when measuring ended, and lasts.
    fn unfinished(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Option<Unfinished> {
        None
    }

    /// Is something known of this thread now that was not when measuring ended? One that ran then and waits now was not there
    /// to be [`Unfinished::seen`].
    fn has_seen(&self, _tid: u32, _skel: &MoonscopeSkel<'static>) -> bool {
        false
    }

    /// Stacks that something has begun with that lasts: they must not be forgotten.
    fn held(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Vec<abi::ms_stack_id> {
        Vec::new()
    }

    /// What had begun when measuring ended, where its stack was taken then: sums of this event.
    fn lasting(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Vec<(abi::ms_sum_key, abi::ms_sum)> {
        Vec::new()
    }

    /// Is told of what the kernel side summed up for all events, each sum once and in their order.
    fn summed(&mut self, _sums: &[Leftover]) {}

    /// How it stands when an interval ends, all sums of which were told: sums of this event that are added to it, of stacks
    /// that were shipped. They say how much there is and not what happened, so their count is 0.
    /// `ended`: CLOCK_MONOTONIC, nanoseconds.
    fn standing(&mut self, _ended: u64, _skel: &mut MoonscopeSkel<'static>) -> Vec<Leftover> {
        Vec::new()
    }

    /// Is a sum of this tag one of [`Collector::standing`]? Where intervals are put together, the last one counts.
    fn is_standing(&self, _tag: u32) -> bool {
        false
    }

    /// How often the kernel did not run its programs because they, or others, ran on the same CPU, as far as it tells: what
    /// happened then is lost, if it was wanted.
    fn missed(&self, skel: &MoonscopeSkel<'static>) -> u64 {
        missed_runs(skel, self.programs())
    }

    /// What the files are called whose numbers its tags have; told when all is recorded.
    fn learn_files(&mut self, _files: &Arc<FileNames>) {}

    /// What else is to be added at the end to stacks that were shipped, as [`Collector::sums_up`] has them: what is
    /// left over of what was counted before, so their count is 0.
    fn leftovers(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Vec<Leftover> {
        Vec::new()
    }

    /// How it measures, in words: `by cpu-clock at 99 Hz`.
    fn how(&self) -> String;

    /// The numbers of its columns for what was summed up.
    fn row(&self, tag: u32, sum: &abi::ms_sum) -> Vec<i64>;

    /// Time that the thread spent, on a CPU or waiting: a part of `wall`.
    fn wall_time(&self, _tag: u32, _sum: &abi::ms_sum) -> i64 {
        0
    }

    /// The tag of something unfinished, now that the system call is known in which the thread waits; `None`: there is
    /// nothing of this event in it.
    fn tag_in_call(&self, tag: u32, _call: Option<u32>) -> Option<u32> {
        Some(tag)
    }

    /// Names of the labels that it gives.
    fn label_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Lines about all that was measured, for the end of a recording; sums are by tag.
    fn summary(&self, _sums: &BTreeMap<u32, abi::ms_sum>) -> Vec<String> {
        Vec::new()
    }

    /// The label that says what a coroutine called to wait, of stacks that are those of a coroutine.
    fn site_label(&self) -> Option<&'static str> {
        None
    }

    /// Labels of a tag. `kernel` are the names of the kernel's functions on the stack, leaf first.
    fn labels(&self, _tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// What is added to a stack at the end.
pub type Leftover = (abi::ms_sum_key, abi::ms_sum);

/// What had begun in some threads when measuring ended.
#[derive(Clone, Debug, Default)]
pub struct Unfinished {
    /// By thread: tag and values, as of a sample.
    pub known: BTreeMap<u32, (u32, abi::ms_sum)>,
    /// These and others of which something is known that was not asked for.
    pub seen: BTreeSet<u32>,
    /// The same of each thread that waits and was not seen at all: it has done so since measuring began.
    pub unseen: Option<(u32, abi::ms_sum)>,
}

/// The loaded programs of one collector, to attach.
pub struct Programs<'a> {
    /// The object.
    pub skel: &'a mut MoonscopeSkel<'static>,
    /// Which variant of those that walk was loaded.
    pub walk_loop: WalkLoop,
    pub(crate) links: &'a mut Vec<Link>,
}

impl Programs<'_> {
    /// Attaches a program to what its section in `bpf/` says.
    pub fn attach(&mut self, name: &'static str) -> Result<(), ProbeError> {
        let link = self.with(name, |program| program.attach())?;
        self.links.push(link);
        Ok(())
    }

    /// Attaches a program to perf events.
    pub fn attach_perf_events(&mut self, name: &'static str, events: &[impl AsFd]) -> Result<(), ProbeError> {
        self.attach_perf_events_with(name, events, |program, event| program.attach_perf_event(event))
    }

    /// The same in another way.
    pub fn attach_perf_events_with(
        &mut self,
        name: &'static str,
        events: &[impl AsFd],
        attach: impl Fn(&ProgramMut<'_>, RawFd) -> libbpf_rs::Result<Link>,
    ) -> Result<(), ProbeError> {
        for event in events {
            // libbpf takes the event over and closes it with the link; the collector keeps its own
            let own = rustix::io::fcntl_dupfd_cloexec(event, 3).map_err(|err| ProbeError::Io {
                what: "cannot duplicate a file descriptor",
                source: err.into(),
            })?;
            let link = self.with(name, |program| attach(program, own.into_raw_fd()))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Attaches a program in some other way.
    pub fn with(
        &mut self,
        name: &'static str,
        attach: impl FnOnce(&ProgramMut<'_>) -> libbpf_rs::Result<Link>,
    ) -> Result<Link, ProbeError> {
        let walk_loop = self.walk_loop;
        let object = self.skel.object();
        let found = object.progs_mut().find(|program| {
            program
                .name()
                .to_str()
                .is_some_and(|other| is_program(other, name, walk_loop))
        });
        let source = match found {
            Some(program) => match attach(&program) {
                Ok(link) => return Ok(link),
                Err(source) => source,
            },
            None => libbpf_rs::Error::from_raw_os_error(libc::ENOENT),
        };
        Err(ProbeError::Attach {
            program: name,
            source,
        })
    }
}

/// Is this program of the object the one that a collector calls `name`?
pub fn is_program(program: &str, name: &str, walk_loop: WalkLoop) -> bool {
    match program.strip_prefix(name) {
        Some("") => true,
        Some("_bpf_loop") => walk_loop == WalkLoop::BpfLoop,
        Some("_plain_loop") => walk_loop == WalkLoop::PlainLoop,
        _ => false,
    }
}

/// The stacks in the values of a map: each value has one `struct ms_stack_id` at this place.
pub fn stacks_in(map: &impl MapCore, at: usize) -> Vec<abi::ms_stack_id> {
    let stack = |key: Vec<u8>| {
        let value = map.lookup(&key, MapFlags::ANY).ok()??;
        let word = |at: usize| Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
        let (a, b) = (word(at)?, word(at + 8)?);
        ((a, b) != (0, 0)).then_some(abi::ms_stack_id { a, b })
    };
    map.keys().filter_map(stack).collect()
}

/// How often the kernel did not run these programs (Linux 5.12). Of tracepoints, one does not run where it runs already: since
/// Linux 7.0 that is where it was preempted.
pub fn missed_runs(skel: &MoonscopeSkel<'static>, programs: &[&str]) -> u64 {
    let is_one = |name: &str| {
        let loops = [WalkLoop::BpfLoop, WalkLoop::PlainLoop];
        let is_called = |wanted: &&str| loops.iter().any(|&walk_loop| is_program(name, wanted, walk_loop));
        programs.iter().any(is_called)
    };
    let loaded = skel.object().progs_mut();
    let ours = loaded.filter(|program| program.autoload() && is_one(&program.name().to_string_lossy()));
    ours.filter_map(|program| program_info(&program))
        .map(|info| info.recursion_misses)
        .sum()
}

/// Time spent in the programs of a collector so far; zero unless the kernel's statistics are on.
pub fn run_time(collector: &dyn Collector, skel: &MoonscopeSkel<'static>, walk_loop: WalkLoop) -> RunTime {
    let mut total = RunTime::default();
    for program in skel.object().progs_mut() {
        let name = program.name().to_string_lossy();
        let is_ours = |wanted: &&str| is_program(&name, wanted, walk_loop);
        if collector.programs().iter().any(is_ours)
            && let Some(info) = program_info(&program)
        {
            total.nanoseconds += info.run_time_ns;
            total.runs += info.run_cnt;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_may_have_an_argument_with_colons() {
        assert_eq!(EventSpec::parse("cpu").argument, None);
        let probe = EventSpec::parse("probe:p:libc.so.6:malloc");
        assert_eq!(
            (probe.name.as_str(), probe.argument.as_deref()),
            ("probe", Some("p:libc.so.6:malloc"))
        );
    }

    #[test]
    fn a_program_has_one_variant_for_each_loop() {
        assert!(is_program("cpu_tick_bpf_loop", "cpu_tick", WalkLoop::BpfLoop));
        assert!(!is_program("cpu_tick_bpf_loop", "cpu_tick", WalkLoop::PlainLoop));
        assert!(is_program("process_fork", "process_fork", WalkLoop::PlainLoop));
        assert!(!is_program("process_fork", "process", WalkLoop::PlainLoop));
    }
}
