//! Events of the processor and of the kernel, counted by perf events (`bpf/counter.bpf.h`).

use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::PerfEventOpts;
use moonscope_unwind::abi;

use crate::collector::{AnyCollector, Collector, Column, Context, EventSpec, Programs};
use crate::error::ProbeError;
use crate::limits::Limits;
use crate::perf_event::{self, Attr};
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The processor's performance counters (`enum perf_hw_id`).
    Processor(u64),
    /// The kernel (`enum perf_sw_ids`).
    Kernel(u64),
}

/// An event that is counted.
#[derive(Debug)]
struct Counted {
    name: &'static str,
    by: By,
    /// So many are one sample, unless said otherwise. Of what the processor counts some hundred to some thousand
    /// samples a second of a busy CPU; the kernel's are rare enough to take each.
    period: u64,
    columns: [Column; 1],
}

const fn counted(name: &'static str, by: By, period: u64) -> Counted {
    Counted {
        name,
        by,
        period,
        columns: [Column::new(name, "count")],
    }
}

/// include/uapi/linux/perf_event.h
static EVENTS: [Counted; 13] = [
    counted("cycles", By::Processor(0), 2_000_000),
    counted("instructions", By::Processor(1), 2_000_000),
    counted("cache-references", By::Processor(2), 20_000),
    counted("cache-misses", By::Processor(3), 5_000),
    counted("branches", By::Processor(4), 500_000),
    counted("branch-misses", By::Processor(5), 10_000),
    counted("stalled-cycles-frontend", By::Processor(7), 1_000_000),
    counted("stalled-cycles-backend", By::Processor(8), 1_000_000),
    counted("page-faults", By::Kernel(2), 1),
    counted("context-switches", By::Kernel(3), 1),
    counted("cpu-migrations", By::Kernel(4), 1),
    counted("minor-faults", By::Kernel(5), 1),
    counted("major-faults", By::Kernel(6), 1),
];

/// One counter on each CPU.
#[derive(Debug)]
pub struct Counter {
    counted: &'static Counted,
    period: u64,
    number: u32,
    events: Vec<OwnedFd>,
}

const PROGRAM: &str = "counter";

/// The counter of this name; an argument is its period: `cache-misses:100000`.
pub fn create(spec: &EventSpec) -> Result<Vec<AnyCollector>, ProbeError> {
    let counted = EVENTS.iter().find(|counted| counted.name == spec.name);
    let counted = counted.ok_or_else(|| ProbeError::UnknownEvent {
        name: spec.name.clone(),
    })?;
    let period = match &spec.argument {
        None => counted.period,
        Some(text) => match text.parse() {
            Ok(period @ 1..) => period,
            _ => {
                return Err(ProbeError::EventArgument {
                    event: spec.name.clone(),
                    argument: text.clone(),
                    expected: "how many events are one sample, as in cache-misses:100000",
                });
            }
        },
    };
    Ok(vec![Box::new(Counter {
        counted,
        period,
        number: 0,
        events: Vec::new(),
    })])
}

impl Counter {
    fn cookie(&self) -> u64 {
        let flag = match self.counted.by {
            By::Processor(_) => 0,
            By::Kernel(_) => abi::MS_COUNTER_OF_KERNEL,
        };
        u64::from(self.number | flag)
    }
}

impl Collector for Counter {
    fn name(&self) -> &'static str {
        self.counted.name
    }

    fn columns(&self) -> &'static [Column] {
        &self.counted.columns
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        let attr = match self.counted.by {
            By::Processor(config) => Attr::hardware(config, self.period),
            By::Kernel(config) => Attr::software(config, self.period),
        };
        for &cpu in context.cpus {
            let event = perf_event::open(&attr, cpu).map_err(|source| match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => crate::clock::not_permitted(),
                _ => ProbeError::NoCounter {
                    event: self.counted.name,
                    source,
                },
            })?;
            self.events.push(event);
        }
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        &[PROGRAM]
    }

    fn sums_up(&self) -> bool {
        true
    }

    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        _limits: &Limits,
    ) -> Result<(), libbpf_rs::Error> {
        self.number = number;
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.counter_cookie = self.cookie();
        }
        Ok(())
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        let cookie = self.cookie();
        programs.attach_perf_events_with(PROGRAM, &self.events, |program, event| {
            let opts = PerfEventOpts {
                cookie,
                ..PerfEventOpts::default()
            };
            // before 5.15 there are no cookies, and the program has the constant
            program
                .attach_perf_event_with_opts(event, opts)
                .or_else(|_| program.attach_perf_event(event))
        })
    }

    fn start(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.switch(perf_event::enable)
    }

    fn stop(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.switch(perf_event::disable)
    }

    fn how(&self) -> String {
        let by = match self.counted.by {
            By::Processor(_) => "the processor",
            By::Kernel(_) => "the kernel",
        };
        match self.period {
            1 => format!("counted by {by}, each of them"),
            period => format!("counted by {by}, every {period}th"),
        }
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        vec![i64::try_from(sum.value[0]).unwrap_or(i64::MAX)]
    }
}

impl Counter {
    fn switch(
        &self,
        switch: fn(std::os::fd::BorrowedFd<'_>) -> std::io::Result<()>,
    ) -> Result<(), ProbeError> {
        self.events
            .iter()
            .try_for_each(|event| switch(event.as_fd()))
            .map_err(|source| ProbeError::Io {
                what: "cannot switch a counter",
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_number_of_events() {
        assert!(create(&EventSpec::parse("cache-misses:100000")).is_ok());
        for text in ["cache-misses:0", "cache-misses:many", "page-faults:"] {
            assert!(
                matches!(
                    create(&EventSpec::parse(text)),
                    Err(ProbeError::EventArgument { .. })
                ),
                "{text}"
            );
        }
    }
}
