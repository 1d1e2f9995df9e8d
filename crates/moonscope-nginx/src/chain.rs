//! `ngx_list_t`: parts of equal elements, linked (src/core/ngx_list.h).

use moonscope_process::RemoteMemory;

use crate::block::Block;

/// sizeof(ngx_list_t): last, part {elts, nelts, next}, size, nalloc, pool.
pub(crate) const LIST_SIZE: u64 = 56;
const PART: u64 = 8;
const PART_SIZE: u64 = 24;
const ELEMENT_SIZE: u64 = 32;
/// Elements that are looked at: no configuration has more zones or open files.
const MAX_ELEMENTS: usize = 1 << 16;

/// Addresses of the elements of the list at `list`, and how large each is.
pub(crate) fn elements(memory: &impl RemoteMemory, list: u64) -> (Vec<u64>, u64) {
    let mut found = Vec::new();
    let Ok(head) = Block::read(memory, list, LIST_SIZE) else {
        return (found, 0);
    };
    let size = head.word(ELEMENT_SIZE);
    let mut part = head.at(PART);
    while part != 0 && found.len() < MAX_ELEMENTS {
        let Ok(block) = Block::read(memory, part, PART_SIZE) else {
            break;
        };
        let count = block.word(8).min((MAX_ELEMENTS - found.len()) as u64);
        found.extend((0..count).map(|number| block.word(0).wrapping_add(number * size)));
        part = block.word(16);
    }
    (found, size)
}
