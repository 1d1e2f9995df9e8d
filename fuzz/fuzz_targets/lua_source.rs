//! Lua sources that the profiled process sees, and the names of its chunks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_luajit::chunk::short_source;
use moonscope_luajit::{Chunk, SourceFile};

fuzz_target!(|content: &[u8]| {
    if let Ok(source) = SourceFile::parse_with_words(content) {
        // one line more than there are ends of lines
        let lines = 1 + content
            .iter()
            .filter(|byte| matches!(byte, b'\n' | b'\r'))
            .count() as u32;
        for function in source.functions() {
            assert!(function.first_line <= function.last_line && function.last_line <= lines);
            source.has_words(function.first_line..=function.last_line, &[b"self".to_vec()]);
        }
    }
    let _ = Chunk::parse(content, 1);
    assert!(short_source(content, 1).len() <= 3 * content.len() + 64);
});
