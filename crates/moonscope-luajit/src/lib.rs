//! LuaJIT inside a process, seen from outside: where its VM is, how its memory is laid out, what its
//! functions are called, what its compiled code was compiled from.
//!
//! Everything is read through [`moonscope_process::RemoteMemory`]: a live process, or bytes in a test. What
//! is read may be changing or hostile; every step is bounded and checked, and what does not hold is an
//! error with a reason, never a guess.

pub mod layout;

pub use layout::{BuildOffsets, CFrame, Fields, GcMode, Layout, TraceFields};
