//! An ELF file that some process maps, held open whatever happens to its name.
//!
//! How the file behind a mapping is opened: `mapped_file.rs`. After that a path is only a name for people.

pub use crate::elf::Segment;
use crate::elf::{Headers, ReadAt};
pub use crate::identity::{BuildId, ExecutableKey};
use crate::maps::{Mapping, MappingName};
use crate::memory::{ProcessMemory, RemoteMemory};
use crate::root::{self, Root};
use crate::{Pid, ProcessError, mapped_file, sigbus};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The vDSO is two pages on x86-64 and one or two on arm64; more than this is not one.
const MAX_VDSO: u64 = 1 << 20;

/// An ELF file. Use it as `Arc<Executable>`: it owns a file descriptor.
#[derive(Debug)]
pub struct Executable {
    key: ExecutableKey,
    build_id: Option<BuildId>,
    path: PathBuf,
    name: String,
    root: Option<Root>,
    size: u64,
    /// Time of the last change of the contents when it was opened.
    modified: (i64, i64),
    headers: Headers,
    source: Source,
    data: Mutex<Weak<ExecutableData>>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Vdso(Arc<ExecutableData>),
}

/// The bytes of an executable.
#[derive(Debug)]
pub struct ExecutableData(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl ExecutableData {
    /// Takes the pages that were read out of our resident memory. They come back, most likely from the page
    /// cache, when they are read again.
    pub fn release_pages(&self) {
        if let Bytes::Mapped(map) = &self.0 {
            // SAFETY: the mapping is private, never written to, and of a file: pages that are dropped are
            // read from the file again. Pages that the SIGBUS guard put there become faults again, which it
            // answers again. That it fails is harmless.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for ExecutableData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Executable {
    /// Opens the file of a mapping of a process (its vDSO too).
    ///
    /// Through `map_files`, which needs CAP_CHECKPOINT_RESTORE (Linux 5.9) or CAP_SYS_ADMIN; without it
    /// through the path in the process's root, and then only if the file there is the mapped one.
    pub fn open(pid: Pid, mapping: &Mapping) -> Result<Self, ProcessError> {
        let path = match &mapping.name {
            MappingName::Vdso => return Self::vdso(pid, mapping),
            MappingName::File { path, .. } => path.clone(),
            _ => {
                let path = PathBuf::from(format!("{:x}-{:x}", mapping.start, mapping.end));
                return Err(ProcessError::BadElf {
                    path,
                    reason: "no file is mapped there",
                });
            }
        };
        // A process in another root: its debug files are looked for there. Not being allowed to is no
        // reason to fail.
        let root = Root::of(pid);
        let file = mapped_file::open(pid, mapping, &path, root.as_ref().ok())?;
        Self::from_file(file, path, root.ok())
    }

    /// Opens a file by its path in our own root, for offline use.
    pub fn open_path(path: &Path) -> Result<Self, ProcessError> {
        let cannot = |cause| ProcessError::CannotOpen {
            path: path.to_owned(),
            cause,
        };
        let file = File::open(path).map_err(cannot)?;
        if !file.metadata().map_err(cannot)?.is_file() {
            return Err(ProcessError::BadElf {
                path: path.to_owned(),
                reason: "not a regular file",
            });
        }
        Self::from_file(file, path.to_owned(), None)
    }

    /// Copies the vDSO out of a process's memory.
    pub fn vdso(pid: Pid, mapping: &Mapping) -> Result<Self, ProcessError> {
        let path = PathBuf::from("[vdso]");
        let bad = |reason| ProcessError::BadElf {
            path: PathBuf::from("[vdso]"),
            reason,
        };
        if mapping.len() > MAX_VDSO {
            return Err(bad("larger than any vDSO"));
        }
        let mut image = vec![0; usize::try_from(mapping.len()).unwrap_or(0)];
        ProcessMemory::new(pid).read_exact(mapping.start, &mut image)?;
        let headers = Headers::read(image.as_slice()).map_err(bad)?;
        Ok(Self {
            key: ExecutableKey::of_vdso(&image),
            build_id: headers.build_id(image.as_slice()).and_then(BuildId::new),
            name: "[vdso]".to_owned(),
            path,
            root: None,
            size: mapping.len(),
            modified: (0, 0),
            headers,
            source: Source::Vdso(Arc::new(ExecutableData(Bytes::Owned(image)))),
            data: Mutex::new(Weak::new()),
        })
    }

    fn from_file(file: File, path: PathBuf, root: Option<Root>) -> Result<Self, ProcessError> {
        let metadata = file.metadata().map_err(|cause| ProcessError::CannotOpen {
            path: path.clone(),
            cause,
        })?;
        let headers = Headers::read(&file).map_err(|reason| ProcessError::BadElf {
            path: path.clone(),
            reason,
        })?;
        let build_id = headers.build_id(&file).and_then(BuildId::new);
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            key: ExecutableKey::of_file(&file, &headers, build_id.as_ref(), &metadata),
            build_id,
            name,
            path,
            root,
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            headers,
            source: Source::File(file),
            data: Mutex::new(Weak::new()),
        })
    }

    /// What tells it from all others.
    pub fn key(&self) -> &ExecutableKey {
        &self.key
    }

    /// Its GNU build id, if it has one.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// Its path as `/proc` names it: in the root of the process that was seen first, or, if that lies in our own (chroot), in
    /// ours; `[vdso]` for the vDSO. Never open this one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of the path; bytes that are not UTF-8 are replaced. May contain anything that a
    /// file name may.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root directory of the process it was first seen in, as a path that works as long as this
    /// value lives. When the last process of its mount namespace has exited, what was mounted below the
    /// root is gone, the root itself (of a container: its file system) is not. Absolute symbolic links
    /// below it lead out of it: to open a file there, use [`Executable::open_beside`].
    pub fn root(&self) -> Option<PathBuf> {
        self.root.as_ref().map(Root::path)
    }

    /// A path that `/proc` told, such as that of the file, as the process has it in its own root.
    pub fn path_in_root(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.inside(path),
            None => path.to_owned(),
        }
    }

    /// Opens another file (of debug information) in the root of the process, following links only
    /// inside; in our own root if it was opened by [`Executable::open_path`].
    pub fn open_beside(&self, path: &Path) -> Result<File, ProcessError> {
        match &self.root {
            Some(root) => root.open(path),
            None => root::open_here(path),
        }
    }

    /// A path that opens this very file, whatever happened to its name, as long as this value lives.
    /// `None` for the vDSO.
    pub fn fd_path(&self) -> Option<PathBuf> {
        match &self.source {
            Source::File(file) => Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))),
            Source::Vdso(_) => None,
        }
    }

    /// Size of the file in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True for a 64-bit file.
    pub fn is_64(&self) -> bool {
        self.headers.is_64
    }

    /// The processor it is for, as in `e_machine`: 62 is x86-64, 183 AArch64.
    pub fn machine(&self) -> u16 {
        self.headers.machine
    }

    /// Is its content what it was when it was opened? `cp` over a file and a linker that writes in place keep the inode, and
    /// make another program of it: addresses that were seen before mean nothing there.
    pub fn is_as_it_was(&self) -> bool {
        let Source::File(file) = &self.source else {
            return true;
        };
        let is_same = |now: std::fs::Metadata| {
            (now.size(), (now.mtime(), now.mtime_nsec())) == (self.size, self.modified)
        };
        file.metadata().is_ok_and(is_same)
    }

    /// All bytes of the file, mapped on demand and shared by all who hold them; drop them to give the
    /// memory back.
    ///
    /// A file that was written to since it was opened is refused. It may change while it is mapped, too. If it is
    /// truncated, the lost part reads as zeros instead of ending moonscope by SIGBUS (why and how: `sigbus.rs`); if it is
    /// written to, a reader may see old and new bytes mixed. Parsers must take whatever they see, which hostile files
    /// demand anyway.
    pub fn data(&self) -> Result<Arc<ExecutableData>, ProcessError> {
        let file = match &self.source {
            Source::Vdso(image) => return Ok(Arc::clone(image)),
            Source::File(file) => file,
        };
        if !self.is_as_it_was() {
            return Err(ProcessError::FileChanged {
                path: self.path.clone(),
            });
        }
        let mut held = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = held.upgrade() {
            return Ok(data);
        }
        sigbus::guard();
        let cannot = |cause| ProcessError::CannotOpen {
            path: self.path.clone(),
            cause,
        };
        // The size of now, not of then: the headers were read from a file that may have grown.
        let len = file.metadata().map_err(cannot)?.len();
        let len = usize::try_from(len).map_err(|_| cannot(io::ErrorKind::FileTooLarge.into()))?;
        // SAFETY: the mapping is private and only read. Others can change the file under it: the
        // truncated case is answered by the handler, and bytes that change are no worse for the parsers
        // than bytes that were wrong from the start.
        let map = unsafe { MmapOptions::new().len(len).map_copy_read_only(file) }.map_err(cannot)?;
        let data = Arc::new(ExecutableData(Bytes::Mapped(map)));
        *held = Arc::downgrade(&data);
        Ok(data)
    }

    /// Reads a piece of the file without mapping it.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ProcessError> {
        match &self.source {
            Source::File(file) => ReadAt::read_exact_at(file, buf, offset),
            Source::Vdso(image) => ReadAt::read_exact_at(&***image, buf, offset),
        }
        .map_err(|cause| ProcessError::CannotOpen {
            path: self.path.clone(),
            cause,
        })
    }

    /// What the file wants mapped: its `PT_LOAD` program headers, in their order.
    pub fn segments(&self) -> &[Segment] {
        &self.headers.segments
    }

    /// The address, in the file's own address space, of what stands at this offset. Where two segments
    /// share a page of the file, the executable one counts.
    pub fn vaddr_of_offset(&self, file_offset: u64) -> Option<u64> {
        vaddr_of_offset(self.segments(), file_offset)
    }

    /// The offset in the file of what is at this address of the file's own address space.
    pub fn offset_of_vaddr(&self, vaddr: u64) -> Option<u64> {
        let within = |segment: &Segment| vaddr.checked_sub(segment.vaddr).filter(|&at| at < segment.filesz);
        let found = self
            .segments()
            .iter()
            .find_map(|segment| Some((segment, within(segment)?)));
        found.map(|(segment, at)| segment.offset.wrapping_add(at))
    }

    /// What must be subtracted (wrapping) from an address in the process to get the address in the
    /// file, for this mapping of it. `None` if no segment can be what is mapped there.
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        bias(self.segments(), mapping, rustix::param::page_size() as u64)
    }
}

fn vaddr_of_offset(segments: &[Segment], offset: u64) -> Option<u64> {
    let within = |segment: &&Segment| {
        offset
            .checked_sub(segment.offset)
            .is_some_and(|at| at < segment.filesz)
    };
    let mut found = segments.iter().filter(within);
    let first = found.next()?;
    let segment = if first.executable {
        first
    } else {
        found.find(|s| s.executable).unwrap_or(first)
    };
    Some(segment.vaddr.wrapping_add(offset - segment.offset))
}

fn bias(segments: &[Segment], mapping: &Mapping, page: u64) -> Option<u64> {
    let down = |offset: u64| offset & !(page - 1);
    // The loader maps whole pages, so the first and the last page of a segment count in full.
    let covers = |segment: &&Segment| {
        let end = segment.offset.saturating_add(segment.filesz);
        segment.filesz > 0
            && down(segment.offset) <= mapping.offset
            && mapping.offset < end.checked_next_multiple_of(page).unwrap_or(end)
    };
    // Two segments may share a page of the file (lld and gold lay files out so): the right one has the
    // mapping's permission and, unless the mapping was split, begins on its page.
    let rank = |segment: &&Segment| {
        let same = segment.executable == mapping.executable;
        let begins = down(segment.offset) == mapping.offset;
        (same, begins)
    };
    let segment = segments.iter().filter(covers).max_by_key(rank)?;
    let vaddr = segment
        .vaddr
        .wrapping_add(mapping.offset)
        .wrapping_sub(segment.offset);
    Some(mapping.start.wrapping_sub(vaddr))
}

#[cfg(test)]
mod tests;
