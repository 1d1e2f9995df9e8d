//! The kernel side of moonscope seen from Rust: loads the programs in `bpf/`, attaches them, keeps unwind
//! tables and mappings in their reach, receives samples, and accounts for each tick.
//!
//! The way of a sample through here: [`Session`] → `drain` → `sample` (the record) → `processes` and
//! `executables` (address → file and offset, before the process can vanish) → [`RawStacks`].

mod affinity;
mod batches;
mod breakpoints;
mod builder;
mod clock;
pub mod collector;
pub mod collectors;
mod comparison;
mod definitions;
mod drain;
mod empty_sections;
mod error;
mod executables;
mod file_limit;
mod file_problems;
mod files;
mod frames;
mod generation;
mod kernel_types;
mod limits;
pub mod live;
mod lua;
mod memlock;
mod mmap_watch;
mod numbered;
mod object;
mod perf_event;
mod perf_maps;
mod processes;
mod published;
mod received;
mod recorded;
mod sample;
mod session;
mod shared_array;
mod side_band;
#[allow(
    missing_docs,
    unused_qualifications,
    dead_code,
    non_camel_case_types,
    non_snake_case,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "generated from bpf/*.bpf.c by libbpf-cargo"
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/moonscope.skel.rs"));

    pub mod waiting {
        include!(concat!(env!("OUT_DIR"), "/waiting.skel.rs"));
    }
}
mod sites;
mod slices;
#[cfg(test)]
mod stack_use;
mod stacks;
mod statistics;
mod sums;
mod tables;
mod totals;
mod unfinished;
mod unsettled;
mod user_walk;

pub use clock::{ClockKind, max_rate};
pub use collector::{Column, EventSettings, EventSpec};
pub use comparison::Comparison;
pub use drain::Change;
pub use error::ProbeError;
pub use executables::{ExecutableId, TableCounts};
pub use file_problems::FileProblems;
pub use limits::Limits;
pub use lua::{LuaCounts, LuaFunction, LuaFunctionId, NoParents, ParentCounts};
pub use object::WalkLoop;
pub use processes::{ProcessCounts, ProcessId, ProcessInfo};
pub use received::Received;
pub use recorded::{Collectors, Measured, Recorded};
pub use session::{Interval, Options, Scope, Session};
pub use stacks::{LuaCode, LuaState, RawFrame, RawStackId, RawStacks, Thread, What};
pub use statistics::{RunTime, VerifierCost, have_own_stacks, verifier_costs};
pub use sums::FailedReads;
pub use totals::{EventTotals, Ticks, Totals};
pub use unfinished::UnfinishedProcess;
