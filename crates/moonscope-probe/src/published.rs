//! What the kernel side knows of processes: the map `processes`, and the array of mappings that it points into.
//!
//! A slice of the array that is given back is not written again before every walk that may read it has ended
//! (`slices`). So that no later walk finds it, the process is told of its new slice, or withdrawn, before.

use std::ops::Range;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use moonscope_process::Pid;
use moonscope_unwind::abi;

use crate::error::ProbeError;
use crate::generation::Generation;
use crate::limits::Limits;
use crate::shared_array::SharedArray;
use crate::slices::Slices;

/// The map and the array.
pub struct Published {
    map: MapHandle,
    array: SharedArray<abi::ms_mapping>,
    slices: Slices,
}

impl Published {
    /// Takes the map `processes` and the array `ms_mappings` of a loaded object, which must outlive it.
    pub fn new(map: MapHandle, object: &libbpf_rs::Object, limits: &Limits) -> Result<Self, ProbeError> {
        Ok(Self {
            map,
            array: SharedArray::of_section(object, ".bss.mappings")?,
            slices: Slices::new(limits.mappings),
        })
    }

    /// Mappings that there is room for, if they need not lie side by side.
    pub fn room(&self) -> usize {
        self.slices.room()
    }

    /// Writes the mappings of a process where the kernel side can read them; `None` if there is no room.
    pub fn write(&mut self, mappings: &[abi::ms_mapping]) -> Option<Range<usize>> {
        let slice = self.slices.take(mappings.len())?;
        self.array.write(slice.start, mappings);
        Some(slice)
    }

    /// Tells the kernel side of a process. Without a slice each of its samples is walked in user space. Says
    /// whether there was room in the map.
    pub fn tell(&self, pid: Pid, generation: &Generation, slice: &Range<usize>, exec_vm: u64) -> bool {
        let process = abi::ms_process {
            first: slice.start as u32,
            count: slice.len() as u32,
            generation: generation.number,
            exec_vm,
            state: if slice.len() == generation.mappings.len() {
                abi::MS_PROCESS_READY
            } else {
                abi::MS_PROCESS_NEW
            },
            unused: 0,
        };
        // SAFETY: plain data without padding, as `bpf/abi.h` lays it out.
        let value = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&process).cast::<u8>(), size_of_val(&process))
        };
        self.map.update(&pid.to_ne_bytes(), value, MapFlags::ANY).is_ok()
    }

    /// The kernel side shall know nothing of this process. It mostly forgot it by itself, when the program
    /// ended; not if it was told of it later than that.
    pub fn withdraw(&self, pid: Pid) {
        let _ = self.map.delete(&pid.to_ne_bytes());
    }

    /// Gives a slice back that no process points to any more.
    pub fn give(&mut self, slice: Range<usize>) {
        self.slices.give(slice);
    }
}
