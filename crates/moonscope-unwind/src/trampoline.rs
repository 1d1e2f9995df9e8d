//! Signal trampolines without unwind information of their own, found by their code.
//!
//! A handler returns to code that calls `rt_sigreturn`, and debuggers know that code by its bytes, so libraries
//! keep them: musl (src/signal/x86_64/restore.s), glibc (sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c)
//! and Go (runtime/sys_linux_amd64.s, `sigreturn__sigaction`). Only glibc describes it as a signal frame.

use memchr::memmem;

use crate::entries::Entry;
use crate::holes::MAX_HOLE;
use crate::sections::Code;

/// `mov $15, %rax; syscall`: 15 is `rt_sigreturn`.
const BYTES: &[u8] = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05";

/// Above this size only the code that nothing describes is searched, so that no large library is read as a
/// whole into memory for nine bytes.
const SEARCH_ALL: u64 = 4 << 20;

/// Holes below this size are padding between functions.
const MIN_HOLE: u64 = 16;

/// In large Go programs functions up to this size are searched too: `.debug_frame` describes the trampoline
/// as an ordinary function.
const GO_FUNCTION: u64 = 48;

/// The code of all trampolines that `described` does not treat as signal frames, sorted.
///
/// A range starts one byte early where that byte is no code, because a handler's return address, the first
/// byte of the trampoline, is looked up like any return address: one byte lower.
pub(crate) fn find(data: &[u8], code: &[Code], described: &[Entry], go: bool) -> Vec<Entry> {
    let mut found = Vec::new();
    if code.iter().map(|range| range.end - range.start).sum::<u64>() <= SEARCH_ALL {
        for range in code {
            search(data, range, range.start, range.end, &mut found);
        }
        return found;
    }
    for range in code {
        let first = described.partition_point(|entry| entry.end <= range.start);
        let mut at = range.start;
        for entry in described
            .iter()
            .skip(first)
            .take_while(|entry| entry.start < range.end)
        {
            if (MIN_HOLE..=MAX_HOLE).contains(&entry.start.saturating_sub(at)) {
                search(data, range, at, entry.start, &mut found);
            }
            if go && entry.end - entry.start <= GO_FUNCTION {
                search(data, range, entry.start, entry.end, &mut found);
            }
            at = entry.end;
        }
        if (MIN_HOLE..=MAX_HOLE).contains(&range.end.saturating_sub(at)) {
            search(data, range, at, range.end, &mut found);
        }
    }
    found
}

fn search(data: &[u8], range: &Code, start: u64, end: u64, found: &mut Vec<Entry>) {
    let place = |address: u64| range.offset + (address - range.start) as usize;
    let Some(bytes) = data.get(place(start)..place(end)) else {
        return;
    };
    for at in memmem::find_iter(bytes, BYTES) {
        // nop, int3 and zero never run before a trampoline
        let before = (place(start) + at).checked_sub(1).and_then(|i| data.get(i));
        let early = matches!(before, Some(0x90 | 0xcc | 0x00)) && start + at as u64 > range.start;
        let address = start + at as u64;
        found.push(Entry {
            start: address - u64::from(early),
            end: address + BYTES.len() as u64,
            offset: usize::MAX,
        });
    }
}
