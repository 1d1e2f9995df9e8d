//! The nginx of a machine: its master processes and what they started.
//!
//! nginx (and OpenResty, Tengine, Angie, APISIX's own build) writes what a process is over its arguments:
//! `nginx: master process /usr/sbin/nginx -c …`, `nginx: worker process`, `nginx: worker process is
//! shutting down`, `nginx: cache manager process`, `nginx: privileged agent process`
//! (src/os/unix/ngx_process_cycle.c). The title tells more than the name of the file, which may be
//! anything; only an nginx without a master process (`master_process off`) has no title.

use crate::process::{self, Process};
use crate::{Pid, ProcessError, list, reason, visible};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// An nginx instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nginx {
    /// The master process, or the only process of one that runs without.
    pub master: Pid,
    /// The master and everything it started: workers, cache manager, helpers.
    pub pids: BTreeSet<Pid>,
}

/// Why no nginx was found.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// The pid file cannot be read.
    #[error("{}: {}", visible(path), reason(cause))]
    PidFile {
        /// The pid file.
        path: PathBuf,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The pid file has something else in it.
    #[error("{}: there is no process id in it", visible(path))]
    NoPid {
        /// The pid file.
        path: PathBuf,
    },
    /// The process of the pid file is not there, or is no nginx.
    #[error("{}: process {pid} {reason}", visible(path))]
    NotNginx {
        /// The pid file.
        path: PathBuf,
        /// What stands in it.
        pid: Pid,
        /// What that process is instead.
        reason: String,
    },
    /// No process has the title of a master process.
    #[error("no nginx master process is running")]
    NoneRunning,
    /// The processes cannot be listed.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Finds the nginx of a pid file, or without one every nginx of the machine.
///
/// A pid file written inside a container names a pid of the container's pid namespace: if that pid is
/// no nginx here, the one nginx that has it inside is taken.
pub fn find(pid_file: Option<&Path>) -> Result<Vec<Nginx>, NginxError> {
    let all = list::processes()?;
    let masters = match pid_file {
        Some(path) => vec![master_of_file(&all, path)?],
        None => masters(&all),
    };
    let instance = |master| Nginx {
        master,
        pids: list::with_descendants(&all, [master]),
    };
    match masters.is_empty() {
        true => Err(NginxError::NoneRunning),
        false => Ok(masters.into_iter().map(instance).collect()),
    }
}

/// What a process calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Title {
    Master,
    /// Worker, cache manager or another child of a master.
    Child,
    None,
}

fn title(cmdline: &[Vec<u8>]) -> Title {
    match cmdline.first().and_then(|first| first.strip_prefix(b"nginx: ")) {
        Some(title) if title.starts_with(b"master process") => Title::Master,
        Some(_) => Title::Child,
        None => Title::None,
    }
}

fn title_of(pid: Pid) -> Title {
    process::cmdline(pid).map_or(Title::None, |cmdline| title(&cmdline))
}

/// Is the executable called like an nginx?
fn has_name(pid: Pid) -> bool {
    let exe = process::exe(pid).unwrap_or_default();
    exe.file_name()
        .is_some_and(|name| name == "nginx" || name == "openresty")
}

/// Master processes, and processes that run without one.
fn masters(all: &[Process]) -> Vec<Pid> {
    let titled: Vec<(Pid, Title)> = all
        .iter()
        .map(|process| (process.pid, title_of(process.pid)))
        .collect();
    let is_master = |pid: Pid| titled.contains(&(pid, Title::Master));
    let alone = |process: &Process| {
        titled.contains(&(process.pid, Title::None)) && has_name(process.pid) && !is_master(process.parent)
    };
    let found = all
        .iter()
        .filter(|process| is_master(process.pid) || alone(process));
    found.map(|process| process.pid).collect()
}

fn master_of_file(all: &[Process], path: &Path) -> Result<Pid, NginxError> {
    let pid = read_pid(path)?;
    let is_nginx =
        |pid: Pid| title_of(pid) == Title::Master || (title_of(pid) == Title::None && has_name(pid));
    let here = all.iter().find(|process| process.pid == pid);
    if here.is_some_and(|process| is_nginx(process.pid)) {
        return Ok(pid);
    }
    let inside = |process: &&Process| {
        process.ns_pids.len() > 1 && process.pid_inside() == pid && title_of(process.pid) == Title::Master
    };
    let inside: Vec<Pid> = all.iter().filter(inside).map(|process| process.pid).collect();
    if let [only] = inside[..] {
        return Ok(only);
    }
    let reason = match here {
        None => "is not running".to_owned(),
        Some(process) if title_of(pid) == Title::Child => {
            format!("is a child of nginx, not its master ({})", process.parent)
        }
        Some(process) => format!("is {}, not nginx", visible(&process.comm)),
    };
    Err(NginxError::NotNginx {
        path: path.to_owned(),
        pid,
        reason,
    })
}

/// Reads the number in a pid file.
fn read_pid(path: &Path) -> Result<Pid, NginxError> {
    use std::io::Read;
    let pid_file = |cause| NginxError::PidFile {
        path: path.to_owned(),
        cause,
    };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .map_err(pid_file)?
        .take(64)
        .read_to_end(&mut text)
        .map_err(pid_file)?;
    let pid = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    pid.filter(|&pid| pid > 0).ok_or_else(|| NginxError::NoPid {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    /// A process whose arguments begin like this; what it really is does not matter to a title.
    fn titled(argv0: &str) -> Child {
        Command::new("/bin/sleep").arg0(argv0).arg("60").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_title_counts_and_not_the_name_of_the_file() {
        let cmdline = |text: &str| vec![text.as_bytes().to_vec()];
        assert_eq!(
            title(&cmdline("nginx: master process /usr/sbin/nginx -g daemon on;")),
            Title::Master
        );
        assert_eq!(
            title(&cmdline("nginx: worker process is shutting down")),
            Title::Child
        );
        assert_eq!(title(&cmdline("nginx: cache manager process")), Title::Child);
        assert_eq!(title(&cmdline("/usr/sbin/nginx")), Title::None);
        assert_eq!(title(&[]), Title::None);
    }

    #[test]
    fn a_renamed_master_is_found_by_scan_and_by_pid_file() {
        let master = titled("nginx: master process /opt/edge-proxy");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("{}\n", master.id())).unwrap();
        let by_file = find(Some(file.path()));
        let by_scan = find(None);
        let pid = master.id();
        end(master);
        assert_eq!(
            by_file.unwrap(),
            [Nginx {
                master: pid,
                pids: BTreeSet::from([pid])
            }]
        );
        assert!(by_scan.unwrap().iter().any(|nginx| nginx.master == pid));
    }

    #[test]
    fn a_pid_file_that_does_not_name_an_nginx_says_what_it_names() {
        let other = titled("something else");
        let worker = titled("nginx: worker process");
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = |text: &str| {
            std::fs::write(&file, text).unwrap();
            find(Some(file.path())).unwrap_err().to_string()
        };
        let messages = [
            message(&other.id().to_string()),
            message(&worker.id().to_string()),
            message("4200000"),
            message("x"),
            message(""),
        ];
        let (other_pid, worker_pid) = (other.id(), worker.id());
        end(other);
        end(worker);
        assert!(
            messages[0].contains(&format!("process {other_pid} is sleep, not nginx")),
            "{messages:?}"
        );
        assert!(
            messages[1].contains(&format!("process {worker_pid} is a child of nginx")),
            "{messages:?}"
        );
        assert!(
            messages[2].contains("process 4200000 is not running"),
            "{messages:?}"
        );
        assert!(
            messages[3].contains("there is no process id in it"),
            "{messages:?}"
        );
        assert!(
            messages[4].contains("there is no process id in it"),
            "{messages:?}"
        );
        assert!(
            find(Some(Path::new("/nonexistent.pid")))
                .unwrap_err()
                .to_string()
                .contains("no such file")
        );
    }
}
