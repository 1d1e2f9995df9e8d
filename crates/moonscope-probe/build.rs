//! Compiles `bpf/moonscope.bpf.c` and generates its skeleton into `OUT_DIR`.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let bpf = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed={}", bpf.display());
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("aarch64") => "arm64",
        _ => "x86",
    };
    let built = SkeletonBuilder::new()
        .source(bpf.join("moonscope.bpf.c"))
        .obj(out.join("moonscope.bpf.o"))
        .clang_args([
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-Werror",
            &format!("-D__TARGET_ARCH_{arch}"),
        ])
        .build_and_generate(out.join("moonscope.skel.rs"));
    if let Err(err) = built {
        println!("cargo:error=cannot compile bpf/moonscope.bpf.c (is clang 14 or later installed?): {err:?}");
        std::process::exit(1);
    }
}
