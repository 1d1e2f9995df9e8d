//! Zones of shared memory (`cycle->shared_memory`), and the slab allocator in them (src/core/ngx_slab.h).

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::chain;
use crate::error::NginxError;
use crate::worker::Worker;

// ngx_shm_zone_t, the same since 1.9 but for what is behind `tag`
pub(crate) const SHM_ADDR: u64 = 8;
pub(crate) const SHM_SIZE: u64 = 16;
pub(crate) const NAME: u64 = 24;
pub(crate) const TAG: u64 = 64;
const ZONE_SIZE: u64 = 72;

// ngx_slab_pool_t, the same since 1.11.7
pub(crate) const SLAB_SIZE: u64 = 208;
const SLAB_MIN_SHIFT: u64 = 24;
const SLAB_FREE: u64 = 48;
pub(crate) const SLAB_STATS: u64 = 72;
pub(crate) const SLAB_PFREE: u64 = 80;
const SLAB_START: u64 = 88;
const SLAB_END: u64 = 96;
/// ngx_slab_page_t: slab (pages of the run, for a free one), next, prev
const SLAB_PAGE: u64 = 24;
/// ngx_slab_stat_t: total, used, reqs, fails
pub(crate) const SLAB_STAT: u64 = 32;
/// Free runs that are looked at.
const MAX_RUNS: u64 = 1 << 20;
/// x86-64; where pages are larger than 4 KiB nginx works with those
const PAGE_SHIFT: u64 = 12;

/// Whose zone it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A module's, by its name.
    Module(String),
    /// It is tagged with an address that is no module's.
    Address(u64),
}

/// Allocations of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Bytes of each.
    pub size: u64,
    /// How many there is room for.
    pub total: u64,
    /// How many are in use.
    pub used: u64,
    /// How often one was asked for.
    pub requests: u64,
    /// How often there was none.
    pub fails: u64,
}

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name. Any bytes.
    pub name: Vec<u8>,
    /// Whose it is.
    pub owner: Owner,
    /// Bytes, as configured.
    pub size: u64,
    /// Pages that can be given out, free or not.
    pub pages: u64,
    /// Pages that are free, as the allocator counts them.
    pub free_pages: u64,
    /// Runs of free pages side by side.
    pub free_runs: u64,
    /// Pages in the longest run: what can be had at once.
    pub longest_run: u64,
    /// Small allocations by size; empty: there were none.
    pub slots: Vec<Slot>,
    /// It changed while it was read: runs may be missing.
    pub is_torn: bool,
}

impl Zone {
    /// Bytes of a page.
    pub const PAGE: u64 = 1 << PAGE_SHIFT;
}

/// How many sizes of small allocations a pool has: powers of 2.
pub(crate) fn slots(slab: &Block) -> u64 {
    PAGE_SHIFT.saturating_sub(slab.word(SLAB_MIN_SHIFT))
}

impl<M: RemoteMemory> Worker<M> {
    /// The zones of shared memory, in the order of the configuration.
    pub fn zones(&self) -> Result<Vec<Zone>, NginxError> {
        self.zone_blocks()?.iter().map(|zone| self.zone(zone)).collect()
    }

    /// Copies of each `ngx_shm_zone_t`.
    pub(crate) fn zone_blocks(&self) -> Result<Vec<Block>, NginxError> {
        let list = self.cycle()?.at(self.layout.cycle.shared_memory);
        let (zones, size) = chain::elements(&self.memory, list);
        if !zones.is_empty() && size < ZONE_SIZE {
            return Err(NginxError::layout(
                "ngx_cycle_t.shared_memory",
                format!("its elements have {size} bytes"),
            ));
        }
        let zone = |zone| Ok(Block::read(&self.memory, zone, ZONE_SIZE)?);
        zones.into_iter().map(zone).collect()
    }

    fn zone(&self, zone: &Block) -> Result<Zone, NginxError> {
        let tag = zone.word(TAG);
        let owner = self.modules.iter().find(|module| module.addr == tag);
        let mut found = Zone {
            name: zone.string(&self.memory, NAME),
            owner: owner.map_or(Owner::Address(tag), |module| Owner::Module(module.name.clone())),
            size: zone.word(SHM_SIZE),
            pages: 0,
            free_pages: 0,
            free_runs: 0,
            longest_run: 0,
            slots: Vec::new(),
            is_torn: false,
        };
        self.slab(zone.word(SHM_ADDR), &mut found)?;
        Ok(found)
    }

    fn slab(&self, addr: u64, zone: &mut Zone) -> Result<(), NginxError> {
        let slab = Block::read(&self.memory, addr, SLAB_SIZE)?;
        let (start, end) = (slab.word(SLAB_START), slab.word(SLAB_END));
        if start < addr || end != addr.wrapping_add(zone.size) {
            return Err(NginxError::layout(
                "ngx_slab_pool_t.end",
                format!("a zone of {} bytes at {addr:#x} ends at {end:#x}", zone.size),
            ));
        }
        zone.pages = (end - start) >> PAGE_SHIFT;
        zone.free_pages = slab.word(SLAB_PFREE);
        // the list of free runs begins and ends in the pool itself
        let head = slab.at(SLAB_FREE);
        let mut at = slab.word(SLAB_FREE + 8);
        let mut free = 0;
        while at != head && zone.free_runs < MAX_RUNS {
            let Ok(page) = Block::read(&self.memory, at, SLAB_PAGE) else {
                break;
            };
            let pages = page.word(0);
            if pages == 0 || pages > zone.pages {
                break;
            }
            free += pages;
            zone.free_runs += 1;
            zone.longest_run = zone.longest_run.max(pages);
            at = page.word(8);
        }
        // nobody is kept from it meanwhile
        zone.is_torn = at != head || free != zone.free_pages;
        let min_shift = slab.word(SLAB_MIN_SHIFT);
        let count = slots(&slab);
        if count > 0 {
            let stats = Block::read(&self.memory, slab.word(SLAB_STATS), count * SLAB_STAT)?;
            let slot = |number: u64| Slot {
                size: 1 << (min_shift + number),
                total: stats.word(number * SLAB_STAT),
                used: stats.word(number * SLAB_STAT + 8),
                requests: stats.word(number * SLAB_STAT + 16),
                fails: stats.word(number * SLAB_STAT + 24),
            };
            zone.slots = (0..count).map(slot).filter(|slot| slot.requests > 0).collect();
        }
        Ok(())
    }
}
