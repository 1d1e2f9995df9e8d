//! A file under a name of its own, until it is whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::Existing;

/// A file with a name that nobody waits for. Removed unless it is published.
pub(super) struct Temporary {
    /// To be written to.
    pub(super) file: File,
    path: PathBuf,
}

impl Temporary {
    /// Makes one beside `target`, with a name of its own.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Room for what is added, in names of up to 255 bytes.
        let name: String = name.chars().take(50).collect();
        for nr in 0..100 {
            let path = target.with_file_name(format!(".{name}.{}-{nr}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path }),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(err),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Gives the file its name.
    pub(super) fn publish(self, target: &Path, existing: Existing) -> io::Result<()> {
        if existing == Existing::Replace {
            return fs::rename(&self.path, target);
        }
        // A link, unlike a rename, fails when the name is taken, even if that happened just now.
        match fs::hard_link(&self.path, target) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Err(err),
            // File systems without links, such as FAT.
            Err(_) if fs::symlink_metadata(target).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(&self.path, target),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after a rename.
        let _ = fs::remove_file(&self.path);
    }
}
