//! `ngx_cycle_t` (src/core/ngx_cycle.h).
//!
//! Its first words never changed: conf_ctx, pool, log. Fields in front of the arrays of connections come and go, so these are
//! found by what they are: three pointers side by side, to connections and their read and write events, of which the first
//! connection has the other two. What stands before them has not changed its order since 1.9.

use moonscope_process::RemoteMemory;

use super::connection::{self, READ, WRITE};
use crate::block::Block;
use crate::chain::LIST_SIZE;
use crate::error::NginxError;

/// Bytes of the structure that are looked through; it has some 650.
const LOOKED_AT: u64 = 1024;
/// sizeof(ngx_array_t), sizeof(ngx_rbtree_t), sizeof(ngx_rbtree_node_t)
const ARRAY: u64 = 40;
const RBTREE: u64 = 24;
const RBTREE_NODE: u64 = 40;

/// Where fields of the cycle are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CycleLayout {
    pub(crate) conf_ctx: u64,
    pub(crate) pool: u64,
    pub(crate) free_connection_n: u64,
    pub(crate) modules: u64,
    pub(crate) modules_n: u64,
    pub(crate) open_files: u64,
    pub(crate) shared_memory: u64,
    pub(crate) connection_n: u64,
    pub(crate) connections: u64,
    pub(crate) read_events: u64,
}

impl CycleLayout {
    /// Finds them in the live cycle; `core` is the address of `ngx_core_module`, the first module of each nginx.
    pub(crate) fn find(memory: &impl RemoteMemory, cycle: u64, core: u64) -> Result<Self, NginxError> {
        let block = Block::read(memory, cycle, LOOKED_AT)?;
        let offsets = || (0..LOOKED_AT - 24).step_by(8);
        let deref = |addr: u64| memory.read_u64(addr).unwrap_or(0);
        let are_connections = |at: &u64| {
            let (connections, read, write) = (block.word(*at), block.word(*at + 8), block.word(*at + 16));
            connections != 0
                && read != 0
                && deref(connections.wrapping_add(READ)) == read
                && deref(connections.wrapping_add(WRITE)) == write
                && connection::size(memory, connections, read).is_some()
        };
        let connections = only(offsets().filter(are_connections), "ngx_cycle_t.connections")?;
        // connection_n and files_n stand before them
        let connection_n = connections - 16;
        let modules = only(
            offsets().filter(|at| core != 0 && block.word(*at) != 0 && deref(block.word(*at)) == core),
            "ngx_cycle_t.modules",
        )?;
        let shared_memory = connection_n - LIST_SIZE;
        let open_files = shared_memory - LIST_SIZE;
        let found = Self {
            conf_ctx: 0,
            pool: 8,
            free_connection_n: modules - 8,
            modules,
            modules_n: modules + 8,
            open_files,
            shared_memory,
            connection_n,
            connections,
            read_events: connections + 8,
        };
        found.check(&block)?;
        Ok(found)
    }

    /// Both lists were made in the cycle's own pool, and the arrays before them too.
    fn check(&self, block: &Block) -> Result<(), NginxError> {
        let pool = block.word(self.pool);
        let listening = self.open_files - (3 * ARRAY + RBTREE + RBTREE_NODE);
        for (field, at) in [
            ("ngx_cycle_t.shared_memory", self.shared_memory + LIST_SIZE - 8),
            ("ngx_cycle_t.open_files", self.open_files + LIST_SIZE - 8),
            ("ngx_cycle_t.listening", listening + ARRAY - 8),
        ] {
            if block.word(at) != pool {
                return Err(NginxError::layout(
                    field,
                    format!("what is at {at} was not made in the pool of the cycle"),
                ));
            }
        }
        if block.word(self.free_connection_n) > block.word(self.connection_n) {
            return Err(NginxError::layout(
                "ngx_cycle_t.free_connection_n",
                "there are more free connections than connections",
            ));
        }
        Ok(())
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("ngx_cycle_t.free_connection_n", self.free_connection_n),
            ("ngx_cycle_t.modules", self.modules),
            ("ngx_cycle_t.open_files", self.open_files),
            ("ngx_cycle_t.shared_memory", self.shared_memory),
            ("ngx_cycle_t.connection_n", self.connection_n),
            ("ngx_cycle_t.connections", self.connections),
        ]
    }
}

/// The one that there is.
fn only(mut found: impl Iterator<Item = u64>, field: &'static str) -> Result<u64, NginxError> {
    let first = found
        .next()
        .ok_or_else(|| NginxError::layout(field, "nothing in the cycle is like it"))?;
    match found.next() {
        None => Ok(first),
        Some(second) => Err(NginxError::layout(
            field,
            format!("it may be at {first} or at {second}"),
        )),
    }
}
