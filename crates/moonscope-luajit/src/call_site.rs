//! What the caller calls a function: `field 'x'`, `method 'x'`, `global 'x'`, `upvalue 'x'`, `local 'x'`.
//!
//! The way of LuaJIT's own tracebacks (lj_debug_funcname, lj_debug_slotname): walk back from the call to what
//! filled the called slot. Only a hint, never a function's name: after a tail call the caller called
//! something else, and a callback is called by the name of a parameter.

use crate::GcMode;
use crate::bytecode::{Calls, Instruction, OperandA, op};
use crate::prototype::{Prototype, PrototypeError};
use crate::string::StrLayout;
use crate::value::read_ref;
use moonscope_process::RemoteMemory;

/// Instructions before a call that are looked at: 256 KiB. What is called was fetched a few instructions ago,
/// and a function this long is a generated table.
const MAX_WALK: u32 = 1 << 16;

/// Bytes of names and extents of variables that are read.
const MAX_INFO: u64 = 1 << 18;

/// Bytes of a name that are read.
const MAX_NAME: usize = 256;

/// Names that LuaJIT has built in for hidden variables of loops (lj_debug.h, `VARNAMEDEF`); 0 ends the list.
const HIDDEN: [&[u8]; 6] = [
    b"(for index)",
    b"(for limit)",
    b"(for step)",
    b"(for generator)",
    b"(for state)",
    b"(for control)",
];

/// Where the called value came from, in the words of LuaJIT's error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A global variable.
    Global,
    /// A local variable or parameter.
    Local,
    /// `a:f()`.
    Method,
    /// `a.f()`.
    Field,
    /// A local variable of an enclosing function.
    Upvalue,
    /// An operator called it.
    Metamethod,
}

/// What a function is called where it was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSiteName {
    /// Where it came from.
    pub kind: NameKind,
    /// Its name there; what is not UTF-8 is replaced.
    pub name: String,
}

impl std::fmt::Display for CallSiteName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            NameKind::Global => "global",
            NameKind::Local => "local",
            NameKind::Method => "method",
            NameKind::Field => "field",
            NameKind::Upvalue => "upvalue",
            NameKind::Metamethod => "metamethod",
        };
        write!(f, "{kind} '{}'", self.name)
    }
}

/// The name for what the instruction at `position` of `caller` called; `None` if it calls nothing, or nothing
/// with a name.
pub fn call_site_name<M: RemoteMemory + ?Sized>(
    memory: &M,
    strings: &StrLayout,
    caller: &Prototype,
    position: u32,
) -> Result<Option<CallSiteName>, PrototypeError> {
    if position >= caller.identity.sizebc || position == 0 {
        return Ok(None);
    }
    let first = position.saturating_sub(MAX_WALK);
    let mut code = vec![0; (position - first + 1) as usize * 4];
    memory.read_exact(caller.bytecode().wrapping_add(u64::from(first) * 4), &mut code)?;
    let code = code
        .chunks_exact(4)
        .map(|word| Instruction(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])));
    let site = CallSite {
        memory,
        strings,
        caller,
        first,
        code: code.collect(),
    };
    let found = site.name(position)?;
    caller.must_still_be(memory)?;
    Ok(found.map(|(kind, name)| CallSiteName {
        kind,
        name: String::from_utf8_lossy(&name).into_owned(),
    }))
}

struct CallSite<'a, M: ?Sized> {
    memory: &'a M,
    strings: &'a StrLayout,
    caller: &'a Prototype,
    /// Position of the first instruction of `code`.
    first: u32,
    code: Vec<Instruction>,
}

type Named = Option<(NameKind, Vec<u8>)>;

impl<M: RemoteMemory + ?Sized> CallSite<'_, M> {
    fn at(&self, position: u32) -> Option<Instruction> {
        let index = position.checked_sub(self.first)?;
        self.code.get(index as usize).copied()
    }

    fn name(&self, position: u32) -> Result<Named, PrototypeError> {
        let Some(call) = self.at(position) else {
            return Ok(None);
        };
        match call.calls() {
            Calls::Nothing => Ok(None),
            Calls::Metamethod(name) => Ok(Some((NameKind::Metamethod, name.into()))),
            // The iterator is called from a copy above the loop's three hidden variables.
            Calls::Function if call.op() == op::ITERC => match call.a().checked_sub(3) {
                Some(slot) => self.slot_name(position, slot),
                None => Ok(None),
            },
            Calls::Function => self.slot_name(position, call.a()),
        }
    }

    /// The name of what is in a slot before the instruction at `position` (lj_debug_slotname).
    fn slot_name(&self, mut position: u32, mut slot: u32) -> Result<Named, PrototypeError> {
        let variables = info(self.memory, self.caller, self.caller.identity.varinfo)?;
        loop {
            if let Some(name) = local_name(&variables, position, slot) {
                return Ok(Some((NameKind::Local, name.into())));
            }
            loop {
                position -= 1;
                let Some(ins) = self.at(position).filter(|_| position > 0) else {
                    return Ok(None);
                };
                if !ins.fills(slot) {
                    continue;
                }
                if ins.operand_a() == OperandA::Base {
                    return Ok(None);
                }
                match ins.op() {
                    op::MOV => {
                        slot = ins.d();
                        break;
                    }
                    op::GGET => return Ok(self.constant(ins.d()).map(|name| (NameKind::Global, name))),
                    op::TGETS => {
                        let kind = if self.is_method(position, ins) {
                            NameKind::Method
                        } else {
                            NameKind::Field
                        };
                        return Ok(self.constant(ins.c()).map(|name| (kind, name)));
                    }
                    op::UGET => {
                        let names = info(self.memory, self.caller, self.caller.identity.uvinfo)?;
                        let name = names.split(|byte| *byte == 0).nth(ins.d() as usize);
                        let name = name.filter(|name| !name.is_empty());
                        return Ok(name.map(|name| (NameKind::Upvalue, name.into())));
                    }
                    _ => return Ok(None),
                }
            }
        }
    }

    fn constant(&self, index: u32) -> Option<Vec<u8>> {
        string_constant(self.memory, self.strings, self.caller, index)
    }

    /// The object is copied to the first argument right before its field is fetched.
    fn is_method(&self, position: u32, fetch: Instruction) -> bool {
        let argument = fetch.a() + u32::from(self.caller.mode().fields().frame_slots);
        let before = position.checked_sub(1).and_then(|before| self.at(before));
        before.is_some_and(|ins| ins.op() == op::MOV && ins.a() == argument && ins.d() == fetch.b())
    }
}

/// The string among the constants that are objects, which grow downwards.
pub(crate) fn string_constant<M: RemoteMemory + ?Sized>(
    memory: &M,
    strings: &StrLayout,
    prototype: &Prototype,
    index: u32,
) -> Option<Vec<u8>> {
    let identity = &prototype.identity;
    if index >= identity.sizekgc {
        return None;
    }
    let mode: GcMode = prototype.mode();
    let back = (u64::from(index) + 1) * u64::from(mode.fields().ref_size);
    let address = read_ref(memory, mode, identity.k.wrapping_sub(back)).ok()?;
    Some(strings.read(memory, address, MAX_NAME).ok()?.bytes)
}

/// Names of variables from `address` to the end of the prototype; nothing if they were stripped.
pub(crate) fn info<M: RemoteMemory + ?Sized>(
    memory: &M,
    prototype: &Prototype,
    address: u64,
) -> Result<Vec<u8>, PrototypeError> {
    let identity = &prototype.identity;
    if address == 0 {
        return Ok(Vec::new());
    }
    let end = identity.address.wrapping_add(identity.sizept.into());
    let mut bytes = vec![0; end.saturating_sub(address).min(MAX_INFO) as usize];
    memory.read_exact(address, &mut bytes)?;
    Ok(bytes)
}

/// A local variable, and the positions where it lives.
pub(crate) struct Variable<'a> {
    pub name: &'a [u8],
    start: u32,
    end: u32,
}

/// The local variables of a function (debug_varname in lj_debug.c): in order of their beginning, each a name, how much later
/// than the one before it begins, and how long it lives.
pub(crate) fn variables(mut info: &[u8]) -> impl Iterator<Item = Variable<'_>> {
    let mut start: u32 = 0;
    std::iter::from_fn(move || {
        let (tag, _) = info.split_first()?;
        let name = match usize::from(*tag).checked_sub(1) {
            None => return None,
            Some(hidden) if hidden < HIDDEN.len() => {
                info = info.get(1..)?;
                HIDDEN[hidden]
            }
            Some(_) => {
                let len = info.iter().position(|byte| *byte == 0)?;
                let name = info.get(..len)?;
                info = info.get(len + 1..)?;
                name
            }
        };
        start = start.wrapping_add(uleb128(&mut info)?);
        let end = start.wrapping_add(uleb128(&mut info)?);
        let name = name.get(..MAX_NAME).unwrap_or(name);
        Some(Variable { name, start, end })
    })
}

/// The local variable that lives in a slot at a position.
fn local_name(info: &[u8], position: u32, slot: u32) -> Option<&[u8]> {
    variables(info)
        .take_while(|variable| variable.start <= position)
        .filter(|variable| position < variable.end)
        .nth(slot as usize)
        .map(|variable| variable.name)
}

fn uleb128(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}
