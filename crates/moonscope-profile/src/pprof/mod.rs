//! pprof: the protocol buffer of `go tool pprof`, compressed with gzip.
//!
//! Written so that other readers show what we know: names, files, lines, inlined functions, labels,
//! modules with build ids. pprof has no place for the kind of a frame; it goes into the
//! `system_name` of a function, as `docs/formats.md` says, and is found again there.

mod message;
mod read;
mod scan;
mod write;

pub(crate) use read::{looks_raw, read};
pub(crate) use write::write;

use crate::frame::FrameKind;

/// What follows the name in `system_name`, for each kind that is not a plain native function.
const KIND_SUFFIXES: [(FrameKind, &str); 5] = [
    (FrameKind::Kernel, "_[k]"),
    (FrameKind::LuaInterpreted, "_[l]"),
    (FrameKind::LuaCompiled, "_[j]"),
    (FrameKind::LuaBuiltin, "_[b]"),
    (FrameKind::Marker, "_[m]"),
];

/// Comments of ours are `key: value`, after the first one, `producer: moonscope …`.
mod comment {
    pub(super) const PRODUCER: &str = "producer";
    pub(super) const EVENT: &str = "event";
    pub(super) const FREQUENCY: &str = "frequency-hz";
    pub(super) const TARGET: &str = "target";
    pub(super) const HOST: &str = "host";
    pub(super) const KERNEL: &str = "kernel";
    pub(super) const ACCOUNTING: &str = "accounting";
}
