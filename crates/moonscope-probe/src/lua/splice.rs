//! From the words of a walk to frames: native frames located, Lua frames named, compiled code unfolded.

use std::time::Instant;

use moonscope_luajit::lua_stack::FrameKind;
use moonscope_luajit::snapshot::{Expansion, Precision};
use moonscope_luajit::{InlinedFrame, SureCall, expand};
use moonscope_unwind::{WalkFrame, abi};

use super::functions::LuaFunctions;
use super::process::LuaProcess;
use super::processes::LuaCounts;
use super::words::{LuaWord, UserFrame};
use crate::stacks::{LuaCode, RawFrame};

/// Why Lua frames are missing.
const NO_STATE: &str = "Lua state not found";
const BROKEN: &str = "Lua stack not consistent";
const NOT_WALKED: &str = "walked from a stack copy: without Lua frames";

/// `LJ_VMST_EXIT` (lj_obj.h); `vmstate` holds its complement.
const LJ_VMST_EXIT: i32 = 3;

/// A spliced stack.
#[derive(Debug, Default)]
pub struct Spliced {
    /// Leaf first.
    pub frames: Vec<RawFrame>,
    /// Why Lua frames are missing, if some are: where, their marks say.
    pub lacks_lua: Option<&'static str>,
    /// It may be resolved better later: not to be remembered.
    pub is_provisional: bool,
    /// What the innermost Lua function calls what it calls, if that was asked for.
    pub site: Option<String>,
}

/// What is needed to name the Lua frames of a process.
pub struct LuaView<'a> {
    /// The process.
    pub process: &'a mut LuaProcess,
    /// Where functions are kept.
    pub functions: &'a mut LuaFunctions,
    /// What is counted.
    pub counts: &'a mut LuaCounts,
    /// When the sample was taken.
    pub at: Instant,
    /// What the innermost VM was doing: `global_State.vmstate`.
    pub vmstate: i32,
    /// Tell what the innermost Lua function calls: what a coroutine waits in.
    pub wants_site: bool,
}

/// Names the frames of a walk, leaf first. `locate` places a native frame; its second argument is the
/// native frame that is next to the root. Without `lua`, Lua frames are left out and marked as missing.
pub fn splice(
    frames: &[UserFrame],
    lua: Option<LuaView<'_>>,
    locate: impl Fn(&WalkFrame, Option<&WalkFrame>) -> RawFrame,
) -> Spliced {
    let sites = u8::from(lua.as_ref().is_some_and(|lua| lua.wants_site));
    let mut splicer = Splicer {
        locate,
        sites,
        lua,
        out: Spliced::default(),
        g: 0,
        code: LuaCode::Interpreted,
        expansion: None,
        last_native: None,
        before_last_native: None,
        is_innermost: true,
        unnamed: None,
    };
    for (index, frame) in frames.iter().enumerate() {
        match frame {
            UserFrame::Native(native) => {
                let caller = frames[index + 1..].iter().find_map(|next| match next {
                    UserFrame::Native(next) => Some(next),
                    UserFrame::Lua(_) => None,
                });
                let frame = (splicer.locate)(native, caller);
                splicer.out.frames.push(frame);
                splicer.before_last_native = splicer.last_native.replace(*native);
            }
            UserFrame::Lua(word) => {
                splicer.add(word);
                splicer.last_native = None;
            }
        }
    }
    splicer.out
}

/// Is this what runs in the function that the Lua stack has there?
fn is_of(expansion: &Expansion, function: u64) -> bool {
    let outermost = expansion.frames.last().and_then(|frame| frame.kind.as_ref());
    expansion.tail_called
        || outermost.is_none_or(|kind| matches!(kind, FrameKind::Lua { proto, .. } if *proto == function))
}

/// The function object of the innermost frame; `outermost` is that of the outermost.
fn innermost_closure(frames: &[InlinedFrame], outermost: Option<u64>) -> Option<u64> {
    match frames {
        [only] => only.function.or(outermost),
        frames => frames.first().and_then(|frame| frame.function),
    }
}

struct Splicer<'a, L> {
    locate: L,
    /// So many Lua functions may still say what they call to wait: the innermost one, and where that calls
    /// `coroutine.yield` itself, which says little, the one that called it.
    sites: u8,
    lua: Option<LuaView<'a>>,
    out: Spliced,
    /// The VM of the segment.
    g: u64,
    /// How the next function runs.
    code: LuaCode,
    /// What the innermost Lua frame stands for.
    expansion: Option<Expansion>,
    last_native: Option<WalkFrame>,
    /// If it is next to the last one.
    before_last_native: Option<WalkFrame>,
    /// No segment was met yet.
    is_innermost: bool,
    /// The prototype of the last frame, if only its caller may have a name for it.
    unnamed: Option<u64>,
}

impl<L: Fn(&WalkFrame, Option<&WalkFrame>) -> RawFrame> Splicer<'_, L> {
    fn add(&mut self, word: &LuaWord) {
        match *word {
            LuaWord::Segment { l, g, flags } => self.begin(l, g, flags),
            LuaWord::Function {
                proto,
                at,
                print,
                closure,
            } => {
                match self.expansion.take() {
                    Some(mut expansion) if is_of(&expansion, proto) => {
                        let at_call = self.frames_at_call(&expansion, closure);
                        if at_call.is_none() && expansion.may_call && self.may_call_lua(&expansion, closure) {
                            self.may_lack_inlined();
                            // who calls what is missing would be taken to do it there
                            if !self.stays_in_line(&expansion)
                                && let Some(innermost) = expansion.frames.first_mut()
                            {
                                innermost.lose_place();
                            }
                        }
                        self.unfold(at_call.as_deref().unwrap_or(&expansion.frames), (proto, print));
                    }
                    // of a trace that was at this address before, or since
                    Some(_) => {
                        self.unknown_trace();
                        self.function(proto, None, print);
                    }
                    // a saved position is behind its instruction; only of a function that was
                    // just entered it is not
                    None => self.function(proto, at.map(|at| at.saturating_sub(1)), print),
                }
                // its callers are on the Lua stack as the interpreter left them
                self.code = LuaCode::Interpreted;
            }
            LuaWord::CFunction { code, object } => self.c_function(code, object),
            LuaWord::Builtin { ffid } => self.builtin(ffid),
            LuaWord::Broken(_) => self.lacks_lua(BROKEN),
            LuaWord::NotWalked => self.lacks_lua(NOT_WALKED),
            LuaWord::LastParent { .. } => {}
        }
    }

    fn begin(&mut self, l: u64, g: u64, flags: u64) {
        self.g = g;
        self.code = LuaCode::Interpreted;
        self.expansion = None;
        self.unnamed = None;
        if l == 0 || flags & (abi::MS_SEGMENT_NO_STATE | abi::MS_SEGMENT_LOST) != 0 {
            self.lacks_lua(if l == 0 { NO_STATE } else { BROKEN });
            return;
        }
        let Some(lua) = &mut self.lua else {
            self.lacks_lua(NO_STATE);
            return;
        };
        if flags & abi::MS_SEGMENT_PARENT != 0 {
            self.out.frames.push(RawFrame::CoroutineParent);
            return;
        }
        let is_gap = flags & abi::MS_SEGMENT_GAP != 0;
        if flags & abi::MS_SEGMENT_TRACE != 0 {
            self.code = LuaCode::Compiled;
        }
        if is_gap && flags & abi::MS_SEGMENT_CALL == 0 {
            self.out.frames.push(RawFrame::Gap);
            return;
        }
        let is_innermost = std::mem::take(&mut self.is_innermost);
        let is_complete = if flags & abi::MS_SEGMENT_TRACE != 0 {
            let addr = self
                .last_native
                .map(|native| native.addr.wrapping_sub(u64::from(!native.exact)));
            let expansion = addr.and_then(|addr| {
                let trace = lua.process.trace(g, addr, lua.at)?;
                expand(trace, addr - trace.mcode).ok()
            });
            self.expansion = expansion.filter(|expansion| expansion.precision == Precision::Guard);
            self.expansion.is_some() || {
                // on its way into a trace or out of it
                let number = u16::try_from(lua.vmstate).ok();
                let trace = number.and_then(|number| lua.process.live_trace(g, number));
                trace.is_some_and(|trace| !trace.may_inline())
            }
        } else {
            // while a trace is left, its frames are not all written to the Lua stack yet; they are when the
            // VM's own code goes on
            !is_innermost
                || !lua.vmstate != LJ_VMST_EXIT
                || self.last_native.is_some_and(|native| native.exact)
        };
        // the native frames of the VM and of compiled code say nothing that the Lua frames do not
        self.out.frames.pop();
        if is_gap {
            self.out.frames.push(RawFrame::Gap);
        } else if self.is_in_vm(self.before_last_native) {
            self.out.frames.pop();
        }
        if !is_complete {
            self.unknown_trace();
        }
        if flags & abi::MS_SEGMENT_GUESSED != 0 {
            self.out.frames.push(RawFrame::LeafUncertain);
        }
    }

    /// The Lua frames of this entry into the VM, or the outer ones of them, are not to be had; the native stack goes on.
    fn lacks_lua(&mut self, why: &'static str) {
        self.out.frames.push(RawFrame::LuaMissing);
        self.out.lacks_lua = Some(why);
    }

    /// Is this a helper that the VM called?
    fn is_in_vm(&self, native: Option<WalkFrame>) -> bool {
        let (Some(lua), Some(native)) = (&self.lua, native) else {
            return false;
        };
        native.exact
            && lua
                .process
                .builds()
                .iter()
                .any(|build| build.code.contains(&native.addr))
    }

    fn frame(&mut self, kind: FrameKind) {
        match kind {
            // without a print: it was not seen by the kernel side
            FrameKind::Lua { proto, pos } => self.function(proto, pos, 0),
            FrameKind::C { f, function } => self.c_function(f, function),
            FrameKind::Builtin { ffid } => self.builtin(ffid),
        }
    }

    /// Compiled code of which it is not known what is inlined at this place.
    fn unknown_trace(&mut self) {
        self.out.is_provisional = true;
        self.may_lack_inlined();
    }

    /// Nothing tells whether compiled code has inlined more at this place, or what; it will not be known later either.
    fn may_lack_inlined(&mut self) {
        self.unnamed = None;
        if let Some(lua) = &mut self.lua {
            lua.counts.unknown_traces += 1;
        }
        self.out.frames.push(RawFrame::InlinedUnknown);
    }

    /// Where compiled code is that has called a C function, if nothing but one call of its bytecode can have done that.
    fn frames_at_call(&mut self, expansion: &Expansion, closure: Option<u64>) -> Option<Vec<InlinedFrame>> {
        let called = expansion.called.as_ref()?;
        let (g, lua) = (self.g, self.lua.as_mut()?);
        let is_it = |call: &&SureCall| {
            let Some(closure) = innermost_closure(called.callers(call), closure) else {
                return false;
            };
            let function = lua.process.called_c(g, closure, &call.source);
            function.is_some_and(|function| called.is_call_of(function))
        };
        called.calls.iter().find(is_it).map(|call| called.at(call))
    }

    /// The innermost function calls something around this place: may that be Lua? `closure` is the function object of the
    /// outermost.
    fn may_call_lua(&mut self, expansion: &Expansion, closure: Option<u64>) -> bool {
        let g = self.g;
        let closure = innermost_closure(&expansion.frames, closure);
        let (Some(lua), Some(closure), Some(callees)) = (&mut self.lua, closure, &expansion.callees) else {
            return true;
        };
        lua.process.may_be_lua(g, closure, callees)
    }

    /// Is the innermost function at the same line up to the next side exit?
    fn stays_in_line(&mut self, expansion: &Expansion) -> bool {
        let (Some(innermost), Some(until)) = (expansion.frames.first(), expansion.until) else {
            return false;
        };
        let Some(FrameKind::Lua { proto, pos }) = innermost.kind else {
            return true;
        };
        let (g, end) = (self.g, innermost.position_of(until));
        let Some(lua) = &mut self.lua else { return false };
        let mut line = |position| {
            let place = lua
                .process
                .place(g, (proto, 0), (position, lua.at), lua.functions);
            place.map(|place| place.line)
        };
        line(pos) == line(end)
    }

    /// The frames that compiled code runs, of which the outermost is on the Lua stack.
    fn unfold(&mut self, frames: &[InlinedFrame], outermost: (u64, u32)) {
        for frame in frames {
            match frame.kind {
                Some(FrameKind::Lua { proto, pos }) if proto == outermost.0 => {
                    self.function(proto, pos, outermost.1);
                }
                Some(kind) => self.frame(kind),
                None => self.unknown(),
            }
        }
    }

    fn function(&mut self, proto: u64, position: Option<u32>, print: u32) {
        let code = self.code;
        let g = self.g;
        let called = self.unnamed.take();
        let place = self.lua.as_mut().and_then(|lua| {
            lua.process
                .place(g, (proto, print), (position, lua.at), lua.functions)
        });
        match place {
            Some(place) => {
                self.note_site((proto, position));
                if let (Some(called), Some(position)) = (called, position) {
                    self.hint(called, (proto, position));
                }
                self.unnamed = place.wants_hint.then_some(proto);
                self.out.is_provisional |= place.is_recalled;
                if let Some(lua) = &mut self.lua {
                    lua.counts.without_line += u64::from(place.lacks_line);
                }
                self.out.frames.push(RawFrame::Lua {
                    function: place.function,
                    line: place.line,
                    code,
                });
            }
            None => self.unknown(),
        }
    }

    /// One of the innermost Lua functions, and where it is.
    fn note_site(&mut self, (proto, position): (u64, Option<u32>)) {
        let g = self.g;
        if self.sites == 0 {
            return;
        }
        self.sites -= 1;
        if let (Some(lua), Some(position)) = (&mut self.lua, position)
            && let Some(name) = lua.process.site(g, (proto, position))
        {
            self.out.site = Some(name);
        }
    }

    /// The last frame is what this position of its caller called.
    fn hint(&mut self, called: u64, caller: (u64, u32)) {
        let g = self.g;
        let Some(lua) = &mut self.lua else { return };
        if let Some(RawFrame::Lua { function, .. }) = self.out.frames.last_mut()
            && let Some(hinted) = lua.process.hint(g, called, caller, lua.functions)
        {
            *function = hinted;
        }
    }

    fn c_function(&mut self, code: u64, object: u64) {
        self.unnamed = None;
        let start = WalkFrame {
            addr: code,
            exact: true,
            fp: false,
        };
        let native = Box::new((self.locate)(&start, None));
        let g = self.g;
        let lua = self.lua.as_mut();
        let name = lua.map_or(Ok(None), |lua| lua.process.c_function(g, (code, object)));
        self.out.is_provisional |= name.is_err();
        let name = name.ok().flatten();
        self.out.frames.push(RawFrame::LuaC { native, name });
    }

    fn builtin(&mut self, ffid: u8) {
        self.unnamed = None;
        self.sites *= 2;
        let g = self.g;
        let Some(lua) = &mut self.lua else { return };
        let name = lua.process.builtin(g, ffid);
        self.out.frames.push(RawFrame::LuaBuiltin(name));
    }

    fn unknown(&mut self) {
        self.unnamed = None;
        if let Some(lua) = &mut self.lua {
            lua.counts.unknown_functions += 1;
        }
        self.out.is_provisional = true;
        self.out.frames.push(RawFrame::LuaUnknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(addr: u64) -> UserFrame {
        UserFrame::Native(WalkFrame {
            addr,
            exact: false,
            fp: false,
        })
    }

    fn splice_words(words: &[LuaWord]) -> Spliced {
        let frames: Vec<UserFrame> = std::iter::once(native(1))
            .chain(words.iter().copied().map(UserFrame::Lua))
            .chain([native(2)])
            .collect();
        splice(&frames, None, |frame, _| RawFrame::Kernel(frame.addr))
    }

    #[test]
    fn missing_lua_frames_are_marked_where_they_are_missing() {
        let segment = |l, flags| LuaWord::Segment { l, g: 8, flags };
        for (words, reason) in [
            (vec![segment(0, abi::MS_SEGMENT_NO_STATE)], NO_STATE),
            (vec![segment(8, abi::MS_SEGMENT_LOST)], BROKEN),
            (vec![LuaWord::Broken(1)], BROKEN),
            (vec![LuaWord::NotWalked], NOT_WALKED),
        ] {
            let spliced = splice_words(&words);
            let frames = [RawFrame::Kernel(1), RawFrame::LuaMissing, RawFrame::Kernel(2)];
            assert_eq!(spliced.frames, frames, "{words:?}");
            assert_eq!(spliced.lacks_lua, Some(reason), "{words:?}");
        }
    }
}
