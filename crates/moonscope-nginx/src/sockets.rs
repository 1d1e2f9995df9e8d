//! Pools of connections that Lua keeps (`sock:setkeepalive`), as ngx_lua has them since 0.10.14 (ngx_http_lua_socket_tcp.h).
//!
//! They are userdata of the Lua VM, in a table that its registry has under the address of the exported
//! `ngx_http_lua_socket_pool_key`. The registry is found by that: no other table of the VM's state has such a key. Each pool is
//! believed only if everything in it agrees ([`pool`]). Where none does, though they stand still, the layout is another.

mod pool;

use std::time::Duration;

use moonscope_luajit::GcMode;
use moonscope_luajit::value::{Value, table_light_userdata, table_nodes};
use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::error::NginxError;
use crate::worker::Worker;
use pool::Pool;
pub use pool::SocketPool;

const MODULE: &str = "ngx_http_lua_module";
const KEY: &str = "ngx_http_lua_socket_pool_key";

// LuaJIT with references of 64 bits (lj_obj.h): GCHeader is nextgc, marked, gct
const GCT: u64 = 9;
const THREAD: u8 = 6;
const TABLE: u8 = 11;
const USERDATA: u8 = 12;
const GLREF: u64 = 16;
/// sizeof(GCudata), and where it has the size of what is behind it.
const UDATA: u64 = 48;
const UDATA_LEN: u64 = 24;
/// Bytes of `global_State` that are looked through; it has some 700.
const STATE: u64 = 1024;
/// Pools that are read.
const MAX_POOLS: usize = 4096;
/// How often a pool is read that changes meanwhile.
const ATTEMPTS: usize = 5;
/// Until it is read again: whoever was stopped in the middle of a change goes on.
const PAUSE: Duration = Duration::from_millis(2);

/// Pools of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketPools {
    /// By name.
    pub pools: Vec<SocketPool>,
    /// Those that changed while they were read, and are left out.
    pub torn: u64,
}

/// What is an object of this type?
fn is_object(memory: &impl RemoteMemory, addr: u64, gct: u8) -> bool {
    let header = Block::read(memory, addr, 16);
    addr != 0 && header.is_ok_and(|header| header.byte(GCT) == gct)
}

/// The table of pools of the VM with this main coroutine.
fn table(memory: &impl RemoteMemory, lua: u64, key: u64) -> Result<u64, NginxError> {
    if !is_object(memory, lua, THREAD) {
        return Err(NginxError::layout(
            "ngx_http_lua_main_conf_t.lua",
            "it leads to no coroutine of a LuaJIT with references of 64 bits",
        ));
    }
    let g = memory.read_u64(lua.wrapping_add(GLREF))?;
    let state = Block::read(memory, g, STATE)?;
    let words = || (0..STATE).step_by(8).map(|at| state.word(at));
    if !words().any(|word| word == lua) {
        return Err(NginxError::layout(
            "lua_State.glref",
            "what it leads to does not lead back to the main coroutine",
        ));
    }
    let tables = words().filter_map(|word| match Value::decode(GcMode::Gc64, word) {
        Value::Table(table) => table_light_userdata(memory, table, key),
        _ => None,
    });
    let mut found: Vec<u64> = tables
        .filter_map(|value| match value {
            Value::Table(pools) if is_object(memory, pools, TABLE) => Some(pools),
            _ => None,
        })
        .collect();
    found.dedup();
    match found[..] {
        [pools] => Ok(pools),
        _ => Err(NginxError::layout(
            "global_State.registrytv",
            format!("{} tables have a table under {KEY}", found.len()),
        )),
    }
}

/// All pools of the table; `connections` is where connections of nginx are.
fn pools(
    memory: &impl RemoteMemory,
    lua: u64,
    table: u64,
    connections: &std::ops::Range<u64>,
) -> Result<SocketPools, NginxError> {
    let mut found = SocketPools::default();
    let mut refused = None;
    for (_, value) in table_nodes(memory, GcMode::Gc64, table)
        .into_iter()
        .take(MAX_POOLS)
    {
        let Value::Userdata(udata) = value else { continue };
        match one(memory, lua, udata, connections) {
            Ok(Some(pool)) => found.pools.push(pool),
            Ok(None) => found.torn += 1,
            Err(err) => {
                found.torn += 1;
                refused = Some(err);
            }
        }
    }
    // where one pool is as it should be the layout is right, and a worker stands still in the middle of changing another
    if let (Some(err), true) = (refused, found.pools.is_empty()) {
        return Err(err);
    }
    found.pools.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// One pool; `None`: it never stood still.
fn one(
    memory: &impl RemoteMemory,
    lua: u64,
    udata: u64,
    connections: &std::ops::Range<u64>,
) -> Result<Option<SocketPool>, NginxError> {
    let read = || {
        let header = Block::read(memory, udata, UDATA).ok()?;
        if header.byte(GCT) != USERDATA {
            return None;
        }
        let len = u64::from(header.int(UDATA_LEN) as u32);
        Pool::read(memory, udata.wrapping_add(UDATA), len)
    };
    let mut refused = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let Some(pool) = read() else { continue };
        let is = pool.check(memory, lua, connections);
        let is_still = read().as_ref() == Some(&pool);
        match is {
            Ok(found) if is_still => return Ok(Some(found)),
            Err(why) if is_still => refused = Some(why),
            _ => {}
        }
    }
    // it stands still and is not what it should be
    match refused {
        Some((field, why)) => Err(NginxError::layout(field, why)),
        None => Ok(None),
    }
}

impl<M: RemoteMemory> Worker<M> {
    /// Pools of connections that Lua keeps; `None` where there is no ngx_lua, or no configuration of HTTP.
    pub fn socket_pools(&self) -> Result<Option<SocketPools>, NginxError> {
        let module = self.modules.iter().find(|module| module.name == MODULE);
        let Some((module, conf)) = module.zip(self.http_main_conf(MODULE)) else {
            return Ok(None);
        };
        let images = self.images()?;
        let image = images.iter().find(|image| image.holds(module.addr));
        let key = image
            .and_then(|image| image.symbol(KEY))
            .ok_or_else(|| NginxError::layout(KEY, "the file of ngx_lua does not export it"))?;
        let cycle = self.cycle()?;
        let first = cycle.word(self.layout.cycle.connections);
        let count = cycle.word(self.layout.cycle.connection_n);
        let size = count.saturating_mul(self.layout.connection.size);
        let connections = first..first.saturating_add(size);
        // the first field, in all versions
        let lua = self.memory.read_u64(conf)?;
        let table = table(&self.memory, lua, key)?;
        Ok(Some(pools(&self.memory, lua, table, &connections)?))
    }
}

#[cfg(test)]
mod tests;
