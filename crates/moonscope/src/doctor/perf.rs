//! Perf events: which sampling clock there is, and what the kernel allows.

use super::check::Check;
use super::privilege;
use super::sysctl;
use moonscope_process::reason;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const GROUP: &str = "perf";
const PARANOID: &str = "kernel/perf_event_paranoid";

pub(super) fn checks() -> Vec<Check> {
    let cycles = open(Clock::Cycles);
    let cpu_clock = open(Clock::CpuClock);
    let mut checks = clocks(&cycles, &cpu_clock);
    checks.extend([paranoid(), sample_rate(), cpu_time(), kernel_stack()]);
    checks
}

/// What makes the ticks: (type, config) of include/uapi/linux/perf_event.h.
#[derive(Clone, Copy)]
pub(super) enum Clock {
    /// `PERF_TYPE_HARDWARE`, `PERF_COUNT_HW_CPU_CYCLES`.
    Cycles,
    /// `PERF_TYPE_SOFTWARE`, `PERF_COUNT_SW_CPU_CLOCK`.
    CpuClock,
}

/// `struct perf_event_attr` as far as its first published size (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

/// Opens a stopped event of all processes on one CPU.
pub(super) fn open(clock: Clock) -> io::Result<OwnedFd> {
    const DISABLED: u64 = 1;
    const CLOEXEC: u64 = 8;
    let attr = Attr {
        kind: match clock {
            Clock::Cycles => 0,
            Clock::CpuClock => 1,
        },
        size: 64,
        sample_period: 10_000_000,
        flags: DISABLED,
        ..Attr::default()
    };
    let cpu = rustix::thread::sched_getcpu();
    // SAFETY: perf_event_open(attr, all processes, one CPU, no group, flags) reads `size` bytes of attr.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, CLOEXEC) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else knows.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn clocks(cycles: &io::Result<OwnedFd>, cpu_clock: &io::Result<OwnedFd>) -> Vec<Check> {
    let (hardware, software) = ("hardware cycles", "cpu-clock");
    let hardware = match cycles {
        Ok(_) => Check::ok(GROUP, hardware, "works: the sampling clock"),
        Err(err) if cpu_clock.is_ok() => {
            Check::info(GROUP, hardware, format!("{}; cpu-clock is used", no_pmu(err))).limited(
                "kernel code that runs with interrupts off shows up where they are enabled again",
                "nothing to do in most virtual machines; else give the guest a PMU (QEMU: -cpu host,pmu=on)",
            )
        }
        Err(err) => Check::info(GROUP, hardware, reason(err)),
    };
    let software = match cpu_clock {
        Ok(_) if cycles.is_ok() => Check::ok(GROUP, software, "works: used if cycles are not free"),
        Ok(_) => Check::ok(GROUP, software, "works: the sampling clock"),
        Err(err) if cycles.is_ok() => Check::info(GROUP, software, format!("{}; not needed", reason(err))),
        Err(err) => Check::info(GROUP, software, reason(err)).missing("no sampling clock", not_opened(err)),
    };
    vec![hardware, software]
}

/// What to do when an event is refused. Above 2, a value that only distributions have, CAP_PERFMON is not enough.
pub(super) fn not_opened(err: &io::Error) -> String {
    match (err.raw_os_error(), sysctl::number(PARANOID)) {
        (Some(libc::EPERM | libc::EACCES), Some(3..)) => {
            let remedy = privilege::remedy();
            format!("{remedy}\nand, unless it runs as root: sysctl kernel.perf_event_paranoid=2")
        }
        (Some(libc::EPERM | libc::EACCES), _) => privilege::remedy().to_owned(),
        _ => {
            "boot a kernel built with CONFIG_PERF_EVENTS=y, or allow perf_event_open() in seccomp".to_owned()
        }
    }
}

/// These answers mean that there is no counter of cycles to open.
fn no_pmu(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => "no PMU here".to_owned(),
        _ => reason(err),
    }
}

fn paranoid() -> Check {
    let value = sysctl::number(PARANOID);
    let found = match value {
        Some(value @ 3..) => format!("{value} (above 2 Debian's kernels ask for CAP_SYS_ADMIN)"),
        Some(value) => format!("{value} (matters only without CAP_PERFMON)"),
        None => "perf events are not in this kernel".to_owned(),
    };
    Check::info(GROUP, "perf_event_paranoid", found)
}

fn sample_rate() -> Check {
    const NAME: &str = "highest sampling rate";
    const USUAL: i64 = 999;
    match sysctl::number("kernel/perf_event_max_sample_rate") {
        Some(rate) if rate < USUAL => Check::info(GROUP, NAME, format!("{rate} Hz")).limited(
            "higher rates are refused (the kernel lowers the limit when interrupts take long)",
            "sysctl kernel.perf_event_max_sample_rate=100000",
        ),
        Some(rate) => Check::ok(GROUP, NAME, format!("{rate} Hz")),
        None => Check::info(GROUP, NAME, "not known"),
    }
}

fn cpu_time() -> Check {
    let value = sysctl::number("kernel/perf_cpu_time_max_percent");
    let found = match value {
        Some(0 | 100) => "sampling is never throttled".to_owned(),
        Some(percent) => format!("the kernel throttles sampling above {percent} % of the time"),
        None => "not known".to_owned(),
    };
    Check::info(GROUP, "throttling", found)
}

fn kernel_stack() -> Check {
    const NAME: &str = "kernel stack depth";
    match sysctl::number("kernel/perf_event_max_stack") {
        Some(frames) if frames < 127 => Check::info(GROUP, NAME, format!("{frames} frames")).limited(
            "deeper kernel stacks are cut (user stacks are walked by moonscope itself)",
            "sysctl kernel.perf_event_max_stack=127",
        ),
        Some(frames) => Check::ok(
            GROUP,
            NAME,
            format!("{frames} frames (user stacks have no such limit)"),
        ),
        None => Check::info(GROUP, NAME, "not known"),
    }
}
