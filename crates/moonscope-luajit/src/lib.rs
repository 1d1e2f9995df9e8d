//! LuaJIT inside a process, seen from outside: where its VM is, how its memory is laid out, what its
//! functions are called, what its compiled code was compiled from.
//!
//! Everything is read through [`moonscope_process::RemoteMemory`]: a live process, or bytes in a test. What
//! is read may be changing or hostile; every step is bounded and checked, and what does not hold is an
//! error with a reason, never a guess.
//!
//! * Where: [`vm_text`] (the VM in a file), [`decode`] and [`layout`] (offsets), [`vms`] (VMs in a process).
//! * What runs: [`lua_state`], [`lua_stack`], [`coroutines`], [`vm_state`], [`object`], [`bytecode_ref`].
//! * Compiled code: [`traces`] (layouts), [`trace`], [`trace_keeper`], [`snapshot`].
//! * Names: [`prototype`], [`chunk`], [`source`], [`names`], [`call_site`], [`callee`], [`bytecode`], [`builtins`],
//!   [`c_functions`], [`globals`], [`string`], [`value`].

mod body;
pub mod builtins;
pub mod bytecode;
pub mod bytecode_ref;
pub mod c_functions;
pub mod call_site;
pub mod callee;
pub mod chunk;
pub mod coroutines;
mod ctypes;
pub mod decode;
mod eh_frame;
mod elf_code;
pub mod globals;
pub mod heap;
pub mod layout;
pub mod lua_stack;
pub mod lua_state;
pub mod names;
pub mod object;
mod pages;
pub mod prototype;
pub mod snapshot;
pub mod source;
pub mod string;
pub mod trace;
pub mod trace_keeper;
pub mod traces;
pub mod value;
pub mod vm_state;
pub mod vm_text;
pub mod vms;
mod x86;
pub mod yields;

#[cfg(test)]
mod testing;

pub use body::words_of;
pub use builtins::Builtins;
pub use c_functions::CFunctions;
pub use call_site::{CallSiteName, call_site_name};
pub use callee::{Callee, Source, handed_over_to};
pub use chunk::Chunk;
pub use coroutines::{CoroutineStatus, Coroutines, coroutines};
pub use decode::{LayoutError, decode_layout};
pub use layout::{BuildOffsets, CFrame, Fields, GcMode, Layout, TraceFields};
pub use lua_stack::{Base, FrameKind, LuaEnd, LuaFrame, LuaWalk, SegmentEnd, frames};
pub use lua_state::LuaState;
pub use names::{FunctionKind, FunctionName, LuaNames};
pub use object::{Function, ProtoCode};
pub use prototype::{Prototype, PrototypeError, PrototypeIdentity};
pub use snapshot::{Called, Expansion, InlinedFrame, expand};
pub use source::SourceFile;
pub use string::{StrLayout, StringError};
pub use trace::{SureCall, TraceCopy};
pub use trace_keeper::TraceKeeper;
pub use vm_state::{Activity, VmState};
pub use vm_text::{CallerBase, Entries, SavedRegister, VmText, VmTextError, Window, find_vms};
pub use vms::{ScanBudget, ScanResult, Vm, scan, verify};
pub use yields::{CoroutineProbes, NoProbes, coroutine_probes};
