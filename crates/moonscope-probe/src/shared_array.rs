//! A global array of the BPF object, mapped into our memory: filling a table costs a copy, no system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// `len` values of `T` that the kernel side reads. `T` is plain data of `bpf/abi.h`.
#[derive(Debug)]
pub struct SharedArray<T> {
    base: NonNull<T>,
    bytes: usize,
    len: usize,
    _owns: PhantomData<T>,
}

impl<T: Copy> SharedArray<T> {
    /// Maps the array behind a BPF map's file descriptor, which must hold `len` values.
    pub fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let bytes = (len * size_of::<T>()).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)?
        };
        let base = NonNull::new(base.cast::<T>()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { base, bytes, len, _owns: PhantomData })
    }

    /// Copies values to position `at`. Nothing is written when they do not fit.
    pub fn write(&mut self, at: usize, values: &[T]) -> bool {
        if at.checked_add(values.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: the range was checked, and source and destination cannot overlap. The kernel side may
        // read meanwhile; it is only led to a range after it was written (see `TableStore`).
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.base.as_ptr().add(at), values.len()) };
        // what was written stands before whatever is published next
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        true
    }

    /// A copy of the value at position `at`.
    pub fn read(&self, at: usize) -> Option<T> {
        // SAFETY: the position was checked; the kernel side writes only whole counters.
        (at < self.len).then(|| unsafe { self.base.as_ptr().add(at).read_volatile() })
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of our own mapping, and no reference into it is left. A
        // failure leaves the mapping in place, which is harmless.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
