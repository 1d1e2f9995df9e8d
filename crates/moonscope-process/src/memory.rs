//! Memory of something that is not us: a live process, or bytes in a test.

use crate::process_state::id_with_memory;
use crate::{Pid, ProcessError};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Read access to an address space. Everything that decodes a process (LuaJIT, nginx) goes through
/// this, so that it also runs on a core file or on bytes in a test.
pub trait RemoteMemory {
    /// Reads from `addr` into `buf` and says how many bytes are there; fewer than asked for if the
    /// memory ends, never 0 for a non-empty `buf` (that is an error).
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError>;

    /// Fills `buf` or fails.
    fn read_exact(&self, addr: u64, buf: &mut [u8]) -> Result<(), ProcessError> {
        let mut done = 0;
        while done < buf.len() {
            let at = addr.wrapping_add(done as u64);
            match self.read(at, &mut buf[done..])? {
                0 => return Err(ProcessError::Unreadable { addr: at }),
                read => done += read,
            }
        }
        Ok(())
    }

    /// The part of this range from its first page with content to its last one, empty if there is none; the
    /// whole range where that is not known. Reading pages that a process never touched would cost it page
    /// tables, so a scan asks first.
    fn populated(&self, range: Range<u64>) -> Range<u64> {
        range
    }

    /// Reads as many bytes at each of these addresses as `into` has for each, one piece behind the other. Says
    /// which pieces were read; the bytes of the others mean nothing.
    fn read_each(&self, addrs: &[u64], into: &mut [u8]) -> Vec<bool> {
        let len = into.len() / addrs.len().max(1);
        addrs
            .iter()
            .zip(into.chunks_exact_mut(len.max(1)))
            .map(|(&addr, piece)| self.read_exact(addr, piece).is_ok())
            .collect()
    }

    /// The 8 bytes at `addr` as a number of this machine's byte order.
    fn read_u64(&self, addr: u64) -> Result<u64, ProcessError> {
        let mut buf = [0; 8];
        self.read_exact(addr, &mut buf)?;
        Ok(u64::from_ne_bytes(buf))
    }

    /// The 4 bytes at `addr` as a number of this machine's byte order.
    fn read_u32(&self, addr: u64) -> Result<u32, ProcessError> {
        let mut buf = [0; 4];
        self.read_exact(addr, &mut buf)?;
        Ok(u32::from_ne_bytes(buf))
    }

    /// The bytes at `addr` before the first 0, at most `max` of them (then no 0 was seen).
    fn read_cstr(&self, addr: u64, max: usize) -> Result<Vec<u8>, ProcessError> {
        const STEP: usize = 256;
        let mut text = Vec::new();
        while text.len() < max {
            let mut buf = [0; STEP];
            let at = addr.wrapping_add(text.len() as u64);
            // Ask up to the next multiple of the step only: a string may end just before unmapped memory.
            let step = (STEP - (at % STEP as u64) as usize).min(max - text.len());
            let read = self.read(at, &mut buf[..step])?;
            if read == 0 {
                return Err(ProcessError::Unreadable { addr: at });
            }
            match buf[..read].iter().position(|&byte| byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&buf[..end]);
                    break;
                }
                None => text.extend_from_slice(&buf[..read]),
            }
        }
        Ok(text)
    }
}

impl<M: RemoteMemory + ?Sized> RemoteMemory for &M {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        (**self).read(addr, buf)
    }

    fn read_each(&self, addrs: &[u64], into: &mut [u8]) -> Vec<bool> {
        (**self).read_each(addrs, into)
    }

    fn populated(&self, range: Range<u64>) -> Range<u64> {
        (**self).populated(range)
    }
}

/// Pieces that one system call takes (`IOV_MAX`, limits.h).
const MAX_PIECES: usize = 1024;

/// The memory of a live process, which keeps running meanwhile.
///
/// `process_vm_readv` first: one system call, no file. `/proc/PID/mem` where that is not there
/// (`CONFIG_CROSS_MEMORY_ATTACH` off, seccomp of container runtimes) or refuses a page that the process
/// itself could not read. Both need the right to ptrace the process (ptrace(2), "access mode checking").
#[derive(Debug)]
pub struct ProcessMemory {
    pid: Pid,
    /// A thread that has the memory, see [`id_with_memory`].
    id: AtomicU32,
    mem: OnceLock<Option<File>>,
    pagemap: OnceLock<Option<File>>,
}

impl ProcessMemory {
    /// Memory of this process. Nothing is opened or checked yet: the first read tells.
    pub fn new(pid: Pid) -> Self {
        Self {
            pid,
            id: AtomicU32::new(pid),
            mem: OnceLock::new(),
            pagemap: OnceLock::new(),
        }
    }

    /// Whose memory it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    fn id(&self) -> Pid {
        self.id.load(Ordering::Relaxed)
    }

    /// Takes another thread, if the one that was taken has ended; false: none is left.
    fn take_other(&self) -> bool {
        let other = id_with_memory(self.pid);
        self.id.swap(other, Ordering::Relaxed) != other
    }

    fn read_vm(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
        let local = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        let remote = libc::iovec {
            iov_base: addr as usize as *mut libc::c_void,
            iov_len: buf.len(),
        };
        // SAFETY: `local` describes `buf`, which lives and is ours for the whole call; the kernel
        // checks `remote` against the other address space and writes at most `buf.len()` bytes.
        let read = unsafe { libc::process_vm_readv(self.id().cast_signed(), &local, 1, &remote, 1, 0) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Reads pieces of `len` bytes with one system call, from the first on. Says how many bytes were read.
    fn read_vm_pieces(&self, addrs: &[u64], len: usize, into: &mut [u8]) -> usize {
        let remote: Vec<libc::iovec> = addrs
            .iter()
            .map(|&addr| libc::iovec {
                iov_base: addr as usize as *mut libc::c_void,
                iov_len: len,
            })
            .collect();
        let local = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        // SAFETY: `local` describes `into`, which lives and is ours for the whole call; the kernel checks each
        // of `remote` against the other address space and writes at most `into.len()` bytes.
        let read = unsafe {
            libc::process_vm_readv(
                self.id().cast_signed(),
                &local,
                1,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        usize::try_from(read).unwrap_or(0)
    }

    fn read_mem(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mem = self
            .mem
            .get_or_init(|| File::open(format!("/proc/{}/mem", self.id())).ok());
        match mem {
            Some(mem) => mem.read_at(buf, addr),
            None => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }
}

impl RemoteMemory for ProcessMemory {
    fn read_each(&self, addrs: &[u64], into: &mut [u8]) -> Vec<bool> {
        let len = into.len() / addrs.len().max(1);
        if len == 0 {
            return vec![false; addrs.len()];
        }
        let mut were_read = Vec::with_capacity(addrs.len());
        let pieces = addrs.chunks(MAX_PIECES).zip(into.chunks_mut(MAX_PIECES * len));
        for (addrs, into) in pieces {
            // it stops at the first piece that is not there: the rest one by one
            let read = self.read_vm_pieces(addrs, len, into) / len;
            were_read.extend(std::iter::repeat_n(true, read));
            let rest = addrs.iter().zip(into.chunks_exact_mut(len)).skip(read);
            were_read.extend(rest.map(|(&addr, piece)| self.read_exact(addr, piece).is_ok()));
        }
        were_read
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        if buf.is_empty() {
            return Ok(0);
        }
        let err = match self.read_vm(addr, buf) {
            Ok(read) if read > 0 => return Ok(read),
            Ok(_) => io::Error::from_raw_os_error(libc::EFAULT),
            Err(err) => err,
        };
        if err.raw_os_error() == Some(libc::ESRCH) {
            return match self.take_other() {
                true => self.read(addr, buf),
                false => Err(ProcessError::Exited { pid: self.pid }),
            };
        }
        match self.read_mem(addr, buf) {
            Ok(read) if read > 0 => Ok(read),
            _ if matches!(err.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                let what = "cannot read the memory";
                Err(ProcessError::NotPermitted {
                    pid: self.pid,
                    what,
                    cause: err,
                })
            }
            _ => Err(ProcessError::Unreadable { addr }),
        }
    }

    /// By `/proc/PID/pagemap`: 8 bytes for each page, bit 63 is set if it is in memory and bit 62 if it is
    /// swapped out (Documentation/admin-guide/mm/pagemap.rst).
    fn populated(&self, range: Range<u64>) -> Range<u64> {
        const CONTENT: u64 = 3 << 62;
        /// 32 KiB of entries for 16 MiB.
        const MAX_PAGES: u64 = 4096;
        let page = rustix::param::page_size() as u64;
        let first = range.start / page;
        let pages = range.end.div_ceil(page).saturating_sub(first);
        let pagemap = self
            .pagemap
            .get_or_init(|| File::open(format!("/proc/{}/pagemap", self.id())).ok());
        let (Some(pagemap), 1..=MAX_PAGES) = (pagemap, pages) else {
            return range;
        };
        let mut entries = vec![0; pages as usize * 8];
        if pagemap.read_exact_at(&mut entries, first * 8).is_err() {
            return range;
        }
        let has_content = |entry: &[u8; 8]| u64::from_ne_bytes(*entry) & CONTENT != 0;
        let entries = entries.as_chunks::<8>().0;
        match (
            entries.iter().position(has_content),
            entries.iter().rposition(has_content),
        ) {
            (Some(low), Some(high)) => {
                let start = ((first + low as u64) * page).max(range.start);
                start..((first + high as u64 + 1) * page).min(range.end)
            }
            _ => range.start..range.start,
        }
    }
}

/// Pieces of memory held in our own: for tests, and for parts of a core file.
#[derive(Clone, Debug, Default)]
pub struct BufferMemory {
    /// Sorted by address, not overlapping.
    pieces: Vec<(u64, Vec<u8>)>,
}

impl BufferMemory {
    /// An address space with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts these bytes at `addr`. Pieces must not overlap; a read never crosses from one to the next
    /// in one call, [`RemoteMemory::read_exact`] does.
    #[must_use]
    pub fn with(mut self, addr: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let at = self.pieces.partition_point(|(start, _)| *start < addr);
        self.pieces.insert(at, (addr, bytes.into()));
        self
    }
}

impl RemoteMemory for BufferMemory {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        if buf.is_empty() {
            return Ok(0);
        }
        let after = self.pieces.partition_point(|(start, _)| *start <= addr);
        let piece = after.checked_sub(1).and_then(|at| self.pieces.get(at));
        let rest = piece.and_then(|(start, bytes)| bytes.get(usize::try_from(addr - start).ok()?..));
        match rest {
            Some(rest) if !rest.is_empty() => {
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
            _ => Err(ProcessError::Unreadable { addr }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_reads_as_it_is() {
        let text = *b"moonscope reads this\0and not this";
        let memory = ProcessMemory::new(std::process::id());
        let addr = text.as_ptr() as u64;
        assert_eq!(memory.read_cstr(addr, 100).unwrap(), b"moonscope reads this");
        assert_eq!(memory.read_cstr(addr, 4).unwrap(), b"moon");
        let number = 0x1122_3344_5566_7788u64;
        assert_eq!(memory.read_u64(&raw const number as u64).unwrap(), number);
        let half = 0xdead_beefu32;
        assert_eq!(memory.read_u32(&raw const half as u64).unwrap(), half);
    }

    #[test]
    fn many_pieces_are_read_though_some_are_not_there() {
        let numbers: Vec<u64> = (0..3000).map(|n| n * 0x0101_0101).collect();
        let mut addrs: Vec<u64> = numbers.iter().map(|number| &raw const *number as u64).collect();
        addrs[0] = 8;
        addrs[2000] = 16;
        let mut into = vec![0; 8 * addrs.len()];
        let were_read = ProcessMemory::new(std::process::id()).read_each(&addrs, &mut into);
        for (index, piece) in into.chunks_exact(8).enumerate() {
            assert_eq!(were_read[index], index != 0 && index != 2000);
            if were_read[index] {
                assert_eq!(u64::from_ne_bytes(piece.try_into().unwrap()), numbers[index]);
            }
        }
    }

    #[test]
    fn unmapped_memory_is_unreadable_and_an_unmapped_end_is_short() {
        // SAFETY: two fresh pages, the second given back at once; nobody else knows them.
        let page = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let pages = libc::mmap(
                std::ptr::null_mut(),
                8192,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(pages, libc::MAP_FAILED);
            pages.cast::<u8>().add(4095).write(b'x');
            libc::mprotect(pages.cast::<u8>().add(4096).cast(), 4096, libc::PROT_NONE);
            pages as u64
        };
        let memory = ProcessMemory::new(std::process::id());
        let mut buf = [0; 16];
        assert!(matches!(
            memory.read(0, &mut buf),
            Err(ProcessError::Unreadable { addr: 0 })
        ));
        assert!(matches!(memory.read_u64(0), Err(ProcessError::Unreadable { .. })));
        assert!(memory.read_exact(u64::MAX - 3, &mut buf).is_err());
        let read = memory.read(page + 4095, &mut buf).unwrap();
        assert!(read >= 1 && buf[0] == b'x');
    }

    #[test]
    fn pages_that_were_never_touched_are_not_populated() {
        const PAGE: u64 = 4096;
        // SAFETY: fresh pages, given back at the end; only the third is written
        let pages = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let pages = libc::mmap(std::ptr::null_mut(), 8 * 4096, writable, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            libc::madvise(pages, 8 * 4096, libc::MADV_NOHUGEPAGE);
            pages.cast::<u8>().add(2 * 4096).write(1);
            pages
        };
        let start = pages as u64;
        let memory = ProcessMemory::new(std::process::id());
        assert_eq!(
            memory.populated(start..start + 8 * PAGE),
            start + 2 * PAGE..start + 3 * PAGE
        );
        assert!(memory.populated(start..start + PAGE).is_empty());
        let middle = start + 2 * PAGE + 10;
        assert_eq!(memory.populated(middle..middle + 20), middle..middle + 20);
        // SAFETY: the pages from above
        unsafe { libc::munmap(pages, 8 * 4096) };
        assert_eq!(BufferMemory::new().populated(5..9), 5..9);
        assert_eq!(ProcessMemory::new(4_200_000).populated(5..9), 5..9);
    }

    #[test]
    fn memory_of_nobody_is_gone() {
        let err = ProcessMemory::new(4_200_000).read_u64(4096).unwrap_err();
        assert!(err.is_gone(), "{err}");
    }

    #[test]
    fn pieces_of_a_buffer_read_like_memory() {
        let memory = BufferMemory::new()
            .with(0x2000, *b"end\0")
            .with(0x1000, vec![1; 16])
            .with(0x1010, [2; 8]);
        let mut buf = [0; 20];
        assert_eq!(memory.read(0x1000, &mut buf).unwrap(), 16);
        memory.read_exact(0x1004, &mut buf).unwrap();
        assert_eq!(buf[11..13], [1, 2]);
        assert!(matches!(
            memory.read_exact(0x1008, &mut buf),
            Err(ProcessError::Unreadable { addr: 0x1018 })
        ));
        assert_eq!(memory.read_cstr(0x2000, 64).unwrap(), b"end");
        assert!(memory.read_u64(0x2000).is_err());
        assert!(memory.read_u64(0).is_err());
        assert!(memory.read_u64(u64::MAX).is_err());
        assert_eq!(memory.read(0x9999, &mut []).unwrap(), 0);
    }
}
