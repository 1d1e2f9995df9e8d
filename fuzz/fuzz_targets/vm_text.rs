//! LuaJIT in any file: where its VM is, what its code tells of its layout, and where coroutines begin and yield.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_luajit::{coroutine_probes, decode_layout, find_vms};

fuzz_target!(|content: &[u8]| {
    for vm in find_vms(content).unwrap_or_default() {
        let _ = decode_layout(content, &vm);
        let _ = coroutine_probes(content, &vm);
    }
});
