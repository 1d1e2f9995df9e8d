//! Lua functions of a recording: each once, whichever processes run it.

use std::hash::BuildHasher;
use std::sync::Arc;

use moonscope_luajit::names::{FunctionKind, FunctionName};
use moonscope_luajit::{Prototype, PrototypeIdentity};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::numbered::Numbered;

/// A Lua function of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LuaFunctionId(pub u32);

/// What is known of a Lua function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LuaFunction {
    /// Its name in the source; `None` where it is not certain.
    pub name: Option<Arc<str>>,
    /// The file, or what stands for it.
    pub file: Arc<str>,
    /// The file as it is shown.
    pub short_file: Arc<str>,
    /// Where it is defined; 0: a main chunk, or not known.
    pub line_defined: u32,
    /// One of those that LuaJIT brings as bytecode.
    pub is_builtin: bool,
    /// Tells functions apart that have no certain name and begin on one line, as in `s:gsub(".", function() … end)`: what one is
    /// called is not the name of another. 0 of those with a name, and where all are one.
    pub shape: u64,
}

impl LuaFunction {
    /// The function of a prototype.
    pub fn new(name: FunctionName, prototype: &Prototype) -> Self {
        let is_told_apart = name.name.is_none() && !prototype.is_stripped();
        Self {
            shape: if is_told_apart {
                shape_of(&prototype.identity)
            } else {
                0
            },
            name: name.name.map(Arc::from),
            file: name.file.into(),
            short_file: name.short_file.into(),
            line_defined: name.line_defined,
            is_builtin: name.kind == FunctionKind::Builtin,
        }
    }
}

/// What of a prototype is the same whenever its text is loaded.
fn shape_of(identity: &PrototypeIdentity) -> u64 {
    let PrototypeIdentity {
        numline,
        sizebc,
        sizept,
        sizekgc,
        sizeuv,
        numparams,
        is_vararg,
        ..
    } = *identity;
    FxBuildHasher.hash_one((numline, sizebc, sizept, sizekgc, sizeuv, numparams, is_vararg))
}

/// All of them.
#[derive(Debug, Default)]
pub struct LuaFunctions {
    functions: Numbered<LuaFunction>,
    ids: FxHashMap<LuaFunction, LuaFunctionId>,
}

impl LuaFunctions {
    /// The id of a function.
    pub fn intern(&mut self, function: LuaFunction) -> LuaFunctionId {
        if let Some(&id) = self.ids.get(&function) {
            return id;
        }
        let id = LuaFunctionId(self.functions.add(function.clone()));
        self.ids.insert(function, id);
        id
    }

    /// The same function with what its caller calls it: a hint, and marked as one. After a tail call the caller
    /// called something else, and a callback is called by the name of a parameter.
    pub fn with_hint(&mut self, id: LuaFunctionId, name: &str) -> Option<LuaFunctionId> {
        let function = self.functions.get(id.0).filter(|_| !name.is_empty())?;
        let hinted = LuaFunction {
            name: Some(format!("{name}?").into()),
            ..function.clone()
        };
        Some(self.intern(hinted))
    }

    /// What a function was called is not its name.
    pub fn drop_hint(&mut self, id: LuaFunctionId) {
        let Some(function) = self.functions.get(id.0) else {
            return;
        };
        if function.name.as_deref().is_some_and(|name| name.ends_with('?')) {
            self.ids.remove(function);
            self.functions[id.0].name = None;
        }
    }

    /// One of them.
    pub fn get(&self, id: LuaFunctionId) -> Option<&LuaFunction> {
        self.functions.get(id.0)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (LuaFunctionId, &LuaFunction)> {
        let functions = self.functions.iter();
        functions.map(|(id, function)| (LuaFunctionId(id), function))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Forgets those of which `is_needed` does not say that they still are.
    pub fn forget_unused(&mut self, is_needed: impl Fn(LuaFunctionId) -> bool) {
        self.functions.retain(|id, _| is_needed(LuaFunctionId(id)));
        self.ids.retain(|_, id| is_needed(*id));
    }
}
