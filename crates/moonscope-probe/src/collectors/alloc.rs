//! The event `alloc`: what malloc and its family give out and take back, and what is in use (`bpf/alloc.bpf.h`).

mod allocator;
mod entry;
mod exits;
mod image;
mod in_use;
mod names;
mod overhead;
mod placed;
mod weights;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libbpf_rs::ProgramAttachType;
use moonscope_process::{Pid, counted};
use moonscope_unwind::abi;

use crate::breakpoints::set::Way;
use crate::collector::{AnyCollector, Collector, Column, Context, EventSpec, Leftover, Programs};
use crate::error::ProbeError;
use crate::kernel_types::has_type;
use crate::limits::Limits;
use crate::object::add_spare_scratches;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};
use allocator::{CALL, COUNT, EXIT, FREE};
use in_use::InUse;
use overhead::{Overhead, share, work};
use placed::Placed;

/// How much of the CPU time of the recorded processes the probes may take, in hundredths of a per cent.
pub const MAX_OVERHEAD: &str = "max-overhead";

/// The same unless it is said.
const USUAL_MAX_OVERHEAD: u64 = 1000;

/// All of it: probes are never taken away.
const NO_LIMIT: f64 = 1.0;

/// Bytes for each stack, unless said otherwise: as Go, tcmalloc and jemalloc have it.
const PERIOD: u64 = 512 << 10;

/// How long calls are counted before the probes of a recording are attached.
const TRIAL: Duration = Duration::from_millis(100);

/// How often the cost is looked at. The CPU time of a process in it is known to a microsecond.
const WINDOW: Duration = Duration::from_secs(1);

/// Less than this in a window harms nobody, whatever part of the CPU time it is.
const HARMLESS: Duration = Duration::from_millis(10);

/// Blocks that were taken and are not freed, about 100 bytes each. With the usual period they stand for 128 GiB.
const BLOCKS: u32 = 1 << 18;
/// With so short a period that nearly each is taken.
const MORE_BLOCKS: u32 = 1 << 20;
const SHORT_PERIOD: u64 = 4096;

/// Notices programs that a process executes.
const EXECUTES: &str = "alloc_executes";

/// What malloc gives out and free takes back.
#[derive(Default)]
pub struct Alloc {
    period: u64,
    /// A part of 1.
    max_overhead: f64,
    /// The number of its event.
    number: u32,
    placed: Placed,
    in_use: InUse,
    /// What probes cost.
    overhead: Overhead,
    /// The last look at it: when, and what probes had done.
    looked: Option<(Instant, abi::ms_alloc_work)>,
    began: Option<Instant>,
    /// Why the probes were taken away before the end.
    gave_up: Option<String>,
    is_over: bool,
    work: abi::ms_alloc_work,
}

/// The collector; an argument is for how many bytes a stack is taken: `alloc:65536`.
pub fn create(spec: &EventSpec) -> Result<Vec<AnyCollector>, ProbeError> {
    let period = match &spec.argument {
        None => PERIOD,
        Some(text) => match text.parse() {
            Ok(period) if (1..=u64::from(abi::MS_ALLOC_MOST_PERIOD)).contains(&period) => period,
            _ => {
                return Err(ProbeError::EventArgument {
                    event: spec.name.clone(),
                    argument: text.clone(),
                    expected: "for how many bytes a stack is taken, 1 for each allocation, as in alloc:65536",
                });
            }
        },
    };
    Ok(vec![Box::new(Alloc {
        period,
        ..Alloc::default()
    })])
}

impl Alloc {
    /// Measures no more, and takes the probes away.
    fn end(&mut self, skel: &mut MoonscopeSkel<'static>) {
        switch(skel, 0);
        self.placed.remove_all();
    }

    /// Are probes wanted still?
    fn goes_on(&self) -> bool {
        !self.is_over && self.gave_up.is_none()
    }

    fn is_too_much(&self, share: f64, probes: f64, window: Duration) -> bool {
        let is_harmless =
            probes / 1e9 < HARMLESS.as_secs_f64() * (window.as_secs_f64() / WINDOW.as_secs_f64());
        share > self.max_overhead && self.max_overhead < NO_LIMIT && !is_harmless
    }

    /// Looks at what probes have cost lately, and takes them away if that is too much.
    fn look_at_overhead(&mut self, programs: &mut Programs<'_>) {
        let Some((when, before)) = self.looked else {
            return;
        };
        let window = when.elapsed();
        if window < WINDOW {
            return;
        }
        self.in_use.sweep(programs.skel);
        let now = work(programs.skel);
        self.looked = Some((Instant::now(), now));
        let calls = now.calls - before.calls;
        let exits = (now.hits - before.hits).saturating_sub(calls);
        let probes = self.overhead.of(calls, exits, self.placed.is_slow());
        let share = share(probes, self.placed.cpu_time_since());
        if !self.is_too_much(share, probes, window) {
            return;
        }
        self.end(programs.skel);
        let lasted = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        self.gave_up = Some(format!(
            "alloc: its probes were taken away after {:.1} s: they took {} of the CPU time, more than --max-overhead {}; \
             what follows is missing, and `in use` is as it was then",
            lasted.as_secs_f64(),
            per_cent(share),
            per_cent(self.max_overhead),
        ));
    }
}

impl Collector for Alloc {
    fn name(&self) -> &'static str {
        "alloc"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 4] = [
            Column::new("alloc_objects", "count"),
            Column::new("alloc_space", "bytes"),
            Column::new("inuse_objects", "count"),
            Column::new("inuse_space", "bytes"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        // what a cookie is kept in (include/linux/bpf.h)
        if !has_type("bpf_trace_run_ctx") {
            return Err(ProbeError::OldKernel {
                event: "alloc",
                needed: "Linux 5.15 or later",
                instead: "`-e memory` shows what makes resident memory grow, without probes",
            });
        }
        let most = context.settings.get(MAX_OVERHEAD).unwrap_or(USUAL_MAX_OVERHEAD);
        self.max_overhead = most as f64 / 10_000.0;
        self.placed = Placed::look(context.scope, context.program, Way::best())?;
        self.overhead = Overhead::measure();
        Ok(())
    }

    fn announcement(&self) -> Vec<String> {
        let mut lines = self.placed.announce();
        lines.push(format!(
            "each call of malloc takes about {:.1} µs longer, each of free {:.1} µs, as breakpoints on moonscope itself just now",
            self.overhead.of(1, 1, self.placed.is_slow()) / 1000.0,
            self.overhead.of(1, 0, self.placed.is_slow()) / 1000.0,
        ));
        lines
    }

    fn programs(&self) -> &'static [&'static str] {
        &[CALL, EXIT, FREE, COUNT, EXECUTES]
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
        self.number = number;
        open.maps.alloc_execs.set_max_entries(limits.processes as u32)?;
        add_spare_scratches(open)?;
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.alloc_event = number;
            constants.alloc_period = self.period;
            constants.alloc_weights = weights::weights();
        }
        open.maps.alloc_threads.set_autocreate(true)?;
        if self.placed.way() == Way::Together {
            let programs = &mut open.progs;
            for program in [
                &mut programs.alloc_call_bpf_loop,
                &mut programs.alloc_call_plain_loop,
                &mut programs.alloc_exit,
                &mut programs.alloc_free,
                &mut programs.alloc_count,
            ] {
                program.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            }
        }
        open.maps
            .alloc_live
            .set_max_entries(if self.period < SHORT_PERIOD {
                MORE_BLOCKS
            } else {
                BLOCKS
            })
    }

    fn try_out(&mut self, programs: &mut Programs<'_>) -> Result<Vec<String>, ProbeError> {
        let Some(processes) = self.placed.running() else {
            return Ok(Vec::new());
        };
        let is_slow = self.placed.is_slow();
        let links = self.placed.attach_counting(programs)?;
        let (before, time, start) = (work(programs.skel), self.placed.cpu_time(), Instant::now());
        std::thread::sleep(TRIAL);
        let window = start.elapsed();
        let after = work(programs.skel);
        let (calls, frees) = (after.calls - before.calls, after.frees - before.frees);
        // without what counting took of it
        let counting = self.overhead.of(calls, 0, is_slow);
        let time = (self.placed.cpu_time().saturating_sub(time) as f64 - counting).max(0.0);
        drop(links);
        let probes = self.overhead.of(calls, calls - frees, is_slow);
        let share = probes / (probes + time).max(1.0);
        let line = format!(
            "{:.0} calls a second in the last {:.1} s: the probes will take {} of the CPU time of {processes}",
            calls as f64 / window.as_secs_f64(),
            window.as_secs_f64(),
            per_cent(share),
        );
        if self.is_too_much(share, probes, window) {
            return Err(ProbeError::TooCostly {
                event: "alloc",
                share: per_cent(share),
                most: per_cent(self.max_overhead),
                enough: format!("--max-overhead {:.0}%", (share * 110.0).clamp(1.0, 100.0)),
            });
        }
        Ok(vec![line])
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        programs.attach(EXECUTES)?;
        self.placed.attach_found(programs)
    }

    fn process_came(&mut self, pid: Pid, programs: &mut Programs<'_>) {
        if self.goes_on() {
            self.placed.came(pid);
            // that probes are refused was told before
            let _ = self.placed.attach_found(programs);
        }
    }

    fn process_changed(&mut self, pid: Pid, programs: &mut Programs<'_>) {
        if self.goes_on() {
            self.placed.look_at(pid);
            let _ = self.placed.attach_found(programs);
        }
    }

    fn process_went(&mut self, pid: Pid) {
        self.placed.forget(pid);
        self.in_use.process_went(pid);
    }

    fn tend(&mut self, programs: &mut Programs<'_>) {
        if self.goes_on() {
            self.look_at_overhead(programs);
        }
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 1);
        self.work = work(skel);
        // from now on
        self.placed.cpu_time_since();
        self.began = Some(Instant::now());
        self.looked = Some((Instant::now(), self.work));
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.is_over = true;
        switch(skel, 0);
        // taking probes away takes its time, in which they are hit
        let before = std::mem::replace(&mut self.work, work(skel));
        self.work.calls -= before.calls;
        self.work.frees -= before.frees;
        self.work.hits -= before.hits;
        self.placed.remove_all();
        Ok(())
    }

    fn held(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Vec<abi::ms_stack_id> {
        self.in_use.stacks()
    }

    fn summed(&mut self, sums: &[Leftover]) {
        self.in_use.add(self.number, sums);
    }

    fn standing(&mut self, ended: u64, skel: &mut MoonscopeSkel<'static>) -> Vec<Leftover> {
        if !self.is_over {
            self.in_use.sweep(skel);
        }
        self.in_use.at_end(ended)
    }

    fn is_standing(&self, tag: u32) -> bool {
        tag == abi::MS_ALLOC_IN_USE
    }

    fn how(&self) -> String {
        match self.period {
            1 => "by probes in the program, a stack for each".to_owned(),
            period if period % 1024 == 0 => {
                format!("by probes in the program, a stack for each {} KiB", period / 1024)
            }
            period => format!("by probes in the program, a stack for each {period} bytes"),
        }
    }

    fn row(&self, tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let objects = sum.value[abi::MS_ALLOC_OBJECTS as usize];
        let whole =
            objects.saturating_add(1 << (abi::MS_ALLOC_OBJECT_SHIFT - 1)) >> abi::MS_ALLOC_OBJECT_SHIFT;
        let (objects, bytes) = (clamp(whole), clamp(sum.value[abi::MS_ALLOC_BYTES as usize]));
        match tag {
            abi::MS_ALLOC_IN_USE => vec![0, 0, objects, bytes],
            _ => vec![objects, bytes, 0, 0],
        }
    }

    fn summary(&self, _sums: &BTreeMap<u32, abi::ms_sum>) -> Vec<String> {
        let work = &self.work;
        let mut lines: Vec<String> = self.gave_up.clone().into_iter().collect();
        lines.extend(self.placed.remarks());
        // of the whole recording, and known when it is over
        if !self.is_over {
            return lines;
        }
        lines.push(format!(
            "alloc: {} and {}: {} of probes in {}",
            counted(work.calls - work.frees, "allocation"),
            counted(work.frees, "free"),
            counted(work.hits, "hit"),
            self.placed.files(),
        ));
        for (count, one, what) in [
            (
                work.unfollowed,
                "allocation",
                "found no room, or returned in an unknown way: counted as freed at once",
            ),
            (
                work.abandoned,
                "call",
                "left in a way that no probe sees (an exception, longjmp): counted as failed",
            ),
            (
                work.missed,
                "block",
                "freed in a way that no probe sees: freed, to this count, when the address was given out again",
            ),
            (
                work.unswept,
                "program",
                "executed in place of another while there was no room to note it: what that had allocated counts as in \
                 use until the process ends",
            ),
        ] {
            if count > 0 {
                lines.push(format!("alloc: {} {what}", counted(count, one)));
            }
        }
        lines
    }
}

fn per_cent(share: f64) -> String {
    match 100.0 * share {
        small if small < 1.0 => format!("{small:.2} %"),
        small if small < 10.0 => format!("{small:.1} %"),
        large => format!("{large:.0} %"),
    }
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_alloc_data.as_deref_mut() {
        state.alloc_is_on = is_on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_number_of_bytes() {
        assert!(create(&EventSpec::parse("alloc:1")).is_ok());
        for text in ["alloc:0", "alloc:all", "alloc:", "alloc:1073741825"] {
            assert!(
                matches!(
                    create(&EventSpec::parse(text)),
                    Err(ProbeError::EventArgument { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn what_came_and_what_is_in_use_have_columns_of_their_own() {
        let collector = &create(&EventSpec::parse("alloc")).unwrap()[0];
        let mut sum = abi::ms_sum::default();
        let one = 1 << abi::MS_ALLOC_OBJECT_SHIFT;
        sum.value = [3 * one + one / 4, 3000, one, 1000];
        assert_eq!(collector.row(abi::MS_ALLOC_CHANGES, &sum), [3, 3000, 0, 0]);
        assert_eq!(collector.row(abi::MS_ALLOC_IN_USE, &sum), [0, 0, 3, 3000]);
    }
}
