//! How much the processes of the target use, read from `/proc` now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use moonscope_process::Pid;

use crate::exit::Failure;
use crate::target::{Target, TargetArgs};

/// How often the target's processes are looked for anew.
const MEMBERS_REST: Duration = Duration::from_secs(2);

/// How often resident memory is looked at.
const RESIDENT_REST: Duration = Duration::from_millis(200);

/// The processes of the target, as they come and go.
pub struct Members<'a> {
    args: &'a TargetArgs,
    pids: BTreeSet<Pid>,
    /// They can be others later.
    can_change: bool,
    looked: Instant,
}

impl<'a> Members<'a> {
    /// Those of now.
    pub fn new(args: &'a TargetArgs, target: &Target) -> Result<Self, Failure> {
        Ok(Self {
            args,
            pids: if target.is_machine() {
                BTreeSet::new()
            } else {
                target.pids()?
            },
            can_change: !args.is_by_pid() && !target.is_machine(),
            looked: Instant::now(),
        })
    }

    fn refresh(&mut self) {
        if !self.can_change || self.looked.elapsed() < MEMBERS_REST {
            return;
        }
        self.looked = Instant::now();
        // while a server restarts there are none
        self.pids = self
            .args
            .find()
            .and_then(|target| target.pids())
            .unwrap_or_default();
    }

    /// Is there none left, and will there be none?
    pub fn are_gone(&self) -> bool {
        let lives = |pid: &Pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true);
        self.args.is_by_pid() && !self.pids.iter().any(lives)
    }

    fn each<T>(&mut self, read: impl Fn(Pid) -> Option<T>) -> BTreeMap<Pid, T> {
        self.refresh();
        let pids = self.pids.iter();
        pids.filter_map(|&pid| Some((pid, read(pid)?))).collect()
    }
}

/// The target's share of a CPU.
pub struct CpuShare {
    spec: String,
    percent: f64,
    over: Duration,
    since: Instant,
    /// Clock ticks of each process by then.
    used: Option<BTreeMap<Pid, u64>>,
}

impl CpuShare {
    /// Looked at from now on.
    pub fn new(spec: String, percent: f64, over: Duration) -> Self {
        Self {
            spec,
            percent,
            over,
            since: Instant::now(),
            used: None,
        }
    }

    /// When it is to be looked at again.
    pub fn next(&self) -> Instant {
        match self.used {
            Some(_) => self.since + self.over,
            None => self.since,
        }
    }

    /// Looks, if it is time; says how much it was, if that is too much.
    pub fn look(&mut self, members: &mut Members<'_>) -> Option<String> {
        if Instant::now() < self.next() {
            return None;
        }
        let elapsed = self.since.elapsed().as_secs_f64();
        let now = members.each(cpu_ticks);
        self.since = Instant::now();
        let before = self.used.replace(now.clone())?;
        // of one that is new it is not known when it used what it has used
        let more = now.iter().filter_map(|(pid, ticks)| {
            let before = before.get(pid)?;
            Some(ticks.saturating_sub(*before))
        });
        let seconds = more.sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64;
        let percent = 100.0 * seconds / elapsed.max(0.001);
        (percent > self.percent).then(|| format!("{} ({percent:.0} %)", self.spec))
    }
}

/// The target's resident memory.
pub struct Resident {
    spec: String,
    bytes: u64,
    next: Instant,
}

impl Resident {
    /// Looked at from now on.
    pub fn new(spec: String, bytes: u64) -> Self {
        Self {
            spec,
            bytes,
            next: Instant::now(),
        }
    }

    /// When it is to be looked at again.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time; says how much it is, if that is too much.
    pub fn look(&mut self, members: &mut Members<'_>) -> Option<String> {
        if Instant::now() < self.next {
            return None;
        }
        self.next = Instant::now() + RESIDENT_REST;
        let bytes: u64 = members.each(resident_bytes).values().sum();
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        (bytes > self.bytes).then(|| format!("{} ({mebibytes:.1} MiB)", self.spec))
    }
}

/// utime and stime (proc_pid_stat(5), fields 14 and 15), behind the name, which may hold anything.
fn cpu_ticks(pid: Pid) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let [user, system] = [fields.next()?, fields.next()?].map(|field| field.parse::<u64>().ok());
    Some(user? + system?)
}

/// The second number of proc_pid_statm(5), in pages.
fn resident_bytes(pid: Pid) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_of_this_process_are_read() {
        let pid = std::process::id();
        let clock = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
        };
        while clock() < 0.05 {}
        let seconds = cpu_ticks(pid).unwrap() as f64 / rustix::param::clock_ticks_per_second() as f64;
        assert!((seconds - clock()).abs() < 0.05, "{seconds} s, {} s", clock());
        let before = resident_bytes(pid).unwrap();
        let touched = std::hint::black_box(vec![1u8; 32 << 20]);
        let grown = resident_bytes(pid).unwrap() - before;
        assert!(
            (31 << 20..40 << 20).contains(&grown),
            "{grown} of {}",
            touched.len()
        );
        assert_eq!(cpu_ticks(u32::MAX), None);
    }
}
