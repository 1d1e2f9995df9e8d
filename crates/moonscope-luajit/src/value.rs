//! Tagged values and tables of a Lua heap, as far as names need them.
//!
//! Layouts: lj_obj.h, `TValue`, `GCtab`, `Node`. The VM may change a table while it is read: what comes out
//! is checked again by whoever uses it (every object carries its type), and a read never grows past a bound.

use crate::GcMode;
use moonscope_process::{ProcessError, RemoteMemory};

/// Hash nodes that are looked at in one table. `_G` and a module's table have tens to thousands; 32 768
/// nodes are 768 KiB.
pub const MAX_NODES: u32 = 1 << 15;

/// `sizeof(Node)`: value, key, link; the same in both object models.
const NODE_SIZE: usize = 24;

/// Values of `GCHeader.gct`.
pub(crate) mod gct {
    pub(crate) const STRING: u8 = 4;
    pub(crate) const THREAD: u8 = 6;
    pub(crate) const PROTO: u8 = 7;
    pub(crate) const FUNCTION: u8 = 8;
    pub(crate) const CDATA: u8 = 10;
    pub(crate) const TABLE: u8 = 11;
    pub(crate) const USERDATA: u8 = 12;
}

/// A value that refers to an object, by its tag. The object itself has not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Address of a `GCstr`.
    String(u64),
    /// Address of a `GCfunc`.
    Function(u64),
    /// Address of a `GCtab`.
    Table(u64),
    /// Address of a `GCudata`.
    Userdata(u64),
    /// Address of a `GCcdata`.
    Cdata(u64),
    /// Anything else: nil, numbers, threads.
    Other,
}

impl Value {
    /// Decodes the 8 bytes of a `TValue`.
    pub fn decode(mode: GcMode, raw: u64) -> Self {
        // GC64: 13 bits set, 4 bits of tag, 47 bits of address. GC32: tag above, address below.
        let (tag, address) = match mode {
            GcMode::Gc64 => (raw.cast_signed() >> 47, raw & ((1 << 47) - 1)),
            GcMode::Gc32 => (i64::from(((raw >> 32) as u32).cast_signed()), raw & 0xffff_ffff),
        };
        match u8::try_from(!tag) {
            Ok(gct::STRING) => Self::String(address),
            Ok(gct::FUNCTION) => Self::Function(address),
            Ok(gct::CDATA) => Self::Cdata(address),
            Ok(gct::TABLE) => Self::Table(address),
            Ok(gct::USERDATA) => Self::Userdata(address),
            _ => Self::Other,
        }
    }
}

/// Reads an object reference (`GCRef`, `MRef`): 8 or 4 bytes.
pub(crate) fn read_ref<M: RemoteMemory + ?Sized>(
    memory: &M,
    mode: GcMode,
    address: u64,
) -> Result<u64, ProcessError> {
    match mode {
        GcMode::Gc64 => memory.read_u64(address),
        GcMode::Gc32 => memory.read_u32(address).map(u64::from),
    }
}

/// True if there is an object of this type at `address`.
pub(crate) fn is_object<M: RemoteMemory + ?Sized>(memory: &M, mode: GcMode, address: u64, gct: u8) -> bool {
    let mut byte = [0];
    let at = address.wrapping_add(u64::from(mode.fields().gct));
    address != 0 && memory.read_exact(at, &mut byte).is_ok() && byte[0] == gct
}

/// The bytes of the nodes of a table, at most [`MAX_NODES`]; none if there is no table at `address`.
fn nodes<M: RemoteMemory + ?Sized>(memory: &M, mode: GcMode, address: u64) -> Vec<u8> {
    let fields = mode.fields();
    let read = || {
        if !is_object(memory, mode, address, gct::TABLE) {
            return None;
        }
        let hmask = memory
            .read_u32(address.wrapping_add(fields.tab_hmask.into()))
            .ok()?;
        let node = read_ref(memory, mode, address.wrapping_add(fields.tab_node.into())).ok()?;
        let count = hmask.checked_add(1).filter(|count| count.is_power_of_two())?;
        let mut nodes = vec![0; count.min(MAX_NODES) as usize * NODE_SIZE];
        memory.read_exact(node, &mut nodes).ok()?;
        Some(nodes)
    };
    read().unwrap_or_default()
}

/// Key and value of each used node in the hash part of a table, at most [`MAX_NODES`]; nothing if there is no
/// table at `address`.
pub fn table_nodes<M: RemoteMemory + ?Sized>(memory: &M, mode: GcMode, address: u64) -> Vec<(Value, Value)> {
    let nodes = nodes(memory, mode, address);
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    let pairs = nodes.chunks_exact(NODE_SIZE).map(|node| {
        let value = Value::decode(mode, word(&node[..8]));
        (Value::decode(mode, word(&node[8..16])), value)
    });
    pairs.filter(|(key, _)| *key != Value::Other).collect()
}

/// What a table has itself under a light userdata: the address of a C variable, as libraries use it for keys of the registry.
/// Only with references of 64 bits.
///
/// There the tag stands above 47 bits (lj_obj.h, `LJ_TLIGHTUD`): of the address, or since 2020 of a number of its segment and the
/// low 39 bits of the address (`LJ_LIGHTUD_BITS_LO`). Only these are compared; `None` also if two keys agree in them.
pub fn table_light_userdata<M: RemoteMemory + ?Sized>(memory: &M, address: u64, key: u64) -> Option<Value> {
    const TAG: i64 = !3;
    const LOW: u64 = (1 << 39) - 1;
    let nodes = nodes(memory, GcMode::Gc64, address);
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    let is_key = |raw: u64| raw.cast_signed() >> 47 == TAG && raw & LOW == key & LOW;
    let mut found = nodes
        .chunks_exact(NODE_SIZE)
        .filter(|node| is_key(word(&node[8..16])))
        .map(|node| Value::decode(GcMode::Gc64, word(&node[..8])));
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// What a table has itself under this key; `None` if it has nothing there.
pub(crate) fn table_value<M: RemoteMemory + ?Sized>(
    memory: &M,
    mode: GcMode,
    address: u64,
    key: Value,
) -> Option<Value> {
    let nodes = table_nodes(memory, mode, address);
    let found = nodes.into_iter().find(|(of, _)| *of == key);
    found
        .map(|(_, value)| value)
        .filter(|value| *value != Value::Other)
}

/// The metatable of a table or userdata at `address`, if it has one.
pub(crate) fn metatable<M: RemoteMemory + ?Sized>(memory: &M, mode: GcMode, address: u64) -> Option<u64> {
    let at = address.wrapping_add(mode.fields().tab_metatable.into());
    let table = read_ref(memory, mode, at).ok()?;
    is_object(memory, mode, table, gct::TABLE).then_some(table)
}
