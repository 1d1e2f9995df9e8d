//! Names of LuaJIT's built-in functions: the number in a function (`GCfunc.ffid`) is all that a frame has.
//!
//! Numbers differ from build to build, so they are read from the live VM: its global variables and loaded
//! modules hold the functions under their names. What is in no table (`ipairs`' iterator, the metamethods of
//! C data) is then counted from its neighbours: numbers follow the order of definition in LuaJIT's sources,
//! and [`ORDER`] is that order. Names are LuaJIT's own (jit/vmdef.lua, `ffnames`).

use crate::GcMode;
use crate::string::StrLayout;
use crate::value::{Value, gct, is_object, metatable, table_nodes};
use moonscope_process::RemoteMemory;
use std::collections::HashSet;

/// `FF_C`: numbers above are built-in functions.
const FF_C: u8 = 1;

/// Tables that are looked at in one VM. LuaJIT has some 20 that hold functions of its library.
const MAX_TABLES: usize = 256;

/// Longest name that is compared; the longest one has 21 bytes.
const MAX_NAME: usize = 64;

/// Every built-in function in the order of its definition (lib_*.c in the order of LuaJIT's Makefile). The
/// same in Debian's snapshots of 2022 and 2023 (vmdef.lua), OpenResty's fork of 2024 and upstream of 2026
/// (sources), but for those in [`OPTIONAL`].
#[rustfmt::skip]
const ORDER: &[&str] = &[
    "assert", "type", "next", "pairs", "ipairs_aux", "ipairs", "getmetatable", "setmetatable", "getfenv",
    "setfenv", "rawget", "rawset", "rawequal", "rawlen", "unpack", "select", "tonumber", "tostring", "error", "pcall",
    "xpcall", "loadfile", "load", "loadstring", "dofile", "gcinfo", "collectgarbage", "newproxy", "print",
    "coroutine.status", "coroutine.running", "coroutine.isyieldable", "coroutine.create", "coroutine.yield",
    "coroutine.resume", "coroutine.wrap_aux", "coroutine.wrap", "thread.exdata", "thread.exdata2",
    "math.abs", "math.floor", "math.ceil", "math.sqrt", "math.log10", "math.exp", "math.sin", "math.cos",
    "math.tan", "math.asin", "math.acos", "math.atan", "math.sinh", "math.cosh", "math.tanh", "math.frexp",
    "math.modf", "math.log", "math.atan2", "math.pow", "math.fmod", "math.ldexp", "math.min", "math.max",
    "math.random", "math.randomseed", "bit.tobit", "bit.bnot", "bit.bswap", "bit.lshift", "bit.rshift",
    "bit.arshift", "bit.rol", "bit.ror", "bit.band", "bit.bor", "bit.bxor", "bit.tohex", "string.byte",
    "string.char", "string.sub", "string.rep", "string.reverse", "string.lower", "string.upper",
    "string.dump", "string.find", "string.match", "string.gmatch_aux", "string.gmatch", "string.gsub",
    "string.format", "table.maxn", "table.insert", "table.concat", "table.clone", "table.isarray",
    "table.nkeys", "table.isempty", "table.sort", "table.pack", "table.new", "table.clear", "io.method.close",
    "io.method.read", "io.method.write", "io.method.flush", "io.method.seek", "io.method.setvbuf",
    "io.method.lines", "io.method.__gc", "io.method.__tostring", "io.open", "io.popen", "io.tmpfile",
    "io.close", "io.read", "io.write", "io.flush", "io.input", "io.output", "io.lines", "io.type",
    "os.execute", "os.remove", "os.rename", "os.tmpname", "os.getenv", "os.exit", "os.clock", "os.date",
    "os.time", "os.difftime", "os.setlocale", "debug.getregistry", "debug.getmetatable",
    "debug.setmetatable", "debug.getfenv", "debug.setfenv", "debug.getinfo", "debug.getlocal",
    "debug.setlocal", "debug.getupvalue", "debug.setupvalue", "debug.upvalueid", "debug.upvaluejoin",
    "debug.getuservalue", "debug.setuservalue",
    "debug.sethook", "debug.gethook", "debug.debug", "debug.traceback", "jit.on", "jit.off", "jit.flush",
    "jit.status", "jit.security", "jit.attach", "jit.prngstate", "jit.util.funcinfo", "jit.util.funcbc",
    "jit.util.funck", "jit.util.funcuvname", "jit.util.traceinfo", "jit.util.traceir", "jit.util.tracek",
    "jit.util.tracesnap", "jit.util.tracemc", "jit.util.traceexitstub", "jit.util.ircalladdr",
    "jit.opt.start", "jit.profile.start", "jit.profile.stop", "jit.profile.dumpstack", "ffi.meta.__index",
    "ffi.meta.__newindex", "ffi.meta.__eq", "ffi.meta.__len", "ffi.meta.__lt", "ffi.meta.__le",
    "ffi.meta.__concat", "ffi.meta.__call", "ffi.meta.__add", "ffi.meta.__sub", "ffi.meta.__mul",
    "ffi.meta.__div", "ffi.meta.__mod", "ffi.meta.__pow", "ffi.meta.__unm", "ffi.meta.__tostring",
    "ffi.meta.__pairs", "ffi.meta.__ipairs", "ffi.clib.__index", "ffi.clib.__newindex", "ffi.clib.__gc",
    "ffi.callback.free", "ffi.callback.set", "ffi.cdef", "ffi.new", "ffi.cast", "ffi.typeof",
    "ffi.typeinfo", "ffi.istype", "ffi.sizeof", "ffi.alignof", "ffi.offsetof", "ffi.errno", "ffi.string",
    "ffi.copy", "ffi.fill", "ffi.abi", "ffi.metatype", "ffi.gc", "ffi.load", "buffer.method.free",
    "buffer.method.reset", "buffer.method.skip", "buffer.method.set", "buffer.method.put",
    "buffer.method.putf", "buffer.method.get", "buffer.method.putcdata", "buffer.method.reserve",
    "buffer.method.commit", "buffer.method.ref", "buffer.method.encode", "buffer.method.decode",
    "buffer.method.__gc", "buffer.method.__tostring", "buffer.method.__len", "buffer.new", "buffer.encode",
    "buffer.decode",
];

/// Functions of which a build has all or none: those of OpenResty's fork, and those of builds with
/// `LUAJIT_ENABLE_LUA52COMPAT`, which OpenResty's own are.
const OPTIONAL: [&[&str]; 2] = [
    &[
        "thread.exdata",
        "thread.exdata2",
        "table.clone",
        "table.isarray",
        "table.nkeys",
        "table.isempty",
        "jit.prngstate",
    ],
    &["rawlen", "table.pack", "debug.getuservalue", "debug.setuservalue"],
];

/// Names of the built-in functions of one VM, by number.
#[derive(Clone, Debug, Default)]
pub struct Builtins {
    names: Vec<Option<&'static str>>,
}

impl Builtins {
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
            found: vec![Found::Nothing; 256],
        };
        for table in tables {
            walk.table("", *table);
        }
        let mut names: Vec<_> = walk.found.into_iter().map(Found::name).collect();
        fill_gaps(&mut names);
        Self { names }
    }

    /// The name of the function with this number.
    pub fn name(&self, ffid: u8) -> Option<&'static str> {
        self.names.get(usize::from(ffid)).copied().flatten()
    }

    /// The name, or `builtin#17` where it is not known.
    pub fn name_or_number(&self, ffid: u8) -> String {
        self.name(ffid)
            .map_or_else(|| format!("builtin#{ffid}"), str::to_owned)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.names.iter().flatten().count()
    }

    /// None is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What tables say of one number.
#[derive(Clone, Copy)]
enum Found {
    Nothing,
    Name(&'static str),
    /// Two names of the library lead to it: a program replaced one by the other.
    Several,
}

impl Found {
    fn add(&mut self, name: &'static str) {
        *self = match *self {
            Self::Name(before) if before != name => Self::Several,
            Self::Several => Self::Several,
            _ => Self::Name(name),
        };
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

struct Walk<'a, M: ?Sized> {
    memory: &'a M,
    mode: GcMode,
    strings: &'a StrLayout,
    /// Tables, with the name they were looked at by.
    seen: HashSet<(u64, String)>,
    found: Vec<Found>,
}

impl<M: RemoteMemory + ?Sized> Walk<'_, M> {
    /// Functions of a table called `path`, and of tables in it whose names begin names of the library, which
    /// bounds the depth.
    fn table(&mut self, path: &str, address: u64) {
        if self.seen.len() >= MAX_TABLES || !self.seen.insert((address, path.to_owned())) {
            return;
        }
        for (key, value) in table_nodes(self.memory, self.mode, address) {
            let Value::String(key) = key else { continue };
            let Ok(key) = self.strings.read(self.memory, key, MAX_NAME) else {
                continue;
            };
            let Ok(key) = String::from_utf8(key.bytes) else {
                continue;
            };
            let name = match path {
                // `package.loaded` holds modules under their full names, `string.buffer` is called `buffer`.
                "" | "package.loaded" => key
                    .strip_prefix("string.buffer")
                    .map_or(key.clone(), |rest| format!("buffer{rest}")),
                _ => format!("{path}.{key}"),
            };
            match value {
                Value::Function(function) => self.function(&name, function),
                // what a VM without globals has of them is in `package.loaded`
                Value::Table(table) if name == "_G" => self.table("", table),
                Value::Table(table) if begins_a_name(&name) => self.table(&name, table),
                // Files: their methods are in the metatable.
                Value::Userdata(userdata) if name == "io.stdout" => {
                    if is_object(self.memory, self.mode, userdata, gct::USERDATA)
                        && let Some(methods) = metatable(self.memory, self.mode, userdata)
                    {
                        self.table("io.method", methods);
                    }
                }
                _ => {}
            }
        }
    }

    fn function(&mut self, name: &str, address: u64) {
        let Some(name) = library_name(name) else { return };
        let at = address.wrapping_add(self.mode.fields().fn_ffid.into());
        let mut ffid = [0];
        if is_object(self.memory, self.mode, address, gct::FUNCTION)
            && self.memory.read_exact(at, &mut ffid).is_ok()
            && ffid[0] > FF_C
            && let Some(found) = self.found.get_mut(usize::from(ffid[0]))
        {
            found.add(name);
        }
    }
}

/// Tables that lead to functions of the library; everything else is of no interest here.
fn begins_a_name(path: &str) -> bool {
    let is_parent = |name: &&str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    path == "package" || path == "package.loaded" || ORDER.iter().any(is_parent)
}

/// The library's name for a function found under `name`: the same, or without the underscore behind which
/// ngx_lua keeps the originals of what it replaces (`coroutine._resume`). Other names are of no use: programs
/// keep functions under names of their own.
fn library_name(name: &str) -> Option<&'static str> {
    let known = |name: &str| ORDER.iter().find(|known| **known == name).copied();
    known(name).or_else(|| known(&name.replacen("._", ".", 1)))
}

/// Names what lies between two known functions, if as many numbers as names lie between them.
fn fill_gaps(names: &mut [Option<&'static str>]) {
    let is_known = |name: &&str| names.iter().flatten().any(|known| known == name);
    let absent: Vec<&str> = OPTIONAL
        .iter()
        .filter(|group| !group.iter().any(is_known))
        .flat_map(|group| group.iter().copied())
        .collect();
    let has = |name: &&&'static str| !absent.contains(*name);
    let present: Vec<&'static str> = ORDER.iter().filter(has).copied().collect();
    let order = |name: &str| present.iter().position(|known| *known == name);
    let mut before: Option<(usize, usize)> = None;
    for number in 0..names.len() {
        let Some(place) = names[number].and_then(order) else {
            continue;
        };
        if let Some((last_number, last_place)) = before
            && place.checked_sub(last_place) == Some(number - last_number)
        {
            for ahead in 1..number - last_number {
                names[last_number + ahead].get_or_insert(present[last_place + ahead]);
            }
        }
        before = Some((number, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_filled_only_if_it_has_as_many_numbers_as_names() {
        let mut names = vec![None; 16];
        (names[5], names[7]) = (Some("pairs"), Some("ipairs"));
        (names[9], names[12]) = (Some("coroutine.resume"), Some("coroutine.wrap"));
        fill_gaps(&mut names);
        assert_eq!(names[6], Some("ipairs_aux"));
        assert_eq!(names[10..12], [None, None]);
        assert_eq!(names[8], None);
    }

    #[test]
    fn what_a_build_does_not_have_is_not_counted_in_a_gap() {
        let mut names = vec![None; 16];
        (names[4], names[6]) = (Some("rawequal"), Some("select"));
        fill_gaps(&mut names);
        assert_eq!(names[5], Some("unpack"));
        // the functions of Lua 5.2 are there
        let mut names = vec![None; 16];
        (names[4], names[7], names[12]) = (Some("rawequal"), Some("select"), Some("table.pack"));
        fill_gaps(&mut names);
        assert_eq!(names[5..7], [Some("rawlen"), Some("unpack")]);
    }

    #[test]
    fn a_function_under_two_names_of_the_library_has_none() {
        let mut found = Found::Nothing;
        found.add("string.find");
        assert_eq!(found.name(), Some("string.find"));
        found.add("string.find");
        assert_eq!(found.name(), Some("string.find"));
        found.add("string.gsub");
        found.add("string.find");
        assert_eq!(found.name(), None);
    }

    #[test]
    fn originals_behind_an_underscore_and_nothing_else_keep_their_name() {
        assert_eq!(library_name("coroutine._resume"), Some("coroutine.resume"));
        assert_eq!(library_name("ffi.meta.__index"), Some("ffi.meta.__index"));
        assert_eq!(library_name("my.gsub"), None);
    }
}
