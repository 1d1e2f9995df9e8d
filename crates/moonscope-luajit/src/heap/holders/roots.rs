//! Where the ways begin.

use moonscope_process::RemoteMemory;

use crate::globals::Registry;
use crate::heap::layout::{HeapError, HeapLayout};
use crate::heap::objects::Kind;
use crate::object::read_reference;

/// An object that is in use whatever else is.
pub(super) struct Root {
    pub name: &'static str,
    pub object: (u64, Kind),
}

/// The roots in three stages, those first whose names say most.
pub(super) fn roots(memory: &impl RemoteMemory, heap: &HeapLayout) -> Result<[Vec<Root>; 3], HeapError> {
    let fields = heap.layout.fields();
    let env = heap.main.wrapping_add(fields.l_env.into());
    let globals = read_reference(memory, fields, env).ok_or(HeapError::Unreadable { g: heap.g })?;
    let registry = Registry::find(memory, &heap.layout, heap.g, &heap.string);
    let Registry { table, loaded } = registry.ok_or_else(|| HeapError::Unproved {
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
        vec![root("(registry)", table, Kind::Table)],
        vec![root("(main coroutine)", heap.main, Kind::Thread)],
    ])
}
