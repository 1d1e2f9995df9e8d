//! From the frames of a walk to frames that outlive the process.

use std::sync::Arc;

use moonscope_unwind::{WalkEnd, WalkFrame};

use crate::executables::ExecutableId;
use crate::generation::Generation;
use crate::stacks::RawFrame;

/// Why a walk that ended so is not complete; `None` if it is.
pub fn cut_of(end: WalkEnd) -> Option<&'static str> {
    (!end.is_complete()).then(|| end.phrase())
}

/// The address to look up: a return address may be the first byte of the next function.
pub fn lookup_addr(frame: &WalkFrame) -> u64 {
    if frame.exact {
        frame.addr
    } else {
        frame.addr.wrapping_sub(1)
    }
}

/// The file that a frame is in, and the address in it that is to be looked up.
pub fn place_in_file(frame: &WalkFrame, generation: &Generation) -> Option<(ExecutableId, u64)> {
    let addr = lookup_addr(frame);
    let mapping = generation.find(addr)?;
    Some((mapping.executable?, addr.wrapping_sub(mapping.bias)))
}

/// Is something else mapped at this frame now than when it was walked? What is mapped no longer was
/// there then.
pub fn moved(frame: &WalkFrame, used: &Generation, newest: &Generation) -> bool {
    let addr = lookup_addr(frame);
    match (used.find(addr), newest.find(addr)) {
        (Some(then), Some(now)) => (then.executable, then.bias) != (now.executable, now.bias),
        _ => false,
    }
}

/// Where a frame is, apart from the process; `called_by` is the frame that is next to the root.
pub fn locate(frame: &WalkFrame, called_by: Option<&WalkFrame>, generation: Option<&Generation>) -> RawFrame {
    // what a signal interrupted is exact: this is the trampoline, whose return address is its first byte
    let is_trampoline = called_by.is_some_and(|caller| caller.exact);
    let addr = if is_trampoline {
        frame.addr
    } else {
        lookup_addr(frame)
    };
    let Some((generation, mapping)) =
        generation.and_then(|generation| Some((generation, generation.find(addr)?)))
    else {
        return RawFrame::Unknown;
    };
    let offset = addr.wrapping_sub(mapping.bias);
    match mapping.executable {
        Some(executable) => RawFrame::File {
            executable,
            vaddr: offset,
        },
        None => RawFrame::Memory {
            process: generation.process,
            name: Arc::clone(&mapping.name),
            addr,
            offset,
        },
    }
}
