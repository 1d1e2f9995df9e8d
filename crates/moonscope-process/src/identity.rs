//! When are two files the same executable?
//!
//! The build id alone cannot say: anybody can write one into a file, `objcopy` and `patchelf` keep it,
//! and then the unwind table of one file would be used for another. What goes into the key beside it is
//! a hash of the headers, the size and the search table of the unwind information
//! (`PT_GNU_EH_FRAME`, one entry for each function), with a random seed of this run, so that nobody can
//! make a file that collides with another one.

use crate::elf::{Headers, ReadAt};
use std::collections::HashMap;
use std::fmt;
use std::fs::Metadata;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Of the search table at most this much is hashed; libLLVM's has 760 KiB.
const MAX_HASHED: u64 = 1 << 20;
/// Hashes remembered, 64 bytes each; above it all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// The GNU build id of an ELF file: what the linker says identifies its contents.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// A build id of these bytes; `None` if there are none.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// The bytes, usually 20 of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// What makes an executable this one and no other: the key of unwind tables and symbol caches. Valid
/// within one run of moonscope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExecutableKey {
    /// The file has a build id: the same in all containers and copies.
    BuildId {
        /// The build id.
        id: BuildId,
        /// Hash of what a forged or stale build id would not match.
        layout: u64,
    },
    /// The file has none: known by where it is.
    File {
        /// Device number as in stat(2).
        device: u64,
        /// Inode number.
        inode: u64,
        /// Size in bytes.
        size: u64,
        /// Time of the last change of the contents, in nanoseconds since 1970.
        mtime_ns: i64,
    },
    /// The kernel's vDSO: known by its contents.
    Vdso {
        /// Hash of the whole image.
        hash: u64,
    },
}

impl ExecutableKey {
    /// Key of a file. `metadata` is what fstat says of it.
    pub(crate) fn of_file(
        file: &(impl ReadAt + ?Sized),
        headers: &Headers,
        build_id: Option<&BuildId>,
        metadata: &Metadata,
    ) -> Self {
        match build_id {
            Some(id) => {
                let layout = remembered(metadata, || layout_hash(file, headers, metadata.size()));
                Self::BuildId {
                    id: id.clone(),
                    layout,
                }
            }
            None => Self::File {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            },
        }
    }

    /// Key of a vDSO image.
    pub(crate) fn of_vdso(image: &[u8]) -> Self {
        let mut hasher = seed().build_hasher();
        hasher.write(image);
        Self::Vdso {
            hash: hasher.finish(),
        }
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn seed() -> &'static RandomState {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    SEED.get_or_init(RandomState::new)
}

fn layout_hash(file: &(impl ReadAt + ?Sized), headers: &Headers, size: u64) -> u64 {
    let mut hasher = seed().build_hasher();
    hasher.write_u64(size);
    hasher.write(&headers.raw);
    if let Some((offset, len)) = headers.eh_frame_hdr {
        let len = len.min(MAX_HASHED).min(size.saturating_sub(offset));
        let mut table = vec![0; usize::try_from(len).unwrap_or(0)];
        if file.read_exact_at(&mut table, offset).is_ok() {
            hasher.write(&table);
        }
    }
    hasher.finish()
}

/// Fifty workers map the same sixty files: what has been hashed is not read again while the file is
/// unchanged. The time of change of the inode (ctime) is there because no program can set it.
fn remembered(metadata: &Metadata, hash: impl FnOnce() -> u64) -> u64 {
    static KNOWN: Mutex<Option<HashMap<[u64; 5], u64>>> = Mutex::new(None);
    let id = [
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        nanoseconds(metadata.mtime(), metadata.mtime_nsec()).cast_unsigned(),
        nanoseconds(metadata.ctime(), metadata.ctime_nsec()).cast_unsigned(),
    ];
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&hash) = known().get_or_insert_default().get(&id) {
        return hash;
    }
    let hash = hash();
    let mut known = known();
    let known = known.get_or_insert_default();
    if known.len() >= MAX_REMEMBERED {
        known.clear();
    }
    known.insert(id, hash);
    hash
}
