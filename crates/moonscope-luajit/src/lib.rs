//! LuaJIT inside a process, seen from outside: where its VM is, how its memory is laid out, what its
//! functions are called, what its compiled code was compiled from.
//!
//! Everything is read through [`moonscope_process::RemoteMemory`]: a live process, or bytes in a test. What
//! is read may be changing or hostile; every step is bounded and checked, and what does not hold is an
//! error with a reason, never a guess.

pub mod bytecode_ref;
pub mod layout;
pub mod lua_stack;
pub mod lua_state;
pub mod object;
pub mod snapshot;
pub mod trace;
pub mod trace_keeper;

#[cfg(test)]
mod testing;

pub use layout::{BuildOffsets, CFrame, Fields, GcMode, Layout, TraceFields};
pub use lua_stack::{Base, FrameKind, LuaEnd, LuaFrame, LuaWalk, SegmentEnd, frames};
pub use lua_state::LuaState;
pub use object::{Function, ProtoCode};
pub use snapshot::{Expansion, InlinedFrame, expand};
pub use trace::TraceCopy;
pub use trace_keeper::TraceKeeper;
