//! Whom compiled code calls: whether it may have inlined Lua at a place where no snapshot tells, and which of its calls of C
//! it is at.

use moonscope_luajit::builtins::Builtins;
use moonscope_luajit::{Callee, Layout, Source, handed_over_to};
use moonscope_process::RemoteMemory;
use rustc_hash::FxHashMap;

/// Answers that are kept: a worker's busy compiled code has some thousand calls.
const MAX_CALLEES: usize = 1 << 14;

/// Library functions that call what they are given, or a metamethod of it, when they are compiled (lj_ffrecord.c:
/// `recff_pcall`, `recff_xpcall`, `recff_tostring`, `recff_xpairs`); those of C data may have metatables of the program.
const CALLING: [&str; 5] = ["pcall", "xpcall", "tostring", "pairs", "ipairs"];
const OF_CDATA: &str = "ffi.meta.";

/// What is known of calls.
#[derive(Default)]
pub struct Callees {
    known: FxHashMap<(u64, Source), Callee>,
    /// Lua functions that do nothing but call C.
    wrappers: FxHashMap<u64, Option<u64>>,
}

/// A VM, and the calls of a function object of it.
pub struct Calls<'a, M> {
    /// The process.
    pub memory: &'a M,
    /// Where the VM keeps things.
    pub layout: &'a Layout,
    /// Its `global_State`.
    pub g: u64,
    /// The function object.
    pub closure: u64,
}

impl Callees {
    /// Whom a call calls.
    fn of(&mut self, calls: &Calls<'_, impl RemoteMemory>, source: &Source) -> Callee {
        if self.known.len() >= MAX_CALLEES {
            self.forget();
        }
        let key = (calls.closure, source.clone());
        *self
            .known
            .entry(key)
            .or_insert_with(|| source.callee(calls.memory, calls.layout, calls.g, calls.closure))
    }

    /// The C function that a call ends up in for certain, and nothing but that and its caller is on the Lua stack then.
    pub fn c_function(&mut self, calls: &Calls<'_, impl RemoteMemory>, source: &Source) -> Option<u64> {
        match self.of(calls, source) {
            Callee::C(function) => Some(function),
            Callee::Lua(wrapper) => *self
                .wrappers
                .entry(wrapper)
                .or_insert_with(|| handed_over_to(calls.memory, calls.layout, calls.g, wrapper)),
            Callee::Builtin(_) | Callee::Unknown => None,
        }
    }

    /// May one of these calls be of Lua?
    pub fn may_be_lua(
        &mut self,
        calls: &Calls<'_, impl RemoteMemory>,
        sources: &[Source],
        builtins: Option<&Builtins>,
    ) -> bool {
        sources.iter().any(|source| match self.of(calls, source) {
            Callee::C(_) => false,
            Callee::Builtin(ffid) => builtins.is_none_or(|builtins| {
                let name = builtins.name_or_number(ffid);
                CALLING.contains(&name.as_str()) || name.starts_with(OF_CDATA)
            }),
            Callee::Lua(_) | Callee::Unknown => true,
        })
    }

    /// Variables may have other values by now.
    pub fn forget(&mut self) {
        self.known.clear();
        self.wrappers.clear();
    }
}
