//! Where the stack of a coroutine ends, in code without unwind information.
//!
//! The first function of a coroutine returns to code that was put there when its stack was made. In assembler that
//! has no unwind information at all nothing says that no caller is behind it. Boost.Context is such a library
//! (libs/context/src/asm/make_x86_64_sysv_elf_gas.S, label `finish`), in programs of their own and in copies: PowerDNS,
//! PHP's fibers, folly, ClickHouse. A function that returns to the first byte of `exit` with the argument 0, and then a
//! halt, has no caller, whoever wrote that.

use memchr::memmem;

use crate::entries::Entry;
use crate::holes;
use crate::sections::Code;

/// `xor %rdi, %rdi; call`, the distance of the function, `hlt`.
const HEAD: &[u8] = b"\x48\x31\xff\xe8";
const HALT: u8 = 0xf4;
const LENGTH: usize = HEAD.len() + 4 + 1;

/// Such places in the code that nothing describes, sorted.
pub(crate) fn find(data: &[u8], code: &[Code], described: &[Entry]) -> Vec<Entry> {
    let mut found = Vec::new();
    holes::each(code, described, LENGTH, |start, place| {
        let bytes = data.get(place).unwrap_or_default();
        for at in memmem::find_iter(bytes, HEAD).filter(|&at| is_end(&bytes[at..])) {
            let address = start + at as u64;
            found.push(Entry {
                start: address,
                end: address + LENGTH as u64,
                offset: usize::MAX,
            });
        }
    });
    found
}

/// Does code that ends a stack begin here?
pub(crate) fn is_end(code: &[u8]) -> bool {
    code.starts_with(HEAD) && code.get(LENGTH - 1) == Some(&HALT)
}

/// How many bytes of code [`is_end`] looks at.
pub(crate) const fn length() -> usize {
    LENGTH
}
