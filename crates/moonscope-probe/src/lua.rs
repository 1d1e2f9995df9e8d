//! Lua inside the processes of a recording: builds of LuaJIT met in files, VMs met in processes, and Lua
//! frames between native ones.
//!
//! The way: `builds` (a file's VM gets rules of its own in the unwind table) → `process` (the VMs of a
//! process, told to the kernel side) → `words` (what a walk shipped) → `splice` (frames with names).

mod builds;
mod callees;
mod functions;
mod hints;
mod parents;
mod process;
mod processes;
mod prototypes;
mod splice;
mod vm;
mod vms;
mod words;

pub use builds::{Found as LuaBuildsFound, LuaBuild, LuaBuilds, MappedBuild};
pub use functions::{LuaFunction, LuaFunctionId, LuaFunctions};
pub use parents::{NoParents, ParentCounts};
pub use process::LuaProcess;
pub use processes::{LuaCounts, LuaNotes, LuaProcesses};
pub use splice::{LuaView, splice};
pub use vm::LuaVm;
pub use words::{LuaWord, UserFrame, native_frames, user_frames};
