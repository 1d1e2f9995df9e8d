//! The event `lua-loop`: turns of an event loop that take too long (`bpf/lua_loop.bpf.h`).

use std::collections::{BTreeMap, BTreeSet};

use libbpf_rs::{MapCore, MapFlags};
use moonscope_process::counted;
use moonscope_unwind::abi;

use crate::clock::{Clock, max_rate};
use crate::collector::{AnyCollector, Collector, Column, Context, EventSpec, Programs, Unfinished};
use crate::error::ProbeError;
use crate::limits::Limits;
use crate::processes::monotonic_now;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// Turns of event loops.
#[derive(Debug)]
pub struct LuaLoop {
    /// The shortest turn that is asked for, nanoseconds.
    threshold: u64,
    hz: u64,
    clock: Option<Clock>,
    /// When measuring ended (CLOCK_MONOTONIC, nanoseconds).
    stopped: u64,
}

/// Its name on the command line.
pub const NAME: &str = "lua-loop";
/// The column with the time of turns.
pub const TIME: &str = "loop_time";
/// The column that counts them.
pub const TURNS: &str = "loop_turns";

const TICK: &str = "loop_tick";
const EXIT: &str = "loop_exit";
const ENTER: &str = "loop_enter";
const SWITCH: &str = "loop_switch";
const END: &str = "loop_thread_ends";

/// The label with how a stack was come by.
const LOOP: &str = "loop";

/// A turn that all other clients of a worker feel.
const THRESHOLD: u64 = 20_000_000;
/// At the shortest, what is looked at is mostly us; longer ones are seen as well by a shorter limit.
const THRESHOLDS: std::ops::RangeInclusive<u64> = 1_000_000..=10_000_000_000;
/// Looks in the shortest turn: a quarter of it is told as whose it was.
const LOOKS: u64 = 4;
/// System calls that take so large a part of the time between two ticks are looked at too, and so is what ran for so long
/// without a tick.
const A_WHILE: u64 = 4;
const SECOND: u64 = 1_000_000_000;

/// The collector; an argument is the shortest turn: `lua-loop:50ms`.
pub fn create(spec: &EventSpec) -> Result<Vec<AnyCollector>, ProbeError> {
    let threshold = match &spec.argument {
        None => THRESHOLD,
        Some(text) => nanoseconds(text).ok_or_else(|| ProbeError::EventArgument {
            event: spec.name.clone(),
            argument: text.clone(),
            expected: "the shortest turn to show, from 1ms to 10s, as in lua-loop:50ms",
        })?,
    };
    Ok(vec![Box::new(LuaLoop {
        threshold,
        hz: 0,
        clock: None,
        stopped: 0,
    })])
}

/// `50ms`, `1.5s`, `1500us`.
fn nanoseconds(text: &str) -> Option<u64> {
    let units = [("ms", 1e6), ("us", 1e3), ("s", 1e9)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, length)| Some((text.strip_suffix(unit)?, length)))?;
    let time = number.parse::<f64>().ok()? * unit;
    Some(time as u64).filter(|time| THRESHOLDS.contains(time))
}

impl Collector for LuaLoop {
    fn name(&self) -> &'static str {
        NAME
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 2] = [Column::new(TIME, "nanoseconds"), Column::new(TURNS, "count")];
        &COLUMNS
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        self.hz = (LOOKS * SECOND / self.threshold).clamp(1, max_rate().max(1));
        self.clock = Some(Clock::open_timer(self.hz, context.cpus)?);
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        &[TICK, EXIT, ENTER, SWITCH, END]
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
            constants.loop_event = number;
            constants.loop_threshold = self.threshold;
            constants.loop_a_while = SECOND / self.hz.max(1) / A_WHILE;
        }
        open.maps.loop_threads.set_max_entries(limits.loops as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        for program in [EXIT, ENTER, SWITCH, END] {
            programs.attach(program)?;
        }
        match &self.clock {
            Some(clock) => programs.attach_perf_events(TICK, clock.events()),
            None => Ok(()),
        }
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 1);
        self.clock.as_ref().map_or(Ok(()), Clock::start)
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.clock.as_ref().map_or(Ok(()), Clock::stop)?;
        switch(skel, 0);
        self.stopped = monotonic_now();
        Ok(())
    }

    /// Threads that wait in the middle of a turn. One that runs was seen by the last tick.
    fn unfinished(&mut self, skel: &mut MoonscopeSkel<'static>) -> Option<Unfinished> {
        let map = &skel.maps.loop_threads;
        let mut known = BTreeMap::new();
        for key in map.keys() {
            // `struct loop_turn`: began, told, called, is_long, looks, …
            let Ok(Some(value)) = map.lookup(&key, MapFlags::ANY) else {
                continue;
            };
            let word = |at: usize| Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
            let tid = key.try_into().map(u32::from_ne_bytes);
            if let (Ok(tid), Some(began @ 1..), Some(told), Some(is_long)) = (tid, word(0), word(8), word(24))
                && self.stopped.saturating_sub(began) >= self.threshold
            {
                let was_counted = is_long as u32 != 0;
                let since = if was_counted { told } else { began };
                let mut sum = abi::ms_sum {
                    count: 1,
                    ..Default::default()
                };
                sum.value[abi::MS_LOOP_TIME as usize] = self.stopped.saturating_sub(since);
                sum.value[abi::MS_LOOP_TURNS as usize] = u64::from(!was_counted);
                known.insert(tid, (abi::MS_LOOP_CALL, sum));
            }
        }
        (!known.is_empty()).then(|| Unfinished {
            known,
            seen: BTreeSet::new(),
            unseen: None,
        })
    }

    fn how(&self) -> String {
        format!(
            "of {} ms and more, by epoll_wait, looked at {} a second by cpu-clock",
            self.threshold as f64 / 1e6,
            counted(self.hz, "time")
        )
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let places = [abi::MS_LOOP_TIME, abi::MS_LOOP_TURNS];
        let value = |place: u32| i64::try_from(sum.value[place as usize]).unwrap_or(i64::MAX);
        places.map(value).to_vec()
    }

    /// It has called epoll_wait meanwhile: the turn ended after the recording.
    fn tag_in_call(&self, tag: u32, call: Option<u32>) -> Option<u32> {
        let waits = [
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
        ];
        let is_epoll = call.is_some_and(|call| waits.contains(&libc::c_long::from(call)));
        (!is_epoll).then_some(tag)
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[LOOP]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let how = match tag {
            abi::MS_LOOP_RUNNING => "running",
            abi::MS_LOOP_CALL => "blocked",
            _ => "unknown",
        };
        vec![(LOOP, how.to_owned())]
    }
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_loop_data.as_deref_mut() {
        state.loop_is_on = is_on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_the_shortest_turn() {
        assert_eq!(nanoseconds("20ms"), Some(THRESHOLD));
        assert_eq!(nanoseconds("1.5s"), Some(1_500_000_000));
        assert_eq!(nanoseconds("2500us"), Some(2_500_000));
        assert!(create(&EventSpec::parse("lua-loop")).is_ok());
        for text in ["20", "0ms", "999us", "11s", "-1s", "ms", "nans", "infs", ""] {
            let spec = EventSpec::parse(&format!("lua-loop:{text}"));
            assert!(
                matches!(create(&spec), Err(ProbeError::EventArgument { .. })),
                "{text}"
            );
        }
    }
}
