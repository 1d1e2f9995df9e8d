//! Our own form: everything a profile holds, as JSON. `docs/formats.md` describes it for others.

mod read;
mod visible;
mod write;

pub(crate) use read::read;
pub(crate) use visible::to_writer;
pub(crate) use write::write;

/// The value of `format` in each file.
const FORMAT: &str = "moonscope-profile";
/// The newest version. It changes when a program that reads the old one would misread the new one;
/// additions that can be ignored do not change it.
const VERSION: u64 = 1;
