//! A global array of the BPF object in our memory: filling a table costs a copy, no system call.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

use libbpf_rs::{AsRawLibbpf, MapCore, libbpf_sys};

use crate::error::ProbeError;

/// `len` values of `T` that the kernel side reads. `T` is plain data of `bpf/abi.h`.
///
/// It lies in the mapping that libbpf makes of each global section, and must not outlive the object.
#[derive(Debug)]
pub struct SharedArray<T> {
    base: NonNull<T>,
    len: usize,
    _holds: PhantomData<T>,
}

impl<T: Copy> SharedArray<T> {
    /// The array that is all of a global section, such as `.bss.words`.
    pub fn of_section(object: &libbpf_rs::Object, section: &'static str) -> Result<Self, ProbeError> {
        let missing = || ProbeError::Map {
            map: section,
            source: io::ErrorKind::NotFound.into(),
        };
        let map = object
            .maps()
            .find(|map| map.name() == section)
            .ok_or_else(missing)?;
        let mut bytes = 0;
        // SAFETY: the map is one of a loaded object; the call only reads from it.
        let base = unsafe { libbpf_sys::bpf_map__initial_value(map.as_libbpf_object().as_ptr(), &mut bytes) };
        let base = NonNull::new(base.cast::<T>()).ok_or_else(missing)?;
        Ok(Self {
            base,
            len: bytes as usize / size_of::<T>(),
            _holds: PhantomData,
        })
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
