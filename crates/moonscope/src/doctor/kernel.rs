//! The kernel: release, type information, lockdown, addresses of its symbols, limits.

use super::check::Check;
use super::sysctl;
use moonscope_process::{mountinfo, reason};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

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

fn btf() -> Check {
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(FILE)
        .map(|metadata| metadata.len())
        .and_then(|len| File::open(FILE).map(|_| len))
    {
        Ok(len) => Check::ok(
            GROUP,
            "type information (BTF)",
            format!("{FILE}, {} KiB", len >> 10),
        ),
        Err(err) => Check::info(
            GROUP,
            "type information (BTF)",
            format!("{FILE}: {}", reason(&err)),
        )
        .missing(
            "the BPF programs cannot be fitted to this kernel",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (distribution kernels are), with /sys mounted",
        ),
    }
}

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
            "perf events and BPF programs that read memory are refused, also for root",
            "boot with lockdown=integrity or without it (it may come from Secure Boot)",
        ),
        "integrity" => Check::info(GROUP, NAME, "integrity: recording is not affected"),
        _ => Check::ok(GROUP, NAME, mode),
    }
}

fn symbols() -> Check {
    const NAME: &str = "kernel symbols";
    let restrict = sysctl::number("kernel/kptr_restrict").map_or("?".to_owned(), |value| value.to_string());
    match kallsyms_shows_addresses() {
        Some(true) => Check::ok(
            GROUP,
            NAME,
            format!("/proc/kallsyms shows addresses (kptr_restrict {restrict})"),
        ),
        Some(false) => Check::info(
            GROUP,
            NAME,
            format!("addresses are hidden (kptr_restrict {restrict})"),
        )
        .limited(
            "kernel frames have no names, only [kernel]",
            "give moonscope CAP_SYSLOG (or run it as root) with kernel.kptr_restrict at 1 or 0:\n\
             sysctl kernel.kptr_restrict=1",
        ),
        None => Check::info(GROUP, NAME, "/proc/kallsyms is not there").limited(
            "kernel frames have no names, only [kernel]",
            "boot a kernel built with CONFIG_KALLSYMS=y",
        ),
    }
}

/// Is any address of the first lines not zero? Some symbols really are at 0 (per-CPU ones).
fn kallsyms_shows_addresses() -> Option<bool> {
    const LINES: usize = 1000;
    let lines = BufReader::new(File::open("/proc/kallsyms").ok()?)
        .lines()
        .map_while(Result::ok)
        .take(LINES);
    let mut addresses = lines
        .map(|line| line.starts_with(|char: char| char != '0') || has_address(&line))
        .peekable();
    addresses.peek()?;
    Some(addresses.any(|shown| shown))
}

fn has_address(line: &str) -> bool {
    line.split_whitespace()
        .next()
        .is_some_and(|address| address.bytes().any(|byte| byte != b'0'))
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
