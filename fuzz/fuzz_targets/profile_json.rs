//! Our own JSON: any input is a profile or an error, and what was read can be written in every format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_profile::{Format, WriteOptions};

fuzz_target!(|content: &[u8]| {
    let Ok(profile) = Format::Json.parse(content) else {
        return;
    };
    for format in Format::all() {
        let _ = format.write(&profile, &WriteOptions::default(), &mut std::io::sink());
    }
});
