//! What names are found with, and what was read for that: kept from one part of a recording to the next.

use std::collections::HashMap;

use moonscope_process::{Executable, ExecutableKey};
use moonscope_symbols::{SymbolOptions, Symbolizer};
use moonscope_unwind::{GoNames, RuleSet, Table};

/// Bytes of unwind tables, and of names of Go, that are kept: those of some hundred libraries.
const KEPT: usize = 32 << 20;

/// Finds names.
pub struct Namer {
    /// By symbols and debug information.
    pub symbolizer: Symbolizer,
    /// Functions without a symbol are told apart by their unwind information.
    unnamed: HashMap<ExecutableKey, Unnamed>,
    bytes: usize,
}

/// What a file without symbols says of its functions.
struct Unnamed {
    table: Option<Table>,
    go: Option<GoNames>,
    /// Functions of ngx_lua that its code tells, where they begin.
    of_ngx_lua: Vec<(u64, &'static str)>,
}

/// A function without a symbol.
pub struct UnnamedFunction {
    /// Where it begins.
    pub start: u64,
    /// What Go calls it, or the sources of ngx_lua.
    pub name: Option<String>,
}

impl Namer {
    /// One that has read nothing yet.
    pub fn new(options: SymbolOptions) -> Self {
        Self {
            symbolizer: Symbolizer::new(options),
            unnamed: HashMap::new(),
            bytes: 0,
        }
    }

    /// The function that has this code and no symbol. Reads the unwind information when it is asked for the first time.
    pub fn without_symbol(&mut self, file: &Executable, vaddr: u64) -> Option<UnnamedFunction> {
        if !self.unnamed.contains_key(file.key()) {
            let read = Unnamed::read(file);
            let bytes = read.bytes();
            if self.bytes + bytes > KEPT {
                self.unnamed.clear();
                self.bytes = 0;
            }
            self.bytes += bytes;
            self.unnamed.insert(file.key().clone(), read);
        }
        let Unnamed {
            table,
            go,
            of_ngx_lua,
        } = self.unnamed.get(file.key())?;
        if let Some((start, name)) = go.as_ref().and_then(|go| go.at(vaddr)) {
            return Some(UnnamedFunction {
                start,
                name: Some(name),
            });
        }
        let start = table.as_ref()?.function_at(vaddr)?.start;
        let name = of_ngx_lua.iter().find(|(at, _)| *at == start);
        Some(UnnamedFunction {
            start,
            name: name.map(|(_, name)| (*name).to_owned()),
        })
    }
}

impl Unnamed {
    fn read(file: &Executable) -> Self {
        let Ok(data) = file.data() else {
            return Self {
                table: None,
                go: None,
                of_ngx_lua: Vec::new(),
            };
        };
        let table = Table::build(&data, &mut RuleSet::new()).ok().flatten();
        // a program with symbols has names for these
        let is_go = table.as_ref().is_some_and(|table| table.stats.go_functions > 0);
        Self {
            go: is_go.then(|| GoNames::read(&data)).flatten(),
            of_ngx_lua: table.as_ref().map_or_else(Vec::new, |table| {
                moonscope_nginx::timer_handlers(&data, &|vaddr| table.function_at(vaddr))
            }),
            table,
        }
    }

    fn bytes(&self) -> usize {
        self.table.as_ref().map_or(0, Table::kernel_bytes) + self.go.as_ref().map_or(0, GoNames::bytes)
    }
}
