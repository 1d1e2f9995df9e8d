//! The kernel side of moonscope seen from Rust: loads the programs in `bpf/`, attaches them, keeps unwind
//! tables and mappings in their reach, receives samples, and accounts for each tick.
//!
//! The way of a sample through here: [`Session`] → `drain` → `sample` (the record) → `processes` and
//! `executables` (address → file and offset, before the process can vanish) → [`RawStacks`].

mod builder;
mod clock;
mod drain;
mod error;
mod executables;
mod limits;
mod mmap_watch;
mod object;
mod perf_event;
mod processes;
mod sample;
mod session;
mod shared_array;
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::undocumented_unsafe_blocks, dead_code, non_camel_case_types, non_snake_case)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/moonscope.skel.rs"));
}
mod slices;
mod stacks;
mod tables;
mod user_walk;

pub use clock::{ClockKind, max_rate};
pub use drain::{Change, Drain, Received};
pub use error::ProbeError;
pub use executables::{ExecutableId, Executables, TableCounts};
pub use object::{RunTime, WalkLoop};
pub use processes::{CodeMapping, Generation, ProcessCounts, ProcessId, ProcessInfo, Processes};
pub use session::{Options, Scope, Session, Ticks, Totals};
pub use stacks::{RawFrame, RawStackId, RawStacks, Thread};
