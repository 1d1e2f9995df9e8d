//! `lj_vm_ffi_call`: an ordinary function with a frame pointer, whose unwind entry has one row for all of it. That row
//! is not true until the frame pointer is set, and not at the `ret`.

use crate::vm_text::{CallerBase, SavedRegister, Window};

/// Bytes of the function that are looked at; it has 160 in the builds known.
pub(crate) const LONGEST: usize = 256;

/// push rbp; mov rbp, rsp; push rbx
const BEGINS: &[u8] = b"\x55\x48\x89\xe5\x53";

/// mov rbx, [rbp-8]; leave; ret
const ENDS: &[u8] = b"\x48\x8b\x5d\xf8\xc9\xc3";

const LANDING_PAD: &[u8] = b"\xf3\x0f\x1e\xfa";

/// DWARF's number of rbp.
const RBP: u8 = 6;

/// Where the caller is at those places, if this is the function. `start` is its address.
pub(crate) fn windows(code: &[u8], start: u64) -> Vec<Window> {
    let pad = if code.starts_with(LANDING_PAD) {
        LANDING_PAD.len()
    } else {
        0
    };
    if !code.get(pad..).is_some_and(|code| code.starts_with(BEGINS)) {
        return Vec::new();
    }
    let at = |offset: usize| start + offset as u64;
    let rbp = SavedRegister {
        register: RBP,
        cfa_offset: -16,
    };
    let mut windows = vec![
        window(start..at(pad + 1), 8, Vec::new()),
        window(at(pad + 1)..at(pad + BEGINS.len()), 16, vec![rbp]),
    ];
    if let Some(end) = memchr::memmem::find(code, ENDS) {
        let ret = end + ENDS.len() - 1;
        windows.push(window(at(ret)..at(ret + 1), 8, Vec::new()));
    }
    windows
}

fn window(range: std::ops::Range<u64>, cfa_offset: u16, saved: Vec<SavedRegister>) -> Window {
    Window {
        start: range.start,
        end: range.end,
        cfa_offset,
        saved,
        caller_base: CallerBase::LuaState,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_frame_pointer_is_not_yet_or_not_anymore_the_frames() {
        let mut code = BEGINS.to_vec();
        code.extend([0x90; 10]);
        code.extend(ENDS);
        let found: Vec<_> = windows(&code, 0x1000)
            .into_iter()
            .map(|window| (window.start, window.end, window.cfa_offset))
            .collect();
        assert_eq!(
            found,
            [(0x1000, 0x1001, 8), (0x1001, 0x1005, 16), (0x1014, 0x1015, 8)]
        );
    }

    #[test]
    fn another_function_has_none() {
        assert!(windows(b"\x55\x48\x89\xe5\xc3", 0).is_empty());
        assert!(windows(b"", 0).is_empty());
    }
}
