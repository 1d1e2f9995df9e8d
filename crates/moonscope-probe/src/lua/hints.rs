//! Functions without a name of their own are called what their callers call them, as long as nothing speaks against it.
//!
//! After a tail call the caller has called something else than what runs, and nothing on the stack says so. It shows when
//! the same place is seen to run several functions (what it calls, and what that left its place to), and when places call
//! one function by different names: then the name is dropped, also from what was recorded before. Texts that begin alike and
//! are loaded one by one (the serverless functions of APISIX) have functions of one file and line, which are one function
//! here; each text calls it by a name of its own.

use rustc_hash::FxHashMap;

use super::functions::{LuaFunctionId, LuaFunctions};
use crate::limits::MAX_PROTOTYPES;

/// A place that calls functions.
#[derive(Clone, Copy)]
pub struct Place {
    /// The function that it is in.
    pub function: LuaFunctionId,
    /// Where it is in that one's bytecode.
    pub position: u32,
    /// Number of the prototype: a function may have several, of texts that begin alike.
    pub prototype: u64,
}

/// Prototypes of one function whose names for what they call are remembered; then they are read anew.
const MAX_TEXTS: usize = 64;

/// What is known of a place that calls functions.
struct Site {
    /// The function that it was seen to call.
    callee: LuaFunctionId,
    /// It was seen to call another one too.
    calls_several: bool,
    /// What it calls it, by prototype.
    names: FxHashMap<u64, Option<String>>,
}

/// What a function is called.
struct Hint {
    name: String,
    hinted: LuaFunctionId,
    is_doubted: bool,
}

/// What functions of a process are called by their callers.
#[derive(Default)]
pub struct Hints {
    /// By the calling function and the position of its call.
    sites: FxHashMap<(LuaFunctionId, u32), Site>,
    hints: FxHashMap<LuaFunctionId, Hint>,
}

impl Hints {
    /// The function with the name that it has by now, if it has one.
    pub fn shown(&self, function: LuaFunctionId) -> LuaFunctionId {
        self.hints.get(&function).map_or(function, |hint| hint.hinted)
    }

    /// Functions that are referred to.
    pub fn functions(&self) -> impl Iterator<Item = LuaFunctionId> {
        let of_hints = self
            .hints
            .iter()
            .flat_map(|(&function, hint)| [function, hint.hinted]);
        of_hints.chain(
            self.sites
                .iter()
                .flat_map(|((caller, _), site)| [*caller, site.callee]),
        )
    }

    /// A function was seen to be called from this place. `name`: what the place calls it. Gives the function as it is to
    /// be shown.
    pub fn note(
        &mut self,
        callee: LuaFunctionId,
        place: Place,
        functions: &mut LuaFunctions,
        name: impl FnOnce() -> Option<String>,
    ) -> LuaFunctionId {
        if self.sites.len() >= MAX_PROTOTYPES {
            self.sites.clear();
        }
        let key = (place.function, place.position);
        let site = self.sites.entry(key).or_insert_with(|| Site {
            callee,
            calls_several: false,
            names: FxHashMap::default(),
        });
        if site.names.len() >= MAX_TEXTS {
            site.names.clear();
        }
        let name = site.names.entry(place.prototype).or_insert_with(name).clone();
        let differ = site.names.values().any(|other| *other != name);
        if site.callee != callee && !site.calls_several {
            site.calls_several = true;
            let first = site.callee;
            self.doubt(first, functions);
        }
        if differ || self.sites.get(&key).is_none_or(|site| site.calls_several) {
            self.doubt(callee, functions);
            return self.shown(callee);
        }
        let Some(name) = name else {
            return self.shown(callee);
        };
        match self.hints.get(&callee) {
            Some(known) if known.is_doubted || known.name == name => {}
            Some(_) => self.doubt(callee, functions),
            None => {
                if let Some(hinted) = functions.with_hint(callee, &name) {
                    let hint = Hint {
                        name,
                        hinted,
                        is_doubted: false,
                    };
                    self.hints.insert(callee, hint);
                }
            }
        }
        self.shown(callee)
    }

    /// A function is not what it was called, or nobody knows.
    fn doubt(&mut self, function: LuaFunctionId, functions: &mut LuaFunctions) {
        let hint = self.hints.entry(function).or_insert_with(|| Hint {
            name: String::new(),
            hinted: function,
            is_doubted: true,
        });
        hint.is_doubted = true;
        functions.drop_hint(hint.hinted);
    }
}

#[cfg(test)]
mod tests {
    use super::super::functions::LuaFunction;
    use super::*;

    fn function(functions: &mut LuaFunctions, line: u32) -> LuaFunctionId {
        functions.intern(LuaFunction {
            name: None,
            file: "a.lua".into(),
            short_file: "a.lua".into(),
            line_defined: line,
            is_builtin: false,
            shape: 0,
        })
    }

    fn at(function: LuaFunctionId, position: u32) -> Place {
        Place {
            function,
            position,
            prototype: 1,
        }
    }

    fn name(functions: &LuaFunctions, id: LuaFunctionId) -> Option<String> {
        functions.get(id)?.name.as_deref().map(str::to_owned)
    }

    #[test]
    fn a_place_that_always_runs_one_function_names_it() {
        let (mut hints, mut functions) = (Hints::default(), LuaFunctions::default());
        let [caller, callee] = [1, 2].map(|line| function(&mut functions, line));
        for position in [5, 9] {
            let shown = hints.note(callee, at(caller, position), &mut functions, || {
                Some("work".to_owned())
            });
            assert_eq!(name(&functions, shown).as_deref(), Some("work?"));
        }
        assert_eq!(hints.shown(caller), caller);
    }

    #[test]
    fn a_place_that_runs_several_functions_names_none_of_them() {
        let (mut hints, mut functions) = (Hints::default(), LuaFunctions::default());
        let [caller, called, runs] = [1, 2, 3].map(|line| function(&mut functions, line));
        let mut note = |callee| {
            hints.note(callee, at(caller, 5), &mut functions, || {
                Some("dispatch".to_owned())
            })
        };
        let first = note(runs);
        let (second, third) = (note(called), note(runs));
        // also where it was shown before
        for shown in [first, second, third] {
            assert_eq!(name(&functions, shown), None);
        }
    }

    #[test]
    fn a_function_of_two_names_has_none() {
        let (mut hints, mut functions) = (Hints::default(), LuaFunctions::default());
        let [caller, callee] = [1, 2].map(|line| function(&mut functions, line));
        let first = hints.note(callee, at(caller, 5), &mut functions, || Some("auth".to_owned()));
        let second = hints.note(callee, at(caller, 9), &mut functions, || {
            Some("dispatch".to_owned())
        });
        assert_eq!((name(&functions, first), name(&functions, second)), (None, None));
        let third = hints.note(callee, at(caller, 5), &mut functions, || None);
        assert_eq!(name(&functions, third), None);
    }

    #[test]
    fn functions_of_texts_that_begin_alike_do_not_have_the_name_of_one_of_them() {
        let (mut hints, mut functions) = (Hints::default(), LuaFunctions::default());
        let [caller, callee] = [1, 2].map(|line| function(&mut functions, line));
        let mut note = |position, prototype, name: Option<&str>| {
            let place = Place {
                prototype,
                ..at(caller, position)
            };
            hints.note(callee, place, &mut functions, || name.map(str::to_owned))
        };
        let named = [
            note(5, 1, Some("red")),
            note(5, 2, Some("green")),
            note(5, 1, Some("red")),
        ];
        for shown in named {
            assert_eq!(name(&functions, shown), None);
        }
        // nor if one of them has no name for it
        let (mut hints, mut functions) = (Hints::default(), LuaFunctions::default());
        let [caller, callee] = [1, 2].map(|line| function(&mut functions, line));
        for (prototype, called) in [(1, Some("red")), (2, None)] {
            let place = Place {
                prototype,
                ..at(caller, 5)
            };
            hints.note(callee, place, &mut functions, || called.map(str::to_owned));
        }
        assert_eq!(name(&functions, hints.shown(callee)), None);
    }
}
