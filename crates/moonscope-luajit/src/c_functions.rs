//! Names of C functions that have no symbol: what the tables of a VM call them.
//!
//! `require`, `ngx.say`, `cjson.encode`: functions of a stripped module stand under their names in the table of globals
//! or in `package.loaded`, and in tables in these. A name is that of a function object, and taken if all places that have the
//! object agree on its last part. One piece of C may stand for several functions, told apart by their upvalues: only objects
//! without upvalues may have the name of another that has the same code.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use moonscope_process::RemoteMemory;
use rustc_hash::FxHashMap;

use crate::GcMode;
use crate::object::number;
use crate::string::StrLayout;
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

/// Names of C functions of one VM.
#[derive(Clone, Debug, Default)]
pub struct CFunctions {
    /// Code and name, by the address of the function object.
    objects: FxHashMap<u64, (u64, Found)>,
    /// Names of those without upvalues, by the address of their code.
    plain: FxHashMap<u64, Found>,
}

/// A C function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CFunction {
    code: u64,
    has_upvalues: bool,
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
    /// Reads them from a VM. `tables`: where its names begin ([`crate::globals`]).
    pub fn read<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        strings: &StrLayout,
        tables: &[u64],
    ) -> Self {
        let mut walk = Walk {
            memory,
            mode,
            strings,
            seen: HashSet::new(),
            ahead: VecDeque::new(),
            left: MAX_FUNCTIONS,
            found: Self::default(),
        };
        for address in tables {
            walk.look_at_later(String::new(), 0, *address);
        }
        let start = Instant::now();
        while let Some(table) = walk.ahead.pop_front()
            && start.elapsed() < MAX_TIME
        {
            walk.table(&table);
        }
        walk.found
    }

    /// What a function is called.
    pub fn name<M: RemoteMemory + ?Sized>(
        &self,
        memory: &M,
        mode: GcMode,
        (code, object): (u64, u64),
    ) -> Option<&str> {
        let found = match self.objects.get(&object) {
            Some((its, found)) if *its == code => found,
            _ => {
                let plain = self.plain.get(&code)?;
                let [function] = c_functions(memory, mode, &[object])[..] else {
                    return None;
                };
                let is_like_it = |it: CFunction| it.code == code && !it.has_upvalues;
                function.is_some_and(is_like_it).then_some(plain)?
            }
        };
        match found {
            Found::Name(name) => Some(name),
            Found::Several => None,
        }
    }

    /// How many function objects are known.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// None is known.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    fn add(&mut self, object: u64, function: CFunction, name: &str) {
        let known = self.objects.entry(object);
        known
            .and_modify(|(_, found)| found.add(name))
            .or_insert_with(|| (function.code, Found::Name(name.to_owned())));
        if !function.has_upvalues {
            let known = self.plain.entry(function.code);
            known
                .and_modify(|found| found.add(name))
                .or_insert_with(|| Found::Name(name.to_owned()));
        }
    }
}

impl Found {
    /// It is called this too.
    fn add(&mut self, name: &str) {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let rank = |name: &str| (name.matches('.').count(), name.len(), name.to_owned());
        match self {
            Self::Name(before) if last(before) == last(name) => {
                if rank(name) < rank(before) {
                    name.clone_into(before);
                }
            }
            _ => *self = Self::Several,
        }
    }
}

/// Which of these are C functions.
fn c_functions<M: RemoteMemory + ?Sized>(
    memory: &M,
    mode: GcMode,
    objects: &[u64],
) -> Vec<Option<CFunction>> {
    let fields = mode.fields();
    let size = usize::from(fields.fn_c) + 8;
    let mut bytes = vec![0; objects.len() * size];
    let were_read = memory.read_each(objects, &mut bytes);
    let function = |object: &[u8]| {
        let byte = |at: u16| object.get(usize::from(at)).copied();
        let is_c = byte(fields.gct)? == gct::FUNCTION && byte(fields.fn_ffid)? == FF_C;
        let code = number::<8>(object, usize::from(fields.fn_c)).filter(|_| is_c)?;
        // GCfuncHeader (lj_obj.h): ffid, nupvalues
        let has_upvalues = byte(fields.fn_ffid + 1)? != 0;
        Some(CFunction { code, has_upvalues })
    };
    let objects = bytes.chunks_exact(size).zip(were_read);
    objects
        .map(|(object, was_read)| function(object).filter(|_| was_read))
        .collect()
}

struct Walk<'a, M: ?Sized> {
    memory: &'a M,
    mode: GcMode,
    strings: &'a StrLayout,
    seen: HashSet<u64>,
    /// Those with short names first.
    ahead: VecDeque<Table>,
    left: usize,
    found: CFunctions,
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
                        // what is in them is called by the name of its module, or has none before its own
                        match matches!(name.as_str(), "package.loaded" | "_G") {
                            true => self.look_at_later(String::new(), 0, address),
                            false => self.look_at_later(name, table.depth + 1, address),
                        }
                    }
                }
                _ => {}
            }
        }
        self.left -= functions.len();
        let objects: Vec<u64> = functions.iter().map(|&(_, object)| object).collect();
        let found = c_functions(self.memory, self.mode, &objects);
        for ((key, object), function) in functions.iter().zip(found) {
            if let Some(function) = function
                && let Some(name) = self.name(table, *key)
            {
                self.found.add(*object, function, &name);
            }
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::BufferMemory;

    const PLAIN: CFunction = CFunction {
        code: 1,
        has_upvalues: false,
    };
    const CLOSURE: CFunction = CFunction {
        code: 2,
        has_upvalues: true,
    };

    /// A function object at this address.
    fn placed(memory: BufferMemory, address: u64, function: CFunction) -> BufferMemory {
        let fields = GcMode::Gc64.fields();
        let mut object = vec![0; usize::from(fields.fn_c) + 8];
        object[usize::from(fields.gct)] = gct::FUNCTION;
        object[usize::from(fields.fn_ffid)] = FF_C;
        object[usize::from(fields.fn_ffid) + 1] = function.has_upvalues.into();
        object[usize::from(fields.fn_c)..].copy_from_slice(&function.code.to_le_bytes());
        memory.with(address, object)
    }

    #[test]
    fn functions_that_share_their_code_have_the_names_of_their_objects() {
        let mut memory = BufferMemory::new();
        for (address, function) in [
            (0x1000, PLAIN),
            (0x2000, PLAIN),
            (0x3000, CLOSURE),
            (0x5000, CLOSURE),
        ] {
            memory = placed(memory, address, function);
        }
        let mut found = CFunctions::default();
        // aliases: the shortest
        found.add(0x1000, PLAIN, "apisix.core.json.encode");
        found.add(0x1000, PLAIN, "cjson.encode");
        found.add(0x1000, PLAIN, "resty.json.encode");
        found.add(0x3000, CLOSURE, "file.read");
        found.add(0x4000, CLOSURE, "file.write");
        let name = |found: &CFunctions, code, object| {
            let name = found.name(&memory, GcMode::Gc64, (code, object));
            name.map(str::to_owned)
        };
        assert_eq!(name(&found, 1, 0x1000).as_deref(), Some("cjson.encode"));
        assert_eq!(name(&found, 2, 0x3000).as_deref(), Some("file.read"));
        assert_eq!(name(&found, 2, 0x4000).as_deref(), Some("file.write"));
        // another object without upvalues is the same function, one with upvalues need not be
        assert_eq!(name(&found, 1, 0x2000).as_deref(), Some("cjson.encode"));
        assert_eq!(name(&found, 2, 0x5000), None);
        // not there any more, or other code
        assert_eq!(name(&found, 1, 0x9000), None);
        assert_eq!(name(&found, 3, 0x1000), None);
        // one object of two names; those that are like it have none either
        found.add(0x1000, PLAIN, "cjson.decode");
        assert_eq!(name(&found, 1, 0x1000), None);
        assert_eq!(name(&found, 1, 0x2000), None);
    }
}
