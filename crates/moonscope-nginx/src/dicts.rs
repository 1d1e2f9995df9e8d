//! `lua_shared_dict`: what is in the dictionaries that the workers share (ngx_http_lua_shdict.h of ngx_lua).
//!
//! A dictionary is a tree in its zone, by the CRC-32 of its keys. Nobody is kept from changing it meanwhile: workers take
//! a lock for that, and we only look whether somebody has it. What makes a look a true one: each key has the CRC-32 that its
//! node is filed under, and the counters of the zone's allocator are the same before and after, with the lock free, so that no
//! key came or went. If not, it is read again, a few times, and what is shown then is said to have changed.

mod tree;
mod value;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moonscope_process::{RemoteMemory, read_maps};

use crate::block::Block;
use crate::error::NginxError;
use crate::worker::Worker;
use crate::zones;
use tree::{Node, Torn, Tree};
pub use value::{Item, ValueKind};

/// Whose zones are dictionaries: of HTTP and of stream.
const OWNERS: [&str; 2] = ["ngx_http_lua_module", "ngx_stream_lua_module"];
/// How often a dictionary is read when it changes meanwhile.
const ATTEMPTS: usize = 5;
/// A large one is not read again when that took as long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a value is, which takes some microseconds.
const MAX_READS: u64 = 100;
/// How often in a row it must be the same as at first.
const AGAIN: usize = 3;

// ngx_slab_pool_t
const LOCK: u64 = 0;
/// Behind `end` is a mutex, which begins with the address of the lock, that is of the pool.
const MUTEX: u64 = 104;
/// How large the mutex is depends on the build. What is behind it ends with `data` and `addr`, which is the pool's again.
const ADDR: std::ops::Range<u64> = MUTEX + 8..256;

/// What a key has beside its name.
#[derive(Clone, Debug, PartialEq)]
pub struct DictKey {
    /// Its name. Any bytes.
    pub key: Vec<u8>,
    /// What kind its value is of.
    pub kind: ValueKind,
    /// Bytes of its value; elements of a list.
    pub value_len: u32,
    /// When it ends, in milliseconds since 1970; 0: never.
    pub expires: u64,
    /// Flags of the user (`set(key, value, exptime, flags)`).
    pub flags: u32,
}

impl DictKey {
    fn of(node: &Node) -> Self {
        Self {
            key: node.key.clone(),
            kind: ValueKind::of(node.value_type),
            value_len: node.value_len,
            expires: node.expires,
            flags: node.flags,
        }
    }

    /// Has it ended? The server keeps it until it needs the room.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires != 0 && self.expires <= now
    }
}

/// A dictionary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dict {
    /// Its name. Any bytes.
    pub name: Vec<u8>,
    /// Bytes, as configured.
    pub size: u64,
    /// Bytes in free pages.
    pub free: u64,
    /// Keys in it, those that have ended too.
    pub keys: Vec<DictKey>,
    /// When it was read, in milliseconds since 1970.
    pub now: u64,
    /// Nodes that did not look like one any more when they were read, and are left out with what is below them.
    pub torn: u64,
    /// Keys came or went while it was read: some may be missing.
    pub is_changed: bool,
    /// It has more keys than are read.
    pub is_cut: bool,
    /// The same memory has the same identity in all workers; `None`: it is not known.
    pub identity: Option<(u32, u32, u64)>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct DictValue {
    /// The key.
    pub key: DictKey,
    /// Its value; several for a list.
    pub items: Vec<Item>,
    /// When it was read, in milliseconds since 1970.
    pub now: u64,
    /// How often it was read before it stood still.
    pub torn: u64,
    /// It never did.
    pub is_changed: bool,
}

/// The zone of a dictionary.
struct Place {
    name: Vec<u8>,
    addr: u64,
    size: u64,
    /// `ngx_slab_pool_t.data`
    data: u64,
}

/// What the allocator of a zone counts, and who has its lock: the same twice means that nothing came or went between.
#[derive(PartialEq, Eq)]
struct Version {
    lock: u64,
    free: u64,
    counters: Block,
}

impl Place {
    fn find(memory: &impl RemoteMemory, zone: &Block) -> Result<Self, NginxError> {
        let (addr, size) = (zone.word(zones::SHM_ADDR), zone.word(zones::SHM_SIZE));
        let slab = Block::read(memory, addr, ADDR.end + 8)?;
        let own: Vec<u64> = ADDR.step_by(8).filter(|&at| slab.word(at) == addr).collect();
        match own[..] {
            [at] if slab.word(MUTEX) == addr => Ok(Self {
                name: zone.string(memory, zones::NAME),
                addr,
                size,
                data: slab.word(at - 8),
            }),
            _ => Err(NginxError::layout(
                "ngx_slab_pool_t.addr",
                format!("behind its mutex the address of the pool is at {own:?}"),
            )),
        }
    }

    fn tree<'a, M: RemoteMemory>(&self, memory: &'a M) -> Result<Tree<'a, M>, NginxError> {
        Tree::find(memory, self.data, self.addr..self.addr.saturating_add(self.size))
    }

    fn version(&self, memory: &impl RemoteMemory) -> Result<Version, NginxError> {
        let slab = Block::read(memory, self.addr, zones::SLAB_SIZE)?;
        let slots = zones::slots(&slab);
        Ok(Version {
            lock: slab.word(LOCK),
            free: slab.word(zones::SLAB_PFREE),
            counters: Block::read(memory, slab.word(zones::SLAB_STATS), slots * zones::SLAB_STAT)?,
        })
    }

    fn dict(&self, memory: &impl RemoteMemory) -> Result<Dict, NginxError> {
        let tree = self.tree(memory)?;
        let mut best: Option<Dict> = None;
        let began = Instant::now();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 && began.elapsed() > PATIENCE {
                break;
            }
            let before = self.version(memory)?;
            let now = now();
            let found = tree.all();
            let is_still = before.lock == 0 && before == self.version(memory)?;
            let dict = Dict {
                name: self.name.clone(),
                size: self.size,
                free: before.free.saturating_mul(zones::Zone::PAGE),
                keys: found.nodes.iter().map(DictKey::of).collect(),
                now,
                torn: found.torn,
                is_changed: !is_still,
                is_cut: found.is_cut,
                identity: None,
            };
            if is_still && dict.torn == 0 {
                return Ok(dict);
            }
            // the least torn of all attempts
            if best
                .as_ref()
                .is_none_or(|best| (dict.torn, dict.is_changed) < (best.torn, best.is_changed))
            {
                best = Some(dict);
            }
        }
        let best = best.unwrap_or_default();
        // a tree that stands still and has a node that is none is another structure than it was taken for
        if best.torn > 0 && !best.is_changed {
            return Err(NginxError::layout(
                "ngx_http_lua_shdict_node_t.data",
                "a key has not the CRC-32 that it is filed under",
            ));
        }
        Ok(best)
    }

    fn value(&self, memory: &impl RemoteMemory, key: &[u8]) -> Result<Option<DictValue>, NginxError> {
        let tree = self.tree(memory)?;
        let read = || match tree.lookup(key) {
            Ok(Some(node)) => {
                let items = value::items(memory, &node, tree.zone()).ok_or(Torn)?;
                Ok(Some((node, items)))
            }
            Ok(None) => Ok(None),
            Err(torn) => Err(torn),
        };
        let mut last = None;
        for attempt in 0..MAX_READS {
            let before = self.version(memory)?;
            let now = now();
            let first = read();
            // A value of the same size is written over the old one, which no counter shows. Nobody writes between two of these
            // looks, so a half of a write that was seen in one is whole in the next, unless others end halfway in the same way
            // again and again, with the same neighbours.
            let is_same = (0..AGAIN).all(|_| {
                let nobody_writes = memory.read_u64(self.addr + LOCK).is_ok_and(|lock| lock == 0);
                nobody_writes && first == read()
            });
            // a key that is not found may have been on its way to another place of the tree
            let is_still = before.lock == 0 && before == self.version(memory)?;
            match first {
                Ok(Some((node, items))) => {
                    last = Some(DictValue {
                        key: DictKey::of(&node),
                        items,
                        now,
                        torn: attempt,
                        is_changed: !is_same,
                    });
                    if is_same {
                        return Ok(last);
                    }
                }
                Ok(None) if is_still => return Ok(None),
                _ => {}
            }
        }
        match last {
            Some(value) => Ok(Some(value)),
            None => Err(NginxError::Changing {
                what: format!("the dictionary {}", self.name.escape_ascii()),
            }),
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl<M: RemoteMemory> Worker<M> {
    /// The dictionaries, in the order of the configuration; of one name or all.
    pub fn dicts(&self, name: Option<&[u8]>) -> Result<Vec<Dict>, NginxError> {
        let maps = read_maps(self.pid()).unwrap_or_default();
        let places = self.dict_places()?.into_iter();
        let wanted = places.filter(|place| name.is_none_or(|name| place.name == name));
        let dict = |place: Place| {
            let mapping = maps.iter().find(|mapping| mapping.contains(place.addr));
            let mut dict = place.dict(&self.memory)?;
            dict.identity = mapping
                .filter(|mapping| mapping.shared && mapping.inode != 0)
                .map(|mapping| (mapping.device.0, mapping.device.1, mapping.inode));
            Ok(dict)
        };
        wanted.map(dict).collect()
    }

    /// The names of all dictionaries.
    pub fn dict_names(&self) -> Result<Vec<Vec<u8>>, NginxError> {
        Ok(self.dict_places()?.into_iter().map(|place| place.name).collect())
    }

    /// What a dictionary has for a key, also if it has ended; `None`: nothing, or there is no such dictionary.
    pub fn dict_value(&self, name: &[u8], key: &[u8]) -> Result<Option<DictValue>, NginxError> {
        let places = self.dict_places()?;
        let place = places.iter().find(|place| place.name == name);
        place.map_or(Ok(None), |place| place.value(&self.memory, key))
    }

    fn dict_places(&self) -> Result<Vec<Place>, NginxError> {
        let is_owner = |tag: u64| {
            let owner = self.modules.iter().find(|module| module.addr == tag);
            owner.is_some_and(|owner| OWNERS.contains(&owner.name.as_str()))
        };
        let zones = self.zone_blocks()?.into_iter();
        let dicts = zones.filter(|zone| is_owner(zone.word(zones::TAG)));
        dicts.map(|zone| Place::find(&self.memory, &zone)).collect()
    }
}

#[cfg(test)]
mod tests;
