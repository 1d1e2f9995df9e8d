//! The BPF object: settings in, programs verified, the first walker loop that this kernel takes.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, MapType, OpenObject, PrintLevel};
use moonscope_unwind::abi;

use crate::clock::possible_cpus;
use crate::collector::{AnyCollector, Programs, is_program};
use crate::empty_sections;
use crate::error::ProbeError;
use crate::file_limit;
use crate::kernel_types::preempts_tracepoints;
use crate::limits::Limits;
use crate::memlock;
use crate::skeleton::{MoonscopeSkel, MoonscopeSkelBuilder, OpenMoonscopeSkel};

/// Which loop walks the user stack in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkLoop {
    /// The helper `bpf_loop` (Linux 5.17).
    BpfLoop,
    /// A plain bounded loop around a function that is verified once.
    PlainLoop,
}

impl WalkLoop {
    /// A few words for a report.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::BpfLoop => "in the kernel (bpf_loop)",
            Self::PlainLoop => "in the kernel (plain loop)",
        }
    }
}

/// What is constant while the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `enum ms_scope`.
    pub scope: u32,
    /// Cgroup id and level for `MS_SCOPE_CGROUP`.
    pub cgroup: (u64, u32),
    /// Later children of targets are targets.
    pub follow_forks: bool,
    /// Tell of every exec on the machine, so that names can be matched.
    pub report_all_execs: bool,
    /// User frames at most.
    pub max_depth: u32,
    /// Take kernel stacks.
    pub kernel_stacks: bool,
    /// Take user stacks.
    pub user_stacks: bool,
    /// Put the logical parents of ngx_lua's coroutines above them.
    pub coroutine_parents: bool,
    /// Ship registers and stack with every sample, to compare the walkers.
    pub always_copy_stack: bool,
    /// Use this loop and no other (tests).
    pub force_loop: Option<WalkLoop>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scope: abi::MS_SCOPE_ALL,
            cgroup: (0, 0),
            follow_forks: true,
            report_all_execs: false,
            max_depth: abi::MS_DEFAULT_DEPTH,
            kernel_stacks: true,
            user_stacks: true,
            coroutine_parents: false,
            always_copy_stack: false,
            force_loop: None,
        }
    }
}

/// Programs that every recording needs (`bpf/lifecycle.bpf.h`).
pub const LIFECYCLE: [&str; 3] = ["process_fork", "process_exec", "process_exit"];

/// `SCRATCH_LEVELS` of `bpf/scratch.h`, for each CPU: for ticks, tracepoints, and who wakes; each takes 90 KiB.
const SCRATCH_LEVELS: u32 = 3;

/// `SPARE_SCRATCHES` of `bpf/scratch.h`: as large, for programs that are preempted.
const SPARE_SCRATCHES: u32 = 4;

/// Has spare scratches behind the others: a collector needs them whose programs may be preempted.
pub(crate) fn add_spare_scratches(open: &mut OpenMoonscopeSkel<'static>) -> Result<(), libbpf_rs::Error> {
    // `ms_cpus_mask` says where they begin
    let cpus = possible_cpus().unwrap_or(1).next_power_of_two() as u32;
    open.maps
        .scratches
        .set_max_entries(cpus * (SCRATCH_LEVELS + SPARE_SCRATCHES))
}

/// Those that are large, and are written through the memory they are mapped to (`shared_array`).
const EMPTY_SECTIONS: [&str; 3] = [".bss.words", ".bss.rules", ".bss.mappings"];

/// Files that libbpf opens besides maps and programs: type information, and what it tries the kernel's features with.
const FILES_WHILE_LOADING: usize = 8;

/// The loaded object. Programs are detached and maps freed when it is dropped.
pub struct Object {
    pub(crate) skel: MoonscopeSkel<'static>,
    /// Which loop the kernel took.
    pub walk_loop: WalkLoop,
    /// CPU numbers that the kernel side has room for.
    pub cpus: usize,
    links: Vec<Link>,
}

impl Object {
    /// Loads the object with the first walker loop that the kernel takes.
    pub fn load(
        settings: &Settings,
        limits: &Limits,
        collectors: &mut [AnyCollector],
    ) -> Result<Self, ProbeError> {
        if let Some(only) = settings.force_loop {
            return Self::load_with(only, settings, limits, collectors);
        }
        Self::load_with(WalkLoop::BpfLoop, settings, limits, collectors).or_else(|first| match first {
            // the other loop does not change what is missing
            ProbeError::NotPermitted { .. }
            | ProbeError::Memlock { .. }
            | ProbeError::TooManyFiles { .. }
            | ProbeError::NoBtf { .. }
            | ProbeError::LockedDown => Err(first),
            _ => Self::load_with(WalkLoop::PlainLoop, settings, limits, collectors),
        })
    }

    fn load_with(
        walk_loop: WalkLoop,
        settings: &Settings,
        limits: &Limits,
        collectors: &mut [AnyCollector],
    ) -> Result<Self, ProbeError> {
        let cpus = possible_cpus()?;
        let messages = Messages::capture();
        let refused = |err: libbpf_rs::Error| match err.kind() {
            libbpf_rs::ErrorKind::PermissionDenied if !messages.mention_verifier() => {
                match memlock::limit_that_refuses() {
                    Some(limit) => ProbeError::Memlock { kib: limit >> 10 },
                    None => ProbeError::NotPermitted {
                        what: "cannot load BPF programs",
                    },
                }
            }
            // libbpf looks for a vmlinux in /boot and elsewhere first
            _ if messages.mention("Error loading vmlinux BTF") => ProbeError::NoBtf {
                reason: btf_problem(),
            },
            _ if messages.mention_refused_kernel_reads() => ProbeError::LockedDown,
            _ if messages.mention("EMFILE") => ProbeError::Io {
                what: "cannot load BPF programs",
                source: std::io::Error::from_raw_os_error(libc::EMFILE),
            }
            .or_file_limit(),
            _ => ProbeError::Load {
                reason: messages.last_words(&err),
            },
        };

        // the skeleton borrows this for as long as it lives, which is as long as the program records
        let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = MoonscopeSkelBuilder::default().open(storage).map_err(&refused)?;
        // of the collectors only what is asked for
        for mut program in open.open_object_mut().progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let is_wanted = |wanted: &&str| is_program(&name, wanted, walk_loop);
            let wanted = LIFECYCLE.iter().any(&is_wanted)
                || collectors
                    .iter()
                    .any(|collector| collector.programs().iter().any(&is_wanted));
            program.set_autoload(wanted);
        }
        let Some(constants) = open.maps.rodata_data.as_deref_mut() else {
            return Err(ProbeError::Load {
                reason: "the object has no settings section".into(),
            });
        };
        constants.ms_scope = settings.scope;
        (constants.ms_cgroup_id, constants.ms_cgroup_level) = settings.cgroup;
        constants.ms_follow_forks = settings.follow_forks;
        constants.ms_report_all_execs = settings.report_all_execs;
        constants.ms_max_depth = settings.max_depth;
        constants.ms_want_kernel = settings.kernel_stacks;
        constants.ms_want_user = settings.user_stacks;
        constants.ms_want_parents = settings.coroutine_parents;
        constants.ms_always_copy = settings.always_copy_stack;
        constants.ms_words_mask = limits.words as u64 - 1;
        constants.ms_tables_mask = limits.tables as u64 - 1;
        constants.ms_mappings_mask = limits.mappings as u64 - 1;
        let counters = cpus.next_power_of_two();
        constants.ms_cpus_mask = counters as u64 - 1;
        constants.ms_hash_seed = [random(), random()];
        constants.ms_tracepoints_are_preempted = preempts_tracepoints();

        let maps = &mut open.maps;
        maps.bss_words
            .set_value_size((limits.words * 4) as u32)
            .map_err(&refused)?;
        maps.bss_tables
            .set_value_size((limits.tables * size_of::<abi::ms_table>()) as u32)
            .map_err(&refused)?;
        maps.bss_mappings
            .set_value_size((limits.mappings * size_of::<abi::ms_mapping>()) as u32)
            .map_err(&refused)?;
        maps.bss_counters
            .set_value_size((counters * size_of::<abi::ms_counters>()) as u32)
            .map_err(&refused)?;
        maps.processes
            .set_max_entries(limits.processes as u32)
            .map_err(&refused)?;
        maps.lua_processes
            .set_max_entries(limits.processes as u32)
            .map_err(&refused)?;
        maps.targets
            .set_max_entries(limits.targets as u32)
            .map_err(&refused)?;
        maps.scratches
            .set_max_entries(cpus as u32 * SCRATCH_LEVELS)
            .map_err(&refused)?;
        let stacks = if collectors.iter().any(|collector| collector.sums_up()) {
            limits.stacks as u32
        } else {
            1
        };
        maps.shipped_stacks.set_max_entries(stacks).map_err(&refused)?;
        maps.sums_even.set_max_entries(stacks).map_err(&refused)?;
        maps.sums_odd.set_max_entries(stacks).map_err(&refused)?;
        maps.events.set_max_entries(limits.ring_bytes).map_err(&refused)?;

        for mut map in open.open_object_mut().maps_mut() {
            if EMPTY_SECTIONS.iter().any(|section| map.name() == *section) {
                empty_sections::make(&mut map).map_err(&refused)?;
            }
        }
        // a kind of map that not all kernels have: whoever needs one asks for it
        for mut map in open.open_object_mut().maps_mut() {
            if map.map_type() == MapType::TaskStorage {
                map.set_autocreate(false).map_err(&refused)?;
            }
        }
        for (number, collector) in collectors.iter_mut().enumerate() {
            collector
                .configure(number as u32, &mut open, limits)
                .map_err(&refused)?;
        }

        let object = open.open_object();
        let maps = object.maps().filter(|map| map.autocreate()).count();
        let programs = object.progs().filter(|program| program.autoload()).count();
        file_limit::check(maps + programs + FILES_WHILE_LOADING)?;
        let skel = open.load().map_err(&refused)?;
        empty_sections::map_in(skel.object(), &EMPTY_SECTIONS).map_err(&refused)?;
        Ok(Self {
            skel,
            walk_loop,
            cpus,
            links: Vec::new(),
        })
    }

    /// Attaches the programs that notice processes beginning, changing and ending.
    pub fn attach_lifecycle(&mut self) -> Result<(), ProbeError> {
        let mut programs = self.programs();
        for name in LIFECYCLE {
            programs.attach(name)?;
        }
        Ok(())
    }

    /// The programs, for a collector to attach.
    pub fn programs(&mut self) -> Programs<'_> {
        Programs {
            skel: &mut self.skel,
            walk_loop: self.walk_loop,
            links: &mut self.links,
        }
    }

    /// Detaches everything.
    pub fn detach(&mut self) {
        self.links.clear();
    }
}

/// What is wrong with the kernel's own type information; that no other file has it is known.
fn btf_problem() -> String {
    match std::fs::File::open("/sys/kernel/btf/vmlinux") {
        Ok(_) => "libbpf cannot read it".to_owned(),
        Err(err) => moonscope_process::reason(&err),
    }
}

/// A number that no program can foresee.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

thread_local! {
    static MESSAGES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What libbpf says while it loads: kept for the error message and not printed.
struct Messages;

/// More lines than any message needs; the verifier's log can have a hundred thousand.
const KEPT_LINES: usize = 400;

impl Messages {
    fn capture() -> Self {
        fn keep(_level: PrintLevel, text: String) {
            MESSAGES.with_borrow_mut(|lines| {
                lines.extend(text.lines().map(str::to_owned));
                let excess = lines.len().saturating_sub(KEPT_LINES);
                lines.drain(..excess);
            });
        }
        MESSAGES.with_borrow_mut(Vec::clear);
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep)));
        Self
    }

    fn mention(&self, word: &str) -> bool {
        MESSAGES.with_borrow(|lines| lines.iter().any(|line| line.contains(word)))
    }

    /// Every kernel from 5.10 on has these helpers; one that is locked down denies it (bpf_tracing_func_proto,
    /// LOCKDOWN_BPF_READ_KERNEL). That CAP_PERFMON is missing is told before: such programs are not looked at.
    fn mention_refused_kernel_reads(&self) -> bool {
        // libbpf takes the second, older helper where the first one is refused
        let helpers = ["bpf_probe_read_kernel#", "bpf_probe_read#"];
        // the second since Linux 6.10
        let refusals = ["unknown func", "cannot use helper"];
        MESSAGES.with_borrow(|lines| {
            lines.iter().any(|line| {
                helpers.iter().any(|helper| line.contains(helper))
                    && refusals.iter().any(|refusal| line.contains(refusal))
            })
        })
    }

    fn mention_verifier(&self) -> bool {
        MESSAGES.with_borrow(|lines| lines.iter().any(|line| line.starts_with("processed ")))
    }

    /// What the verifier objected to: the line before its summary; else the last things libbpf said.
    fn last_words(&self, err: &libbpf_rs::Error) -> String {
        MESSAGES.with_borrow(|lines| {
            if std::env::var_os("MOONSCOPE_VERIFIER_LOG").is_some() {
                lines.iter().for_each(|line| eprintln!("{line}"));
            }
            let summary = lines.iter().rposition(|line| line.starts_with("processed "));
            let said: Vec<&str> = match summary {
                Some(at) => lines[at.saturating_sub(1)..at]
                    .iter()
                    .map(|line| line.trim())
                    .collect(),
                None => lines
                    .iter()
                    .map(|line| line.trim_start_matches("libbpf: ").trim())
                    .filter(|line| !line.is_empty() && !line.starts_with("--"))
                    .collect(),
            };
            match said[said.len().saturating_sub(3)..] {
                [] => err.to_string(),
                ref last => last.join("; "),
            }
        })
    }
}
