//! Unwind information of executables, in the two forms that moonscope needs.
//!
//! * [`Table`] turns `.eh_frame` and `.debug_frame` into the sorted rows that the walker in the kernel
//!   searches; their format is `bpf/abi.h`, bound to Rust in [`abi`]. Rules are shared by all tables through
//!   one [`RuleSet`].
//! * [`walk`] follows the same information in user space, straight from DWARF and without that format, on a
//!   copy of a stack. It serves samples whose tables are not loaded yet, and tests compare the two.
//!
//! Nothing in here touches a process or the kernel: everything works on the bytes of a file.

pub mod abi;

mod by_code;
mod cfi;
mod clone_gap;
mod convert;
mod eh_return;
mod end;
mod entries;
mod entry_point;
mod error;
mod expression;
mod frame_pointer;
mod frame_step;
mod go_names;
mod go_place;
mod go_rows;
mod gopclntab;
mod holes;
mod pieces;
mod rows;
mod rules;
mod sections;
mod stack_end;
mod stubs;
mod table;
mod table_stats;
mod trampoline;
mod unwind_data;
#[cfg(feature = "host-walker")]
pub mod walk_host;
mod walker;

pub use end::WalkEnd;
pub use error::UnwindError;
pub use go_names::GoNames;
pub use rules::RuleSet;
pub use table::Table;
pub use table_stats::TableStats;
pub use unwind_data::UnwindData;
pub use walker::{ModuleAt, Modules, Registers, StackCopy, Walk, WalkFrame, walk};
