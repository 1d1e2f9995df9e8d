//! What a VM is doing at one moment: three words of its `global_State`.

use std::fmt;

use moonscope_process::RemoteMemory;

use crate::layout::Layout;
use crate::lua_state::LuaState;
use crate::value::read_ref;

/// `global_State.vmstate` (`LJ_VMST_*`, lj_obj.h). A label: C code that bytecode calls keeps `Interpreting`, and what
/// yields leaves behind what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// Runs bytecode.
    Interpreting,
    /// Runs a C function.
    C,
    /// Collects garbage.
    Gc,
    /// Leaves compiled code.
    Exit,
    /// Records a trace.
    Recording,
    /// Optimizes a trace.
    Optimizing,
    /// Makes machine code.
    Assembling,
    /// Runs the compiled code of this trace, or what that called.
    Trace(u32),
    /// A number that has no meaning.
    Unknown(i32),
}

impl Activity {
    /// By the number in the VM.
    pub fn from_number(number: i32) -> Self {
        match (u32::try_from(number), !number) {
            (Ok(trace), _) => Self::Trace(trace),
            (_, 0) => Self::Interpreting,
            (_, 1) => Self::C,
            (_, 2) => Self::Gc,
            (_, 3) => Self::Exit,
            (_, 4) => Self::Recording,
            (_, 5) => Self::Optimizing,
            (_, 6) => Self::Assembling,
            _ => Self::Unknown(number),
        }
    }
}

impl Activity {
    /// The number in the VM.
    pub fn number(self) -> i32 {
        match self {
            Self::Interpreting => !0,
            Self::C => !1,
            Self::Gc => !2,
            Self::Exit => !3,
            Self::Recording => !4,
            Self::Optimizing => !5,
            Self::Assembling => !6,
            Self::Trace(trace) => trace.cast_signed(),
            Self::Unknown(number) => number,
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interpreting => "interpreting",
            Self::C => "running a C function",
            Self::Gc => "collecting garbage",
            Self::Exit => "leaving compiled code",
            Self::Recording => "compiling: recording a trace",
            Self::Optimizing => "compiling: optimizing a trace",
            Self::Assembling => "compiling: making machine code",
            Self::Trace(number) => return write!(f, "running compiled code, trace {number}"),
            Self::Unknown(number) => return write!(f, "vmstate {number}"),
        })
    }
}

/// A VM at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmState {
    /// What it does, or did last.
    pub activity: Activity,
    /// `cur_L`: the coroutine that runs, or ran last; 0 before the first.
    pub cur_l: u64,
    /// `jit_base`: the frame that compiled code runs in; 0 outside of it.
    pub jit_base: u64,
}

impl VmState {
    /// Reads it; `None` if the VM is gone.
    pub fn read(memory: &impl RemoteMemory, g: u64, layout: &Layout) -> Option<Self> {
        let at = |offset: u32| g.checked_add(offset.into());
        let number = memory.read_u32(at(layout.build.vmstate)?).ok()?;
        Some(Self {
            activity: Activity::from_number(number.cast_signed()),
            cur_l: read_ref(memory, layout.mode, at(layout.build.cur_l)?).ok()?,
            jit_base: read_ref(memory, layout.mode, at(layout.build.jit_base)?).ok()?,
        })
    }

    /// The coroutine that runs: `cur_L`, if the VM has a frame of it on a native stack.
    pub fn running(&self, memory: &impl RemoteMemory, layout: &Layout) -> Option<LuaState> {
        let state = LuaState::read(memory, layout.mode, self.cur_l).ok()?;
        (state.cframe != 0).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_lj_obj_h() {
        let words = |number| Activity::from_number(number).to_string();
        assert_eq!(words(!0), "interpreting");
        assert_eq!(words(!1), "running a C function");
        assert_eq!(words(!2), "collecting garbage");
        assert_eq!(words(!6), "compiling: making machine code");
        assert_eq!(words(17), "running compiled code, trace 17");
        assert_eq!(words(!7), "vmstate -8");
        assert!((-9..9).all(|number| Activity::from_number(number).number() == number));
    }
}
