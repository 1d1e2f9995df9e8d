//! What moonscope may do: capabilities and namespaces.

use super::check::Check;
use super::sysctl;
use crate::capabilities::{self, SYS_ADMIN, SYS_PTRACE};
use moonscope_process::process;

const GROUP: &str = "privilege";

/// How the command can be allowed all that it uses.
const SETCAP: &str = "run it as root (sudo moonscope ...), or once:\n\
    setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog,cap_dac_read_search,cap_checkpoint_restore+ep \\\n\
    \x20 $(which moonscope)";

/// The same for root.
const TAKEN_AWAY: &str = "moonscope is root, but these capabilities were taken away: by capsh, setpriv, systemd\n\
    (CapabilityBoundingSet=), or a container (docker run --privileged, or --cap-add for each)";

/// A capability that is used; numbers from include/uapi/linux/capability.h.
struct Capability {
    name: &'static str,
    number: u32,
    need: Need,
    /// What it is used for.
    used: &'static str,
    /// What does not work without it.
    lost: &'static str,
}

#[derive(PartialEq, Eq)]
enum Need {
    /// Nothing works without it.
    Always,
    /// Something is missing without it.
    Wanted,
    /// Only others need it, or only old kernels.
    No,
}

const CAPABILITIES: [Capability; 8] = [
    Capability {
        name: "CAP_BPF",
        number: 39,
        need: Need::Always,
        used: "loads the BPF programs",
        lost: "no BPF program can be loaded",
    },
    Capability {
        name: "CAP_PERFMON",
        number: 38,
        need: Need::Always,
        used: "opens perf events of all processes, reads their stacks",
        lost: "no sampling clock, no stacks",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        number: SYS_PTRACE,
        need: Need::Wanted,
        used: "reads files and memory of processes of other users, and of those with more capabilities",
        lost: "processes of other users, and of root, cannot be recorded with -p; elsewhere their stacks are cut",
    },
    Capability {
        name: "CAP_SYSLOG",
        number: 34,
        need: Need::Wanted,
        used: "sees the addresses in /proc/kallsyms",
        lost: "kernel frames may have no names",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        number: 2,
        need: Need::Wanted,
        used: "reads debug files of other users and containers",
        lost: "files that only others may read give no symbols",
    },
    Capability {
        name: "CAP_CHECKPOINT_RESTORE",
        number: 40,
        need: Need::Wanted,
        used: "opens mapped files that were deleted or replaced",
        lost: "deleted and replaced files cannot be unwound or named",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        number: SYS_ADMIN,
        need: Need::No,
        used: "stands for CAP_BPF, CAP_PERFMON, CAP_CHECKPOINT_RESTORE",
        lost: "",
    },
    Capability {
        name: "CAP_SYS_RESOURCE",
        number: 24,
        need: Need::No,
        used: "only needed before Linux 5.11",
        lost: "",
    },
];

/// Those that CAP_SYS_ADMIN includes (capabilities(7)); addresses in /proc/kallsyms need CAP_SYSLOG itself
/// (kallsyms_show_value, kernel/ksyms_common.c).
const IN_SYS_ADMIN: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE"];

pub(super) fn checks() -> Vec<Check> {
    let effective = capabilities::effective().unwrap_or(0);
    let mut checks: Vec<Check> = CAPABILITIES
        .iter()
        .map(|capability| capability.check(effective))
        .collect();
    checks.push(pid_namespace());
    checks
}

/// How to get what is missing. Root has all, unless something took it away.
pub(super) fn remedy() -> &'static str {
    match rustix::process::geteuid().is_root() {
        true => TAKEN_AWAY,
        false => SETCAP,
    }
}

impl Capability {
    fn check(&self, effective: u64) -> Check {
        let has = |number: u32| effective & (1 << number) != 0;
        // Before Linux 5.9 all of this was CAP_SYS_ADMIN's (5.8 split off BPF and PERFMON).
        let split = match self.number {
            40 => sysctl::kernel_version() >= (5, 9),
            38 | 39 => sysctl::kernel_version() >= (5, 8),
            _ => true,
        };
        if has(self.number) && split {
            return Check::ok(GROUP, self.name, self.used);
        }
        if has(SYS_ADMIN) && IN_SYS_ADMIN.contains(&self.name) {
            return Check::ok(GROUP, self.name, format!("{} (by CAP_SYS_ADMIN)", self.used));
        }
        let check = Check::info(GROUP, self.name, format!("not there; {}", self.used));
        match self.need {
            Need::Always => check.missing(self.lost, remedy()),
            Need::Wanted => check.limited(self.lost, remedy()),
            Need::No => check,
        }
    }
}

fn pid_namespace() -> Check {
    const NAME: &str = "pid namespace";
    match process::in_initial_pid_namespace() {
        true => Check::ok(GROUP, NAME, "the machine's own: all processes are visible"),
        false => Check::info(GROUP, NAME, "moonscope runs in a container").limited(
            "processes outside of it cannot be seen, and pids in the kernel are others",
            "run it on the host, or start its container with: --pid=host",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn without_any_capability_recording_is_prevented() {
        let states: Vec<State> = CAPABILITIES
            .iter()
            .map(|capability| capability.check(0).state)
            .collect();
        assert_eq!(states[..2], [State::Missing, State::Missing]);
        assert!(states[2..6].iter().all(|state| *state == State::Limited));
        assert!(states[6..].iter().all(|state| *state == State::Info));
    }

    #[test]
    fn sys_admin_stands_for_what_was_split_off_from_it() {
        let ok = |name: &str| {
            let capability = CAPABILITIES
                .iter()
                .find(|capability| capability.name == name)
                .unwrap();
            capability.check(1 << SYS_ADMIN).state == State::Ok
        };
        assert!(ok("CAP_BPF") && ok("CAP_PERFMON") && ok("CAP_CHECKPOINT_RESTORE") && !ok("CAP_SYSLOG"));
        assert!(!ok("CAP_SYS_PTRACE"));
    }
}
