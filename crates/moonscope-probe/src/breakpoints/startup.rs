//! The files that a program will map when it starts: before it runs nothing tells which exactly, but a probe in a file that
//! a process does not map costs nothing. So all that the dynamic linker may find are looked at.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use moonscope_process::Executable;
use object::Endianness;
use object::elf;
use object::read::elf::{ElfFile64, ProgramHeader};

/// Where the dynamic linker looks (ld.so(8)), besides what the system names in `/etc/ld.so.conf`.
pub const FOLDERS: [&str; 7] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// A program has some dozens.
const MOST_FILES: usize = 512;

/// What a script names, and what that names, at most (fs/exec.c).
const MOST_INTERPRETERS: usize = 4;

/// The program itself, first, and the libraries that it may be linked with, directly or not.
pub fn files_of(program: &Path) -> Vec<PathBuf> {
    let mut program = program.to_owned();
    for _ in 0..MOST_INTERPRETERS {
        match interpreter_of_script(&program) {
            Some(interpreter) => program = interpreter,
            None => break,
        }
    }
    let mut search = Search::new();
    search.add(program.clone());
    for name in preloaded() {
        search.look_for(&name, &[]);
    }
    while let Some(file) = search.next() {
        search.look_into(&file);
    }
    // by the name that it was called by
    if let Some(first) = search.found.first_mut() {
        *first = program;
    }
    search.found
}

/// What the first line of a script names, `#!/bin/sh`.
fn interpreter_of_script(path: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    // BINPRM_BUF_SIZE (include/uapi/linux/binfmts.h)
    File::open(path).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    Some(PathBuf::from(OsStr::from_bytes(words.next()?)))
}

fn preloaded() -> Vec<PathBuf> {
    let by_environment = std::env::var_os("LD_PRELOAD")
        .unwrap_or_default()
        .as_bytes()
        .to_vec();
    let by_system = std::fs::read("/etc/ld.so.preload").unwrap_or_default();
    let is_between = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
    [by_environment, by_system]
        .iter()
        .flat_map(|list| list.split(is_between))
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(OsStr::from_bytes(name)))
        .collect()
}

struct Search {
    folders: Vec<PathBuf>,
    found: Vec<PathBuf>,
    known: BTreeSet<PathBuf>,
    looked_into: usize,
}

impl Search {
    fn new() -> Self {
        let by_environment = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&by_environment)
            .filter(|folder| folder.is_absolute())
            .collect();
        folders.extend(FOLDERS.iter().map(PathBuf::from));
        folders.extend(configured());
        Self {
            folders,
            found: Vec::new(),
            known: BTreeSet::new(),
            looked_into: 0,
        }
    }

    fn next(&mut self) -> Option<PathBuf> {
        let next = self.found.get(self.looked_into)?.clone();
        self.looked_into += 1;
        Some(next)
    }

    fn add(&mut self, path: PathBuf) {
        let Ok(real) = path.canonicalize() else { return };
        if self.found.len() < MOST_FILES && self.known.insert(real.clone()) {
            self.found.push(real);
        }
    }

    /// A library by its name, or its path.
    fn look_for(&mut self, name: &Path, first: &[PathBuf]) {
        if name.components().count() > 1 {
            self.add(name.to_owned());
            return;
        }
        let paths: Vec<PathBuf> = first
            .iter()
            .chain(&self.folders)
            .map(|folder| folder.join(name))
            .filter(|path| path.exists())
            .collect();
        paths.into_iter().for_each(|path| self.add(path));
    }

    /// What a file needs.
    fn look_into(&mut self, path: &Path) {
        let Some(needs) = Needs::of(path) else { return };
        if let Some(linker) = needs.linker {
            self.add(linker);
        }
        for name in &needs.libraries {
            self.look_for(name, &needs.folders);
        }
    }
}

/// Folders that `/etc/ld.so.conf` and the files that it includes name.
fn configured() -> Vec<PathBuf> {
    let mut texts = vec![std::fs::read_to_string("/etc/ld.so.conf").unwrap_or_default()];
    let included = std::fs::read_dir("/etc/ld.so.conf.d")
        .into_iter()
        .flatten()
        .flatten();
    texts.extend(included.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()));
    texts
        .iter()
        .flat_map(|text| text.lines())
        .map(str::trim)
        .filter(|line| line.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// What the headers of a program or library ask for.
struct Needs {
    linker: Option<PathBuf>,
    libraries: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Needs {
    fn of(path: &Path) -> Option<Self> {
        let data = Executable::open_path(path).ok()?.data().ok()?;
        let file = ElfFile64::<Endianness>::parse(&**data).ok()?;
        let endian = file.endian();
        let headers = file.elf_program_headers();
        let linker = headers.iter().find_map(|header| {
            let name = header.interpreter(endian, &**data).ok()??;
            Some(PathBuf::from(OsStr::from_bytes(name)))
        });
        let strings = file.elf_dynamic_table().ok()?;
        let mut needs = Self {
            linker,
            libraries: Vec::new(),
            folders: Vec::new(),
        };
        let origin = path.parent().unwrap_or(Path::new("/"));
        for entry in strings.iter() {
            let Ok(name) = strings.string(entry) else { continue };
            match entry.tag {
                elf::DT_NEEDED => needs.libraries.push(PathBuf::from(OsStr::from_bytes(name))),
                elf::DT_RPATH | elf::DT_RUNPATH => needs.folders.extend(folders(name, origin)),
                _ => {}
            }
        }
        Some(needs)
    }
}

fn folders(list: &[u8], origin: &Path) -> Vec<PathBuf> {
    let origin = origin.to_string_lossy();
    String::from_utf8_lossy(list)
        .split(':')
        .map(|folder| folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_c_library_and_a_script_with_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh -e\n").unwrap();
        assert_eq!(interpreter_of_script(&script), Some(PathBuf::from("/bin/sh")));
        let files = files_of(&script);
        assert_eq!(files[0], Path::new("/bin/sh"), "{files:?}");
        // whichever it is linked with: the one of this test is the same
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let own = maps
            .lines()
            .find_map(|line| Some(&line[line.find("/")?..]).filter(|path| path.contains("libc.so")));
        if let Some(own) = own {
            let own = Path::new(own).canonicalize().unwrap();
            assert!(files.contains(&own), "{files:?}");
        }
    }
}
