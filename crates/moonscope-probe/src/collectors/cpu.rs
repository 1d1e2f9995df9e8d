//! The event `cpu`: a clock ticks on each CPU (`bpf/cpu.bpf.h`).

use moonscope_unwind::abi;

use crate::clock::Clock;
use crate::collector::{Collector, Column, Context, Programs};
use crate::error::ProbeError;
use crate::limits::Limits;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// Samples at a rate.
#[derive(Debug, Default)]
pub struct Cpu {
    hz: u64,
    clock: Option<Clock>,
}

const TICK: &str = "cpu_tick";

impl Cpu {
    /// Nanoseconds between two ticks.
    fn period(&self) -> i64 {
        1_000_000_000 / self.hz.max(1).cast_signed()
    }
}

impl Collector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn measures(&self) -> &'static str {
        self.clock.as_ref().map_or("cpu", |clock| clock.kind().name())
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 2] = [Column::new("samples", "count"), Column::new("cpu", "nanoseconds")];
        &COLUMNS
    }

    /// The rate may be refused, and that needs no loaded object.
    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        self.hz = context.hz;
        self.clock = Some(Clock::open(context.hz, context.cpus)?);
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        &[TICK]
    }

    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        _limits: &Limits,
    ) -> Result<(), libbpf_rs::Error> {
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.cpu_event = number;
        }
        Ok(())
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        match &self.clock {
            Some(clock) => programs.attach_perf_events(TICK, clock.events()),
            None => Ok(()),
        }
    }

    fn start(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.clock.as_ref().map_or(Ok(()), Clock::start)
    }

    fn stop(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.clock.as_ref().map_or(Ok(()), Clock::stop)
    }

    fn how(&self) -> String {
        let clock = self.clock.as_ref().map_or("", |clock| clock.kind().name());
        format!("at {} Hz by {clock}", self.hz)
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let count = i64::try_from(sum.count).unwrap_or(i64::MAX);
        vec![count, count.saturating_mul(self.period())]
    }

    fn wall_time(&self, tag: u32, sum: &abi::ms_sum) -> i64 {
        self.row(tag, sum)[1]
    }
}
