//! The tree of a dictionary: `ngx_http_lua_shdict_shctx_t`, and its nodes.
//!
//! ```text
//! ngx_rbtree_t rbtree;            root, sentinel, insert
//! ngx_rbtree_node_t sentinel;     key, left, right, parent, color, data: 40 bytes
//! ngx_queue_t lru_queue;
//! ```
//!
//! A node is an `ngx_rbtree_node_t` on whose `color` an `ngx_http_lua_shdict_node_t` begins. Each is believed only if its parent is
//! the one it was found from and its key has the CRC-32 that the node is filed under.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::error::NginxError;

const ROOT: u64 = 0;
const SENTINEL: u64 = 8;
const SENTINEL_NODE: u64 = 24;
const LRU_QUEUE: u64 = 64;
const SIZE: u64 = 80;

const KEY: u64 = 0;
const LEFT: u64 = 8;
const RIGHT: u64 = 16;
const PARENT: u64 = 24;
const VALUE_TYPE: u64 = 33;
const KEY_LEN: u64 = 34;
const VALUE_LEN: u64 = 36;
const EXPIRES: u64 = 40;
const QUEUE: u64 = 48;
const USER_FLAGS: u64 = 64;
pub(super) const DATA: u64 = 68;

/// Bytes of a node that are read at first: most keys end there.
const AT_FIRST: u64 = 128;
/// Nodes that are read at once.
const AT_ONCE: usize = 1024;
/// Nodes that are read at all.
const MAX_NODES: usize = 1 << 22;
/// Turns of a look-up: a tree of 2^32 nodes is not deeper.
const MAX_DEPTH: usize = 64;

/// A node, whose key was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) addr: u64,
    pub(super) key: Vec<u8>,
    pub(super) value_type: u8,
    pub(super) value_len: u32,
    pub(super) expires: u64,
    pub(super) flags: u32,
    hash: u64,
    left: u64,
    right: u64,
    parent: u64,
    /// Its neighbours among the keys by when they were used: each write moves it before all others.
    neighbours: [u64; 2],
}

/// What a walk over all nodes found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) nodes: Vec<Node>,
    pub(super) torn: u64,
    pub(super) is_cut: bool,
}

/// What was read cannot be what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn;

/// A tree in a zone.
pub(super) struct Tree<'a, M> {
    memory: &'a M,
    at: u64,
    zone: Range<u64>,
}

impl<'a, M: RemoteMemory> Tree<'a, M> {
    /// The tree at this address of a zone, if it is one.
    pub(super) fn find(memory: &'a M, at: u64, zone: Range<u64>) -> Result<Self, NginxError> {
        let tree = Self { memory, at, zone };
        let refuse = |field, why: &str| Err(NginxError::layout(field, why));
        if !tree.is_inside(at, SIZE) {
            return refuse("ngx_slab_pool_t.data", "it leads out of its zone");
        }
        let block = Block::read(memory, at, SIZE)?;
        if block.word(SENTINEL) != at + SENTINEL_NODE {
            return refuse(
                "ngx_http_lua_shdict_shctx_t.rbtree",
                "its sentinel is not the one beside it",
            );
        }
        let oldest = block.word(LRU_QUEUE);
        if !tree.is_inside(oldest, 16) || !tree.is_inside(block.word(LRU_QUEUE + 8), 16) {
            return refuse(
                "ngx_http_lua_shdict_shctx_t.lru_queue",
                "it leads out of its zone",
            );
        }
        Ok(tree)
    }

    /// The memory that all of it is in.
    pub(super) fn zone(&self) -> Range<u64> {
        self.zone.clone()
    }

    fn is_inside(&self, addr: u64, len: u64) -> bool {
        let end = addr.checked_add(len);
        addr.is_multiple_of(8) && addr >= self.zone.start && end.is_some_and(|end| end <= self.zone.end)
    }

    fn sentinel(&self) -> u64 {
        self.at + SENTINEL_NODE
    }

    /// All nodes, and how many were none when they were read.
    pub(super) fn all(&self) -> Found {
        let mut found = Found::default();
        let mut seen = HashSet::new();
        let mut next = match self.memory.read_u64(self.at + ROOT) {
            Ok(root) if root == self.sentinel() => return found,
            // the parent of the root is whatever it was: nginx does not clear it in all versions
            Ok(root) => vec![(root, None)],
            Err(_) => {
                found.torn = 1;
                return found;
            }
        };
        while !next.is_empty() && !found.is_cut {
            let mut below = Vec::new();
            for batch in next.chunks(AT_ONCE) {
                for (node, &(_, parent)) in self.read_all(batch).into_iter().zip(batch) {
                    let is_new = |node: &Node| seen.insert(node.addr);
                    let is_child = |node: &Node| parent.is_none_or(|parent| node.parent == parent);
                    let Some(node) = node.filter(is_child).filter(is_new) else {
                        found.torn += 1;
                        continue;
                    };
                    let children = [node.left, node.right].into_iter();
                    let children = children.filter(|&child| child != self.sentinel());
                    below.extend(children.map(|child| (child, Some(node.addr))));
                    found.nodes.push(node);
                }
            }
            found.is_cut = found.nodes.len() + below.len() > MAX_NODES;
            next = below;
        }
        found
    }

    /// The node of a key.
    pub(super) fn lookup(&self, key: &[u8]) -> Result<Option<Node>, Torn> {
        let hash = u64::from(crc32fast::hash(key));
        let mut at = self.memory.read_u64(self.at + ROOT).map_err(|_| Torn)?;
        for _ in 0..MAX_DEPTH {
            if at == self.sentinel() {
                return Ok(None);
            }
            let node = self.read(at).ok_or(Torn)?;
            // ngx_http_lua_shdict_lookup compares likewise
            at = match hash.cmp(&node.hash).then_with(|| key.cmp(&node.key)) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Ok(Some(node)),
            };
        }
        Err(Torn)
    }

    fn read_all(&self, nodes: &[(u64, Option<u64>)]) -> Vec<Option<Node>> {
        let addrs: Vec<u64> = nodes.iter().map(|(addr, _)| *addr).collect();
        let mut bytes = vec![0; addrs.len() * AT_FIRST as usize];
        let read = self.memory.read_each(&addrs, &mut bytes);
        let pieces = bytes.chunks_exact(AT_FIRST as usize);
        let each = addrs.iter().zip(pieces).zip(read);
        let node = |((&addr, piece), is_read): ((&u64, &[u8]), bool)| {
            // the last node of a zone may end before that
            match is_read && self.is_inside(addr, AT_FIRST) {
                true => self.node(&Block::of(addr, piece)),
                false => self.read(addr),
            }
        };
        each.map(node).collect()
    }

    fn read(&self, addr: u64) -> Option<Node> {
        if !self.is_inside(addr, DATA) {
            return None;
        }
        self.node(&Block::read(self.memory, addr, DATA).ok()?)
    }

    /// The node that begins with these bytes, if it is one.
    fn node(&self, block: &Block) -> Option<Node> {
        let key_len = u64::from(block.short(KEY_LEN));
        if !self.is_inside(block.addr, DATA + key_len) {
            return None;
        }
        let key = match block.bytes(DATA, key_len) {
            Some(key) => key.to_vec(),
            None => {
                let mut key = vec![0; usize::try_from(key_len).ok()?];
                self.memory.read_exact(block.at(DATA), &mut key).ok()?;
                key
            }
        };
        let hash = block.word(KEY);
        (u64::from(crc32fast::hash(&key)) == hash).then(|| Node {
            addr: block.addr,
            key,
            value_type: block.byte(VALUE_TYPE),
            value_len: block.int(VALUE_LEN) as u32,
            expires: block.word(EXPIRES),
            flags: block.int(USER_FLAGS) as u32,
            hash,
            left: block.word(LEFT),
            right: block.word(RIGHT),
            parent: block.word(PARENT),
            neighbours: [block.word(QUEUE), block.word(QUEUE + 8)],
        })
    }
}
