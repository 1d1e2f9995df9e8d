//! Which metamethods a trace may call that are functions of Lua: any instruction of bytecode that has such a metamethod may
//! then be a call, though it does not look like one.
//!
//! Of a table or userdata the metamethod is fetched from the metatable by its name, and compared with the function that it was
//! when the trace was recorded (`lj_record_mm_lookup` and `rec_call_specialize`, lj_record.c). Of a C type it is not looked
//! up: its function is a constant that nothing is compared with (`crec_tailcall`, lj_crecord.c). Other such constants are the
//! values of variables that never change (`rec_upvalue`), and what a side trace takes over from its parent.

use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

use super::constants::{IRT_FUNC, IrConstants};
use super::ir::Ir;
use crate::bytecode::{Calls, Instruction};
use crate::callee::functions_in_upvalues;
use crate::layout::Layout;
use crate::object::Function;

/// Type and no guard.
const TYPE: u8 = 0x1f;
/// `GCstr` is so large, by version and object model.
const HEADERS: [usize; 3] = [16, 20, 24];
const NAMES: [&str; 14] = [
    "__index",
    "__newindex",
    "__eq",
    "__len",
    "__lt",
    "__le",
    "__concat",
    "__add",
    "__sub",
    "__mul",
    "__div",
    "__mod",
    "__pow",
    "__unm",
];

/// Metamethods that are functions of Lua.
#[derive(Default)]
pub(super) struct Metamethods {
    names: Vec<&'static str>,
    /// There may be any: of C types.
    any: bool,
}

impl Metamethods {
    /// What the instructions of a trace tell. `taken_over` are functions that a side trace has from its parent.
    pub(super) fn find(
        memory: &impl RemoteMemory,
        layout: &Layout,
        ir: &Ir,
        constants: &IrConstants,
        taken_over: &FxHashSet<u64>,
    ) -> Self {
        let is_lua = |function: u64| {
            let read = Function::read(memory, layout.fields(), function);
            matches!(read, Some(Function::Lua(_)))
        };
        let compared = ir.iter().filter(|(_, each)| each.is_eq());
        let compared: Vec<(u16, u16)> = compared.map(|(_, each)| (each.op1(), each.op2())).collect();
        // a place in a table by its key, what is loaded from there, and what that is compared with
        let places: FxHashMap<u16, u64> = ir
            .iter()
            .filter_map(|(number, each)| Some((number, constants.string(each.op2())?)))
            .collect();
        let fetched = ir.iter().filter(|(_, each)| each.kind() & TYPE == IRT_FUNC);
        let mut names = Vec::new();
        for (number, fetched) in fetched {
            let Some(name) = places.get(&fetched.op1()).and_then(|key| name_of(memory, *key)) else {
                continue;
            };
            let with = compared.iter().find(|(fetched, _)| *fetched == number);
            let function = with.and_then(|(_, function)| constants.function_at(*function));
            if function.is_none_or(is_lua) && !names.contains(&name) {
                names.push(name);
            }
        }
        let is_compared = |reference: u16| compared.iter().any(|(_, with)| *with == reference);
        let mut others = constants.functions.iter().filter(|(reference, function)| {
            !is_compared(*reference) && !taken_over.contains(function) && is_lua(*function)
        });
        let any = others.next().is_some_and(|first| {
            let in_variables: FxHashSet<u64> = constants
                .functions
                .iter()
                .flat_map(|(_, function)| functions_in_upvalues(memory, layout, *function))
                .collect();
            std::iter::once(first)
                .chain(others)
                .any(|(_, function)| !in_variables.contains(function))
        });
        Self { names, any }
    }

    /// May this instruction call one?
    pub(super) fn may_be_called_by(&self, instruction: Instruction) -> bool {
        match instruction.calls() {
            // finalizers are not called by compiled code
            Calls::Metamethod("__gc") => false,
            // which is what `a <= b` asks for if there is no `__le`
            Calls::Metamethod("__le") if self.names.contains(&"__lt") => true,
            Calls::Metamethod(name) => self.any || self.names.contains(&name),
            _ => false,
        }
    }
}

/// The metamethod with this name.
fn name_of(memory: &impl RemoteMemory, string: u64) -> Option<&'static str> {
    let mut bytes = [0; 40];
    memory.read_exact(string, &mut bytes).ok()?;
    let begins = |name: &str, at: usize| {
        let rest = bytes
            .get(at..)
            .and_then(|text| text.strip_prefix(name.as_bytes()));
        rest.and_then(<[u8]>::first) == Some(&0)
    };
    NAMES
        .into_iter()
        .find(|name| HEADERS.iter().any(|at| begins(name, *at)))
}
