//! What the kernel side and the user side share, generated from `bpf/abi.h` by bindgen.
//!
//! Names and numbers are those of the C header, which also documents them.

/// The generated bindings as they are.
#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unused_qualifications,
    clippy::all
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

pub use generated::*;

/// `MS_SEGMENT_TRACE` of `bpf/abi.h`; bindgen takes bit 63 for a sign.
pub const MS_SEGMENT_TRACE: u64 = generated::MS_SEGMENT_TRACE as u64;

/// `MS_FRAME_EXACT` of `bpf/abi.h`; bindgen takes bit 63 for a sign.
pub const MS_FRAME_EXACT: u64 = generated::MS_FRAME_EXACT as u64;
