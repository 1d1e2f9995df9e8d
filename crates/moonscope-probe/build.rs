//! Compiles the objects of `bpf/` and generates their skeletons into `OUT_DIR`.

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let bpf = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed={}", bpf.display());
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("aarch64") => "arm64",
        _ => "x86",
    };
    for object in ["moonscope", "waiting"] {
        build(object, &bpf, &out, arch);
    }
}

fn build(object: &str, bpf: &Path, out: &Path, arch: &str) {
    let source = bpf.join(format!("{object}.bpf.c"));
    let built = SkeletonBuilder::new()
        .source(&source)
        .obj(out.join(format!("{object}.bpf.o")))
        .clang_args([
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-Werror",
            &format!("-D__TARGET_ARCH_{arch}"),
        ])
        .build_and_generate(out.join(format!("{object}.skel.rs")));
    if let Err(err) = built {
        println!(
            "cargo:error=cannot compile {} (is clang 14 or later installed?): {err:?}",
            source.display()
        );
        std::process::exit(1);
    }
}
