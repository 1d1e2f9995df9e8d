//! Values of keys: numbers are doubles, booleans a byte, strings any bytes, and lists queues of such.

use std::ops::Range;

use moonscope_process::RemoteMemory;

use super::tree::{DATA, Node};
use crate::block::Block;

/// Bytes of a value that are read: no more can be looked at.
const MAX_VALUE: u64 = 64 << 20;
/// Elements of a list that are read.
const MAX_ELEMENTS: u32 = 1 << 20;

// ngx_http_lua_shdict_list_node_t: queue, value_len, value_type, data
const ELEMENT_LEN: u64 = 16;
const ELEMENT_TYPE: u64 = 20;
const ELEMENT_DATA: u64 = 21;

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueKind {
    /// `true` or `false`
    Boolean,
    /// A double.
    Number,
    /// Any bytes.
    String,
    /// `lpush` and `rpush` make them.
    List,
    /// A number that stands for none.
    Other(u8),
}

impl ValueKind {
    /// `SHDICT_TBOOLEAN` and others (ngx_http_lua_shdict.c)
    pub(super) fn of(number: u8) -> Self {
        match number {
            1 => Self::Boolean,
            3 => Self::Number,
            4 => Self::String,
            5 => Self::List,
            other => Self::Other(other),
        }
    }

    /// For people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Number => "number",
            Self::String => "string",
            Self::List => "list",
            Self::Other(_) => "other",
        }
    }
}

/// A value, or an element of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// `true` or `false`
    Boolean(bool),
    /// A double.
    Number(f64),
    /// Any bytes.
    String(Vec<u8>),
    /// Of no kind that there is.
    Other,
}

/// The value of a node; the elements of a list. `None`: it could not be read.
pub(super) fn items(memory: &impl RemoteMemory, node: &Node, zone: Range<u64>) -> Option<Vec<Item>> {
    let data = node.addr + DATA + node.key.len() as u64;
    match ValueKind::of(node.value_type) {
        ValueKind::List => elements(memory, data, node.value_len, &zone),
        kind => Some(vec![item(memory, kind, data, node.value_len, &zone)?]),
    }
}

fn item(memory: &impl RemoteMemory, kind: ValueKind, at: u64, len: u32, zone: &Range<u64>) -> Option<Item> {
    let len = u64::from(len);
    if len > MAX_VALUE || at.checked_add(len)? > zone.end {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    memory.read_exact(at, &mut bytes).ok()?;
    Some(match (kind, &bytes[..]) {
        (ValueKind::Boolean, [byte]) => Item::Boolean(*byte != 0),
        (ValueKind::Number, bytes) => Item::Number(f64::from_le_bytes(bytes.try_into().ok()?)),
        (ValueKind::String, _) => Item::String(bytes),
        _ => Item::Other,
    })
}

/// `ngx_queue_t`: prev, next
const QUEUE_NEXT: u64 = 8;

/// A queue whose head stands behind the key, at the next multiple of 8.
fn elements(memory: &impl RemoteMemory, data: u64, count: u32, zone: &Range<u64>) -> Option<Vec<Item>> {
    let head = data.next_multiple_of(8);
    let mut found = Vec::new();
    let mut at = memory.read_u64(head + QUEUE_NEXT).ok()?;
    while at != head {
        if found.len() >= count.min(MAX_ELEMENTS) as usize || at < zone.start || at >= zone.end {
            return None;
        }
        let element = Block::read(memory, at, ELEMENT_DATA).ok()?;
        let kind = ValueKind::of(element.byte(ELEMENT_TYPE));
        let len = element.int(ELEMENT_LEN) as u32;
        found.push(item(memory, kind, at + ELEMENT_DATA, len, zone)?);
        at = element.word(QUEUE_NEXT);
    }
    (found.len() == count as usize).then_some(found)
}
