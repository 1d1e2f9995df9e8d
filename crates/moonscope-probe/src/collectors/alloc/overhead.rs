//! What the probes of `alloc` take of the CPU time of a program: told before they are there, and watched while they are.

use libbpf_rs::{MapCore, MapFlags};
use moonscope_process::Pid;
use moonscope_unwind::abi;

use crate::breakpoints::cost::Cost;
use crate::skeleton::MoonscopeSkel;
use crate::sums::plain;

/// Where it cannot be measured: a guess for a machine without hypervisor.
const USUAL: Cost = Cost {
    emulated: 600.0,
    stepped: 1200.0,
};

/// Nanoseconds of our program at a breakpoint, where no stack is due (docs/events.md).
const PROGRAM: f64 = 300.0;

/// What breakpoints cost here with our programs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overhead {
    cost: Cost,
}

impl Overhead {
    /// Measures it on ourselves.
    pub fn measure() -> Self {
        Self {
            cost: Cost::measure().unwrap_or(USUAL),
        }
    }

    /// Nanoseconds of so many calls, and so many exits. `is_slow`: [`super::allocator::Allocator::is_slow`]
    pub fn of(&self, calls: u64, exits: u64, is_slow: bool) -> f64 {
        let call = PROGRAM + self.cost.of([!is_slow]);
        let exit = PROGRAM + self.cost.of([false]);
        calls as f64 * call + exits as f64 * exit
    }
}

/// What all CPUs have done.
pub fn work(skel: &MoonscopeSkel<'static>) -> abi::ms_alloc_work {
    let mut total = abi::ms_alloc_work::default();
    let key = 0u32.to_ne_bytes();
    let found = skel.maps.alloc_work.lookup_percpu(&key, MapFlags::ANY);
    let all = found.ok().flatten().unwrap_or_default();
    for cpu in all.iter().filter_map(|cpu| plain::<abi::ms_alloc_work>(cpu)) {
        total.hits += cpu.hits;
        total.calls += cpu.calls;
        total.frees += cpu.frees;
        total.unfollowed += cpu.unfollowed;
        total.abandoned += cpu.abandoned;
        total.missed += cpu.missed;
        total.unswept += cpu.unswept;
    }
    total
}

/// CPU time of a process, all its threads, those that have ended too, in nanoseconds; 0 if it is gone.
pub fn cpu_time(pid: Pid) -> u64 {
    // CPUCLOCK_SCHED of a process (include/linux/posix-timers_types.h): what clock_getcpuclockid(3) makes
    let clock = (!pid.cast_signed() << 3) | 2;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return 0;
    }
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The part that probes take of the CPU time of a process, from 0 to 1; both in nanoseconds.
pub fn share(probes: f64, cpu_time: u64) -> f64 {
    // the one is an estimate, the other was read a bit later
    probes / probes.max(cpu_time as f64).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_probes_is_between_nothing_and_all() {
        assert_eq!(share(0.0, 0), 0.0);
        assert_eq!(share(1e5, 1_000_000), 0.1);
        assert_eq!(share(2e6, 1_000_000), 1.0);
    }

    #[test]
    fn a_call_has_one_breakpoint_and_an_exit_another() {
        let overhead = Overhead {
            cost: Cost {
                emulated: 500.0,
                stepped: 1000.0,
            },
        };
        assert_eq!(overhead.of(2, 1, false), 2.0 * 800.0 + 1300.0);
        assert_eq!(overhead.of(1, 0, true), 1300.0);
    }

    #[test]
    fn the_time_of_a_process_is_that_of_all_its_threads() {
        let own = std::process::id();
        let before = cpu_time(own);
        std::thread::spawn(|| {
            let start = std::time::Instant::now();
            while start.elapsed().as_millis() < 20 {}
        })
        .join()
        .unwrap();
        assert!(cpu_time(own) > before);
        // more than any pid (PID_MAX_LIMIT, include/linux/threads.h)
        assert_eq!(cpu_time(1 << 23), 0);
    }
}
