//! The tables of a VM in which the names of its functions begin: globals, and what `require` has loaded.

use moonscope_process::{ProcessError, RemoteMemory};

use crate::string::StrLayout;
use crate::value::{Value, gct, is_object, metatable, read_ref, table_nodes};
use crate::{GcMode, Layout, vms};

/// `__index` links that are followed from a table of globals that does not hold the library itself.
const MAX_ENVIRONMENTS: usize = 4;

/// Values of the `global_State` that may be the registry.
const MAX_VALUES: usize = 64;

/// The registry's key of `package.loaded` (lib_package.c, lauxlib.h).
const LOADED: &[u8] = b"_LOADED";

/// The table that C code keeps its own values in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registry {
    /// The table itself.
    pub table: u64,
    /// `package.loaded`, which it holds.
    pub loaded: u64,
}

impl Registry {
    /// `registrytv` of the VM at `g`: the value of the `global_State` that is a table in which `_LOADED` is a table.
    pub fn find<M: RemoteMemory + ?Sized>(
        memory: &M,
        layout: &Layout,
        g: u64,
        strings: &StrLayout,
    ) -> Option<Self> {
        let loaded = |table| {
            let nodes = table_nodes(memory, layout.mode, table);
            nodes.into_iter().find_map(|node| match node {
                (Value::String(key), Value::Table(value)) => {
                    let text = strings.read(memory, key, LOADED.len() + 1).ok()?;
                    (text.bytes == LOADED).then_some(value)
                }
                _ => None,
            })
        };
        let mut tables = values(memory, layout, g).into_iter();
        tables.find_map(|table| {
            let loaded = loaded(table)?;
            Some(Self { table, loaded })
        })
    }
}

/// The values of the `global_State` that are tables: one is the registry, which stands between `vmstate` and `cur_L`.
pub(crate) fn values<M: RemoteMemory + ?Sized>(memory: &M, layout: &Layout, g: u64) -> Vec<u64> {
    let begin = layout.build.vmstate.next_multiple_of(8);
    let places = (begin..layout.build.cur_l).step_by(8).take(MAX_VALUES);
    let tables = places.filter_map(|offset| {
        let raw = memory.read_u64(g.checked_add(offset.into())?).ok()?;
        match Value::decode(layout.mode, raw) {
            Value::Table(table) => Some(table),
            _ => None,
        }
    });
    tables.collect()
}

/// All tables of the VM at `g` in which names begin.
pub fn of_vm<M: RemoteMemory>(memory: &M, layout: &Layout, g: u64, strings: &StrLayout) -> Vec<u64> {
    let main = vms::main_thread(memory, g, layout).ok();
    let globals = main.and_then(|thread| of_thread(memory, layout.mode, thread).ok());
    let mut tables = globals.unwrap_or_default();
    // A host may leave its main thread without any globals: tslua.so of Traffic Server gives it an empty table.
    tables.extend(Registry::find(memory, layout, g, strings).map(|registry| registry.loaded));
    tables
}

/// The table of globals of a thread, and those that it falls back to through `__index` of metatables, which
/// is not decoded by name: the metatable itself and its tables count (ngx_lua gives each request such a table).
pub fn of_thread<M: RemoteMemory + ?Sized>(
    memory: &M,
    mode: GcMode,
    thread: u64,
) -> Result<Vec<u64>, ProcessError> {
    if !is_object(memory, mode, thread, gct::THREAD) {
        return Ok(Vec::new());
    }
    let first = read_ref(memory, mode, thread.wrapping_add(mode.fields().l_env.into()))?;
    let mut tables = vec![first];
    let mut next = Some(first);
    while let Some(table) = next.take().filter(|_| tables.len() < MAX_ENVIRONMENTS) {
        let behind = metatable(memory, mode, table);
        for (_, value) in behind.map(|it| table_nodes(memory, mode, it)).unwrap_or_default() {
            if let Value::Table(address) = value
                && !tables.contains(&address)
            {
                tables.push(address);
                next = Some(address);
                break;
            }
        }
    }
    Ok(tables)
}
