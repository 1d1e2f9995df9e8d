//! Where a function of an allocator is left, and where its result is there.
//!
//! The parts of a function that lie elsewhere, and functions that it jumps to in place of calling them (tail calls), return
//! for it. At a return the stack pointer is what it was at the beginning, so that a probe there can tell for which call
//! it is, whoever else uses the code.

use std::collections::BTreeMap;
use std::ops::Range;

use moonscope_unwind::abi;

use super::image::{Image, Target};
use crate::breakpoints::exits::Exit;

/// Pieces of code that one function may be left from.
const MOST_PIECES: usize = 32;
/// Bytes of them.
const MOST_BYTES: u64 = 64 << 10;

/// Where a function is left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// Offsets in the file, and where the result is there: `enum ms_alloc_exit`.
    pub places: BTreeMap<u64, u32>,
    /// There may be others.
    pub is_unclear: bool,
    /// It jumps to a function that is probed itself.
    pub passes_on: bool,
}

/// Finds them.
pub fn exits(image: &Image<'_>, name: &str, function: Range<u64>) -> Exits {
    let mut found = Exits::default();
    let mut pieces = vec![function];
    let mut next = 0;
    while let Some(piece) = pieces.get(next).cloned() {
        let name = if next == 0 { name } else { "" };
        next += 1;
        let Some(exits) = image.exits(name, &piece) else {
            found.is_unclear = true;
            continue;
        };
        for (offset, exit) in exits {
            if let Some(how) = where_result_is(image, exit, &mut pieces, &mut found) {
                found.places.insert(offset, how);
            }
        }
    }
    found
}

/// `None`: it is not left there, but by another piece of code.
fn where_result_is(
    image: &Image<'_>,
    exit: Exit,
    pieces: &mut Vec<Range<u64>>,
    found: &mut Exits,
) -> Option<u32> {
    let target = match exit {
        Exit::Return => return Some(abi::MS_ALLOC_RETURNS),
        Exit::Jump(to) if pieces.iter().any(|piece| piece.contains(&to)) => return None,
        Exit::Jump(to) => image.target(to),
        Exit::JumpThrough(word) => image.target_in(word),
        Exit::JumpAnywhere => Target::Elsewhere,
    };
    match target {
        Target::Allocates => {
            found.passes_on = true;
            None
        }
        Target::Code(range) if has_room(pieces, &range) => {
            if !pieces.contains(&range) {
                pieces.push(range);
            }
            None
        }
        Target::Frees => Some(abi::MS_ALLOC_NOTHING),
        Target::ReturnsFirst => Some(abi::MS_ALLOC_FIRST),
        Target::Code(_) | Target::Elsewhere => Some(abi::MS_ALLOC_UNKNOWN),
    }
}

fn has_room(pieces: &[Range<u64>], more: &Range<u64>) -> bool {
    let bytes = |piece: &Range<u64>| piece.end.saturating_sub(piece.start);
    pieces.len() < MOST_PIECES && pieces.iter().map(bytes).sum::<u64>() + bytes(more) <= MOST_BYTES
}
