//! Who is looked at: the arguments of a target, and the processes that they mean.

pub mod access;
mod near;
mod select;

use crate::exit::{Code, Failure};
use crate::number;
use moonscope_process::cgroup::{self, Cgroup};
use moonscope_process::{Pid, Process, process};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where `--help` lists them.
const HEADING: &str = "Target (one of)";

/// The options that say who is looked at.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TargetArgs {
    /// A process, with all its threads and later children; may be given several times
    #[arg(help_heading = HEADING, short, long, value_name = "PID", value_delimiter = ',',
          value_parser = number::pid)]
    pub pid: Vec<Pid>,

    /// Processes of this name (as in /proc/PID/comm), also those that start with it or take it later. Whoever had it once
    /// stays, with all later children, also under another name; may be given several times
    #[arg(help_heading = HEADING, long, value_name = "NAME")]
    pub comm: Vec<String>,

    /// Processes that run this program: a path, here or as the process sees it, or a file name
    #[arg(help_heading = HEADING, long, value_name = "PATH")]
    pub exe: Vec<PathBuf>,

    /// A control group and all below it: its directory, or its path as in /proc/PID/cgroup
    #[arg(help_heading = HEADING, long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// A container of docker, podman, containerd or cri-o: its id, the begin of its id, or its name
    #[arg(help_heading = HEADING, long, value_name = "ID|NAME")]
    pub container: Option<String>,

    /// The nginx (or OpenResty) of this pid file, else every one: master, workers, and workers after a reload
    #[arg(help_heading = HEADING, long, value_name = "PIDFILE", num_args = 0..=1, require_equals = true)]
    pub nginx: Option<Option<PathBuf>>,

    /// The whole machine
    #[arg(help_heading = HEADING, short, long)]
    pub all: bool,

    /// Starts this command and looks at it until it ends
    #[arg(help_heading = HEADING, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A target: what it is called, and which processes belong to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// For titles and the last lines: `process 4321 (nginx)`, `container web (docker 4f1c2a9be0d3)`.
    /// Fit for a terminal; names of others are escaped.
    pub what: String,
    /// Which processes.
    pub scope: Scope,
}

/// Which processes belong to a target.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All.
    All,
    /// These, their later children, and those that the rules match when they appear.
    Processes {
        /// Process ids (thread groups).
        pids: BTreeSet<Pid>,
        /// What makes a later process one of them.
        rules: Rules,
    },
    /// Those in a control group, and below.
    Cgroup {
        /// The group; `v2_id` and `v2_level` are what the kernel side compares, where they are known.
        cgroup: Box<Cgroup>,
        /// Its processes now.
        pids: BTreeSet<Pid>,
    },
    /// A command that is to be started, and its children.
    Command {
        /// The program, found in `PATH`.
        program: PathBuf,
        /// Its arguments, the first one being its name as it was typed.
        argv: Vec<OsString>,
    },
}

/// What makes a process that starts later one of the target's. Empty: only children do.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Names, as the kernel keeps them: at most 15 bytes.
    pub comm: Vec<String>,
    /// Programs.
    pub exe: Vec<ExeRule>,
}

/// A program that was asked for by its path or file name.
#[derive(Clone, Debug)]
pub struct ExeRule {
    /// As it was typed.
    asked: PathBuf,
    /// The same without symbolic links, if there is such a file here.
    canonical: Option<PathBuf>,
    /// Device and inode of that file.
    inode: Option<(u64, u64)>,
}

impl TargetArgs {
    /// Was any target given?
    pub fn is_given(&self) -> bool {
        !self.kinds().is_empty()
    }

    /// Are they given by number, so that no others take their place?
    pub fn is_by_pid(&self) -> bool {
        self.kinds() == ["--pid"]
    }

    /// Is a command to be started?
    pub fn is_command(&self) -> bool {
        !self.command.is_empty()
    }

    /// Finds out who is meant, and that we may look at it. Words that are no failure go to stderr.
    pub fn resolve(&self) -> Result<Target, Failure> {
        let target = self.find()?;
        access::check(&target, self.is_by_pid())?;
        Ok(target)
    }

    /// Finds out who is meant, whether or not we may look at it.
    pub fn find(&self) -> Result<Target, Failure> {
        match self.kinds()[..] {
            [] => Err(Failure::new(Code::Usage, "no target: say what to look at").with_remedy(EXAMPLES)),
            ["--pid"] => select::pids(&self.pid),
            ["--comm"] => select::comm(&self.comm),
            ["--exe"] => select::exe(&self.exe),
            ["--cgroup"] => select::cgroup(self.cgroup.as_deref().unwrap_or(Path::new("/"))),
            ["--container"] => select::container(self.container.as_deref().unwrap_or_default()),
            ["--nginx"] => select::nginx(self.nginx.as_ref().and_then(|file| file.as_deref())),
            ["--all"] => Ok(Target {
                what: "the whole machine".to_owned(),
                scope: Scope::All,
            }),
            ["--"] => select::command(&self.command),
            ref several => {
                let what = format!("{} cannot be used together", several.join(" and "));
                Err(Failure::new(Code::Usage, what).with_remedy("give one kind of target, or -a for all"))
            }
        }
    }

    /// The options that were used.
    fn kinds(&self) -> Vec<&'static str> {
        let kinds = [
            ("--pid", !self.pid.is_empty()),
            ("--comm", !self.comm.is_empty()),
            ("--exe", !self.exe.is_empty()),
            ("--cgroup", self.cgroup.is_some()),
            ("--container", self.container.is_some()),
            ("--nginx", self.nginx.is_some()),
            ("--all", self.all),
            ("--", !self.command.is_empty()),
        ];
        kinds
            .into_iter()
            .filter_map(|(name, used)| used.then_some(name))
            .collect()
    }
}

const EXAMPLES: &str = "\
-p PID               one process        --comm NAME        processes of a name
--nginx              nginx, all of it   --container NAME   a container
-a                   the whole machine  -- COMMAND         a command, started for this";

impl Target {
    /// Does a process belong to it that started, or became another program, after the target was
    /// resolved? Its parents are not asked: following children is the kernel side's work.
    pub fn matches(&self, pid: Pid) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Processes { rules, .. } => rules.match_process(pid),
            Scope::Cgroup { cgroup, .. } => {
                cgroup::memberships(pid).is_ok_and(|all| all.iter().any(|at| at.is_within(&cgroup.at)))
            }
            Scope::Command { .. } => false,
        }
    }

    /// Is it a control group that had no process, and has none now?
    pub fn is_of_nobody(&self) -> bool {
        match &self.scope {
            Scope::Cgroup { cgroup, pids } => {
                pids.is_empty() && cgroup.pids().is_ok_and(|pids| pids.is_empty())
            }
            _ => false,
        }
    }

    /// Is it the whole machine?
    pub fn is_machine(&self) -> bool {
        matches!(self.scope, Scope::All)
    }

    /// The processes that belong to it now: none yet for a command, all with user code for the machine.
    pub fn pids(&self) -> Result<BTreeSet<Pid>, Failure> {
        Ok(match &self.scope {
            Scope::All => moonscope_process::list::processes()?
                .iter()
                .map(|process| process.pid)
                .collect(),
            Scope::Processes { pids, .. } | Scope::Cgroup { pids, .. } => pids.clone(),
            Scope::Command { .. } => BTreeSet::new(),
        })
    }
}

impl Rules {
    /// Is no later process asked about?
    pub fn is_empty(&self) -> bool {
        self.comm.is_empty() && self.exe.is_empty()
    }

    fn match_process(&self, pid: Pid) -> bool {
        let comm = || Process::find(pid).is_ok_and(|process| self.comm.contains(&process.comm));
        (!self.comm.is_empty() && comm()) || self.exe.iter().any(|rule| rule.matches(pid))
    }
}

impl ExeRule {
    fn new(path: &Path) -> Self {
        let canonical = path.canonicalize().ok();
        let metadata = canonical.as_ref().and_then(|path| fs::metadata(path).ok());
        let inode = metadata.map(|metadata| (metadata.dev(), metadata.ino()));
        Self {
            asked: path.to_owned(),
            canonical,
            inode,
        }
    }

    /// The same file as here, or one of that path where the process lives, or of that name if it was
    /// asked for without a slash.
    fn matches(&self, pid: Pid) -> bool {
        let Ok(exe) = process::exe(pid) else { return false };
        let inode = fs::metadata(format!("/proc/{pid}/exe")).map(|metadata| (metadata.dev(), metadata.ino()));
        let is_name = self.asked.components().count() == 1 && !self.asked.is_absolute();
        exe == self.asked
            || Some(&exe) == self.canonical.as_ref()
            || (self.inode.is_some() && inode.ok() == self.inode)
            || (is_name && exe.file_name() == Some(self.asked.as_os_str()))
    }
}

#[cfg(test)]
mod tests;
