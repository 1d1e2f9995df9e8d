//! What names are found with, and what was read for that: kept from one part of a recording to the next.

use std::collections::HashMap;

use moonscope_process::{Executable, ExecutableKey};
use moonscope_symbols::{SymbolOptions, Symbolizer};
use moonscope_unwind::{RuleSet, Table};

/// Bytes of unwind tables that are kept: those of some hundred libraries.
const KEPT: usize = 32 << 20;

/// Finds names.
pub struct Namer {
    /// By symbols and debug information.
    pub symbolizer: Symbolizer,
    /// Functions without a symbol are told apart by their unwind information.
    unnamed: HashMap<ExecutableKey, Option<Table>>,
    bytes: usize,
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

    /// Where the function begins that has this code and no symbol. Reads the unwind information when it is asked for the
    /// first time.
    pub fn function_start(&mut self, file: &Executable, vaddr: u64) -> Option<u64> {
        if !self.unnamed.contains_key(file.key()) {
            let table = unwind_table(file);
            let bytes = table.as_ref().map_or(0, Table::kernel_bytes);
            if self.bytes + bytes > KEPT {
                self.unnamed.clear();
                self.bytes = 0;
            }
            self.bytes += bytes;
            self.unnamed.insert(file.key().clone(), table);
        }
        let table = self.unnamed.get(file.key())?.as_ref()?;
        Some(table.function_at(vaddr)?.start)
    }
}

fn unwind_table(file: &Executable) -> Option<Table> {
    let data = file.data().ok()?;
    Table::build(&data, &mut RuleSet::new()).ok().flatten()
}
