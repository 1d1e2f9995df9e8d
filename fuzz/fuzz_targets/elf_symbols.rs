//! Symbol tables, PLT, mini debug information and DWARF of any file.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moonscope_process::Executable;
use moonscope_symbols::{SymbolOptions, Symbolizer};

mod inputs;

fuzz_target!(|content: &[u8]| {
    let mut input = inputs::Bytes(content);
    let addresses: Vec<u64> = (0..8).map(|_| input.word().into()).collect();
    let Some((_file, path)) = inputs::file(input.0) else {
        return;
    };
    let Ok(executable) = Executable::open_path(Path::new(&path)) else {
        return;
    };
    let mut symbolizer = Symbolizer::new(SymbolOptions {
        inline: true,
        lines: true,
        demangle: true,
        debug_dirs: Vec::new(),
    });
    let names = symbolizer.native(&executable, &addresses);
    assert_eq!(names.len(), addresses.len());
    assert!(names.iter().flatten().all(|symbol| symbol.function.len() <= 8192));
    symbolizer.coverage(&executable);
});
