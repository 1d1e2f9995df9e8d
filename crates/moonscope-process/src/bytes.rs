//! Small readers of numbers and files, for text that the kernel makes.

use std::fs::File;
use std::io::{self, Read};

/// No file of `/proc` that is read whole is larger: 65,530 mappings (`vm.max_map_count`) with the
/// longest names come to some 280 MiB, everything realistic to a few. Keeps a hostile process from
/// filling our memory.
const MAX_PROC_FILE: u64 = 64 << 20;

/// Reads a small kernel file whole, at most [`MAX_PROC_FILE`] bytes of it.
pub(crate) fn read_file(path: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_PROC_FILE).read_to_end(&mut text)?;
    Ok(text)
}

/// A hexadecimal number without prefix; `None` if empty, too large or anything else.
pub(crate) fn hex(text: &[u8]) -> Option<u64> {
    number(text, 16)
}

/// A decimal number; `None` if empty, too large or anything else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    number(text, 10)
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        value.checked_mul(radix.into())?.checked_add(digit.into())
    })
}
