//! From what was typed to processes, with an exact word when there are none.

use super::near::near;
use super::{ExeRule, Rules, Scope, Target, access};
use crate::exit::{Code, Failure};
use moonscope_process::CgroupMounts;
use moonscope_process::container::{self, Container, ContainerError};
use moonscope_process::nginx::{self, NginxError};
use moonscope_process::{Pid, Process, ProcessError, counted, list, visible};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How much of a name the kernel keeps (`TASK_COMM_LEN` without the final 0).
const COMM_BYTES: usize = 15;
/// How many other names an error offers.
const OFFERED: usize = 10;

pub(super) fn pids(asked: &[Pid]) -> Result<Target, Failure> {
    let asked: BTreeSet<Pid> = asked.iter().copied().collect();
    let processes = asked
        .iter()
        .map(|&id| one_process(id))
        .collect::<Result<Vec<_>, _>>()?;
    let pids: BTreeSet<Pid> = processes.iter().map(|process| process.pid).collect();
    let what = match &processes[..] {
        [process] => format!("process {} ({})", process.pid, visible(&process.comm)),
        _ => format!("{} ({})", count(&pids), numbers(&pids)),
    };
    Ok(Target {
        what,
        scope: Scope::Processes {
            pids,
            rules: Rules::default(),
        },
    })
}

fn one_process(id: Pid) -> Result<Process, Failure> {
    let process = match Process::find(id) {
        Ok(process) => process,
        Err(ProcessError::NoSuchProcess { .. } | ProcessError::Exited { .. }) => {
            let mut failure = Failure::new(Code::NoTarget, format!("no process {id}"));
            if !moonscope_process::process::in_initial_pid_namespace() {
                failure = failure.with_remedy(
                    "moonscope runs in a pid namespace of its own (a container) and sees only the pids there",
                );
            }
            return Err(failure);
        }
        Err(err) => return Err(err.into()),
    };
    let name = visible(&process.comm);
    if process.is_kernel_thread {
        let what = format!("process {id} ({name}) is a kernel thread: it has no user code to look at");
        return Err(Failure::new(Code::NoTarget, what).with_remedy("use -a to see what the kernel does"));
    }
    if process.is_zombie {
        let what = format!(
            "process {id} ({name}) has ended and waits for its parent ({})",
            process.parent
        );
        return Err(Failure::new(Code::NoTarget, what));
    }
    if process.pid != id {
        crate::exit::tell!(
            "moonscope: {id} is a thread of process {} ({name}): taking the process",
            process.pid
        );
    }
    Ok(process)
}

pub(super) fn comm(asked: &[String]) -> Result<Target, Failure> {
    let cut = |name: &String| name.get(..COMM_BYTES).unwrap_or(name).to_owned();
    let rules = Rules {
        comm: asked.iter().map(cut).collect(),
        exe: Vec::new(),
    };
    let all = list::processes()?;
    let pids: BTreeSet<Pid> = others(&all)
        .filter(|p| rules.comm.contains(&p.comm))
        .map(|p| p.pid)
        .collect();
    let names: Vec<&OsStr> = asked.iter().map(OsStr::new).collect();
    let known = others(&all).map(|process| process.comm.clone());
    by_rules(rules, pids, "named", &names, known)
}

pub(super) fn exe(asked: &[PathBuf]) -> Result<Target, Failure> {
    let rules = Rules {
        comm: Vec::new(),
        exe: asked.iter().map(|path| ExeRule::new(path)).collect(),
    };
    let all = list::processes()?;
    let pids: BTreeSet<Pid> = others(&all)
        .map(|p| p.pid)
        .filter(|&pid| rules.match_process(pid))
        .collect();
    let names: Vec<&OsStr> = asked.iter().map(|path| path.as_os_str()).collect();
    let known = others(&all).filter_map(|process| Some(process.exe().ok()?.to_string_lossy().into_owned()));
    let is_hidden = |process: &&Process| process.exe().is_err_and(|err| err.is_permission());
    let hidden = others(&all).filter(is_hidden).count();
    by_rules(rules, pids, "running", &names, known).map_err(|failure| match hidden {
        0 => failure,
        hidden => failure.with_remedy(format!(
            "of {} it may not be known what it runs: {}",
            counted(hidden, "process"),
            access::why_refused()
        )),
    })
}

/// All but ourselves: `--comm moonscope` means another one.
fn others(all: &[Process]) -> impl Iterator<Item = &Process> {
    all.iter().filter(|process| process.pid != std::process::id())
}

fn by_rules(
    rules: Rules,
    pids: BTreeSet<Pid>,
    how: &str,
    names: &[&OsStr],
    known: impl Iterator<Item = String>,
) -> Result<Target, Failure> {
    let shown: Vec<String> = names.iter().map(|name| visible(*name).to_string()).collect();
    let shown = shown.join(", ");
    if pids.is_empty() {
        let failure = Failure::new(Code::NoTarget, format!("no process {how} {shown}"));
        let known: BTreeSet<String> = known.collect();
        return Err(match near(&known, names) {
            near if near.is_empty() => failure,
            near => failure.with_remedy(format!("there are: {}", near.join(", "))),
        });
    }
    Ok(Target {
        what: format!("{} {how} {shown}", count(&pids)),
        scope: Scope::Processes { pids, rules },
    })
}

pub(super) fn cgroup(path: &Path) -> Result<Target, Failure> {
    let name = visible(path);
    let Some(cgroup) = CgroupMounts::find()?.lookup(path) else {
        return Err(
            Failure::new(Code::NoTarget, format!("no control group {name}")).with_remedy(
                "give its directory below /sys/fs/cgroup, or its path as `cat /proc/PID/cgroup` shows it",
            ),
        );
    };
    let pids = cgroup.pids()?;
    if pids.is_empty() && cgroup.v2_id.is_none() {
        let failure = Failure::new(Code::NoTarget, format!("no process in control group {name}"));
        return Err(
            failure.with_remedy("start one there first: of version 1 a group is recorded by its processes")
        );
    }
    let what = format!("control group {} ({})", visible(&cgroup.at.path), count(&pids));
    Ok(Target {
        what,
        scope: Scope::Cgroup {
            cgroup: Box::new(cgroup),
            pids,
        },
    })
}

pub(super) fn container(query: &str) -> Result<Target, Failure> {
    let container = container::resolve(query).map_err(|err| {
        let code = match &err {
            ContainerError::Ambiguous { .. } => Code::Usage,
            _ => Code::NoTarget,
        };
        let failure = Failure::new(code, &err);
        match &err {
            ContainerError::NotFound { running, .. } if running.is_empty() => {
                failure.with_remedy("no process here is in a container that moonscope knows")
            }
            ContainerError::NotFound { running: known, .. }
            | ContainerError::Ambiguous {
                candidates: known, ..
            } => failure.with_remedy(listing(known)),
            ContainerError::Process(_) => failure,
        }
    })?;
    let label = format!("{} {}", container.runtime, container.short_id());
    let what = match container.names.first() {
        Some(name) => format!(
            "container {} ({label}, {})",
            visible(name),
            count(&container.pids)
        ),
        None => format!(
            "container {} ({}, {})",
            container.short_id(),
            container.runtime,
            count(&container.pids)
        ),
    };
    let mounts = CgroupMounts::find()?;
    // The group of version 2 if the container has one: only that can be compared in the kernel.
    let cgroup = container
        .v2_cgroup(&mounts)
        .or_else(|| Some(mounts.cgroup(container.cgroups.first()?)));
    let scope = match cgroup {
        Some(cgroup) => Scope::Cgroup {
            cgroup: Box::new(cgroup),
            pids: container.pids,
        },
        None => Scope::Processes {
            pids: container.pids,
            rules: Rules::default(),
        },
    };
    Ok(Target { what, scope })
}

fn listing(containers: &[Container]) -> String {
    let line = |container: &Container| {
        let names: Vec<String> = container
            .names
            .iter()
            .map(|name| visible(name).to_string())
            .collect();
        format!(
            "{}  {:<10}  {}",
            container.short_id(),
            container.runtime.to_string(),
            names.join(", ")
        )
    };
    let mut lines: Vec<String> = containers.iter().take(OFFERED).map(line).collect();
    if containers.len() > OFFERED {
        lines.push(format!("and {} more", containers.len() - OFFERED));
    }
    lines.join("\n")
}

pub(super) fn nginx(pid_file: Option<&Path>) -> Result<Target, Failure> {
    let found = nginx::find(pid_file).map_err(|err| {
        let failure = Failure::new(Code::NoTarget, &err);
        match err {
            NginxError::NoneRunning => failure.with_remedy("start it, or name its process with -p or --comm"),
            NginxError::Process(_) => failure,
            _ => failure.with_remedy("use --nginx without a file to find every nginx that is running"),
        }
    })?;
    let pids: BTreeSet<Pid> = found
        .iter()
        .flat_map(|nginx| nginx.pids.iter().copied())
        .collect();
    let masters: BTreeSet<Pid> = found.iter().map(|nginx| nginx.master).collect();
    let what = match &found[..] {
        [nginx] => format!("nginx (master {}, {})", nginx.master, count(&pids)),
        _ => format!(
            "{} nginx (masters {}, {})",
            found.len(),
            numbers(&masters),
            count(&pids)
        ),
    };
    Ok(Target {
        what,
        scope: Scope::Processes {
            pids,
            rules: Rules::default(),
        },
    })
}

pub(super) fn command(argv: &[OsString]) -> Result<Target, Failure> {
    let name = argv.first().map_or(OsStr::new(""), OsString::as_os_str);
    let program = find_program(name)?;
    let words: Vec<String> = argv.iter().map(|word| visible(word).to_string()).collect();
    let what = format!("command {}", shortened(&words.join(" ")));
    Ok(Target {
        what,
        scope: Scope::Command {
            program,
            argv: argv.to_vec(),
        },
    })
}

/// The beginning of a command line that is too long for a title.
fn shortened(command: &str) -> String {
    const LONGEST: usize = 60;
    match command.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}

/// Looks for a program as a shell does.
fn find_program(name: &OsStr) -> Result<PathBuf, Failure> {
    let runnable = |path: &Path| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let has_slash = name.as_encoded_bytes().contains(&b'/');
    let found = match has_slash {
        true => Some(PathBuf::from(name)).filter(|path| runnable(path)),
        false => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path)
                .map(|dir| dir.join(name))
                .find(|path| runnable(path));
            found.filter(|_| !name.is_empty())
        }
    };
    found.ok_or_else(|| {
        let reason = match has_slash && Path::new(name).exists() {
            true => "not an executable file",
            false => "command not found",
        };
        Failure::new(Code::NoTarget, format!("{}: {reason}", visible(name)))
    })
}

fn count(pids: &BTreeSet<Pid>) -> String {
    counted(pids.len(), "process")
}

/// The first few ids.
fn numbers(pids: &BTreeSet<Pid>) -> String {
    let mut text: Vec<String> = pids.iter().take(OFFERED).map(Pid::to_string).collect();
    if pids.len() > OFFERED {
        text.push("…".to_owned());
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(find_program(OsStr::new("sleep")).unwrap().is_absolute());
        assert_eq!(
            find_program(OsStr::new("/bin/sleep")).unwrap(),
            Path::new("/bin/sleep")
        );
        for name in ["no-such-command-here", "/etc/passwd", "/nonexistent", ""] {
            assert!(find_program(OsStr::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_no_target() {
        let failure = cgroup(Path::new("/no/such/group")).unwrap_err();
        assert!(
            format!("{failure:?}").contains("no control group /no/such/group"),
            "{failure:?}"
        );
    }
}
