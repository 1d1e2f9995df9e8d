//! LuaJIT inside a process, seen from outside: where its VM is, how its memory is laid out, what its
//! functions are called, what its compiled code was compiled from.
//!
//! Everything is read through [`moonscope_process::RemoteMemory`]: a live process, or bytes in a test. What
//! is read may be changing or hostile; every step is bounded and checked, and what does not hold is an
//! error with a reason, never a guess.

pub mod builtins;
pub mod bytecode;
pub mod call_site;
pub mod chunk;
pub mod layout;
pub mod names;
pub mod prototype;
pub mod source;
pub mod string;
pub mod value;

pub use builtins::Builtins;
pub use call_site::{CallSiteName, call_site_name};
pub use chunk::Chunk;
pub use layout::{BuildOffsets, CFrame, Fields, GcMode, Layout, TraceFields};
pub use names::{FunctionKind, FunctionName, LuaNames};
pub use prototype::{Prototype, PrototypeError, PrototypeIdentity};
pub use source::SourceFile;
pub use string::{StrLayout, StringError};
