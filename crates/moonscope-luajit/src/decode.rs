//! Reads the layout of a build from the machine code of its VM.
//!
//! The VM's code is written by hand (vm_x64.dasc, vm_x86.dasc), so that its instructions are the same in every
//! build of one version, and offsets of fields are constants in them. Two places name all that is needed:
//! `lj_vm_call` and the handler of `BC_JLOOP`. What they and others say of `lua_State` must agree with
//! [`Fields`](crate::Fields).

use crate::layout::Layout;
use crate::vm_text::{self, VmText};
use crate::x86;

/// Why a layout cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The file does not have this code.
    #[error("the file has no code at {start:#x}, where its LuaJIT should be")]
    NoCode {
        /// Where the VM should start.
        start: u64,
    },
    /// LuaJIT 2.0 does not keep the running coroutine in its `global_State`.
    #[error("LuaJIT 2.0, which does not store what coroutine runs; 2.1 is needed")]
    LuaJit20,
    /// Code that every VM has is not there.
    #[error("{place} of this LuaJIT does not name {field}")]
    Missing {
        /// Part of the VM.
        place: &'static str,
        /// What it should name.
        field: &'static str,
    },
    /// The code and the known offsets differ.
    #[error("this LuaJIT has {field} at {decoded:#x}, not at {expected:#x}")]
    Mismatch {
        /// Field of `lua_State` or another structure.
        field: &'static str,
        /// What the code says.
        decoded: i64,
        /// What [`Fields`](crate::Fields) says.
        expected: i64,
    },
    /// A decoded offset cannot be one.
    #[error("this LuaJIT seems to have {field} at {decoded:#x}, which cannot be")]
    Implausible {
        /// Which one.
        field: &'static str,
        /// What the code says.
        decoded: i64,
    },
}

/// The layout of the build whose VM this is.
///
/// [`Layout::trace`] is there if the code alone tells it, which it does since 2021-03. Older builds differ in ways
/// that only their data shows: [`traces::settle`](crate::traces::settle) finds it out in a live process.
pub fn decode_layout(file: &[u8], vm: &VmText) -> Result<Layout, LayoutError> {
    let code = vm_text::code_of(file, vm).ok_or(LayoutError::NoCode { start: vm.start })?;
    x86::layout::decode(code, vm)
}
