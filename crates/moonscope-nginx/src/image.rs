//! A file of machine code as a process has it mapped: its symbols and the bytes of its functions.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use moonscope_process::{Executable, ExecutableData, Mapping, Pid, ProcessError};
use object::{Object, ObjectSymbol};

/// A mapped file. Addresses are those of the process.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    executable: Executable,
    data: Arc<ExecutableData>,
    bias: u64,
    symbols: HashMap<String, u64>,
    writable: Vec<Range<u64>>,
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
        if let Ok(file) = object::File::parse(&**data) {
            for symbol in file.dynamic_symbols().chain(file.symbols()) {
                if let Ok(name) = symbol.name()
                    && symbol.is_definition()
                {
                    symbols.insert(name.to_owned(), symbol.address().wrapping_add(bias));
                }
            }
        }
        Ok(Some(Self {
            path: executable.path().to_owned(),
            executable,
            data,
            bias,
            symbols,
            writable: mappings
                .iter()
                .filter(|mapping| mapping.writable)
                .map(|mapping| mapping.start..mapping.end)
                .collect(),
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

    /// Bytes from this address on, to the end of what the file has there.
    pub(crate) fn code(&self, addr: u64) -> Option<&[u8]> {
        let vaddr = addr.wrapping_sub(self.bias);
        let segment = self.executable.segments().iter().find(|segment| {
            segment.executable && vaddr >= segment.vaddr && vaddr - segment.vaddr < segment.filesz
        })?;
        let from = segment.offset.checked_add(vaddr - segment.vaddr)?;
        let to = segment.offset.checked_add(segment.filesz)?;
        self.data
            .get(usize::try_from(from).ok()?..usize::try_from(to).ok()?.min(self.data.len()))
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
        self.symbols
            .iter()
            .find(|&(_, &at)| at == addr)
            .map(|(name, _)| name.as_str())
    }
}
