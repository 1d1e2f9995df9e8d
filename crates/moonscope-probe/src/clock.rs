//! The sampling clock: one perf event for each CPU.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::affinity::OnProcessor;
use crate::error::ProbeError;
use crate::perf_event::{self, Attr};

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

/// An open clock: stopped until [`Clock::start`].
#[derive(Debug)]
pub struct Clock {
    kind: ClockKind,
    events: Vec<OwnedFd>,
}

impl Clock {
    /// Opens the best clock that this machine has, on these CPUs.
    pub fn open(hz: u64, cpus: &[u32]) -> Result<Self, ProbeError> {
        let allowed = max_rate();
        if hz > allowed {
            return Err(ProbeError::Rate { asked: hz, allowed });
        }
        match Self::open_kind(ClockKind::Cycles, hz, cpus) {
            Ok(clock) => Ok(clock),
            Err(err @ ProbeError::NotPermitted { .. }) => Err(err),
            Err(_) => Self::open_kind(ClockKind::CpuClock, hz, cpus),
        }
    }

    /// Opens the kernel's timer, which ticks at a fixed rate from the first tick on.
    pub fn open_timer(hz: u64, cpus: &[u32]) -> Result<Self, ProbeError> {
        Self::open_kind(ClockKind::CpuClock, hz, cpus)
    }

    fn open_kind(kind: ClockKind, hz: u64, cpus: &[u32]) -> Result<Self, ProbeError> {
        let attr = match kind {
            ClockKind::Cycles => Attr::cycles(hz),
            ClockKind::CpuClock => Attr::cpu_clock(hz),
        };
        let open = |&cpu: &u32| {
            perf_event::open(&attr, cpu).map_err(|source| match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => not_permitted(),
                _ => ProbeError::Clock { cpu, source },
            })
        };
        Ok(Self {
            kind,
            events: cpus.iter().map(open).collect::<Result<_, _>>()?,
        })
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
        self.each(perf_event::enable)
    }

    /// Ends the ticks: no sample is taken after this returns.
    pub fn stop(&self) -> Result<(), ProbeError> {
        self.each(perf_event::disable)
    }

    /// Starts two timers so that on each CPU the second one ticks shortly behind the first. From that CPU, as it would take
    /// long to reach one that sleeps; where this thread may not run, as soon as it can be.
    pub fn start_pair(first: &Self, second: &Self, cpus: &[u32], apart: Duration) -> Result<(), ProbeError> {
        let failed = |source| ProbeError::Io {
            what: "cannot switch the sampling clock",
            source,
        };
        let mut here = OnProcessor::any();
        for ((one, other), &cpu) in first.events.iter().zip(&second.events).zip(cpus) {
            here.go(cpu);
            let start = Instant::now();
            perf_event::enable(one.as_fd()).map_err(failed)?;
            while start.elapsed() < apart {
                std::hint::spin_loop();
            }
            perf_event::enable(other.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    fn each(&self, switch: fn(BorrowedFd<'_>) -> io::Result<()>) -> Result<(), ProbeError> {
        self.events
            .iter()
            .try_for_each(|event| switch(event.as_fd()))
            .map_err(|source| ProbeError::Io {
                what: "cannot switch the sampling clock",
                source,
            })
    }
}

/// Above 2 is what only distributions have: then Debian's kernels ask for CAP_SYS_ADMIN where all others take
/// CAP_PERFMON.
pub(crate) fn not_permitted() -> ProbeError {
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    match paranoid.ok().and_then(|text| text.trim().parse().ok()) {
        Some(paranoid @ 3..) => ProbeError::Paranoid { paranoid },
        _ => ProbeError::NotPermitted {
            what: "cannot open a perf event for all processes",
        },
    }
}

/// `kernel.perf_event_max_sample_rate`; the kernel lowers it by itself when samples take long.
pub fn max_rate() -> u64 {
    fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(100_000)
}

/// The CPUs that are running.
pub fn online_cpus() -> Result<Vec<u32>, ProbeError> {
    read_cpu_list("/sys/devices/system/cpu/online")
}

/// How many CPU numbers there can be: the highest possible one, plus one.
pub fn possible_cpus() -> Result<usize, ProbeError> {
    let list = read_cpu_list("/sys/devices/system/cpu/possible")?;
    Ok(list.last().map_or(1, |&last| last as usize + 1))
}

fn read_cpu_list(file: &'static str) -> Result<Vec<u32>, ProbeError> {
    fs::read_to_string(file)
        .and_then(|text| parse_cpu_list(&text))
        .map_err(|source| ProbeError::Cpus { file, source })
}

/// `0-3,8,10-11`, as in Documentation/admin-guide/cputopology.rst.
fn parse_cpu_list(text: &str) -> io::Result<Vec<u32>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no list of CPUs"));
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (
            first.parse().map_err(|_| bad())?,
            last.parse().map_err(|_| bad())?,
        );
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
