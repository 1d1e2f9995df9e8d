//! What the running kernel has, by its own type information; and which one it is.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use libbpf_rs::libbpf_sys;

/// Does this kernel have this tracepoint? Each has a type of its own (include/trace/bpf_probe.h, Linux 5.5).
pub fn has_tracepoint(name: &str) -> bool {
    has_type(&format!("btf_trace_{name}"))
}

/// Is it this version, or a later one? Only where nothing tells what is asked for.
pub fn is_kernel_at_least(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (first, second) = (numbers.next(), numbers.next());
    matches!((first, second), (Some(Ok(a)), Some(Ok(b))) if (a, b) >= (major, minor))
}

/// Does this kernel have this type?
pub fn has_type(name: &str) -> bool {
    with_types(|types| find(types, name)).is_some()
}

/// How many arguments a tracepoint has; `None`: there is none of this name.
pub fn tracepoint_arguments(name: &str) -> Option<u32> {
    with_types(|types| {
        let name = format!("btf_trace_{name}");
        let mut id = find(types, &name)?;
        // the name of a pointer to a function, whose first argument is the probe's own
        for _ in 0..2 {
            id = type_of(types, id)?.0;
        }
        type_of(types, id)?.1.checked_sub(1)
    })
}

/// Does this kernel have this BPF helper? Each is a value of an enumeration (include/uapi/linux/bpf.h).
pub fn has_helper(name: &str) -> bool {
    with_types(|types| {
        let id = find(types, "bpf_func_id")?;
        names_in_enumeration(types, id)?
            .any(|other| other.to_bytes() == name.as_bytes())
            .then_some(())
    })
    .is_some()
}

/// Can a program that several perf events have be told for which of them it runs? Since Linux 5.15.
pub fn tells_events_apart() -> bool {
    has_helper("BPF_FUNC_get_attach_cookie")
}

/// May a program of a tracepoint be preempted (`bpf/tracepoint.h`)? Since Linux 7.0 tracepoints are guarded by SRCU and not by disabled preemption
/// (`__DO_TRACE_CALL`, include/linux/tracepoint.h).
pub fn preempts_tracepoints() -> bool {
    is_kernel_at_least(7, 0)
}

/// The kernel's types, in memory: some 8 MiB.
struct Types(*mut libbpf_sys::btf);

impl Types {
    fn load() -> Option<Self> {
        // that there are no types is told when the programs are loaded
        let printing = libbpf_rs::set_print(None);
        // SAFETY: no memory is passed; what is given is freed when this is dropped.
        let types = unsafe { libbpf_sys::btf__load_vmlinux_btf() };
        libbpf_rs::set_print(printing);
        (!types.is_null()).then_some(Self(types))
    }
}

impl Drop for Types {
    fn drop(&mut self) {
        // SAFETY: they were loaded above, and nothing of them is kept.
        unsafe { libbpf_sys::btf__free(self.0) };
    }
}

thread_local! {
    /// They take some 25 ms to load, and each event has questions.
    static KEPT: RefCell<Option<Types>> = const { RefCell::new(None) };
}

/// Frees the memory of the types; they are loaded again when something is asked.
pub fn forget() {
    KEPT.take();
}

fn with_types<T>(look: impl FnOnce(&Types) -> Option<T>) -> Option<T> {
    KEPT.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Types::load();
        }
        look(kept.as_ref()?)
    })
}

/// The number of the type of this name.
fn find(types: &Types, name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the types are there, and the name is a C string.
    let id = unsafe { libbpf_sys::btf__find_by_name(types.0, name.as_ptr()) };
    u32::try_from(id).ok().filter(|id| *id > 0)
}

/// Which type this one is made of, and how many parts it has (`struct btf_type` of include/uapi/linux/btf.h).
fn type_of(types: &Types, id: u32) -> Option<(u32, u32)> {
    // SAFETY: the types are there; what is given points into them, or is NULL.
    let found = unsafe { libbpf_sys::btf__type_by_id(types.0, id).as_ref() }?;
    // SAFETY: both fields of the union are plain numbers of the same size.
    let of = unsafe { found.__bindgen_anon_1.type_ };
    Some((of, found.info & 0xffff))
}

/// Names of the values of an enumeration (`struct btf_enum`).
fn names_in_enumeration(types: &Types, id: u32) -> Option<impl Iterator<Item = &CStr>> {
    const BTF_KIND_ENUM: u32 = 6;
    // SAFETY: the types are there; what is given points into them, or is NULL.
    let found = unsafe { libbpf_sys::btf__type_by_id(types.0, id).as_ref() }?;
    if found.info >> 24 & 0x1f != BTF_KIND_ENUM {
        return None;
    }
    let first = std::ptr::from_ref(found)
        .wrapping_add(1)
        .cast::<libbpf_sys::btf_enum>();
    let count = (found.info & 0xffff) as usize;
    // SAFETY: so many values stand behind the type, which libbpf has checked; both have alignment 4.
    let values = unsafe { std::slice::from_raw_parts(first, count) };
    Some(values.iter().filter_map(|value| {
        // SAFETY: the types are there; what is given is a C string in them, or NULL.
        unsafe {
            let name = libbpf_sys::btf__name_by_offset(types.0, value.name_off);
            (!name.is_null()).then(|| CStr::from_ptr(name))
        }
    }))
}
