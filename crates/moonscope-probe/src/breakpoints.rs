//! Breakpoints in programs: where they can stand, what they cost whoever comes by, and how they are set. For all collectors
//! that have some (`probe`, `alloc`, `lua-wait`).
//!
//! A return is a breakpoint like others, at the instruction that returns. The kernel's own way (uretprobe) changes return
//! addresses on the stack, which the unwinder of the program itself cannot follow.

pub mod cost;
pub mod exits;
pub mod files;
pub mod functions;
pub mod set;
pub mod startup;

/// The kind of perf event that probes functions of the kernel (`kprobe`) or of programs (`uprobe`); `None`: this kernel
/// has none.
pub fn kind_of(probe: &str) -> Option<u32> {
    let file = format!("/sys/bus/event_source/devices/{probe}/type");
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
