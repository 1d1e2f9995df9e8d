//! On which processor this thread runs.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Lets this thread run on one processor only, until it is dropped.
#[derive(Debug)]
pub struct OnProcessor {
    before: Option<CpuSet>,
    now: Option<u32>,
}

impl OnProcessor {
    /// It runs where it may.
    pub fn any() -> Self {
        Self {
            before: sched_getaffinity(None).ok(),
            now: None,
        }
    }

    /// Goes there, if it is permitted.
    pub fn go(&mut self, cpu: u32) {
        let Some(index) = usize::try_from(cpu).ok().filter(|&cpu| cpu < CpuSet::MAX_CPU) else {
            return;
        };
        if self.before.is_none() || self.now == Some(cpu) {
            return;
        }
        let mut one = CpuSet::new();
        one.set(index);
        self.now = sched_setaffinity(None, &one).is_ok().then_some(cpu);
    }
}

impl Drop for OnProcessor {
    fn drop(&mut self) {
        if let (Some(before), Some(_)) = (&self.before, self.now) {
            let _ = sched_setaffinity(None, before);
        }
    }
}
