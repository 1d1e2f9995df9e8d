//! The stack of a Lua thread, from the running function downwards.
//!
//! Frame links are those of LuaJIT's lj_frame.h; where the current instruction of each frame is written
//! down, of `debug_framepc` in lj_debug.c. Calls inlined into a trace are not on this stack: module
//! `snapshot` knows them.

mod cframes;
mod window;

use crate::bytecode_ref::position;
use crate::layout::{GcMode, Layout};
use crate::lua_state::{LuaState, LuaStateError, STACK_EXTRA};
use crate::object::Function;
use cframes::CFrames;
use moonscope_process::RemoteMemory;
use rustc_hash::FxHashMap;
use window::Window;

/// Frames of one walk: no more fit on a stack of `LUAI_MAXSTACK` slots (65500) with two slots each, twice.
const MAX_FRAMES: usize = 65536;

/// Lowest three bits of a link (`FRAME_TYPEP`).
const TYPE_MASK: u64 = 7;
const CONT: u64 = 2;
const VARG: u64 = 3;

/// Special continuations (`LJ_CONT_TAILCALL`, `LJ_CONT_FFI_CALLBACK`).
const CONT_TAILCALL: u64 = 0;
const CONT_FFI_CALLBACK: u64 = 1;

/// Where a walk starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// First slot of the running function; `None`: what the thread has stored (`L->base`).
    pub addr: Option<u64>,
    /// Program counter of that function, behind its current instruction: from the register of the
    /// interpreter, or `SAVE_PC` of the native frame. `None` if not known, as on a trace.
    pub pc: Option<u64>,
}

impl Base {
    /// Starts at what the thread has stored: it is suspended, or runs C code.
    pub const fn stored() -> Self {
        Self { addr: None, pc: None }
    }

    /// Starts at this first slot: the interpreter's register, or `jit_base`.
    pub const fn at(addr: u64) -> Self {
        Self {
            addr: Some(addr),
            pc: None,
        }
    }

    /// Starts at the frame where another segment ended ([`LuaEnd::EnteredFromC`]).
    pub const fn below(frame: u64) -> Self {
        Self::at(frame.wrapping_add(8))
    }

    /// The same with a program counter.
    #[must_use]
    pub const fn with_pc(mut self, pc: u64) -> Self {
        self.pc = Some(pc);
        self
    }
}

/// Where a walk stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentEnd {
    /// After the first frame that was entered from C: the frames that one frame of the VM on the native
    /// stack stands for.
    EnteredFromC,
    /// At the bottom. Program counters of frames that called C which called Lua come from the chain of
    /// `L->cframe`; with a [`Base::pc`] of `None`, that of the top frame too, as an error would report it.
    Bottom,
}

/// What a frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Bytecode.
    Lua {
        /// Address of the prototype.
        proto: u64,
        /// Number of the current instruction, 0 being the function header; `None` if not known.
        pos: Option<u32>,
    },
    /// A C function.
    C {
        /// Its address.
        f: u64,
        /// Address of the function object.
        function: u64,
    },
    /// A function built into LuaJIT, with or without native code of its own.
    Builtin {
        /// `FF_*`.
        ffid: u8,
    },
}

/// Who pushed a frame: the lowest bits of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// A call in bytecode.
    Lua,
    /// C: `lua_call` and the like (`FRAME_C`).
    C,
    /// C: a protected call, or a resume (`FRAME_CP`).
    Protected,
    /// A metamethod call, or a stitched trace.
    Continuation,
    /// A call from C that is in place of a C function (`LJ_CONT_TAILCALL`).
    TailCall,
    /// C code called a function pointer made by the FFI.
    FfiCallback,
    /// The upper copy of the frame of a function with variable arguments.
    Vararg,
    /// `pcall` or `xpcall`.
    Pcall,
}

impl Link {
    /// Whether C pushed the frame, and so it is the last of its segment.
    pub const fn is_from_c(self) -> bool {
        matches!(self, Self::C | Self::Protected | Self::FfiCallback)
    }
}

/// A call on the Lua stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaFrame {
    /// Address of the function object.
    pub function: u64,
    /// What it is, and where.
    pub kind: FrameKind,
    /// How it was called.
    pub link: Link,
    /// Address of its frame slot: its first local variable is 8 bytes behind.
    pub position: u64,
}

/// Why a walk could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A slot is not readable.
    Unreadable,
    /// A frame lies outside the stack.
    OutsideStack,
    /// A link does not lead downwards.
    NotDecreasing,
    /// What should be a function is none.
    NotAFunction,
    /// A link of no known kind.
    UnknownLink,
    /// More frames than a stack can have.
    DepthLimit,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LuaEnd {
    /// At the bottom of the stack, exactly.
    Bottom,
    /// Behind a frame that was entered from C; `next` is where the next segment starts ([`Base::below`]).
    EnteredFromC {
        /// Address of the next frame slot.
        next: u64,
    },
    /// Too early. The frames so far are right, the rest is missing.
    Broken(Broken),
}

/// What a walk found, the running function first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuaWalk {
    /// The frames.
    pub frames: Vec<LuaFrame>,
    /// How it ended.
    pub end: LuaEnd,
}

/// Walks the stack of the Lua thread `l`. The error says that there is no such thread; a stack that does
/// not hold together is in [`LuaWalk::end`].
pub fn frames(
    memory: &impl RemoteMemory,
    layout: &Layout,
    l: u64,
    from: Base,
    end: SegmentEnd,
) -> Result<LuaWalk, LuaStateError> {
    let state = LuaState::read(memory, layout.mode, l)?;
    let mut walk = Walk {
        memory,
        layout,
        state,
        window: Window::default(),
        functions: FxHashMap::default(),
        cframes: CFrames::new(memory, layout, &state),
        frames: Vec::new(),
    };
    let end = walk.run(from, end);
    Ok(LuaWalk {
        frames: walk.frames,
        end,
    })
}

/// Where the current instruction of the next frame down is written.
enum Above {
    Pc(u64),
    Unknown,
    /// In the native frame of the VM that called C.
    CFrame,
}

struct Walk<'a, M> {
    memory: &'a M,
    layout: &'a Layout,
    state: LuaState,
    window: Window,
    functions: FxHashMap<u64, Option<Function>>,
    cframes: CFrames<'a, M>,
    frames: Vec<LuaFrame>,
}

impl<M: RemoteMemory> Walk<'_, M> {
    fn run(&mut self, from: Base, end: SegmentEnd) -> LuaEnd {
        match self.walk(from, end) {
            Ok(end) => end,
            Err(broken) => LuaEnd::Broken(broken),
        }
    }

    fn walk(&mut self, from: Base, end: SegmentEnd) -> Result<LuaEnd, Broken> {
        let bottom = self.state.bottom(self.layout.mode);
        let first = from.addr.unwrap_or(self.state.base);
        let mut frame = first.checked_sub(8).ok_or(Broken::OutsideStack)?;
        if frame % 8 != 0 || frame < bottom || frame >= self.state.maxstack.saturating_add(STACK_EXTRA) {
            return Err(Broken::OutsideStack);
        }
        let mut above = match (from.pc, end) {
            (Some(pc), _) => Above::Pc(pc),
            (None, SegmentEnd::Bottom) if from.addr.is_none() => Above::CFrame,
            _ => Above::Unknown,
        };
        let (mut replaced, mut is_copied) = (None, false);
        for _ in 0..MAX_FRAMES {
            if frame == bottom {
                return Ok(LuaEnd::Bottom);
            }
            let (function, slot_link) = self.slots(frame)?;
            // Below a dummy frame that stands for a tail call, the link is overwritten and kept beside the
            // continuation (lj_meta_tailcall); the function there is not called yet.
            let (raw, is_pending) = replaced.take().map_or((slot_link, false), |link| (link, true));
            let (link, previous) = self.link(frame, raw)?;
            self.cframes.reach(frame);
            let is_dummy = function == self.state.addr;
            if !is_dummy && !is_copied && !is_pending {
                let kind = self.kind(function, &above)?;
                self.frames.push(LuaFrame {
                    function,
                    kind,
                    link,
                    position: frame,
                });
            }
            if previous >= frame {
                return Err(Broken::NotDecreasing);
            }
            if previous < bottom {
                return Err(Broken::OutsideStack);
            }
            // One call of a function with variable arguments is two frames: the upper copy was emitted.
            is_copied = link == Link::Vararg && !is_dummy;
            above = match link {
                Link::Lua => Above::Pc(raw),
                Link::Continuation => Above::Pc(self.continuation(frame)?.1),
                Link::TailCall => {
                    replaced = is_dummy.then_some(self.continuation(frame)?.1);
                    Above::Pc(self.continuation(frame)?.1)
                }
                Link::C | Link::Protected | Link::FfiCallback => {
                    self.cframes.leave();
                    Above::CFrame
                }
                Link::Vararg | Link::Pcall => Above::Unknown,
            };
            if link.is_from_c() && end == SegmentEnd::EnteredFromC {
                return Ok(match previous == bottom {
                    true => LuaEnd::Bottom,
                    false => LuaEnd::EnteredFromC { next: previous },
                });
            }
            frame = previous;
        }
        Err(Broken::DepthLimit)
    }

    /// The function and the link of a frame.
    fn slots(&mut self, frame: u64) -> Result<(u64, u64), Broken> {
        let slot = self.slot(frame)?;
        match self.layout.mode {
            GcMode::Gc64 => Ok((GcMode::Gc64.reference(self.slot(frame.wrapping_sub(8))?), slot)),
            GcMode::Gc32 => Ok((slot & u64::from(u32::MAX), slot >> 32)),
        }
    }

    /// The continuation of a frame and the program counter beside it.
    fn continuation(&mut self, frame: u64) -> Result<(u64, u64), Broken> {
        match self.layout.mode {
            GcMode::Gc64 => Ok((
                self.slot(frame.wrapping_sub(24))?,
                self.slot(frame.wrapping_sub(16))?,
            )),
            GcMode::Gc32 => {
                let slot = self.slot(frame.wrapping_sub(8))?;
                Ok((slot & u64::from(u32::MAX), slot >> 32))
            }
        }
    }

    /// The kind of a link, and the frame it leads to.
    fn link(&mut self, frame: u64, raw: u64) -> Result<(Link, u64), Broken> {
        let link = match raw & TYPE_MASK {
            0 | 4 => {
                let mut call = [0; 4];
                let at = raw.checked_sub(4).ok_or(Broken::UnknownLink)?;
                self.memory
                    .read_exact(at, &mut call)
                    .map_err(|_| Broken::Unreadable)?;
                let [_, a, ..] = call;
                let slots = u64::from(self.layout.fields().frame_slots) + u64::from(a);
                return Ok((Link::Lua, frame.wrapping_sub(8 * slots)));
            }
            1 => Link::C,
            5 => Link::Protected,
            CONT => match self.continuation(frame)?.0 {
                CONT_TAILCALL => Link::TailCall,
                CONT_FFI_CALLBACK => Link::FfiCallback,
                _ => Link::Continuation,
            },
            VARG => Link::Vararg,
            _ => Link::Pcall,
        };
        Ok((link, frame.wrapping_sub(raw & !TYPE_MASK)))
    }

    fn kind(&mut self, function: u64, above: &Above) -> Result<FrameKind, Broken> {
        let (memory, layout) = (self.memory, self.layout);
        let read = || Function::read(memory, layout.fields(), function);
        match self.functions.entry(function).or_insert_with(read) {
            None => Err(Broken::NotAFunction),
            Some(Function::C { f }) => Ok(FrameKind::C { f: *f, function }),
            Some(Function::Builtin { ffid }) => Ok(FrameKind::Builtin { ffid: *ffid }),
            Some(Function::Lua(code)) => {
                let pc = match above {
                    Above::Pc(pc) => Some(*pc),
                    Above::Unknown => None,
                    Above::CFrame => self.cframes.pc(),
                };
                let pos = pc.and_then(|pc| position(memory, layout, code, pc));
                let proto = code.proto;
                Ok(FrameKind::Lua { proto, pos })
            }
        }
    }

    fn slot(&mut self, addr: u64) -> Result<u64, Broken> {
        let LuaState { stack, .. } = self.state;
        if addr < stack {
            return Err(Broken::OutsideStack);
        }
        self.window
            .slot(self.memory, stack, addr)
            .ok_or(Broken::Unreadable)
    }
}

#[cfg(test)]
mod tests;
