//! Where the probes of `alloc` are: files with an allocator, and the processes that map them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use libbpf_rs::Link;
use moonscope_process::{Executable, Pid, Process, counted, list};
use rustc_hash::FxHashMap;

use super::allocator::Allocator;
use super::overhead::cpu_time;
use crate::breakpoints::files::{FileId, TargetFiles, code_of, id_of};
use crate::breakpoints::set::{Way, set_all};
use crate::collector::Programs;
use crate::error::ProbeError;
use crate::perf_event::Whose;
use crate::session::Scope;

/// A file as the kernel tells it from others: device and inode.
type Inode = (u64, u64);

/// A file with an allocator.
struct Probed {
    file: Arc<Executable>,
    inode: Inode,
    /// How many processes map it that are not asked for.
    others: usize,
    allocator: Allocator,
}

impl Probed {
    /// `None`: there is none in it, or it is our own program.
    fn look(file: Arc<Executable>, others: usize) -> Option<Arc<Self>> {
        let inode = inode_of(&file.fd_path()?)?;
        if inode_of("/proc/self/exe".as_ref()) == Some(inode) {
            return None;
        }
        let allocator = Allocator::find(&file)?;
        Some(Arc::new(Self {
            file,
            inode,
            others,
            allocator,
        }))
    }

    fn name(&self) -> String {
        moonscope_process::visible(self.file.name()).to_string()
    }
}

fn inode_of(path: &Path) -> Option<Inode> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Which processes a breakpoint may be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reach {
    /// In all: all are asked for.
    #[default]
    Everybody,
    /// In those that are asked for, one by one, unless nobody else maps the file: then whatever they start has it from its
    /// first instruction on.
    Processes,
    /// In those of a control group, one by one: who belongs to it changes.
    Cgroup,
}

/// Of a process.
struct OfProcess {
    /// Its CPU time when it was looked at last.
    cpu_time: u64,
    has_allocator: bool,
}

/// Files, processes and probes.
#[derive(Default)]
pub struct Placed {
    reach: Reach,
    target: TargetFiles,
    /// What is known of each file that was looked into, by what `/proc/PID/maps` says of it.
    files: FxHashMap<FileId, Option<Arc<Probed>>>,
    processes: BTreeMap<Pid, OfProcess>,
    /// The target is a command that has not started yet.
    is_waiting: bool,
    /// Not attached yet.
    found: Vec<(Whose, Arc<Probed>)>,
    /// Where probes are, or will be.
    places: BTreeSet<(Whose, Inode)>,
    links: BTreeMap<Whose, Vec<Link>>,
    /// Probes are taken away here: that takes the kernel some milliseconds for each.
    background: Vec<JoinHandle<()>>,
    /// Names of files with an allocator, and its functions.
    names: BTreeMap<String, Vec<String>>,
    unclear: BTreeSet<String>,
    failed: BTreeSet<String>,
    is_slow: bool,
    way: Way,
}

impl Placed {
    /// Looks for allocators in what the target maps, or in what a command will when it starts. Fails if there is somebody to
    /// look at, and no allocator in anybody.
    pub fn look(scope: &Scope, program: Option<&Path>, way: Way) -> Result<Self, ProbeError> {
        let (reach, pids) = match scope {
            Scope::All => {
                let all = list::processes().unwrap_or_default();
                (Reach::Everybody, all.iter().map(|process| process.pid).collect())
            }
            Scope::Processes(pids) => (Reach::Processes, pids.clone()),
            Scope::Cgroup { members, .. } => (Reach::Cgroup, members.clone()),
        };
        let mut placed = Self {
            reach,
            target: TargetFiles::look(scope, program),
            is_waiting: program.is_some(),
            way,
            ..Self::default()
        };
        // whoever will execute another program has nothing yet that matters
        if program.is_some() {
            for file in placed.target.at_start() {
                let Some(probed) = Probed::look(file.executable, file.others) else {
                    continue;
                };
                for &pid in &pids {
                    placed.add(pid, &probed);
                }
            }
        } else {
            pids.iter().for_each(|&pid| placed.look_at(pid));
        }
        if placed.found.is_empty() && !pids.is_empty() {
            return Err(no_allocator(&pids, program));
        }
        Ok(placed)
    }

    /// How probes are attached.
    pub fn way(&self) -> Way {
        self.way
    }

    /// A process came, which maps what its parent does.
    pub fn came(&mut self, pid: Pid) {
        match self.reach {
            Reach::Everybody => self.note(pid).has_allocator = true,
            Reach::Processes | Reach::Cgroup => self.look_at(pid),
        }
    }

    fn note(&mut self, pid: Pid) -> &mut OfProcess {
        self.processes.entry(pid).or_insert_with(|| OfProcess {
            cpu_time: cpu_time(pid),
            has_allocator: false,
        })
    }

    /// Looks for allocators in what a process maps.
    pub fn look_at(&mut self, pid: Pid) {
        self.note(pid);
        let mut seen = BTreeSet::new();
        for mapping in code_of(pid) {
            let id = id_of(&mapping);
            if !seen.insert(id) {
                continue;
            }
            let others = self.target.others(&id);
            let look = || {
                let file = Executable::open(pid, &mapping).ok()?;
                Probed::look(Arc::new(file), others)
            };
            let probed = self.files.entry(id).or_insert_with(look).clone();
            if let Some(probed) = probed {
                self.add(pid, &probed);
            }
        }
    }

    fn add(&mut self, pid: Pid, probed: &Arc<Probed>) {
        self.note(pid).has_allocator = true;
        let whose = match self.reach {
            Reach::Everybody => Whose::Everybody,
            Reach::Processes if probed.others == 0 => Whose::Everybody,
            Reach::Processes | Reach::Cgroup => Whose::Process(pid),
        };
        let is_in_all = self.places.contains(&(Whose::Everybody, probed.inode));
        if is_in_all || !self.places.insert((whose, probed.inode)) {
            return;
        }
        let (name, allocator) = (probed.name(), &probed.allocator);
        let unclear = allocator.unclear.iter();
        self.unclear
            .extend(unclear.map(|function| format!("{function} of {name}")));
        self.is_slow |= allocator.is_slow;
        self.names.insert(name, allocator.functions.clone());
        self.found.push((whose, Arc::clone(probed)));
    }

    /// Are there files with [`Allocator::is_slow`]?
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// What was found, in lines.
    pub fn announce(&self) -> Vec<String> {
        let lines = self.names.iter().map(|(name, functions)| {
            format!(
                "{} in {name}: {}",
                counted(functions.len(), "function"),
                functions.join(", ")
            )
        });
        lines.collect()
    }

    /// The files, in a few words.
    pub fn files(&self) -> String {
        let names: Vec<&str> = self.names.keys().map(String::as_str).collect();
        match names[..] {
            [] => "no file".to_owned(),
            ref names => names.join(", "),
        }
    }

    /// The processes that have an allocator, in words; `None`: none runs yet.
    pub fn running(&self) -> Option<String> {
        if self.is_waiting {
            return None;
        }
        let with = self.processes.values().filter(|process| process.has_allocator);
        match with.count() {
            0 => None,
            1 => Some("the process".to_owned()),
            many => Some(format!("{many} processes")),
        }
    }

    /// CPU time of all processes that were looked at.
    pub fn cpu_time(&self) -> u64 {
        self.processes.keys().map(|&pid| cpu_time(pid)).sum()
    }

    /// CPU time that they used since this was last asked.
    pub fn cpu_time_since(&mut self) -> u64 {
        let mut used = 0;
        for (&pid, process) in &mut self.processes {
            let now = cpu_time(pid);
            used += now.saturating_sub(process.cpu_time);
            process.cpu_time = now;
        }
        used
    }

    /// Puts probes that count calls where allocators were found.
    pub fn attach_counting(&self, programs: &mut Programs<'_>) -> Result<Vec<Link>, ProbeError> {
        let mut links = Vec::new();
        for (whose, probed) in &self.found {
            let Some(path) = probed.file.fd_path() else {
                continue;
            };
            let set = set_all(&probed.allocator.counting, &path, *whose, self.way, programs);
            links.extend(set.links);
            if let Some((_, err)) = set.failed.into_iter().next()
                && !is_gone(*whose)
            {
                return Err(err);
            }
        }
        Ok(links)
    }

    /// Puts the probes of a recording where allocators were found. Fails if none could be put anywhere.
    pub fn attach_found(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        for (whose, probed) in std::mem::take(&mut self.found) {
            let Some(path) = probed.file.fd_path() else {
                continue;
            };
            let set = set_all(&probed.allocator.probes, &path, whose, self.way, programs);
            let is_first = self.links.is_empty() && set.links.is_empty();
            self.links.entry(whose).or_default().extend(set.links);
            if set.failed.is_empty() {
                continue;
            }
            if is_gone(whose) {
                // what it executes may map the same file
                self.places.remove(&(whose, probed.inode));
                continue;
            }
            let name = probed.name();
            for (place, err) in set.failed {
                if is_first {
                    return Err(err);
                }
                self.failed
                    .insert(format!("alloc: no probe at {:#x} of {name}: {err}", place.offset));
            }
        }
        Ok(())
    }

    /// A process ended.
    pub fn forget(&mut self, pid: Pid) {
        self.processes.remove(&pid);
        let whose = Whose::Process(pid);
        self.places.retain(|(place, _)| *place != whose);
        self.found.retain(|(found, _)| *found != whose);
        if let Some(links) = self.links.remove(&whose) {
            self.drop_in_background(links);
        }
    }

    /// Takes probes away, without waiting for it.
    fn drop_in_background(&mut self, links: Vec<Link>) {
        self.background.retain(|thread| !thread.is_finished());
        self.background.push(std::thread::spawn(move || drop(links)));
    }

    /// Takes all probes away; none is left when this returns.
    pub fn remove_all(&mut self) {
        self.found.clear();
        for (_, links) in std::mem::take(&mut self.links) {
            self.drop_in_background(links);
        }
        for thread in std::mem::take(&mut self.background) {
            // that it panicked was told by itself
            let _ = thread.join();
        }
    }

    /// What a person should know at the end.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self.failed.iter().cloned().collect();
        if !self.unclear.is_empty() {
            let functions: Vec<_> = self.unclear.iter().cloned().collect();
            remarks.push(format!(
                "alloc: not each way out of these is known, some allocations may be missing: {}",
                functions.join(", ")
            ));
        }
        remarks
    }
}

/// Has the process ended meanwhile?
fn is_gone(whose: Whose) -> bool {
    let Whose::Process(pid) = whose else {
        return false;
    };
    match Process::find(pid) {
        Ok(process) => process.is_zombie,
        Err(err) => err.is_gone(),
    }
}

fn no_allocator(pids: &BTreeSet<Pid>, program: Option<&Path>) -> ProbeError {
    /// So many are named.
    const SHOWN: usize = 5;
    let name = |pid: &Pid| match Process::find(*pid) {
        Ok(process) => format!("{pid} ({})", moonscope_process::visible(&process.comm)),
        Err(_) => pid.to_string(),
    };
    let names: Vec<String> = match program {
        Some(program) => vec![moonscope_process::visible(program).to_string()],
        None => pids.iter().take(SHOWN).map(name).collect(),
    };
    let more = if pids.len() > SHOWN { ", …" } else { "" };
    ProbeError::NoAllocator {
        processes: format!("{}{more}", names.join(", ")),
    }
}
