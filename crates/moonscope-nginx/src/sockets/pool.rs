//! One pool: `ngx_http_lua_socket_pool_t`, its name, and its items, all in one piece of memory.
//!
//! ```text
//! lua_State *lua_vm; ngx_int_t size; ngx_queue_t cache_connect_op, wait_connect_op; ngx_int_t connections;
//! ngx_queue_t cache, free; ngx_int_t backlog; u_char key[1];
//! ```
//!
//! An item is `socket_pool, queue, connection, socklen, sockaddr, reused`, and, since later, a queue. What must agree: the VM; the
//! length of the piece with the number of items; each item with its pool; each item is in one of the two queues; and each connection
//! in the cache leads back to its item.

use std::collections::BTreeSet;
use std::ops::Range;

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::layout::connection::{DATA, FD};

const LUA_VM: u64 = 0;
const SIZE: u64 = 8;
const WAIT_CONNECT_OP: u64 = 32;
const CONNECTIONS: u64 = 48;
const CACHE: u64 = 56;
const FREE: u64 = 72;
const BACKLOG: u64 = 88;
const KEY: u64 = 96;
/// sizeof(ngx_http_lua_socket_pool_t) - 1, which the items stand behind, with the name.
const BEFORE: u64 = 103;

const ITEM_QUEUE: u64 = 8;
const ITEM_CONNECTION: u64 = 24;
const ITEM_REUSED: u64 = 168;
/// What an item has up to `reused`, and with the queue that came behind it: a `sockaddr_storage` has 128 bytes, so that another
/// item has another size.
const ITEMS: [u64; 2] = [ITEM_REUSED + 8, ITEM_REUSED + 16];

/// A pool of 100000 connections has 18 MB.
const MAX_LEN: u64 = 64 << 20;
const MAX_NAME: u64 = 4096;
/// Waiting connects that are counted.
const MAX_WAITING: usize = 1 << 16;

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPool {
    /// `host:port`, or what Lua called it. Any bytes.
    pub name: Vec<u8>,
    /// How many connections it keeps at most.
    pub size: u64,
    /// How many it keeps now.
    pub kept: u64,
    /// Those and the ones that are in use; with a backlog also those that wait to be made.
    pub connections: u64,
    /// How many may wait to be made when there are `size`; `None`: as many as like are made at once.
    pub backlog: Option<u64>,
    /// How many wait.
    pub waiting: u64,
    /// How often each that is kept was used again.
    pub reused: Vec<u64>,
}

/// A copy of a pool and its items.
#[derive(PartialEq, Eq)]
pub(super) struct Pool {
    block: Block,
    len: u64,
}

/// A field and what is wrong with it.
type Refused = (&'static str, String);

impl Pool {
    /// Copies it; `None`: it has a length that no pool has, or cannot be read.
    pub(super) fn read(memory: &impl RemoteMemory, addr: u64, len: u64) -> Option<Self> {
        let is_len = (KEY..MAX_LEN).contains(&len);
        let block = is_len.then(|| Block::read(memory, addr, len).ok()).flatten()?;
        Some(Self { block, len })
    }

    /// What it is, if all of it agrees.
    pub(super) fn check(
        &self,
        memory: &impl RemoteMemory,
        lua: u64,
        connections: &Range<u64>,
    ) -> Result<SocketPool, Refused> {
        let block = &self.block;
        if block.word(LUA_VM) != lua {
            return Err((
                "ngx_http_lua_socket_pool_t.lua_vm",
                "it is of another VM".to_owned(),
            ));
        }
        let size = block.word(SIZE);
        let name = self
            .name()
            .ok_or_else(|| ("ngx_http_lua_socket_pool_t.key", "it does not end".to_owned()))?;
        let (first, stride) = self.items(size, name.len() as u64)?;
        let items: Vec<u64> = (0..size).map(|number| first + number * stride).collect();
        if !items.iter().all(|&item| block.word(item) == block.addr) {
            let why = "an item does not lead to its pool".to_owned();
            return Err(("ngx_http_lua_socket_pool_item_t.socket_pool", why));
        }
        let cache = self.queue("ngx_http_lua_socket_pool_t.cache", CACHE, first, stride, size)?;
        let free = self.queue("ngx_http_lua_socket_pool_t.free", FREE, first, stride, size)?;
        if !cache.is_disjoint(&free) || (cache.len() + free.len()) as u64 != size {
            let why = format!("{} items are kept and {} free of {size}", cache.len(), free.len());
            return Err(("ngx_http_lua_socket_pool_t.free", why));
        }
        for &item in &cache {
            let connection = block.word(item + ITEM_CONNECTION);
            let is_kept = connections.contains(&connection)
                && Block::read(memory, connection, FD + 4)
                    .is_ok_and(|found| found.word(DATA) == block.at(item) && found.int(FD) >= 0);
            if !is_kept {
                let why = "a connection that is kept does not lead to its item".to_owned();
                return Err(("ngx_http_lua_socket_pool_item_t.connection", why));
            }
        }
        let backlog = block.word(BACKLOG).cast_signed();
        Ok(SocketPool {
            name: name.to_vec(),
            size,
            kept: cache.len() as u64,
            connections: block.word(CONNECTIONS),
            backlog: u64::try_from(backlog).ok(),
            waiting: waiting(memory, block.at(WAIT_CONNECT_OP)),
            reused: cache.iter().map(|item| block.word(item + ITEM_REUSED)).collect(),
        })
    }

    fn name(&self) -> Option<&[u8]> {
        let rest = self.block.bytes(KEY, (self.len - KEY).min(MAX_NAME))?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        rest.get(..end)
    }

    /// Where the first item is, and how large each.
    fn items(&self, size: u64, name_len: u64) -> Result<(u64, u64), Refused> {
        let key_len = (name_len + 1).next_multiple_of(8);
        let all = self.len.checked_sub(BEFORE + key_len);
        let stride = all.zip(Some(size).filter(|&size| size > 0 && size <= MAX_LEN / ITEMS[0]));
        match stride {
            Some((all, size)) if all % size == 0 && ITEMS.contains(&(all / size)) => {
                Ok((KEY + key_len, all / size))
            }
            _ => {
                let why = format!("{size} items do not fill {} bytes", self.len);
                Err(("ngx_http_lua_socket_pool_t.size", why))
            }
        }
    }

    /// The items in a queue, by where they are.
    fn queue(
        &self,
        field: &'static str,
        head: u64,
        first: u64,
        stride: u64,
        size: u64,
    ) -> Result<BTreeSet<u64>, Refused> {
        // ngx_queue_t: prev, next
        let mut items = BTreeSet::new();
        let (mut before, mut at) = (self.block.at(head), self.block.word(head + 8));
        while at != self.block.at(head) {
            let item = at.wrapping_sub(self.block.addr).wrapping_sub(ITEM_QUEUE);
            let distance = item.wrapping_sub(first);
            let is_item = item >= first && distance % stride == 0 && distance / stride < size;
            if !is_item || self.block.word(item + ITEM_QUEUE) != before || !items.insert(item) {
                return Err((
                    field,
                    "the queue leads to what is no item, or in a circle".to_owned(),
                ));
            }
            (before, at) = (at, self.block.word(item + ITEM_QUEUE + 8));
        }
        match self.block.word(head) == before {
            true => Ok(items),
            false => Err((field, "the queue ends elsewhere than it begins".to_owned())),
        }
    }
}

/// How many are in the queue with this head, whose elements are elsewhere.
fn waiting(memory: &impl RemoteMemory, head: u64) -> u64 {
    let next = |at: &u64| memory.read_u64(at.wrapping_add(8)).ok();
    let queue = std::iter::successors(next(&head), next);
    queue.take_while(|&at| at != head).take(MAX_WAITING).count() as u64
}
