//! `ngx_pool_t` (src/core/ngx_palloc.h): blocks that are filled from the front, and a list of large allocations.
//!
//! The same in all versions; the first block has the whole header (80 bytes), those behind it only last, end, next and failed
//! (32 bytes).

use moonscope_process::{ProcessError, RemoteMemory};

use crate::block::Block;

const HEADER: u64 = 80;
const BLOCK_HEADER: u64 = 32;
const LAST: u64 = 0;
const END: u64 = 8;
const NEXT: u64 = 16;
const MAX: u64 = 32;
const LARGE: u64 = 56;
/// Blocks and large allocations of a pool that are looked at.
const MAX_PARTS: u32 = 100_000;
/// A block larger than this is none.
const MAX_BLOCK: u64 = 1 << 30;

/// What a pool holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Size of a block.
    pub block_size: u64,
    /// Up to this size allocations are made in blocks.
    pub small_max: u64,
    /// Blocks.
    pub blocks: u64,
    /// Given out in blocks.
    pub used: u64,
    /// Not given out in blocks.
    pub unused: u64,
    /// Allocations of their own.
    pub large: u64,
}

impl Pool {
    /// Reads the pool at this address.
    pub(crate) fn read(memory: &impl RemoteMemory, addr: u64) -> Result<Self, ProcessError> {
        let head = Block::read(memory, addr, HEADER)?;
        let mut pool = Self {
            block_size: head.word(END).wrapping_sub(addr),
            small_max: head.word(MAX),
            ..Self::default()
        };
        let bad = |addr| ProcessError::Unreadable { addr };
        let (mut at, mut header) = (addr, HEADER);
        for _ in 0..MAX_PARTS {
            let block = Block::read(memory, at, BLOCK_HEADER)?;
            let (last, end) = (block.word(LAST), block.word(END));
            if last < at.saturating_add(header) || last > end || end - at > MAX_BLOCK {
                return Err(bad(at));
            }
            pool.blocks += 1;
            pool.used += last - at - header;
            pool.unused += end - last;
            at = block.word(NEXT);
            header = BLOCK_HEADER;
            if at == 0 {
                break;
            }
        }
        // ngx_pool_large_t: next, alloc
        let mut large = head.word(LARGE);
        for _ in 0..MAX_PARTS {
            if large == 0 {
                break;
            }
            let part = Block::read(memory, large, 16)?;
            pool.large += u64::from(part.word(8) != 0);
            large = part.word(0);
        }
        Ok(pool)
    }
}

impl<M: RemoteMemory> crate::worker::Worker<M> {
    /// The pool of the cycle: what the configuration and modules hold for as long as it is in force.
    pub fn cycle_pool(&self) -> Result<Pool, crate::NginxError> {
        let pool = self.cycle()?.word(self.layout.cycle.pool);
        Ok(Pool::read(&self.memory, pool)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::BufferMemory;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn blocks_behind_the_first_have_a_shorter_header() {
        let mut bytes = vec![0; 512];
        // last 0x1060, end 0x1080, next 0x1100, failed; max, current, chain, large, cleanup, log
        bytes[..80].copy_from_slice(&words(&[0x1060, 0x1080, 0x1100, 0, 48, 0x1000, 0, 0x1190, 0, 0]));
        // two large ones, of which one was freed
        bytes[0x190..0x1b0].copy_from_slice(&words(&[0x11a0, 0x9000, 0, 0]));
        bytes[0x100..0x120].copy_from_slice(&words(&[0x1130, 0x1180, 0, 0]));
        let memory = BufferMemory::new().with(0x1000, bytes);
        let pool = Pool::read(&memory, 0x1000).unwrap_or_default();
        assert_eq!(pool.blocks, 2);
        assert_eq!(pool.used, (0x60 - 80) + (0x30 - 32));
        assert_eq!(pool.unused, 0x20 + 0x50);
        assert_eq!(pool.large, 1);
    }
}
