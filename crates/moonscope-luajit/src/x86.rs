//! LuaJIT on x86-64: everything that is read from its machine instructions. Source: vm_x64.dasc (64-bit
//! references) and vm_x86.dasc (32-bit references) of LuaJIT 2.1 and of OpenResty's luajit2.

pub(crate) mod code;
pub(crate) mod ffi_call;
mod helpers;
pub(crate) mod layout;
mod stubs;
pub(crate) mod vm;
mod windows;
pub(crate) mod yields;
