//! Where the ways begin.

use moonscope_process::RemoteMemory;

use crate::heap::layout::{HeapError, HeapLayout};
use crate::heap::objects::Kind;
use crate::object::read_reference;
use crate::value::{Value, table_nodes};

/// The registry's key of `package.loaded` (lib_package.c, lauxlib.h).
const LOADED: &[u8] = b"_LOADED";
/// Values of the `global_State` that may be the registry: it stands between `vmstate` and `cur_L`.
const MAX_VALUES: u32 = 64;

/// An object that is in use whatever else is.
pub(super) struct Root {
    pub name: &'static str,
    pub object: (u64, Kind),
}

/// The roots in three stages, those first whose names say most. `registrytv` is the value of the `global_State` that is a table in which
/// `_LOADED` is a table.
pub(super) fn roots(memory: &impl RemoteMemory, heap: &HeapLayout) -> Result<[Vec<Root>; 3], HeapError> {
    let fields = heap.layout.fields();
    let build = &heap.layout.build;
    let env = heap.main.wrapping_add(fields.l_env.into());
    let globals = read_reference(memory, fields, env).ok_or(HeapError::Unreadable { g: heap.g })?;
    let begin = build.vmstate.next_multiple_of(8);
    let values = (begin..build.cur_l).step_by(8).take(MAX_VALUES as usize);
    let registry = values.into_iter().find_map(|offset| {
        let raw = memory.read_u64(heap.g.checked_add(offset.into())?).ok()?;
        let Value::Table(table) = Value::decode(heap.layout.mode, raw) else {
            return None;
        };
        Some((table, loaded(memory, heap, table)?))
    });
    let (registry, loaded) = registry.ok_or_else(|| HeapError::Unproved {
        field: "registrytv",
        why: "no table of the global_State has package.loaded in it".to_owned(),
    })?;
    let root = |name, at, kind| Root {
        name,
        object: (at, kind),
    };
    Ok([
        vec![
            root("package.loaded", loaded, Kind::Table),
            root("_G", globals, Kind::Table),
        ],
        vec![root("(registry)", registry, Kind::Table)],
        vec![root("(main coroutine)", heap.main, Kind::Thread)],
    ])
}

fn loaded(memory: &impl RemoteMemory, heap: &HeapLayout, table: u64) -> Option<u64> {
    let nodes = table_nodes(memory, heap.layout.mode, table);
    nodes.into_iter().find_map(|node| match node {
        (Value::String(key), Value::Table(value)) => {
            let text = heap.string.read(memory, key, LOADED.len() + 1).ok()?;
            (text.bytes == LOADED).then_some(value)
        }
        _ => None,
    })
}
