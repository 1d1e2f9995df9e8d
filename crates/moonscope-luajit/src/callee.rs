//! Whom a call of bytecode calls: where its function comes from, and what is there now.
//!
//! A function is called that was fetched a few instructions before: from a variable of an enclosing function, from a global
//! variable, or from a field of one of these. Compiled code is bound to the function that it calls (`rec_call_specialize`,
//! lj_record.c), so while it runs, what is there is what it calls. How functions and tables are laid out: lj_obj.h; C types:
//! lj_ctype.h.

use crate::bytecode::{Calls, Instruction, OperandA, op};
use crate::ctypes::{CT_ATTRIB, CT_FUNC, CT_PTR, CT_SHIFT, CT_TYPEDEF, CTypes, MAX_TYPES};
use crate::layout::{GcMode, Layout};
use crate::object::{Function, ProtoCode, number, read_reference};
use crate::value::{Value, table_value};
use moonscope_process::RemoteMemory;

/// Fields of fields that are followed: `ngx.shared.cache.get` is three.
const MAX_FIELDS: u32 = 4;
/// Copies from one slot to another that are followed.
const MAX_COPIES: u32 = 8;
/// `UDTYPE_FFI_CLIB`: the userdata is a C library, as `ffi.C` is.
const CLIB: u64 = 2;
/// Behind the type byte: `GCudata.udtype`, `GCcdata.ctypeid`.
const KIND_AFTER_GCT: u16 = 1;
/// Instructions of a function that hands over: `CALLT` takes at most 255 arguments.
const MAX_HANDING_OVER: u32 = 1024;
/// Where a called function comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A variable of an enclosing function, by its number.
    Upvalue(u32),
    /// A global variable: address of its name.
    Global(u64),
    /// A field, by the address of its name.
    Field(Box<Source>, u64),
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    /// A function of bytecode: its object.
    Lua(u64),
    /// C: a function of the C API, or one that the FFI calls; its address.
    C(u64),
    /// Built into LuaJIT, by its number.
    Builtin(u8),
    /// It cannot be told.
    Unknown,
}

impl Source {
    /// Where the function comes from that the instruction at `position` calls; `None` if the bytecode does not tell.
    pub(crate) fn of_call(
        memory: &impl RemoteMemory,
        mode: GcMode,
        code: &ProtoCode,
        (instructions, position): (&[Instruction], usize),
    ) -> Option<Self> {
        let call = instructions.get(position)?;
        if !(op::CALLM..=op::CALLT).contains(&call.op()) {
            return None;
        }
        let k = read_reference(memory, mode.fields(), code.proto + u64::from(mode.fields().pt_k))?;
        let body = Body {
            memory,
            mode,
            k,
            instructions,
        };
        body.slot(position, call.a(), MAX_FIELDS)
    }

    /// What is there now, for this function object of the VM `g`.
    pub fn callee(&self, memory: &impl RemoteMemory, layout: &Layout, g: u64, closure: u64) -> Callee {
        let heap = Heap { memory, layout, g };
        match self.value(&heap, closure) {
            Some(Value::Function(function)) => match Function::read(memory, layout.fields(), function) {
                Some(Function::Lua(_)) => Callee::Lua(function),
                Some(Function::C { f }) => Callee::C(f),
                Some(Function::Builtin { ffid }) => Callee::Builtin(ffid),
                None => Callee::Unknown,
            },
            Some(Value::Cdata(cdata)) => heap.c_function(cdata).map_or(Callee::Unknown, Callee::C),
            _ => Callee::Unknown,
        }
    }

    fn value(&self, heap: &Heap<'_, impl RemoteMemory>, closure: u64) -> Option<Value> {
        match self {
            Self::Upvalue(index) => heap.upvalue(closure, *index),
            Self::Global(name) => heap.global(closure, *name),
            Self::Field(object, name) => match object.value(heap, closure)? {
                Value::Table(table) => heap.field(table, *name),
                Value::Userdata(object) => heap.field(heap.clib(object)?, *name),
                _ => None,
            },
        }
    }
}

/// The C function that a Lua function hands over to with a tail call, if it does nothing else that calls: `return C.f(a, b)`.
/// While that runs, it is not on the Lua stack any more.
pub fn handed_over_to(memory: &impl RemoteMemory, layout: &Layout, g: u64, closure: u64) -> Option<u64> {
    let Function::Lua(code) = Function::read(memory, layout.fields(), closure)? else {
        return None;
    };
    let mut bytes = vec![0; code.sizebc.min(MAX_HANDING_OVER) as usize * 4];
    memory.read_exact(code.bytecode, &mut bytes).ok()?;
    let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
    let instructions: Vec<_> = words.map(|word| Instruction(u32::from_le_bytes(word))).collect();
    let is_end = |each: &Instruction| {
        each.calls() == Calls::Function
            || each.jump(0).is_some()
            || each.loops()
            || each.is_border()
            || each.is_return()
    };
    // 0 is the function header
    let end = instructions.iter().skip(1).position(is_end)? + 1;
    let is_tail_call = matches!(instructions.get(end)?.op(), op::CALLMT | op::CALLT);
    let source =
        Source::of_call(memory, layout.mode, &code, (&instructions, end)).filter(|_| is_tail_call)?;
    match source.callee(memory, layout, g, closure) {
        Callee::C(function) => Some(function),
        _ => None,
    }
}

/// The functions that are in variables of enclosing functions of this one.
pub(crate) fn functions_in_upvalues(memory: &impl RemoteMemory, layout: &Layout, closure: u64) -> Vec<u64> {
    let heap = Heap { memory, layout, g: 0 };
    let values = (0..=u32::from(u8::MAX)).map_while(|index| heap.upvalue(closure, index));
    values
        .filter_map(|value| match value {
            Value::Function(function) => Some(function),
            _ => None,
        })
        .collect()
}

/// The bytecode of a function.
struct Body<'a, M> {
    memory: &'a M,
    mode: GcMode,
    /// Its constants.
    k: u64,
    instructions: &'a [Instruction],
}

impl<M: RemoteMemory> Body<'_, M> {
    /// Where that comes from what is in a slot before an instruction.
    fn slot(&self, mut position: usize, mut slot: u32, fields: u32) -> Option<Source> {
        for _ in 0..MAX_COPIES {
            let (at, fetch) = self.fetch(position, slot)?;
            match fetch.op() {
                op::MOV => (position, slot) = (at, fetch.d()),
                op::UGET => return Some(Source::Upvalue(fetch.d())),
                op::GGET => return self.name(fetch.d()).map(Source::Global),
                op::TGETS => {
                    let object = self.slot(at, fetch.b(), fields.checked_sub(1)?)?;
                    return Some(Source::Field(Box::new(object), self.name(fetch.c())?));
                }
                _ => return None,
            }
        }
        None
    }

    /// The only instruction that can have filled a slot before the one at `position`.
    fn fetch(&self, position: usize, slot: u32) -> Option<(usize, Instruction)> {
        let before = self.instructions.get(..position)?;
        // 0 is the function header
        let fills = |&(at, ins): &(usize, &Instruction)| at > 0 && ins.fills(slot);
        let (at, &fetch) = before.iter().enumerate().rev().find(fills)?;
        if fetch.operand_a() != OperandA::Destination {
            return None;
        }
        // `(a or b)()`: another way leads around it
        let mut jumps = before.iter().enumerate().take(at);
        let leads_around =
            jumps.any(|(from, ins)| ins.jump(from).is_some_and(|to| (at + 1..=position).contains(&to)));
        (!leads_around).then_some((at, fetch))
    }

    /// Address of a string among the constants that are objects, which grow downwards.
    fn name(&self, index: u32) -> Option<u64> {
        let fields = self.mode.fields();
        let back = (u64::from(index) + 1) * u64::from(fields.ref_size);
        read_reference(self.memory, fields, self.k.checked_sub(back)?)
    }
}

/// The objects of a VM.
struct Heap<'a, M> {
    memory: &'a M,
    layout: &'a Layout,
    g: u64,
}

impl<M: RemoteMemory> Heap<'_, M> {
    fn reference(&self, addr: u64) -> Option<u64> {
        read_reference(self.memory, self.layout.fields(), addr)
    }

    /// The value of a variable of an enclosing function.
    fn upvalue(&self, closure: u64, index: u32) -> Option<Value> {
        let fields = self.layout.fields();
        let Function::Lua(_) = Function::read(self.memory, fields, closure)? else {
            return None;
        };
        let mut count = [0];
        let counted = closure.checked_add(u64::from(fields.fn_ffid) + 1)?;
        self.memory.read_exact(counted, &mut count).ok()?;
        if index >= count[0].into() {
            return None;
        }
        let at = u64::from(fields.fn_pc) + u64::from(fields.ref_size) * (1 + u64::from(index));
        let upvalue = self.reference(closure.checked_add(at)?)?;
        let place = self.reference(upvalue.checked_add(fields.uv_v.into())?)?;
        let raw = self.memory.read_u64(place).ok()?;
        Some(Value::decode(self.layout.mode, raw))
    }

    /// The value of a global variable of a function.
    fn global(&self, closure: u64, name: u64) -> Option<Value> {
        let environment = self.reference(closure.checked_add(self.layout.fields().fn_env.into())?)?;
        self.field(environment, name)
    }

    /// The value of a field, which must be in the table itself.
    fn field(&self, table: u64, name: u64) -> Option<Value> {
        table_value(self.memory, self.layout.mode, table, Value::String(name))
    }

    /// The table of symbols that were looked up in a C library (`CLibrary`, lj_clib.h).
    fn clib(&self, userdata: u64) -> Option<u64> {
        let fields = self.layout.fields();
        let mut head = [0; 16];
        self.memory.read_exact(userdata, &mut head).ok()?;
        let kind = number::<1>(&head, usize::from(fields.gct + KIND_AFTER_GCT))?;
        // behind the userdata: handle, cache
        let cache = userdata.checked_add(u64::from(fields.ud_size) + 8)?;
        (kind == CLIB).then(|| self.memory.read_u64(cache).ok())?
    }

    /// The C function that the FFI calls for this, if it is a function or a pointer to one: anything else may have a metatable
    /// with `__call`.
    fn c_function(&self, cdata: u64) -> Option<u64> {
        let fields = self.layout.fields();
        let mut head = [0; 24];
        self.memory.read_exact(cdata, &mut head).ok()?;
        let mut id = number::<2>(&head, usize::from(fields.gct + KIND_AFTER_GCT))? as u32;
        let types = CTypes::read(self.memory, self.layout, self.g)?;
        let mut was_pointer = false;
        for _ in 0..MAX_TYPES {
            let info = types.info(self.memory, id)?;
            match info >> CT_SHIFT {
                // the header is as large as two references
                CT_FUNC => return number::<8>(&head, 2 * usize::from(fields.ref_size)),
                CT_PTR if !was_pointer => was_pointer = true,
                CT_TYPEDEF | CT_ATTRIB => {}
                _ => return None,
            }
            id = info & 0xffff;
        }
        None
    }
}

#[cfg(test)]
mod tests;
