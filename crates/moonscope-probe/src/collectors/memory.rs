//! The event `memory`: where resident memory comes from and where it goes (`bpf/memory.bpf.h`).

use moonscope_unwind::abi;

use crate::collector::{AnyCollector, Collector, Column, Context, EventSpec, Programs};
use crate::error::ProbeError;
use crate::kernel_types::has_type;
use crate::limits::Limits;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// Changes of resident memory.
#[derive(Debug)]
pub struct Memory {
    /// Bytes for each stack.
    every: u64,
    tier: Tier,
    /// `percpu_counter_batch` of lib/percpu_counter.c.
    batch: u32,
}

/// How exactly this kernel tells of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// The counters of each CPU can be read.
    Pages,
    /// The kernel counts 64 faults of a thread before it tells (TASK_RSS_EVENTS_THRESH, mm/memory.c).
    Threads,
}

const CHANGE: &str = "memory_change";

/// The label with the kind of memory.
const KIND: &str = "memory-kind";

/// `BYTES_PER_PAGE` of `bpf/memory.bpf.h`.
const PAGE: u64 = 4096;

/// Bytes for each stack, unless said otherwise: taking it costs a few faults, of which this is 64.
const EVERY: u64 = 64 * PAGE;

/// Nothing shorter than this is a stretch that a count of pages in 32 bits cannot hold.
const MOST: u64 = PAGE << 30;

/// The collector; an argument is how much memory there is a stack for: `memory:4096`.
pub fn create(spec: &EventSpec) -> Result<Vec<AnyCollector>, ProbeError> {
    let every = match &spec.argument {
        None => EVERY,
        Some(text) => match text.parse() {
            Ok(every @ 1..=MOST) => every,
            _ => {
                return Err(ProbeError::EventArgument {
                    event: spec.name.clone(),
                    argument: text.clone(),
                    expected: "for how many bytes a stack is taken, as in memory:65536",
                });
            }
        },
    };
    Ok(vec![Box::new(Memory {
        every: every.next_multiple_of(PAGE),
        tier: Tier::Pages,
        batch: 0,
    })])
}

impl Collector for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 2] = [
            Column::new("memory", "bytes"),
            Column::new("memory_freed", "bytes"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        self.tier = if has_type("mm_rss_stat") {
            Tier::Threads
        } else {
            Tier::Pages
        };
        self.batch = (2 * context.cpus.len() as u32).max(32);
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        &[CHANGE]
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
            constants.memory_event = number;
            constants.memory_every = (self.every / PAGE) as u32;
            constants.memory_batch = self.batch;
        }
        open.maps
            .residents_here
            .set_max_entries(limits.processes as u32)?;
        open.maps.residents.set_max_entries(limits.processes as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        programs.attach(CHANGE)
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 1);
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 0);
        Ok(())
    }

    fn how(&self) -> String {
        let tier = match self.tier {
            Tier::Pages => "by rss_stat, page by page",
            Tier::Threads => "by rss_stat, 64 faults of a thread at a time",
        };
        match self.every {
            PAGE => format!("{tier}, a stack for each"),
            every => format!("{tier}, a stack for each {} KiB", every / 1024),
        }
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        vec![clamp(sum.value[0]), clamp(sum.value[1])]
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[KIND]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let kind = match tag {
            abi::MS_MEMORY_FILE => "file",
            abi::MS_MEMORY_ANONYMOUS => "anonymous",
            _ => "shared",
        };
        vec![(KIND, kind.to_owned())]
    }
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_memory_data.as_deref_mut() {
        state.memory_is_on = is_on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_number_of_bytes() {
        assert!(create(&EventSpec::parse("memory:1")).is_ok());
        for text in ["memory:0", "memory:all", "memory:", "memory:99999999999999999999"] {
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
