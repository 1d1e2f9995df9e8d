//! What the running kernel's own type information says that it has.

use std::ffi::CString;

use libbpf_rs::libbpf_sys;

/// Does this kernel have this tracepoint? Each has a type of its own (include/trace/bpf_probe.h, Linux 5.5).
pub fn has_tracepoint(name: &str) -> bool {
    has_type(&format!("btf_trace_{name}"))
}

/// Does this kernel have this type?
pub fn has_type(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // that there are no types is told when the programs are loaded
    let printing = libbpf_rs::set_print(None);
    // SAFETY: the name is a C string; the types are freed below, and nothing of them is kept.
    let found = unsafe {
        let types = libbpf_sys::btf__load_vmlinux_btf();
        let found = !types.is_null() && libbpf_sys::btf__find_by_name(types, name.as_ptr()) > 0;
        libbpf_sys::btf__free(types);
        found
    };
    libbpf_rs::set_print(printing);
    found
}
