//! Why sampling could not start or go on.

use std::io;

/// What went wrong; each message is one line, `remedy` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refused a BPF or perf operation for want of a privilege.
    #[error("{what}: operation not permitted")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
    },
    /// The kernel has no type information of itself, which CO-RE needs.
    #[error("this kernel has no BTF (/sys/kernel/btf/vmlinux is missing)")]
    NoBtf,
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

impl ProbeError {
    /// What the user can do, in one or more lines.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NotPermitted { .. } => Some(
                "use sudo, or give moonscope the capabilities it needs:\n\
                 setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog,cap_dac_read_search,cap_checkpoint_restore+ep $(which moonscope)\n\
                 (`moonscope doctor` shows what is missing)"
                    .into(),
            ),
            Self::NoBtf => Some("a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed (all current distributions have it)".into()),
            Self::Load { .. } | Self::Attach { .. } => Some("`moonscope doctor` shows which feature is missing".into()),
            Self::Rate { allowed, asked } => Some(format!(
                "use -F {allowed}, or: sysctl -w kernel.perf_event_max_sample_rate={asked}"
            )),
            Self::Clock { .. } => Some("`moonscope doctor` shows which perf events work here".into()),
            Self::Map { .. } | Self::Io { .. } => None,
        }
    }

    /// Whether a privilege or a kernel feature is missing (exit code 3).
    pub fn is_missing_feature(&self) -> bool {
        matches!(
            self,
            Self::NotPermitted { .. }
                | Self::NoBtf
                | Self::Load { .. }
                | Self::Attach { .. }
                | Self::Clock { .. }
        )
    }
}
