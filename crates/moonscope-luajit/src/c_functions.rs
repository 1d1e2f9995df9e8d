//! Names of C functions that have no symbol: what the tables of a VM call them.
//!
//! `require`, `ngx.say`, `cjson.encode`: functions of a stripped module stand under their names in the table of globals
//! or in `package.loaded`, and in tables in these. A name is taken if everything that has this code agrees on its last
//! part: one piece of C that stands for several functions has none.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use moonscope_process::{ProcessError, RemoteMemory};
use rustc_hash::FxHashMap;

use crate::GcMode;
use crate::object::number;
use crate::string::{StrLayout, environments};
use crate::value::{Value, gct, table_nodes};

/// `FF_C`
const FF_C: u8 = 1;

/// Tables that are looked at; APISIX has some 1,500 modules and tables in them.
const MAX_TABLES: usize = 4096;
/// How long they are looked at: tables that a program made large may take a millisecond each.
const MAX_TIME: Duration = Duration::from_millis(200);
/// Functions that are looked at.
const MAX_FUNCTIONS: usize = 1 << 17;
/// Parts of a name: `ngx.req.get_headers`, below the name of a module.
const MAX_DEPTH: usize = 3;
/// Longest name of a part.
const MAX_NAME: usize = 64;

/// Names of C functions of one VM, by the address of their code.
#[derive(Clone, Debug, Default)]
pub struct CFunctions {
    names: FxHashMap<u64, Found>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Name(String),
    /// Functions of different names have this code.
    Several,
}

struct Table {
    path: String,
    depth: usize,
    address: u64,
}

impl CFunctions {
    /// Reads them from a VM. `thread`: its main thread.
    pub fn read<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        strings: &StrLayout,
        thread: u64,
    ) -> Result<Self, ProcessError> {
        let mut walk = Walk {
            memory,
            mode,
            strings,
            seen: HashSet::new(),
            ahead: VecDeque::new(),
            left: MAX_FUNCTIONS,
            names: FxHashMap::default(),
        };
        for address in environments(memory, mode, thread)? {
            walk.look_at_later(String::new(), 0, address);
        }
        let start = Instant::now();
        while let Some(table) = walk.ahead.pop_front()
            && start.elapsed() < MAX_TIME
        {
            walk.table(&table);
        }
        Ok(Self { names: walk.names })
    }

    /// What the function with this code is called.
    pub fn name(&self, code: u64) -> Option<&str> {
        match self.names.get(&code)? {
            Found::Name(name) => Some(name),
            Found::Several => None,
        }
    }

    /// Code and name of all that have one.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.names.iter().filter_map(|(&code, found)| match found {
            Found::Name(name) => Some((code, name.as_str())),
            Found::Several => None,
        })
    }

    /// How many have code that is known.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// None is known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

struct Walk<'a, M: ?Sized> {
    memory: &'a M,
    mode: GcMode,
    strings: &'a StrLayout,
    seen: HashSet<u64>,
    /// Those with short names first.
    ahead: VecDeque<Table>,
    left: usize,
    names: FxHashMap<u64, Found>,
}

impl<M: RemoteMemory + ?Sized> Walk<'_, M> {
    fn look_at_later(&mut self, path: String, depth: usize, address: u64) {
        if depth < MAX_DEPTH && self.seen.len() < MAX_TABLES && self.seen.insert(address) {
            self.ahead.push_back(Table { path, depth, address });
        }
    }

    fn table(&mut self, table: &Table) {
        let mut functions = Vec::new();
        for (key, value) in table_nodes(self.memory, self.mode, table.address) {
            let Value::String(key) = key else { continue };
            match value {
                Value::Function(function) if functions.len() < self.left => functions.push((key, function)),
                Value::Table(address) if !self.seen.contains(&address) => {
                    if let Some(name) = self.name(table, key) {
                        // what is in it is called by the name of its module
                        match name == "package.loaded" {
                            true => self.look_at_later(String::new(), 0, address),
                            false => self.look_at_later(name, table.depth + 1, address),
                        }
                    }
                }
                _ => {}
            }
        }
        self.left -= functions.len();
        for ((key, _), code) in functions.iter().zip(self.codes(&functions)) {
            if let Some(code) = code
                && let Some(name) = self.name(table, *key)
            {
                self.add(code, name);
            }
        }
    }

    /// The code of each of these that is a C function.
    fn codes(&self, functions: &[(u64, u64)]) -> Vec<Option<u64>> {
        let fields = self.mode.fields();
        let size = usize::from(fields.fn_c) + 8;
        let addrs: Vec<u64> = functions.iter().map(|&(_, function)| function).collect();
        let mut objects = vec![0; addrs.len() * size];
        let were_read = self.memory.read_each(&addrs, &mut objects);
        let code = |object: &[u8]| {
            let byte = |at: u16| object.get(usize::from(at)).copied();
            let is_c = byte(fields.gct)? == gct::FUNCTION && byte(fields.fn_ffid)? == FF_C;
            number::<8>(object, usize::from(fields.fn_c)).filter(|_| is_c)
        };
        let objects = objects.chunks_exact(size).zip(were_read);
        objects
            .map(|(object, was_read)| code(object).filter(|_| was_read))
            .collect()
    }

    fn name(&self, table: &Table, key: u64) -> Option<String> {
        let key = self.strings.read(self.memory, key, MAX_NAME).ok()?;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:".contains(byte);
        let is_whole = key.len as usize == key.bytes.len();
        let key = String::from_utf8(key.bytes).ok()?;
        if !is_whole || key.is_empty() || !key.as_bytes().iter().all(is_name) {
            return None;
        }
        Some(match table.path.as_str() {
            "" => key,
            path => format!("{path}.{key}"),
        })
    }

    fn add(&mut self, code: u64, name: String) {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let rank = |name: &str| (name.matches('.').count(), name.len(), name.to_owned());
        match self.names.get_mut(&code) {
            None => drop(self.names.insert(code, Found::Name(name))),
            Some(Found::Name(before)) if last(before) == last(&name) => {
                if rank(&name) < rank(before) {
                    *before = name;
                }
            }
            Some(found) => *found = Found::Several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::BufferMemory;

    fn walk<'a>(memory: &'a BufferMemory, strings: &'a StrLayout) -> Walk<'a, BufferMemory> {
        Walk {
            memory,
            mode: GcMode::Gc64,
            strings,
            seen: HashSet::new(),
            ahead: VecDeque::new(),
            left: MAX_FUNCTIONS,
            names: FxHashMap::default(),
        }
    }

    #[test]
    fn code_of_functions_with_different_names_has_none_and_aliases_the_shortest() {
        let (memory, strings) = (BufferMemory::new(), StrLayout::with_sid(GcMode::Gc64));
        let mut walk = walk(&memory, &strings);
        walk.add(1, "apisix.core.json.encode".to_owned());
        walk.add(1, "cjson.encode".to_owned());
        walk.add(1, "resty.json.encode".to_owned());
        walk.add(2, "cjson.safe.encode".to_owned());
        walk.add(2, "cjson.safe.decode".to_owned());
        walk.add(2, "cjson.safe.decode".to_owned());
        let found = CFunctions { names: walk.names };
        assert_eq!(found.name(1), Some("cjson.encode"));
        assert_eq!(found.name(2), None);
        assert_eq!(found.name(3), None);
    }
}
