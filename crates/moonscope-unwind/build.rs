//! Rust bindings of `bpf/abi.h` and, if asked for, the walker of `bpf/walk.h` compiled for the host.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let bpf = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../bpf");
    bindings(&bpf)?;
    if env::var_os("CARGO_FEATURE_HOST_WALKER").is_some() {
        host_walker(&bpf);
    }
    Ok(())
}

fn bindings(bpf: &Path) -> Result<(), Box<dyn Error>> {
    let header = bpf.join("abi.h");
    println!("cargo:rerun-if-changed={}", header.display());
    bindgen::Builder::default()
        .header(header.to_string_lossy())
        // abi.h leaves the fixed-width types to whoever includes it
        .clang_args(["-include", "linux/types.h"])
        .allowlist_item("(ms|MS)_.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_eq(true)
        .derive_hash(true)
        .formatter(bindgen::Formatter::None)
        .generate()?
        .write_to_file(PathBuf::from(env::var("OUT_DIR")?).join("abi.rs"))?;
    Ok(())
}

fn host_walker(bpf: &Path) {
    // the walker is spread over many of them
    println!("cargo:rerun-if-changed={}", bpf.display());
    println!("cargo:rerun-if-changed=src/walk_host.c");
    cc::Build::new()
        .file("src/walk_host.c")
        .include(bpf)
        .flag_if_supported("-Wno-unknown-pragmas")
        .compile("ms_walk_host");
}
