//! The kernel: release, type information, lockdown, addresses of its symbols, limits.

use super::check::Check;
use super::sysctl;
use moonscope_process::{mountinfo, reason};
use moonscope_symbols::{KernelSymbols, SymbolOptions, Symbolizer};
use std::fs;

const GROUP: &str = "kernel";

pub(super) fn checks() -> Vec<Check> {
    vec![
        release(),
        btf(),
        lockdown(),
        symbols(),
        unprivileged_bpf(),
        memlock(),
        tracefs(),
    ]
}

fn release() -> Check {
    let check = Check::ok(
        GROUP,
        "release",
        format!("{} {}", sysctl::release(), std::env::consts::ARCH),
    );
    match sysctl::kernel_version() >= (5, 10) {
        true => check,
        false => check.limited(
            "moonscope is tested from 5.10 on; older kernels lack what it needs",
            "boot a kernel from 5.10 on",
        ),
    }
}

/// What to do about missing type information.
pub(super) const WITH_BTF: &str =
    "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (distribution kernels are), with /sys mounted";

/// libbpf reads it as it does for recording: where the kernel's own is missing, from a vmlinux in `/boot` or
/// `/usr/lib/debug`.
fn btf() -> Check {
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    const NAME: &str = "type information (BTF)";
    // SAFETY: no arguments; the result is freed below or is null.
    let types = unsafe { libbpf_sys::btf__load_vmlinux_btf() };
    let works = !types.is_null();
    // SAFETY: what was just loaded, or null, which is ignored.
    unsafe { libbpf_sys::btf__free(types) };
    match fs::metadata(FILE) {
        Ok(metadata) if works => Check::ok(GROUP, NAME, format!("{FILE}, {} KiB", metadata.len() >> 10)),
        Err(err) if works => Check::ok(
            GROUP,
            NAME,
            format!(
                "from a vmlinux in /boot or /usr/lib/debug ({FILE}: {})",
                reason(&err)
            ),
        ),
        found => Check::info(
            GROUP,
            NAME,
            format!(
                "{FILE}: {}",
                found.map_or_else(|err| reason(&err), |_| "cannot be read".to_owned())
            ),
        )
        .missing(
            "nothing can be recorded: the BPF programs cannot be fitted to this kernel",
            WITH_BTF,
        ),
    }
}

/// What to do about `lockdown=confidentiality`.
pub(super) const LESS_LOCKDOWN: &str = "boot with lockdown=integrity on the kernel command line, or without lockdown:\n\
     root cannot lift it while the machine runs";

fn lockdown() -> Check {
    const NAME: &str = "lockdown";
    let Ok(text) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        let why = "not known: securityfs is not mounted, or no lockdown in this kernel";
        return Check::info(GROUP, NAME, why);
    };
    // The mode in force stands in brackets: `none [integrity] confidentiality`.
    let mode = text.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
    match mode.as_str() {
        "confidentiality" => Check::info(GROUP, NAME, mode).missing(
            "BPF programs that read the kernel's memory are refused, also for root",
            LESS_LOCKDOWN,
        ),
        "integrity" => Check::info(GROUP, NAME, "integrity: recording is not affected"),
        _ => Check::ok(GROUP, NAME, mode),
    }
}

fn symbols() -> Check {
    const NAME: &str = "kernel symbols";
    const LOST: &str = "kernel frames have no names, only [kernel]";
    match Symbolizer::new(SymbolOptions::default()).kernel_status() {
        KernelSymbols::Available => {
            let restrict = sysctl::number("kernel/kptr_restrict");
            let restrict = restrict.map_or("?".to_owned(), |value| value.to_string());
            Check::ok(
                GROUP,
                NAME,
                format!("/proc/kallsyms shows addresses (kptr_restrict {restrict})"),
            )
        }
        KernelSymbols::Restricted { reason, remedy } => {
            Check::info(GROUP, NAME, reason).limited(LOST, remedy)
        }
        KernelSymbols::Missing => Check::info(GROUP, NAME, "/proc/kallsyms is not there or empty").limited(
            LOST,
            "boot a kernel built with CONFIG_KALLSYMS=y, with /proc mounted",
        ),
    }
}

fn unprivileged_bpf() -> Check {
    const NAME: &str = "unprivileged BPF";
    Check::info(
        GROUP,
        NAME,
        match sysctl::number("kernel/unprivileged_bpf_disabled") {
            Some(0) => "allowed; moonscope does not use it",
            Some(_) => "not allowed, as it should be; moonscope does not use it",
            None => "not known",
        },
    )
}

fn memlock() -> Check {
    const NAME: &str = "locked memory limit";
    // Since Linux 5.11 BPF maps are charged to the memory cgroup and not to this limit.
    if sysctl::kernel_version() >= (5, 11) {
        return Check::info(GROUP, NAME, "does not matter from Linux 5.11 on");
    }
    const NEEDED: u64 = 256 << 20;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let unlimited = rustix::process::Rlimit {
        current: None,
        maximum: None,
    };
    match limit.current {
        None => Check::ok(GROUP, NAME, "unlimited"),
        Some(bytes) if bytes >= NEEDED => Check::ok(GROUP, NAME, format!("{} MiB", bytes >> 20)),
        Some(_) if rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited).is_ok() => {
            Check::ok(GROUP, NAME, "can be raised")
        }
        Some(bytes) => Check::info(GROUP, NAME, format!("{} KiB, and cannot be raised", bytes >> 10))
            .missing(
                "before Linux 5.11 the BPF maps must fit into it",
                "give moonscope CAP_SYS_RESOURCE, or start it with: ulimit -l unlimited",
            ),
    }
}

fn tracefs() -> Check {
    let mounts = mountinfo::read().unwrap_or_default();
    let mounted = mounts.iter().find(|mount| mount.kind == "tracefs");
    let found = match mounted {
        Some(mount) => format!("{} (recording does not need it)", mount.point.display()),
        None => "not mounted (recording does not need it)".to_owned(),
    };
    Check::info(GROUP, "tracefs", found)
}
