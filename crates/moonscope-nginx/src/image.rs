//! A file of machine code as a process has it mapped: its symbols and the bytes of its functions.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use moonscope_process::{Executable, ExecutableData, Mapping, Pid, ProcessError};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::setup::Code;

/// A mapped file. Addresses are those of the process.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    executable: Executable,
    data: Arc<ExecutableData>,
    bias: u64,
    symbols: HashMap<String, u64>,
    names: HashMap<u64, String>,
    mapped: Vec<Range<u64>>,
    writable: Vec<Range<u64>>,
    /// The linker's table of addresses, which it may leave writable.
    got: Vec<Range<u64>>,
}

impl Image {
    /// Opens the file of these mappings of one file.
    pub(crate) fn open(pid: Pid, mappings: &[&Mapping]) -> Result<Option<Self>, ProcessError> {
        let Some(code) = mappings.iter().find(|mapping| mapping.executable) else {
            return Ok(None);
        };
        let executable = Executable::open(pid, code)?;
        let Some(bias) = executable.bias(code) else {
            return Ok(None);
        };
        let data = executable.data()?;
        let mut symbols = HashMap::new();
        let mut names: HashMap<u64, String> = HashMap::new();
        let mut got = Vec::new();
        if let Ok(file) = object::File::parse(&**data) {
            for symbol in file.dynamic_symbols().chain(file.symbols()) {
                if let Ok(name) = symbol.name()
                    && symbol.is_definition()
                {
                    let addr = symbol.address().wrapping_add(bias);
                    symbols.insert(name.to_owned(), addr);
                    // one address may have several names: always the same one of them is shown
                    let known = names.entry(addr).or_insert_with(|| name.to_owned());
                    if name < known.as_str() {
                        name.clone_into(known);
                    }
                }
            }
            for section in file.sections() {
                if let Ok(".got" | ".got.plt") = section.name() {
                    let start = section.address().wrapping_add(bias);
                    got.push(start..start.saturating_add(section.size()));
                }
            }
        }
        let ranges = |is: fn(&Mapping) -> bool| {
            let wanted = mappings.iter().filter(|mapping| is(mapping));
            wanted.map(|mapping| mapping.start..mapping.end).collect()
        };
        Ok(Some(Self {
            path: executable.path().to_owned(),
            executable,
            data,
            bias,
            symbols,
            names,
            mapped: ranges(|_| true),
            writable: ranges(|mapping| mapping.writable),
            got,
        }))
    }

    /// The file, as the process names it.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The address of a symbol: exported, or of the symbol table where the file has one.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// Is this an address of its machine code?
    pub(crate) fn is_code(&self, addr: u64) -> bool {
        self.code(addr).is_some()
    }

    /// What it has mapped to write to: its data.
    pub(crate) fn writable(&self) -> &[Range<u64>] {
        &self.writable
    }

    /// The name of the symbol at exactly this address.
    pub(crate) fn name_at(&self, addr: u64) -> Option<&str> {
        self.names.get(&addr).map(String::as_str)
    }

    /// Is this address in the file, as it is mapped?
    pub(crate) fn holds(&self, addr: u64) -> bool {
        self.mapped.iter().any(|range| range.contains(&addr))
    }

    /// The place of an address in the file, for people: `nginx+0xa3690`, as `objdump` has it.
    pub(crate) fn place(&self, addr: u64) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}+{:#x}", addr.wrapping_sub(self.bias))
    }
}

impl Code for Image {
    fn code(&self, addr: u64) -> Option<&[u8]> {
        let vaddr = addr.wrapping_sub(self.bias);
        let segment = self.executable.segments().iter().find(|segment| {
            segment.executable && vaddr >= segment.vaddr && vaddr - segment.vaddr < segment.filesz
        })?;
        let from = segment.offset.checked_add(vaddr - segment.vaddr)?;
        let to = segment.offset.checked_add(segment.filesz)?;
        self.data
            .get(usize::try_from(from).ok()?..usize::try_from(to).ok()?.min(self.data.len()))
    }

    fn is_fixed(&self, addr: u64) -> bool {
        let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&addr));
        is_in(&self.got) || self.holds(addr) && !is_in(&self.writable)
    }
}

/// Several files together.
impl Code for Vec<&Image> {
    fn code(&self, addr: u64) -> Option<&[u8]> {
        self.iter().find_map(|image| image.code(addr))
    }

    fn is_fixed(&self, addr: u64) -> bool {
        self.iter().any(|image| image.is_fixed(addr))
    }
}
