//! Large global arrays of the BPF object, which begin empty.
//!
//! libbpf fills every global section with what the object file has for it, also where that is nothing (`populate_internal_map`
//! in libbpf.c): it touches all of it, and the kernel copies it twice. For 16 MiB of unwind rows that is some 50 ms and as much
//! memory. A map that was made before is left as the kernel made it, zero; then the mapping that libbpf has made for it is to
//! be replaced here.

use std::os::fd::AsFd;

use libbpf_rs::{AsRawLibbpf, MapCore, MapHandle, MapType, OpenMapMut, libbpf_sys};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Makes the map of a section, once its size is settled.
pub fn make(section: &mut OpenMapMut<'_>) -> Result<(), libbpf_rs::Error> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: libbpf_sys::BPF_F_MMAPABLE,
        ..Default::default()
    };
    let name = Some(section.name());
    let size = section.value_size();
    let made = MapHandle::create(MapType::Array, name, 4, size, 1, &options)?;
    section.reuse_fd(made.as_fd())
}

/// Puts the maps that were made here where libbpf expects those of global sections, in a loaded object.
pub fn map_in(object: &libbpf_rs::Object, sections: &[&str]) -> Result<(), libbpf_rs::Error> {
    for map in object.maps() {
        if !sections.iter().any(|section| map.name() == *section) {
            continue;
        }
        let mut bytes = 0;
        // SAFETY: the map is one of a loaded object; the call only reads from it.
        let base = unsafe { libbpf_sys::bpf_map__initial_value(map.as_libbpf_object().as_ptr(), &mut bytes) };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: libbpf has mapped so much there, in whole pages, for this map alone (`bpf_map_mmap_sz`), and unmaps it when
        // the object is closed. Nothing refers to it yet.
        unsafe {
            mmap(
                base,
                bytes as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                map.as_fd(),
                0,
            )
        }
        .map_err(std::io::Error::from)?;
    }
    Ok(())
}
