//! The sampling clock: one perf event for each CPU.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::ProbeError;

/// What makes the ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// The PMU's cycle counter: also sees code that runs with interrupts off, where it ticks by NMI.
    Cycles,
    /// The kernel's timer: where a machine has no PMU.
    CpuClock,
}

impl ClockKind {
    /// The name that perf(1) uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::CpuClock => "cpu-clock",
        }
    }
}

/// `struct perf_event_attr`, its first 64 bytes (PERF_ATTR_SIZE_VER0, include/uapi/linux/perf_event.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct EventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period_or_freq: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
}

const TYPE_HARDWARE: u32 = 0;
const TYPE_SOFTWARE: u32 = 1;
const HARDWARE_CYCLES: u64 = 0;
const SOFTWARE_CPU_CLOCK: u64 = 0;
/// Bit numbers in `perf_event_attr`'s flag word.
const FLAG_DISABLED: u64 = 1 << 0;
const FLAG_FREQ: u64 = 1 << 10;
const OPEN_CLOEXEC: u64 = 1 << 3;
/// _IO('$', n)
const IOC_ENABLE: u64 = 0x2400;
const IOC_DISABLE: u64 = 0x2401;

/// An open clock: stopped until [`Clock::start`].
#[derive(Debug)]
pub struct Clock {
    kind: ClockKind,
    events: Vec<OwnedFd>,
}

impl Clock {
    /// Opens the best clock that this machine has, on all CPUs that are online.
    pub fn open(hz: u64) -> Result<Self, ProbeError> {
        let allowed = max_rate();
        if hz > allowed {
            return Err(ProbeError::Rate { asked: hz, allowed });
        }
        let cpus = online_cpus().map_err(|source| ProbeError::Io { what: "cannot list the online CPUs", source })?;
        match Self::open_kind(ClockKind::Cycles, hz, &cpus) {
            Ok(clock) => Ok(clock),
            Err(err @ ProbeError::NotPermitted { .. }) => Err(err),
            Err(_) => Self::open_kind(ClockKind::CpuClock, hz, &cpus),
        }
    }

    fn open_kind(kind: ClockKind, hz: u64, cpus: &[u32]) -> Result<Self, ProbeError> {
        let mut attr = EventAttr { size: size_of::<EventAttr>() as u32, flags: FLAG_DISABLED, ..EventAttr::default() };
        match kind {
            ClockKind::Cycles => {
                (attr.kind, attr.config) = (TYPE_HARDWARE, HARDWARE_CYCLES);
                attr.sample_period_or_freq = hz;
                attr.flags |= FLAG_FREQ;
            }
            ClockKind::CpuClock => {
                (attr.kind, attr.config) = (TYPE_SOFTWARE, SOFTWARE_CPU_CLOCK);
                attr.sample_period_or_freq = 1_000_000_000 / hz;
            }
        }
        let events = cpus.iter().map(|&cpu| open_event(&attr, cpu)).collect::<Result<_, _>>()?;
        Ok(Self { kind, events })
    }

    /// What makes the ticks.
    pub fn kind(&self) -> ClockKind {
        self.kind
    }

    /// One file descriptor for each CPU, to attach a program to.
    pub fn events(&self) -> &[OwnedFd] {
        &self.events
    }

    /// Starts the ticks.
    pub fn start(&self) -> Result<(), ProbeError> {
        self.control(IOC_ENABLE)
    }

    /// Ends the ticks: no sample is taken after this returns.
    pub fn stop(&self) -> Result<(), ProbeError> {
        self.control(IOC_DISABLE)
    }

    fn control(&self, request: u64) -> Result<(), ProbeError> {
        for event in &self.events {
            // SAFETY: an ioctl of perf events without argument on our own file descriptor.
            if unsafe { libc::ioctl(event.as_raw_fd(), request, 0) } != 0 {
                return Err(ProbeError::Io { what: "cannot switch the sampling clock", source: io::Error::last_os_error() });
            }
        }
        Ok(())
    }
}

fn open_event(attr: &EventAttr, cpu: u32) -> Result<OwnedFd, ProbeError> {
    // SAFETY: perf_event_open(attr, any process, this cpu, no group, flags) reads `size` bytes of attr.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, std::ptr::from_ref(attr), -1, cpu as libc::c_int, -1, OPEN_CLOEXEC)
    };
    if fd < 0 {
        let source = io::Error::last_os_error();
        return Err(match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => ProbeError::NotPermitted { what: "cannot open a perf event for all processes" },
            _ => ProbeError::Clock { cpu, source },
        });
    }
    // SAFETY: a new file descriptor that nobody else owns; it fits an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `kernel.perf_event_max_sample_rate`; the kernel lowers it by itself when samples take long.
pub fn max_rate() -> u64 {
    fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(100_000)
}

fn online_cpus() -> io::Result<Vec<u32>> {
    parse_cpu_list(&fs::read_to_string("/sys/devices/system/cpu/online")?)
}

/// How many CPU numbers there can be: the highest possible one, plus one.
pub fn possible_cpus() -> io::Result<usize> {
    let list = parse_cpu_list(&fs::read_to_string("/sys/devices/system/cpu/possible")?)?;
    Ok(list.last().map_or(1, |&last| last as usize + 1))
}

/// `0-3,8,10-11`, as in Documentation/admin-guide/cputopology.rst.
fn parse_cpu_list(text: &str) -> io::Result<Vec<u32>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no list of CPUs"));
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        cpus.extend(first..=last);
    }
    if cpus.is_empty() { Err(bad()) } else { Ok(cpus) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_may_have_ranges_and_gaps() {
        assert_eq!(parse_cpu_list("0-2,5,7-8\n").unwrap(), [0, 1, 2, 5, 7, 8]);
        assert_eq!(parse_cpu_list("0\n").unwrap(), [0]);
        assert!(parse_cpu_list("\n").is_err());
        assert!(parse_cpu_list("0-x").is_err());
    }
}
