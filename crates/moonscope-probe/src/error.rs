//! Why sampling could not start or go on.

use std::io;

use crate::collectors;

/// What went wrong; each message is one line, `remedy` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refused a BPF or perf operation for want of a privilege.
    #[error("{what}: operation not permitted")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
    },
    /// The kernel refused perf events, with a setting for which the usual capabilities are not enough.
    #[error("cannot open a perf event for all processes: kernel.perf_event_paranoid is {paranoid}")]
    Paranoid {
        /// `kernel.perf_event_paranoid`.
        paranoid: i64,
    },
    /// The maps do not fit, on a kernel that counts them as locked memory.
    #[error("BPF programs and maps do not fit into the limit of locked memory ({kib} KiB)")]
    Memlock {
        /// The limit.
        kib: u64,
    },
    /// The limit of open files is too low for the events, maps and programs.
    #[error("too few files may be open at a time: {limit}")]
    TooManyFiles {
        /// The limit.
        limit: u64,
    },
    /// The kernel has no type information of itself, which CO-RE needs, and no file has it either.
    #[error("this kernel gives no type information (BTF) in /sys/kernel/btf/vmlinux: {reason}")]
    NoBtf {
        /// What is wrong with it.
        reason: String,
    },
    /// BPF programs may not read kernel memory.
    #[error("the kernel is locked down (confidentiality): BPF programs may not read its memory")]
    LockedDown,
    /// The list of CPUs cannot be read.
    #[error("cannot read {file}: {source}")]
    Cpus {
        /// A file of `/sys`.
        file: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel took neither variant of the walker.
    #[error("the kernel refused the BPF programs: {reason}")]
    Load {
        /// The last lines that the kernel or libbpf said.
        reason: String,
    },
    /// A program could not be attached.
    #[error("{program}: cannot attach: {source}")]
    Attach {
        /// The BPF program.
        program: &'static str,
        /// The kernel's answer.
        source: libbpf_rs::Error,
    },
    /// No sampling clock could be opened.
    #[error("cannot open the sampling clock on CPU {cpu}: {source}")]
    Clock {
        /// The first CPU that refused.
        cpu: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The rate is above what the kernel allows.
    #[error("{asked} Hz is more than this kernel allows ({allowed} Hz)")]
    Rate {
        /// What was asked for.
        asked: u64,
        /// `kernel.perf_event_max_sample_rate`.
        allowed: u64,
    },
    /// What stands behind the name of an event is none of what can stand there.
    #[error("{event}:{argument}: expected is {expected}")]
    EventArgument {
        /// The event.
        event: String,
        /// What stands behind its name.
        argument: String,
        /// What can stand there.
        expected: &'static str,
    },
    /// What is to be probed is not there, or too much.
    #[error("probe:{spec}: {reason}")]
    ProbeSpec {
        /// As it was asked for.
        spec: String,
        /// What is wrong.
        reason: String,
        /// What comes near.
        remedy: String,
    },
    /// The kernel probes none of its functions.
    #[error(
        "probe:{spec}: this kernel has no kprobes (CONFIG_KPROBE_EVENTS): its functions cannot be probed"
    )]
    NoKprobes {
        /// As it was asked for.
        spec: String,
        /// What works.
        instead: String,
    },
    /// The kernel refuses a probe.
    #[error("cannot probe {name}: {reason}")]
    ProbeRefused {
        /// What was to be probed.
        name: String,
        /// The kernel's answer, in words.
        reason: String,
    },
    /// More events than a recording can have.
    #[error(
        "{asked} events are more than one recording can have ({})",
        moonscope_unwind::abi::MS_MAX_EVENTS
    )]
    TooManyEvents {
        /// So many.
        asked: usize,
    },
    /// The machine cannot count this.
    #[error("this machine cannot count `{event}`: {source}")]
    NoCounter {
        /// The event.
        event: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel does not tell of this.
    #[error(
        "this kernel cannot tell of `{event}`: it has no tracepoint {missing}, which Linux has since {since}"
    )]
    NoTracepoint {
        /// The event.
        event: &'static str,
        /// A tracepoint that it needs.
        missing: &'static str,
        /// The first version that has all of them.
        since: &'static str,
    },
    /// This kernel is too old for an event.
    #[error("`{event}` needs {needed}")]
    OldKernel {
        /// The event.
        event: &'static str,
        /// What it needs.
        needed: &'static str,
        /// What works.
        instead: &'static str,
    },
    /// Probes in a program would slow it down too much.
    #[error("the probes of `{event}` would take {share} of the CPU time: more than --max-overhead {most}")]
    TooCostly {
        /// The event.
        event: &'static str,
        /// Of the CPU time.
        share: String,
        /// What is allowed.
        most: String,
        /// The option that allows it.
        enough: String,
    },
    /// There is nothing to probe.
    #[error("no allocator that can be probed in {processes}")]
    NoAllocator {
        /// Who was looked at.
        processes: String,
    },
    /// One program would have to measure several things, and the kernel does not tell it which one it runs for.
    #[error(
        "this kernel cannot measure `{second}` beside `{first}`: which of several a BPF program runs for is told since Linux 5.15"
    )]
    NotToldApart {
        /// What was asked for first.
        first: String,
        /// And then.
        second: String,
    },
    /// There is no such event.
    #[error("there is no event `{name}`")]
    UnknownEvent {
        /// As it was asked for.
        name: String,
    },
    /// A map could not be read or written.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Its name in `bpf/maps.h`.
        map: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Anything else that the kernel answers.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Without sudo this is needed.
const SETCAP: &str = "use sudo, or give moonscope the capabilities it needs:\n\
    setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog,cap_dac_read_search,cap_checkpoint_restore+ep $(which moonscope)";

/// Open files that are enough for a recording of most machines.
const ENOUGH_FILES: u64 = 4096;

impl ProbeError {
    /// The same error; [`ProbeError::TooManyFiles`] if the kernel answered EMFILE, whatever was tried.
    #[must_use]
    pub fn or_file_limit(self) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        match limit.filter(|_| is_file_limit(&self)) {
            Some(limit) => Self::TooManyFiles { limit },
            None => self,
        }
    }

    /// What the user can do, in one or more lines.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NotPermitted { .. } => {
                Some(format!("{SETCAP}\n(`moonscope doctor` shows what is missing)"))
            }
            Self::Paranoid { .. } => Some(format!(
                "{SETCAP}\n\
                 and sudo sysctl kernel.perf_event_paranoid=2: above that Debian's kernels ask for CAP_SYS_ADMIN instead"
            )),
            Self::Memlock { .. } => Some(
                "use sudo, or start moonscope with: ulimit -l unlimited, or give it CAP_SYS_RESOURCE too (Linux 5.11 and later need none of it)"
                    .into(),
            ),
            Self::TooManyFiles { limit } => Some(format!(
                "raise the limit: ulimit -n {enough} (of a service: LimitNOFILE={enough}); each CPU, each event and each file\n\
                 that is mapped takes one",
                enough = ENOUGH_FILES.max(limit * 4)
            )),
            Self::NoBtf { .. } => Some(
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (all current distributions have it); in a container, mount the host's /sys"
                    .into(),
            ),
            Self::LockedDown => Some(
                "boot with lockdown=integrity on the kernel command line, or without lockdown: root cannot lift it while the machine runs"
                    .into(),
            ),
            Self::Cpus { .. } => Some("mount it: mount -t sysfs sysfs /sys".into()),
            Self::Load { .. } | Self::Attach { .. } => Some("`moonscope doctor` shows which feature is missing".into()),
            Self::Rate { allowed, asked } => Some(format!(
                "use -F {allowed}, or: sysctl -w kernel.perf_event_max_sample_rate={asked}"
            )),
            Self::Clock { .. } => Some("`moonscope doctor` shows which perf events work here".into()),
            Self::NoCounter { .. } => Some(
                "a virtual machine often has no performance counters (ask for a vPMU); the kernel's own events work\n\
                 everywhere: -e page-faults, -e context-switches; -e cpu measures time with the kernel's timer"
                    .into(),
            ),
            Self::ProbeSpec { remedy, .. } => Some(remedy.clone()),
            Self::NoKprobes { instead, .. } => Some(instead.clone()),
            Self::ProbeRefused { .. } => Some("ask for another function, or for a tracepoint".into()),
            Self::NoTracepoint { .. } => Some("`moonscope list events` shows what else there is".into()),
            Self::NotToldApart { .. } => Some(
                "record them one after the other; one probe with `*` may match many functions".into(),
            ),
            Self::TooManyEvents { .. } => Some("record them one after the other".into()),
            Self::EventArgument { .. } => Some("`moonscope list events` shows what there is".into()),
            Self::OldKernel { instead, .. } => Some((*instead).to_owned()),
            Self::TooCostly { enough, .. } => Some(format!(
                "{enough} allows it (100%: whatever it takes); `-e memory` shows what makes resident memory grow, without probes"
            )),
            Self::NoAllocator { .. } => Some(
                "malloc and its family are found by their names: a static program that was stripped has none, and a program may\n\
                 have an allocator of its own; `-e memory` shows what makes resident memory grow, without probes"
                    .into(),
            ),
            Self::UnknownEvent { .. } => {
                let names: Vec<&str> = collectors::ALL.iter().map(|event| event.name).collect();
                Some(format!(
                    "there are {} (`moonscope list events` says what they measure)",
                    names.join(", ")
                ))
            }
            Self::Map { .. } | Self::Io { .. } => None,
        }
    }

    /// Whether a privilege or a kernel feature is missing (exit code 3).
    pub fn is_missing_feature(&self) -> bool {
        matches!(
            self,
            Self::NotPermitted { .. }
                | Self::Paranoid { .. }
                | Self::Memlock { .. }
                | Self::TooManyFiles { .. }
                | Self::NoBtf { .. }
                | Self::LockedDown
                | Self::Cpus { .. }
                | Self::Load { .. }
                | Self::Attach { .. }
                | Self::Clock { .. }
                | Self::NoCounter { .. }
                | Self::NoKprobes { .. }
                | Self::ProbeRefused { .. }
                | Self::NoTracepoint { .. }
                | Self::OldKernel { .. }
                | Self::NotToldApart { .. }
        )
    }
}

/// libbpf-rs has its errors in no other form than their text.
fn is_file_limit(err: &dyn std::error::Error) -> bool {
    let is_it = |err: &dyn std::error::Error| {
        let text = err.to_string();
        text.contains(&format!("(os error {})", libc::EMFILE)) || text.contains("-EMFILE")
    };
    let mut cause = Some(err);
    while let Some(err) = cause {
        if is_it(err) {
            return true;
        }
        cause = err.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_of_open_files_is_told_as_such_wherever_it_shows() {
        let limit = || io::Error::from_raw_os_error(libc::EMFILE);
        for err in [
            ProbeError::Attach {
                program: "cpu_tick",
                source: libbpf_rs::Error::from_raw_os_error(libc::EMFILE),
            },
            ProbeError::Map {
                map: "events",
                source: io::Error::other(limit()),
            },
            ProbeError::Clock {
                cpu: 3,
                source: limit(),
            },
        ] {
            let err = err.or_file_limit();
            assert!(matches!(err, ProbeError::TooManyFiles { .. }), "{err}");
            assert!(err.remedy().unwrap_or_default().contains("ulimit -n"), "{err}");
        }
        let other = ProbeError::Clock {
            cpu: 3,
            source: io::Error::from_raw_os_error(libc::ENODEV),
        };
        assert!(matches!(other.or_file_limit(), ProbeError::Clock { .. }));
    }
}
