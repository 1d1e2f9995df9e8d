//! The Lua VMs of a process.

use moonscope_luajit::Layout;
use moonscope_process::{Mapping, Pid, Process, ProcessError, ProcessMemory, read_maps};

use super::LiveFiles;
use crate::generation::{Generation, code_mappings};
use crate::lua::{LuaProcess, MappedBuild};
use crate::processes::ProcessId;

/// A process, and where its Lua VMs are.
pub struct LiveLua {
    /// The process.
    pub process: Process,
    pub(super) maps: Vec<Mapping>,
    pub(super) generation: Generation,
    pub(super) lua: LuaProcess,
    /// LuaJITs of its files that cannot be read, and why.
    pub refused: Vec<String>,
    /// Part of the memory that may hold VMs was not looked at.
    pub more_vms: bool,
}

/// A VM that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVm {
    /// Address of its `global_State`.
    pub g: u64,
    /// How its build lays things out.
    pub layout: Layout,
    /// The file that LuaJIT is in, as the process names it.
    pub file: String,
}

impl LiveLua {
    /// Looks for LuaJIT in the files of a process, and for its VMs in the memory.
    pub fn look_at(pid: Pid, files: &mut LiveFiles) -> Result<Self, ProcessError> {
        let process = Process::find(pid)?;
        let maps = read_maps(pid)?;
        let mappings = code_mappings(pid, &maps, files.executables()).mappings;
        let generation = Generation {
            number: 1,
            process: ProcessId(0),
            mappings,
        };
        let refused = files.look_for_lua(&generation);
        let builds = MappedBuild::all(&generation, |id| files.lua(id));
        let mut lua = LuaProcess::new(pid, builds);
        if !lua.builds().is_empty() {
            lua.scan_until_complete();
        }
        let more_vms = !lua.builds().is_empty() && !lua.scan_was_complete();
        Ok(Self {
            process,
            maps,
            generation,
            lua,
            refused,
            more_vms,
        })
    }

    /// Is there LuaJIT in its files?
    pub fn has_luajit(&self) -> bool {
        !self.lua.builds().is_empty() || !self.refused.is_empty()
    }

    /// Its memory.
    pub fn memory(&self) -> &ProcessMemory {
        self.lua.memory()
    }

    /// Its VMs, by address.
    pub fn vms(&self, files: &LiveFiles) -> Vec<FoundVm> {
        let found = self.lua.vms().iter().filter_map(|vm| {
            let build = self.lua.builds().iter().find(|build| build.number == vm.number)?;
            Some(FoundVm {
                g: vm.g,
                layout: build.layout,
                file: files.name_of(&self.generation, &build.code),
            })
        });
        let mut vms: Vec<FoundVm> = found.collect();
        vms.sort_by_key(|vm| vm.g);
        vms
    }
}
