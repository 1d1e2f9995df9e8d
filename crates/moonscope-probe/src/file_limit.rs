//! Is there room for the files that a recording needs? libbpf tells of a full table in many ways, and most of them look like
//! a missing feature of the kernel.

use std::fs::File;

use rustix::process::{Resource, getrlimit};

use crate::error::ProbeError;

/// Fails if not so many files more can be open at a time. Tried, because others share the limit of the machine, and nobody
/// tells how many are open here.
pub fn check(files: usize) -> Result<(), ProbeError> {
    let opened: Result<Vec<File>, _> = (0..files).map(|_| File::open("/dev/null")).collect();
    match opened {
        Err(err) if err.raw_os_error() == Some(libc::EMFILE) => Err(ProbeError::TooManyFiles {
            limit: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        }),
        // whatever else it is, loading says it
        _ => Ok(()),
    }
}
