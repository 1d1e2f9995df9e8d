//! What a recording says of itself: what became of every tick and of everything else that was measured.

use std::collections::BTreeSet;

use moonscope_process::Pid;
use moonscope_unwind::abi;

use crate::executables::TableCounts;
use crate::file_problems::FileProblems;
use crate::lua::LuaCounts;
use crate::processes::ProcessCounts;
use crate::received::Received;
use crate::shared_array::SharedArray;
use crate::statistics::RunTime;
use crate::sums::FailedReads;

/// Ticks, or whatever else is measured, by what became of them in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// All.
    pub fired: u64,
    /// The CPU was idle.
    pub idle: u64,
    /// The task was not wanted.
    pub filtered: u64,
    /// The task was, but not this: it was too short, say.
    pub unwanted: u64,
    /// Shipped to user space.
    pub sent: u64,
    /// Added to the values of a stack that was shipped.
    pub summed: u64,
    /// The ring buffer was full.
    pub lost_ring: u64,
    /// On a CPU that did not exist when recording began.
    pub lost_cpu: u64,
    /// The CPU was taking another stack.
    pub lost_busy: u64,
    /// There was no room to remember when it began.
    pub lost_map: u64,
    /// The end was not seen.
    pub lost_end: u64,
}

impl Ticks {
    pub(crate) fn read(counters: &SharedArray<abi::ms_counters>, cpus: usize, event: usize) -> Self {
        let count = |which: u32| {
            (0..cpus)
                .filter_map(|cpu| Some(counters.read(cpu)?.count[event][which as usize]))
                .sum()
        };
        Self {
            fired: count(abi::MS_COUNT_FIRED),
            idle: count(abi::MS_COUNT_IDLE),
            filtered: count(abi::MS_COUNT_FILTERED),
            unwanted: count(abi::MS_COUNT_UNWANTED),
            sent: count(abi::MS_COUNT_SENT),
            summed: count(abi::MS_COUNT_SUMMED),
            lost_ring: count(abi::MS_COUNT_LOST_RING),
            lost_cpu: count(abi::MS_COUNT_LOST_CPU),
            lost_busy: count(abi::MS_COUNT_LOST_BUSY),
            lost_map: count(abi::MS_COUNT_LOST_MAP),
            lost_end: count(abi::MS_COUNT_LOST_END),
        }
    }

    /// Those that are in the profile.
    pub fn kept(&self) -> u64 {
        self.sent + self.summed
    }

    /// Those that are not and should be.
    pub fn lost(&self) -> u64 {
        self.lost_ring + self.lost_cpu + self.lost_busy + self.lost_map + self.lost_end
    }
}

impl std::ops::AddAssign for Ticks {
    fn add_assign(&mut self, other: Self) {
        self.fired += other.fired;
        self.idle += other.idle;
        self.filtered += other.filtered;
        self.unwanted += other.unwanted;
        self.sent += other.sent;
        self.summed += other.summed;
        self.lost_ring += other.lost_ring;
        self.lost_cpu += other.lost_cpu;
        self.lost_busy += other.lost_busy;
        self.lost_map += other.lost_map;
        self.lost_end += other.lost_end;
    }
}

impl std::ops::SubAssign for Ticks {
    /// Counts only grow: `other` was read before.
    fn sub_assign(&mut self, other: Self) {
        self.fired -= other.fired;
        self.idle -= other.idle;
        self.filtered -= other.filtered;
        self.unwanted -= other.unwanted;
        self.sent -= other.sent;
        self.summed -= other.summed;
        self.lost_ring -= other.lost_ring;
        self.lost_cpu -= other.lost_cpu;
        self.lost_busy -= other.lost_busy;
        self.lost_map -= other.lost_map;
        self.lost_end -= other.lost_end;
    }
}

/// What became of one event.
#[derive(Clone, Debug)]
pub struct EventTotals {
    /// Its name.
    pub name: &'static str,
    /// What exactly was measured, in a word.
    pub measures: &'static str,
    /// How it was measured.
    pub how: String,
    /// What became of each.
    pub ticks: Ticks,
    /// Time in its programs; zero without [`Options::measure_cost`].
    pub run_time: RunTime,
}

/// What a recording says of itself at its end.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Each event.
    pub events: Vec<EventTotals>,
    /// All of them together.
    pub ticks: Ticks,
    /// Samples received.
    pub received: Received,
    /// Tables.
    pub tables: TableCounts,
    /// Bytes of tables in the kernel's reach.
    pub table_bytes: usize,
    /// Processes.
    pub processes: ProcessCounts,
    /// Processes that we may not look at: their stacks are cut.
    pub refused: BTreeSet<Pid>,
    /// Files of which something could not be used.
    pub problems: FileProblems,
    /// Records of new mappings that were lost: samples shortly after them may be cut.
    pub mapping_records_lost: u64,
    /// Lua.
    pub lua: LuaCounts,
    /// Reads of sums that failed.
    pub failed_reads: FailedReads,
}

impl Totals {
    /// Adds those of the next interval of the same recording.
    pub fn add(&mut self, next: Self) {
        let Self {
            events,
            ticks,
            received,
            tables,
            table_bytes,
            processes,
            refused,
            problems,
            mapping_records_lost,
            lua,
            failed_reads,
        } = next;
        for (mine, event) in self.events.iter_mut().zip(events) {
            mine.ticks += event.ticks;
            mine.run_time = event.run_time;
        }
        self.ticks += ticks;
        self.received.add(received);
        // these count from the beginning of the recording
        self.tables = tables;
        self.table_bytes = table_bytes;
        self.processes = processes;
        self.refused = refused;
        self.problems = problems;
        self.mapping_records_lost = mapping_records_lost;
        self.lua = lua;
        self.failed_reads = failed_reads;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_before_is_taken_off_in_each_place() {
        let before = Ticks {
            fired: 11,
            idle: 1,
            filtered: 2,
            unwanted: 3,
            sent: 4,
            summed: 5,
            lost_ring: 6,
            lost_cpu: 7,
            lost_busy: 8,
            lost_map: 9,
            lost_end: 10,
        };
        let mut now = before;
        now += before;
        now -= before;
        assert_eq!(now, before);
    }
}
