//! The files in which functions and probes of the target are looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moonscope_process::{Executable, Mapping, Pid, list, read_maps};

use super::startup;
use crate::session::Scope;

/// Device and inode, as `/proc/PID/maps` has them.
pub type FileId = ((u32, u32), u64);

/// A file that processes of the target map, or that a command will.
#[derive(Clone, Debug)]
pub struct TargetFile {
    /// The open file.
    pub executable: Arc<Executable>,
    /// Do processes map it that are not the target's?
    pub others: usize,
}

/// A mapping by which a file can be opened.
struct Mapped {
    pid: Pid,
    mapping: Mapping,
    /// It is the program of some target, not a library.
    is_program: bool,
}

/// Files of the target.
#[derive(Default)]
pub struct TargetFiles {
    mapped: BTreeMap<FileId, Mapped>,
    /// The program of a command that has not started yet, and then the libraries that it may be linked with.
    at_start: Vec<PathBuf>,
    /// How many other processes map a file; not looked at where all are wanted.
    others: BTreeMap<FileId, usize>,
}

impl TargetFiles {
    /// Looks at the processes of the target, or at the program of a command.
    pub fn look(scope: &Scope, program: Option<&Path>) -> Self {
        let everybody = || -> BTreeSet<Pid> {
            let all = list::processes().unwrap_or_default();
            all.iter().map(|process| process.pid).collect()
        };
        let (targets, others) = match scope {
            Scope::All => (everybody(), BTreeSet::new()),
            Scope::Cgroup { members, .. } => (members.clone(), BTreeSet::new()),
            Scope::Processes(pids) => (pids.clone(), &everybody() - pids),
        };
        let mut mapped = BTreeMap::new();
        // what is there of a command is not the command
        if program.is_none() {
            for &pid in &targets {
                add_mapped(pid, &mut mapped);
            }
        }
        let mut used = BTreeMap::new();
        for pid in others {
            let files: BTreeSet<FileId> = code_of(pid).map(|mapping| id_of(&mapping)).collect();
            for file in files {
                *used.entry(file).or_default() += 1;
            }
        }
        Self {
            mapped,
            at_start: program.map(startup::files_of).unwrap_or_default(),
            others: used,
        }
    }

    /// Is anything known of the target?
    pub fn is_empty(&self) -> bool {
        self.mapped.is_empty() && self.at_start.is_empty()
    }

    /// The programs that the target runs.
    pub fn programs(&self) -> Vec<TargetFile> {
        let mapped = self.mapped.iter().filter(|(_, mapped)| mapped.is_program);
        let mut found: Vec<_> = mapped.filter_map(|(id, mapped)| self.open(id, mapped)).collect();
        found.extend(self.at_start.first().and_then(|path| self.open_path(path)));
        found
    }

    /// The libraries and whatever else has code.
    pub fn libraries(&self) -> Vec<TargetFile> {
        let mapped = self.mapped.iter().filter(|(_, mapped)| !mapped.is_program);
        let mapped = mapped.filter_map(|(id, mapped)| self.open(id, mapped));
        let at_start = self.at_start.iter().skip(1);
        mapped
            .chain(at_start.filter_map(|path| self.open_path(path)))
            .collect()
    }

    /// What a command that has not started yet will map, or may.
    pub fn at_start(&self) -> Vec<TargetFile> {
        let files = self.at_start.iter();
        files.filter_map(|path| self.open_path(path)).collect()
    }

    /// How many processes map a file that are not the target's.
    pub fn others(&self, id: &FileId) -> usize {
        self.others.get(id).copied().unwrap_or(0)
    }

    /// Those of this path, or of this name, or whose name begins so: `libc` is `libc.so.6`.
    pub fn named(&self, name: &str) -> Vec<TargetFile> {
        let is_path = name.contains('/');
        let matches = |path: &Path| match is_path {
            true => path == Path::new(name),
            false => is_file_name(path, name),
        };
        let mapped = self
            .mapped
            .iter()
            .filter(|(_, mapped)| mapped.mapping.path().is_some_and(matches));
        let mut found: Vec<_> = mapped.filter_map(|(id, mapped)| self.open(id, mapped)).collect();
        let at_start = self.at_start.iter().filter(|path| matches(path));
        found.extend(at_start.filter_map(|path| self.open_path(path)));
        if found.is_empty() && is_path {
            found.extend(self.open_path(Path::new(name)));
        }
        // one that it loads later
        if found.is_empty() && !self.at_start.is_empty() && !is_path {
            found.extend(self.library(name));
        }
        found
    }

    /// Names of all files, for a suggestion.
    pub fn names(&self) -> Vec<String> {
        let mapped = self.mapped.values().filter_map(|mapped| mapped.mapping.path());
        let names = mapped
            .chain(self.at_start.iter().map(PathBuf::as_path))
            .filter_map(Path::file_name);
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// A library by the name of its file, where the loader would look for it.
    fn library(&self, name: &str) -> Option<TargetFile> {
        startup::FOLDERS.iter().find_map(|folder| {
            let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| is_file_name(path, name))
                .collect();
            // libc.so is a text for the linker
            entries.sort();
            entries.iter().find_map(|path| self.open_path(path))
        })
    }

    fn open(&self, id: &FileId, mapped: &Mapped) -> Option<TargetFile> {
        let executable = Executable::open(mapped.pid, &mapped.mapping).ok()?;
        Some(TargetFile {
            executable: Arc::new(executable),
            others: self.others(id),
        })
    }

    fn open_path(&self, path: &Path) -> Option<TargetFile> {
        let executable = Executable::open_path(path).ok()?;
        let metadata = std::fs::metadata(executable.fd_path()?).ok()?;
        let device = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        Some(TargetFile {
            executable: Arc::new(executable),
            others: self.others(&(device, metadata.ino())),
        })
    }
}

/// Which file a mapping maps.
pub fn id_of(mapping: &Mapping) -> FileId {
    (mapping.device, mapping.inode)
}

/// Mappings of code in files.
pub fn code_of(pid: Pid) -> impl Iterator<Item = Mapping> {
    let maps = read_maps(pid).unwrap_or_default();
    maps.into_iter()
        .filter(|mapping| mapping.executable && mapping.inode != 0 && mapping.path().is_some())
}

fn add_mapped(pid: Pid, to: &mut BTreeMap<FileId, Mapped>) {
    let program = moonscope_process::process::exe(pid).ok();
    for mapping in code_of(pid) {
        let is_program = program.as_deref() == mapping.path();
        to.entry(id_of(&mapping)).or_insert(Mapped {
            pid,
            mapping,
            is_program,
        });
    }
}

fn is_file_name(path: &Path, name: &str) -> bool {
    let Some(file) = path.file_name().map(|file| file.to_string_lossy()) else {
        return false;
    };
    let rest = |name: &str| file.strip_prefix(name).map(str::to_owned);
    let is_library = |rest: String| {
        rest.starts_with(".so")
            || rest.starts_with('-') && rest.contains(".so")
            || rest.starts_with('.') && name.ends_with(".so")
    };
    file == name || rest(name).is_some_and(is_library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_may_be_called_without_its_version() {
        let is = |file: &str, name: &str| is_file_name(&Path::new("/lib").join(file), name);
        assert!(is("libc.so.6", "libc.so.6") && is("libc.so.6", "libc") && is("libc.so.6", "libc.so"));
        assert!(is("libc-2.31.so", "libc") && is("nginx", "nginx"));
        assert!(!is("libcrypto.so.3", "libc") && !is("nginx-debug", "nginx"));
    }

    #[test]
    fn our_own_program_and_its_library_are_found() {
        let me = std::process::id();
        let files = TargetFiles::look(&Scope::Processes(BTreeSet::from([me])), None);
        assert_eq!(files.programs().len(), 1);
        // whoever else runs on this machine has a C library too, if this is not a static program
        for library in files.named("libc") {
            assert!(library.executable.name().starts_with("libc"), "{library:?}");
        }
        assert!(files.named("no-such-file").is_empty());
        assert_eq!(files.named("/proc/self/exe").len(), 1);
    }
}
