//! Files by number: what the kernel side calls those that it met, and what they are called (`bpf/file_path.h`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use moonscope_process::mountinfo::{self, Mount};
use moonscope_process::visible;
use moonscope_unwind::abi;
use rustc_hash::FxHashMap;

use crate::sample::FileRecord;
use crate::skeleton::MoonscopeSkel;

/// Were there files for which the kernel side had no number left?
pub fn has_too_many_files(skel: &MoonscopeSkel<'static>) -> bool {
    let state = skel.maps.bss_files_data.as_deref();
    state.is_some_and(|state| state.files_without_number != 0)
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileName {
    /// From a root, escaped; `None`: only its inode is known.
    path: Option<String>,
    inode: u64,
    device: (u32, u32),
    /// The root is the one of a mount namespace; else of its file system.
    is_whole: bool,
}

/// Names of files.
#[derive(Clone, Debug, Default)]
pub struct FileNames {
    names: FxHashMap<u32, FileName>,
    mounts: Vec<Mount>,
}

impl FileNames {
    /// Remembers what a file is called. The kernel side tells of each once, and of so many only (`Limits::files`).
    pub fn add(&mut self, file: &FileRecord<'_>) {
        let head = &file.head;
        // include/linux/kdev_t.h
        let device = (head.device >> 20, head.device & 0xf_ffff);
        let name = FileName {
            path: path(head, file.names),
            inode: head.inode,
            device,
            is_whole: head.from_root != 0,
        };
        self.names.insert(head.number, name);
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Looks where file systems are mounted, if that is needed.
    pub fn find_mounts(&mut self) {
        if self.names.values().any(|name| !name.is_whole) {
            // without it names begin with the number of the device
            self.mounts = mountinfo::read().unwrap_or_default();
        }
    }

    /// The name of a file; `None`: it has none.
    pub fn name(&self, number: u32) -> Option<String> {
        let file = self.names.get(&number)?;
        let (major, minor) = file.device;
        let Some(path) = &file.path else {
            return Some(format!("inode {} of {major}:{minor}", file.inode));
        };
        if file.is_whole {
            return Some(path.clone());
        }
        Some(match self.mount_point(file.device) {
            Some(point) if point == "/" => path.clone(),
            Some(point) => format!("{point}{path}"),
            None => format!("{major}:{minor}:{path}"),
        })
    }

    /// Where a file system is mounted as a whole.
    fn mount_point(&self, device: (u32, u32)) -> Option<String> {
        let is_its = |mount: &&Mount| mount.device == device && mount.root.as_os_str() == "/";
        let points = self.mounts.iter().filter(is_its).map(|mount| &mount.point);
        let shortest = points.min_by_key(|point| point.as_os_str().len())?;
        Some(visible(shortest).to_string())
    }
}

/// The path of names, each with a NUL behind it, leaf first.
fn path(head: &abi::ms_file_event, names: &[u8]) -> Option<String> {
    let is_cut = head.flags & abi::MS_FILE_CUT != 0;
    if is_cut && names.is_empty() {
        return None;
    }
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    let mut path = Vec::new();
    if is_cut {
        path.extend_from_slice("…".as_bytes());
    }
    for name in names.rsplit(|&byte| byte == 0) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    let mut path = visible(OsStr::from_bytes(&path)).to_string();
    if head.flags & abi::MS_FILE_DELETED != 0 {
        path.push_str(" (deleted)");
    }
    Some(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named(names: &[u8], flags: u32, from_root: u32) -> FileNames {
        let head = abi::ms_file_event {
            number: 7,
            inode: 12,
            device: 254 << 20 | 3,
            flags,
            from_root,
            ..Default::default()
        };
        let mut files = FileNames::default();
        files.add(&FileRecord { head, names });
        files
    }

    #[test]
    fn names_come_leaf_first() {
        let files = named(b"a.log\0log\0var\0", 0, 1);
        assert_eq!(files.name(7).unwrap(), "/var/log/a.log");
        assert_eq!(files.name(8), None);
        assert_eq!(named(b"", 0, 1).name(7).unwrap(), "/");
    }

    #[test]
    fn what_is_missing_or_gone_is_said() {
        let files = named(b"a\0b\0", abi::MS_FILE_CUT | abi::MS_FILE_DELETED, 1);
        assert_eq!(files.name(7).unwrap(), "…/b/a (deleted)");
        assert_eq!(
            named(b"", abi::MS_FILE_CUT, 0).name(7).unwrap(),
            "inode 12 of 254:3"
        );
    }

    #[test]
    fn a_hostile_name_is_escaped() {
        let files = named(b"\x1b[31m\n\xff\0", 0, 1);
        assert_eq!(files.name(7).unwrap(), "/\\x1b[31m\\n\\xff");
    }

    #[test]
    fn a_path_within_a_file_system_begins_where_that_is_mounted() {
        let mut files = named(b"x\0", 0, 0);
        assert_eq!(files.name(7).unwrap(), "254:3:/x");
        files.mounts = mountinfo::parse(
            b"1 0 254:3 /sub /s rw - ext4 /dev/vda rw\n2 0 254:3 / /mnt/a rw - ext4 /dev/vda rw\n",
        );
        assert_eq!(files.name(7).unwrap(), "/mnt/a/x");
        files.mounts = mountinfo::parse(b"1 0 254:3 / / rw - ext4 /dev/vda rw\n");
        assert_eq!(files.name(7).unwrap(), "/x");
    }
}
