//! The executable mappings of a process at one moment.

use std::sync::Arc;

use moonscope_process::{Mapping, MappingName, Pid};
use moonscope_unwind::abi;

use crate::executables::{ExecutableId, Executables};
use crate::processes::ProcessId;

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeMapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Address in the process minus address in the file.
    pub bias: u64,
    /// The file; `None` for generated code and for what could not be opened.
    pub executable: Option<ExecutableId>,
    /// How the kernel names it, where there is no file.
    pub name: Arc<str>,
}

/// The executable mappings of a process at one moment, in the order of their addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Generation {
    /// Distinguishes it from all others of the session.
    pub number: u64,
    /// The process it belongs to.
    pub process: ProcessId,
    /// The mappings.
    pub mappings: Vec<CodeMapping>,
}

impl Generation {
    /// The files of the mappings; one for each mapping.
    pub fn executables(&self) -> impl Iterator<Item = ExecutableId> {
        self.mappings.iter().filter_map(|mapping| mapping.executable)
    }

    /// The mapping of an address.
    pub fn find(&self, addr: u64) -> Option<&CodeMapping> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= addr);
        let mapping = &self.mappings[after.checked_sub(1)?];
        (addr < mapping.end).then_some(mapping)
    }
}

/// The executable mappings of a process, their files opened.
#[derive(Debug, Default)]
pub struct CodeMappings {
    /// In the order of their addresses.
    pub mappings: Vec<CodeMapping>,
    /// No file could be opened, as we may not look at this process.
    pub is_refused: bool,
    /// Files that could not be opened as too many are open.
    pub over_file_limit: u64,
}

/// The executable ones of a process's mappings, their files opened. What is wrong with a file is told of the files.
pub fn code_mappings(pid: Pid, maps: &[Mapping], executables: &mut Executables) -> CodeMappings {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    let mut over_file_limit = 0;
    for mapping in maps
        .iter()
        .filter(|mapping| mapping.executable && mapping.name != MappingName::Vsyscall)
    {
        let has_file = matches!(mapping.name, MappingName::File { .. } | MappingName::Vdso);
        let mut code = CodeMapping {
            start: mapping.start,
            end: mapping.end,
            bias: mapping.start.wrapping_sub(mapping.offset),
            executable: None,
            name: mapping_name(mapping),
        };
        if has_file && found.len() < abi::MS_MAX_MAPPINGS as usize {
            match executables.open(pid, mapping) {
                Ok(id) => {
                    if let Some(bias) = executables.file(id).bias(mapping) {
                        code.bias = bias;
                        code.executable = Some(id);
                    }
                }
                Err(err) if err.is_permission() => refused.push(err),
                Err(err) if err.is_file_limit() => over_file_limit += 1,
                // it changes at this moment, and will be looked at again
                Err(err) if err.is_passing() => {}
                Err(err) => executables.problems.add(err.to_string()),
            }
        }
        found.push(code);
    }
    found.truncate(abi::MS_MAX_MAPPINGS as usize);
    let is_refused = !refused.is_empty() && found.iter().all(|mapping| mapping.executable.is_none());
    if !is_refused {
        // some files only: not the process is protected, but they are (a file system of FUSE, say)
        for err in refused {
            executables.problems.add(err.to_string());
        }
    }
    CodeMappings {
        mappings: found,
        is_refused,
        over_file_limit,
    }
}

/// A mapping of which only a record is left.
pub fn seen_mapping(mapping: &Mapping, executables: &mut Executables) -> CodeMapping {
    let executable = executables.find_seen(mapping);
    let bias = executable.and_then(|id| executables.file(id).bias(mapping));
    CodeMapping {
        start: mapping.start,
        end: mapping.end,
        bias: bias.unwrap_or(mapping.start.wrapping_sub(mapping.offset)),
        executable: bias.and(executable),
        name: mapping_name(mapping),
    }
}

/// `mm->exec_vm` as the kernel counts it: pages that are executable and neither writable nor stack
/// (`is_exec_mapping`, mm/internal.h). The vsyscall page belongs to no process.
pub fn exec_vm(maps: &[Mapping]) -> u64 {
    let bytes: u64 = maps
        .iter()
        .filter(|mapping| mapping.executable && !mapping.writable)
        .filter(|mapping| !matches!(mapping.name, MappingName::Vsyscall | MappingName::Stack))
        .map(Mapping::len)
        .sum();
    bytes / rustix::param::page_size() as u64
}

/// What a mapping is called in frames of code without a name.
fn mapping_name(mapping: &Mapping) -> Arc<str> {
    match &mapping.name {
        MappingName::File { path, .. } => Arc::from(
            path.file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .as_ref(),
        ),
        MappingName::Vdso => Arc::from("[vdso]"),
        MappingName::Vsyscall => Arc::from("[vsyscall]"),
        MappingName::Heap => Arc::from("[heap]"),
        MappingName::Stack => Arc::from("[stack]"),
        MappingName::Anonymous => Arc::from("[anon]"),
        MappingName::Other(name) => Arc::from(name.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vdso_of_a_process_that_is_gone_is_that_of_all() {
        let maps = moonscope_process::read_maps(std::process::id()).unwrap();
        let ours = maps.iter().find(|mapping| mapping.name == MappingName::Vdso);
        let Some(ours) = ours else { return };
        let elsewhere = Mapping {
            start: ours.start ^ 1 << 40,
            end: ours.end ^ 1 << 40,
            ..ours.clone()
        };
        let mut executables = Executables::new().unwrap();
        let seen = seen_mapping(&elsewhere, &mut executables);
        let file = executables.file(seen.executable.unwrap());
        assert_eq!((seen.bias, file.name()), (elsewhere.start, "[vdso]"));
    }
}
