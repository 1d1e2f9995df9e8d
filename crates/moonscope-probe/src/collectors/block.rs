//! The event `block`: requests to block devices (`bpf/block.bpf.h`).

mod devices;

use moonscope_unwind::abi;

use crate::collector::{Collector, Column, Context, Programs};
use crate::error::ProbeError;
use crate::kernel_types::{has_tracepoint, tracepoint_arguments};
use crate::limits::Limits;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};
use devices::Devices;

/// Requests to block devices.
#[derive(Debug, Default)]
pub struct Block {
    tier: Option<Tier>,
    tells_merges: bool,
    devices: Devices,
}

/// When a request is seen to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// When it is made.
    Start,
    /// When it is queued or issued.
    Queue,
}

const START: &str = "block_start";
const INSERT: &str = "block_insert";
const FIRST_ISSUE: &str = "block_first_issue";
const ISSUE: &str = "block_issue";
const MERGE: &str = "block_merge";
const COMPLETE: &str = "block_complete";

const OPERATION: &str = "block-op";
const DEVICE: &str = "block-device";

const OPERATIONS: [(u32, &str); 4] = [
    (abi::MS_BLOCK_READ, "read"),
    (abi::MS_BLOCK_WRITE, "write"),
    (abi::MS_BLOCK_FLUSH, "flush"),
    (abi::MS_BLOCK_DISCARD, "discard"),
];

impl Collector for Block {
    fn name(&self) -> &'static str {
        "block"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 5] = [
            Column::new("block_time", "nanoseconds"),
            Column::new("block_queued", "nanoseconds"),
            Column::new("block_bytes", "bytes"),
            Column::new("block_ops", "count"),
            Column::new("block_errors", "count"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, _context: &Context<'_>) -> Result<(), ProbeError> {
        self.tier = Some(if has_tracepoint("block_io_start") {
            Tier::Start
        } else {
            Tier::Queue
        });
        self.tells_merges = has_tracepoint("block_rq_merge");
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        match (self.tier, self.tells_merges) {
            (None, _) => &[START, INSERT, FIRST_ISSUE, ISSUE, MERGE, COMPLETE],
            (Some(Tier::Start), _) => &[START, ISSUE, MERGE, COMPLETE],
            (Some(Tier::Queue), true) => &[INSERT, FIRST_ISSUE, MERGE, COMPLETE],
            (Some(Tier::Queue), false) => &[INSERT, FIRST_ISSUE, COMPLETE],
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
            constants.block_event = number;
            // the queue came first
            constants.block_argument = u32::from(tracepoint_arguments("block_rq_issue") == Some(2));
            constants.block_tells_merges = self.tells_merges;
        }
        open.maps.block_requests.set_max_entries(limits.threads as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        self.programs()
            .iter()
            .try_for_each(|program| programs.attach(program))
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.devices.look();
        switch(skel, 1);
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 0);
        // those that came meanwhile
        self.devices.look();
        Ok(())
    }

    fn how(&self) -> String {
        match self.tier {
            Some(Tier::Queue) => "by block_rq_insert, block_rq_issue and block_rq_complete".to_owned(),
            _ => "by block_io_start, block_rq_issue and block_rq_complete".to_owned(),
        }
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let value = |place: u32| clamp(sum.value[place as usize]);
        vec![
            value(abi::MS_BLOCK_TIME),
            value(abi::MS_BLOCK_QUEUED),
            value(abi::MS_BLOCK_BYTES),
            clamp(sum.count),
            value(abi::MS_BLOCK_ERRORS),
        ]
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[DEVICE, OPERATION]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let operation = tag & abi::MS_BLOCK_OP_MASK;
        let known = OPERATIONS.iter().find(|(number, _)| *number == operation);
        let minor = tag >> abi::MS_BLOCK_MINOR_SHIFT & abi::MS_BLOCK_MINOR_MASK;
        vec![
            (OPERATION, known.map_or("other", |(_, name)| name).to_owned()),
            (DEVICE, self.devices.name(tag >> abi::MS_BLOCK_MAJOR_SHIFT, minor)),
        ]
    }
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_block_data.as_deref_mut() {
        state.block_is_on = is_on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(operation: u32, major: u32, minor: u32) -> u32 {
        operation | minor << abi::MS_BLOCK_MINOR_SHIFT | major << abi::MS_BLOCK_MAJOR_SHIFT
    }

    #[test]
    fn a_tag_holds_every_device_number() {
        let labels = Block::default().labels(tag(abi::MS_BLOCK_DISCARD, 511, (1 << 20) - 1), &[]);
        assert_eq!(
            labels,
            [
                ("block-op", "discard".to_owned()),
                ("block-device", "511:1048575".to_owned())
            ]
        );
    }
}
