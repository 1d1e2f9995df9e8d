//! May we look at the code of a process? If not, its user stacks are all cut and have no names.
//!
//! What is needed is PTRACE_MODE_READ_FSCREDS (ptrace(2)): for root too CAP_SYS_PTRACE, unless the process has no capability
//! that we lack. Since Linux 6.15 CAP_PERFMON is enough for the mappings (kernel/fork.c, may_access_mm), but not for the files.

use moonscope_process::{Executable, MappingName, Pid, Process, ProcessError, read_maps, reason, visible};

use super::{Scope, Target};
use crate::capabilities::{self, SYS_PTRACE};
use crate::exit::{Code, Failure};

/// What to do when another user's process is refused.
const PRIVILEGE: &str = "\
use sudo, or give moonscope the capabilities it needs:
setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog,cap_dac_read_search,cap_checkpoint_restore+ep \\
  $(which moonscope)";

/// And what when root is.
const REFUSED_ROOT: &str = "\
moonscope is root, but CAP_SYS_PTRACE was taken away from it: by capsh, setpriv, CapabilityBoundingSet of systemd,
or a container (docker run --cap-add SYS_PTRACE)";

/// And what when nothing is missing.
const PROTECTED: &str = "\
a security module (cat /sys/kernel/security/lsm) or the file system of its program protects this process";

/// Fails if we may not look at one of the processes that were named by number, or at none of those of another target: then
/// nothing can be said of their code.
pub(super) fn check(target: &Target, is_by_pid: bool) -> Result<(), Failure> {
    let (Scope::Processes { pids, .. } | Scope::Cgroup { pids, .. }) = &target.scope else {
        return Ok(());
    };
    let mut refused = None;
    for &pid in pids {
        match look(pid) {
            Err(err) if err.is_permission() => {
                let failure = failure(pid, &err);
                if is_by_pid {
                    return Err(failure);
                }
                refused.get_or_insert(failure);
            }
            Err(err) if err.is_gone() && is_by_pid => return Err(Failure::new(Code::NoTarget, err)),
            // one is enough, and what else is wrong is told of its samples
            Ok(()) if !is_by_pid => return Ok(()),
            _ => {}
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Reads the mappings, and opens the files that are mapped executable until one can be.
fn look(pid: Pid) -> Result<(), ProcessError> {
    let mut refused = None;
    for mapping in read_maps(pid)? {
        if !mapping.executable || !matches!(mapping.name, MappingName::File { .. }) {
            continue;
        }
        match Executable::open(pid, &mapping) {
            Err(err) if err.is_permission() => drop(refused.get_or_insert(err)),
            _ => return Ok(()),
        }
    }
    refused.map_or(Ok(()), Err)
}

fn failure(pid: Pid, err: &ProcessError) -> Failure {
    let name = Process::find(pid).map(|process| process.comm).unwrap_or_default();
    let why = match err {
        ProcessError::NotPermitted { cause, .. } => reason(cause),
        err => err.to_string(),
    };
    let what = format!(
        "cannot look at the code of process {pid} ({}): {why}",
        visible(&name)
    );
    Failure::new(Code::NotPermitted, what).with_remedy(remedy())
}

fn remedy() -> &'static str {
    match (
        capabilities::has(SYS_PTRACE),
        rustix::process::geteuid().is_root(),
    ) {
        (true, _) => PROTECTED,
        (false, true) => REFUSED_ROOT,
        (false, false) => PRIVILEGE,
    }
}

/// Why we may not look at a process, in a few words.
pub fn why_refused() -> &'static str {
    match (
        capabilities::has(SYS_PTRACE),
        rustix::process::geteuid().is_root(),
    ) {
        (true, _) => "a security module or a file system protects it",
        (false, true) => "CAP_SYS_PTRACE was taken away from moonscope",
        (false, false) => "use sudo, or give moonscope CAP_SYS_PTRACE",
    }
}
