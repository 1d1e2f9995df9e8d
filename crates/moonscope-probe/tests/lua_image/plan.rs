//! Who called whom, from the root to the leaf.

/// What a called function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    Lua,
    /// A Lua function with variable arguments: two frames, of which one counts.
    Vararg,
    /// Of LuaJIT's library.
    Builtin,
    C,
}

/// How a Lua function calls. A builtin function does it as pcall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Call,
    /// With a continuation.
    Metamethod,
    /// With the continuation 0.
    TailCall,
}

#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub callee: Callee,
    pub how: How,
    /// How many slots further up.
    pub slot: u8,
    /// The instruction at which the callee, if it is a Lua function, goes on to call.
    pub at: u8,
}

/// On which stack an entry runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `lua_call` on the same coroutine.
    Call,
    /// `lua_pcall`.
    Protected,
    /// C code calls a function pointer of the FFI.
    Callback,
    /// The VM runs a C function (`lj_vm_cpcall`).
    Empty,
    /// Another coroutine.
    Resume,
    /// A VM of its own.
    OtherVm,
}

/// One entry into a VM: native frames of C, then that of the VM.
#[derive(Clone, Debug)]
pub struct Entry {
    pub place: Place,
    /// None: the VM itself resumes a coroutine.
    pub c_frames: u8,
    pub calls: Vec<Call>,
}

/// What the thread does now. Where the innermost Lua frame cannot do that, it is in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// In C code that Lua called.
    C,
    /// In a bytecode handler.
    Handler,
    /// In a subroutine of the VM.
    Subroutine,
    /// In a helper of the VM, with the VM's frame one word above the stack pointer.
    Helper,
    /// In compiled code, or in C that it called.
    Trace { spill: u8 },
    /// In code without unwind information that compiled code called.
    TraceGap { spill: u8, mapped: bool },
    /// In code without unwind information: in a mapping without a file, or in none.
    Gap { mapped: bool },
    /// C enters the VM, whose frame is not complete.
    Entering,
    /// It is, but the Lua frame is not there.
    Dispatching,
    /// A builtin found a metamethod to call in its place (`lj_meta_tailcall`).
    Replacing,
    /// The VM returns to C and has taken its frame away.
    Leaving,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub gc64: bool,
    pub entries: Vec<Entry>,
    pub leaf: Leaf,
    /// Frames of C on top.
    pub c_frames: u8,
}
