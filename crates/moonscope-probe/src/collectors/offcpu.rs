//! The event `offcpu`: time that threads are not on a CPU (`bpf/offcpu.bpf.h`).

mod reason;

use std::collections::{BTreeMap, BTreeSet};

use libbpf_rs::{MapCore, MapFlags};
use moonscope_unwind::abi;

use crate::collector::{Collector, Column, Context, Programs, Unfinished, stacks_in};
use crate::error::ProbeError;
use crate::kernel_types::has_tracepoint;
use crate::limits::Limits;
use crate::processes::monotonic_now;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// How the end of an interval is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// The kernel tells when a switch is over: stacks are taken of what was asked for.
    SwitchEnd,
    /// It does not: a stack is taken whenever a thread leaves its CPU.
    SwitchBegin,
}

/// Intervals off the CPU.
#[derive(Debug, Default)]
pub struct OffCpu {
    tier: Option<Tier>,
    min: u64,
    max: Option<u64>,
    how: Option<u64>,
    wants_waker: bool,
    /// When measuring began and ended (CLOCK_MONOTONIC, nanoseconds).
    started: u64,
    stopped: u64,
}

const LEAVE: &str = "offcpu_leave";
const WAKE: &str = "offcpu_wake";
const WAKER: &str = "offcpu_waker";
const RETURN: &str = "offcpu_return";
const SWITCH: &str = "offcpu_switch";

/// The setting for the shortest interval, nanoseconds.
pub const MIN_BLOCK: &str = "min-block";
/// The setting for the longest interval, nanoseconds.
pub const MAX_BLOCK: &str = "max-block";
/// The setting for the states in which threads leave: bit n is `enum ms_offcpu_how` n.
pub const STATE: &str = "state";

/// The setting for the stacks of those who wake threads; 1: they are taken.
pub const WAKER_STACK: &str = "waker";

/// The label with what a thread waits for.
const REASON: &str = "offcpu-reason";

impl Collector for OffCpu {
    fn name(&self) -> &'static str {
        "offcpu"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 3] = [
            Column::new("offcpu", "nanoseconds"),
            Column::new("idle", "nanoseconds"),
            Column::new("switches", "count"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        self.tier = Some(if has_tracepoint("sched_exit_tp") {
            Tier::SwitchEnd
        } else {
            Tier::SwitchBegin
        });
        self.min = context.settings.get(MIN_BLOCK).unwrap_or(0);
        self.max = context.settings.get(MAX_BLOCK);
        self.how = context.settings.get(STATE);
        self.wants_waker = context.settings.get(WAKER_STACK) == Some(1);
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        match (self.tier, self.wants_waker) {
            (Some(Tier::SwitchEnd), false) => &[LEAVE, WAKE, RETURN],
            (Some(Tier::SwitchEnd), true) => &[LEAVE, WAKER, RETURN],
            (Some(Tier::SwitchBegin), false) => &[SWITCH, WAKE],
            (Some(Tier::SwitchBegin), true) => &[SWITCH, WAKER],
            (None, _) => &[LEAVE, WAKE, WAKER, RETURN, SWITCH],
        }
    }

    fn sums_up(&self) -> bool {
        true
    }

    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        limits: &Limits,
    ) -> Result<(), libbpf_rs::Error> {
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.offcpu_event = number;
            constants.offcpu_min_ns = self.min;
            constants.offcpu_max_ns = self.max.unwrap_or(u64::MAX);
            constants.offcpu_how = self.how.map_or(u32::MAX, |how| how as u32);
            constants.offcpu_want_waker = self.wants_waker;
        }
        if self.wants_waker {
            open.maps.wakers.set_max_entries(limits.threads as u32)?;
        }
        open.maps.blocked_threads.set_max_entries(limits.threads as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        self.programs()
            .iter()
            .try_for_each(|program| programs.attach(program))
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.started = monotonic_now();
        if let Some(state) = skel.maps.bss_offcpu_data.as_deref_mut() {
            state.offcpu_since = self.started;
        }
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        if let Some(state) = skel.maps.bss_offcpu_data.as_deref_mut() {
            state.offcpu_has_ended = 1;
        }
        self.stopped = monotonic_now();
        Ok(())
    }

    /// Threads that are blocked still.
    fn unfinished(&mut self, skel: &mut MoonscopeSkel<'static>) -> Option<Unfinished> {
        let now = self.stopped;
        let interval = |since: u64, tag: u32| {
            let lasted = now.saturating_sub(since);
            let how = (tag & abi::MS_OFFCPU_HOW_MASK) >> abi::MS_OFFCPU_HOW_SHIFT;
            let is_asked_for = lasted >= self.min
                && self.max.is_none_or(|max| lasted <= max)
                && self.how.is_none_or(|wanted| wanted >> how & 1 == 1);
            let mut sum = abi::ms_sum {
                count: 1,
                ..Default::default()
            };
            sum.value[0] = lasted;
            is_asked_for.then_some((tag, sum))
        };
        let map = &skel.maps.blocked_threads;
        let mut known = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for key in map.keys() {
            // `struct blocked`: since, woken, stack, tag, …
            let Ok(Some(value)) = map.lookup(&key, MapFlags::ANY) else {
                continue;
            };
            let word = |at: usize| Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
            let tid = key.try_into().map(u32::from_ne_bytes);
            if let (Ok(tid), Some(since), Some(tag)) = (tid, word(0), word(32)) {
                seen.insert(tid);
                // others left when measuring had ended
                if since < now {
                    known.extend(interval(since, tag as u32).map(|interval| (tid, interval)));
                }
            }
        }
        let sleeping = abi::MS_OFFCPU_INTERRUPTIBLE << abi::MS_OFFCPU_HOW_SHIFT;
        Some(Unfinished {
            known,
            seen,
            unseen: interval(self.started, sleeping).filter(|_| !was_full(skel)),
        })
    }

    fn has_seen(&self, tid: u32, skel: &MoonscopeSkel<'static>) -> bool {
        let known = skel
            .maps
            .blocked_threads
            .lookup(&tid.to_ne_bytes(), MapFlags::ANY);
        was_full(skel) || !matches!(known, Ok(None))
    }

    /// Where stacks are taken when threads leave their CPU.
    fn held(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<abi::ms_stack_id> {
        // `struct blocked`: since, woken, stack, …
        let mut held = stacks_in(&skel.maps.blocked_threads, 16);
        // `struct waker`: stack, …
        held.extend(stacks_in(&skel.maps.wakers, 0));
        held
    }

    fn how(&self) -> String {
        let tier = match self.tier {
            Some(Tier::SwitchBegin) => "by sched_switch, a stack for each switch",
            _ => "by sched_switch and sched_exit_tp",
        };
        let waker = if self.wants_waker {
            ", with who woke it"
        } else {
            ""
        };
        match self.min {
            0 => format!("{tier}{waker}"),
            min => format!("{tier}{waker}, from {} µs", min as f64 / 1000.0),
        }
    }

    fn row(&self, tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let time = clamp(sum.value[0]);
        // an interval that a wake-up cut in two was one switch
        let count = if tag & abi::MS_OFFCPU_WOKEN == 0 {
            clamp(sum.count)
        } else {
            0
        };
        if reason::is_idle(tag) {
            vec![0, time, count]
        } else {
            vec![time, 0, count]
        }
    }

    fn wall_time(&self, _tag: u32, sum: &abi::ms_sum) -> i64 {
        i64::try_from(sum.value[0]).unwrap_or(i64::MAX)
    }

    fn tag_in_call(&self, tag: u32, call: Option<u32>) -> Option<u32> {
        let call = call.map_or(abi::MS_OFFCPU_NO_CALL, |call| {
            (call + 1) & abi::MS_OFFCPU_CALL_MASK
        });
        Some(tag & !(abi::MS_OFFCPU_CALL_MASK | abi::MS_OFFCPU_NO_CALL) | call)
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[REASON]
    }

    fn labels(&self, tag: u32, kernel: &[&str]) -> Vec<(&'static str, String)> {
        vec![(REASON, reason::reason(tag, kernel).to_owned())]
    }
}

/// Intervals were lost: of a thread of which nothing is known this says nothing.
fn was_full(skel: &MoonscopeSkel<'static>) -> bool {
    let state = skel.maps.bss_offcpu_data.as_deref();
    state.is_some_and(|state| state.offcpu_was_full != 0)
}
