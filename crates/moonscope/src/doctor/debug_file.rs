//! The separate debug file of an executable: by build id, else by its debug link.
//!
//! Places as in the GDB manual, "Debugging Information in Separate Files". A file counts only if its
//! build id, or the checksum in the link, says that it belongs.

use moonscope_process::Executable;
use object::Object;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const DEBUG_DIR: &str = "/usr/lib/debug";
/// Larger debug files are not looked into here; that of a browser has some 1.5 GB.
const MAX_FILE: u64 = 512 << 20;

/// A debug file that belongs to the executable.
pub(super) struct Search {
    /// As the process sees it.
    pub(super) path: PathBuf,
    /// Its bytes.
    pub(super) data: Vec<u8>,
}

/// Looks for the debug file of an executable in the root of its process.
pub(super) fn find(executable: &Executable, elf: &object::File<'_>) -> Option<Search> {
    let id = executable.build_id().map(ToString::to_string);
    if let Some((first, rest)) = id.as_ref().and_then(|id| id.split_at_checked(2)) {
        let path = Path::new(DEBUG_DIR)
            .join(".build-id")
            .join(first)
            .join(format!("{rest}.debug"));
        let same_id = |data: &[u8]| build_id(data) == id;
        if let Some(found) = open(executable, path, same_id) {
            return Some(found);
        }
    }
    let (name, checksum) = elf.gnu_debuglink().ok()??;
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    // A name, not a way: a link such as `../../etc/x` is nobody's debug file.
    let name = Path::new(name.file_name().filter(|base| *base == name.as_os_str())?);
    let own = executable.path_in_root(executable.path());
    let dir = own.parent()?;
    let places = [
        dir.join(name),
        dir.join(".debug").join(name),
        Path::new(DEBUG_DIR)
            .join(dir.strip_prefix("/").unwrap_or(dir))
            .join(name),
    ];
    let places = places.into_iter().filter(|place| *place != own);
    let belongs = |data: &[u8]| (id.is_some() && build_id(data) == id) || crc32fast::hash(data) == checksum;
    places
        .into_iter()
        .find_map(|place| open(executable, place, belongs))
}

fn open(executable: &Executable, path: PathBuf, belongs: impl Fn(&[u8]) -> bool) -> Option<Search> {
    let file: File = executable.open_beside(&path).ok()?;
    if file.metadata().ok()?.len() > MAX_FILE {
        return None;
    }
    let mut data = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut data).ok()?;
    belongs(&data).then_some(Search { path, data })
}

fn build_id(data: &[u8]) -> Option<String> {
    let id = object::File::parse(data).ok()?.build_id().ok()??.to_vec();
    Some(moonscope_process::BuildId::new(id)?.to_string())
}
