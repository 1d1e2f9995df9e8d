//! Where a thread and the one that it makes stand at the same instruction, with different stacks.
//!
//! Behind the `syscall` of clone() the thread that called it has its return address on top of its stack, and the new one has
//! a new stack. Unwind information cannot say both, so the C libraries say nothing there (glibc:
//! sysdeps/unix/sysv/linux/x86_64/clone.S and clone3.S; musl: src/thread/x86_64/clone.s).
//! But rax tells them apart: the kernel returns 0 to the new thread (copy_thread, arch/x86/kernel/process.c) and never to the
//! old one, whose rax is -ENOSYS while it is in the call (entry_SYSCALL_64, arch/x86/entry/entry_64.S).

use memchr::memmem;

use crate::entries::Entry;
use crate::holes;
use crate::sections::Code;

const SYSCALL: &[u8] = b"\x0f\x05";

/// How much code [`gap`] looks at: the longest gap, and the first instruction of the new thread, or the old one's return.
pub(crate) const MAX_LENGTH: usize = 160;

/// How long the code is, if it is such a gap: from the `syscall` on to where the ways part or the old thread has returned,
/// the stack pointer is what the call left. The new thread goes on with an `xor %ebp, %ebp`, for it has no caller.
pub(crate) fn gap(code: &[u8]) -> Option<usize> {
    match *code.strip_prefix(SYSCALL)? {
        // glibc: test %rax, %rax; jl error; je child; ret; child: xor %ebp, %ebp
        [0x48, 0x85, 0xc0, 0x7c, _, 0x74, 0x01, 0xc3, 0x31, 0xed, ..] => Some(10),
        [
            0x48,
            0x85,
            0xc0,
            0x0f,
            0x8c,
            _,
            _,
            _,
            _,
            0x74,
            0x01,
            0xc3,
            0x31,
            0xed,
            ..,
        ] => Some(14),
        // musl: test %eax, %eax; jne parent; xor %ebp, %ebp; pop %rdi; ...; parent: ret
        [0x85, 0xc0, 0x75, distance @ 0..0x80, 0x31, 0xed, ..] => {
            const BEHIND_JUMP: usize = 6;
            (code.get(BEHIND_JUMP + usize::from(distance)) == Some(&0xc3)).then_some(BEHIND_JUMP)
        }
        _ => None,
    }
}

/// Is this the address of code in a gap? `code_at` gives up to [`MAX_LENGTH`] bytes at an address.
pub(crate) fn is_inside<'a>(vaddr: u64, code_at: impl Fn(u64) -> Option<&'a [u8]>) -> bool {
    (0..14).any(|back| {
        let start = vaddr.checked_sub(back);
        let length = start.and_then(&code_at).and_then(gap);
        length.is_some_and(|length| back < length as u64)
    })
}

/// All such gaps in the code that nothing describes, sorted.
pub(crate) fn find(data: &[u8], code: &[Code], described: &[Entry]) -> Vec<Entry> {
    let mut found = Vec::new();
    holes::each(code, described, SYSCALL.len(), |start, place| {
        let Some(bytes) = data.get(place.clone()) else {
            return;
        };
        for at in memmem::find_iter(bytes, SYSCALL) {
            // the new thread's code is described again
            let Some(length) = data.get(place.start + at..).and_then(gap) else {
                continue;
            };
            let address = start + at as u64;
            found.push(Entry {
                start: address,
                end: address + length as u64,
                offset: usize::MAX,
            });
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// glibc 2.36, clone3, from its `syscall` on.
    const GLIBC: &[u8] =
        b"\x0f\x05\x48\x85\xc0\x7c\x18\x74\x01\xc3\x31\xed\x48\x83\xe4\xf0\x4c\x89\xc7\xff\xd2";
    /// The same where the error's place is far away.
    const FAR: &[u8] = b"\x0f\x05\x48\x85\xc0\x0f\x8c\x18\x00\x00\x00\x74\x01\xc3\x31\xed\x58\x5f\xff\xd0";
    /// musl 1.2.3, __clone.
    const MUSL: &[u8] =
        b"\x0f\x05\x85\xc0\x75\x0f\x31\xed\x5f\x41\xff\xd1\x89\xc7\x31\xc0\xb0\x3c\x0f\x05\xf4\xc3";

    #[test]
    fn the_calls_of_the_c_libraries_are_recognised() {
        assert_eq!(gap(GLIBC), Some(10));
        assert_eq!(gap(FAR), Some(14));
        assert_eq!(gap(MUSL), Some(6));
        for (code, length) in [(GLIBC, 10), (FAR, 14)] {
            // all but how far away the error's place is
            for wrong in (0..6).chain(length - 3..length + 2) {
                let mut code = code.to_vec();
                code[wrong] ^= 0x10;
                assert_eq!(gap(&code), None, "byte {wrong} of {code:x?}");
            }
        }
        assert_eq!(gap(&MUSL[..21]), None);
        assert_eq!(gap(b"\x0f\x05\x48\x3d\x01\xf0\xff\xff\x73\x01\xc3"), None); // any other call
    }

    #[test]
    fn every_address_of_a_gap_is_inside_and_no_other_one() {
        let mut code = vec![0x90; 16];
        code.extend(FAR);
        code.extend([0x90; 16]);
        let code_at = |vaddr: u64| code.get(usize::try_from(vaddr.checked_sub(100)?).ok()?..);
        let inside: Vec<u64> = (90..150).filter(|&vaddr| is_inside(vaddr, code_at)).collect();
        assert_eq!(inside, (116..130).collect::<Vec<_>>());
    }
}
