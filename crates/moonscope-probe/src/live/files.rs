//! Executable files, and their unwind tables as soon as a walk needs them.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use moonscope_luajit::find_vms;
use moonscope_process::{Executable, Pid, Thread};
use moonscope_unwind::walk_host::{Maps, host_walk_to_end};
use moonscope_unwind::{Registers, RuleSet, TableStats, WalkEnd, abi};
use rustc_hash::FxHashMap;

use super::registers::{NotTold, SavedRegisters};
use crate::builder;
use crate::executables::{ExecutableId, Executables};
use crate::generation::Generation;
use crate::lua::{LuaBuild, LuaBuilds, UserFrame, user_frames};

/// Words of all unwind tables: 512 MiB, ten times what all programs of a usual machine need. Files beyond it have none.
const MAX_WORDS: usize = 128 << 20;

/// How a walk went.
pub(super) struct Walked {
    /// Leaf first.
    pub(super) frames: Vec<UserFrame>,
    /// Why there are no more.
    pub(super) end: WalkEnd,
    /// Stack pointer of the last native frame.
    pub(super) sp: u64,
}

/// What is known of a file.
#[derive(Clone, Copy)]
enum Known {
    /// Number of its table in [`Maps::tables`].
    Table(u32),
    /// There is none to be had.
    Refused,
}

/// The files of all processes that are looked at.
pub struct LiveFiles {
    executables: Executables,
    rules: RuleSet,
    builds: LuaBuilds,
    maps: Maps,
    known: FxHashMap<ExecutableId, Known>,
    lua: FxHashMap<ExecutableId, Vec<LuaBuild>>,
    /// Looked at for LuaJIT; with why one cannot be read.
    looked_at: FxHashMap<ExecutableId, Vec<String>>,
    /// Loaded when they are needed first.
    registers: Option<Result<SavedRegisters, NotTold>>,
}

impl LiveFiles {
    /// None met yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            executables: Executables::new()?,
            rules: RuleSet::new(),
            builds: LuaBuilds::default(),
            maps: Maps::default(),
            known: FxHashMap::default(),
            lua: FxHashMap::default(),
            looked_at: FxHashMap::default(),
            registers: None,
        })
    }

    pub(super) fn executables(&mut self) -> &mut Executables {
        &mut self.executables
    }

    /// All registers with which a thread waits; `None`: it has run since it was seen.
    pub(super) fn registers_of(
        &mut self,
        process: Pid,
        thread: &Thread,
    ) -> Result<Option<Registers>, NotTold> {
        let loaded = self.registers.get_or_insert_with(SavedRegisters::load);
        let registers = loaded.as_mut().map_err(|why| *why)?;
        Ok(registers.of(process, thread))
    }

    /// All files.
    pub(super) fn all(&self) -> FxHashMap<ExecutableId, Arc<Executable>> {
        let files = self.executables.files();
        files.map(|(id, file)| (id, Arc::clone(file))).collect()
    }

    /// LuaJIT in a file.
    pub(super) fn lua(&self, id: ExecutableId) -> &[LuaBuild] {
        self.lua.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Looks for LuaJIT in the files of a process; gives the reasons why some cannot be read.
    pub(super) fn look_for_lua(&mut self, generation: &Generation) -> Vec<String> {
        let mut refused = Vec::new();
        for id in generation.executables() {
            if !self.looked_at.contains_key(&id) {
                let file = Arc::clone(self.executables.file(id));
                let has_lua = file
                    .data()
                    .is_ok_and(|data| find_vms(&data).is_ok_and(|vms| !vms.is_empty()));
                let reasons = match has_lua {
                    true => self.build(id),
                    false => Vec::new(),
                };
                self.looked_at.insert(id, reasons);
            }
            refused.extend(self.looked_at.get(&id).into_iter().flatten().cloned());
        }
        refused
    }

    /// Builds the table of a file; gives the reasons why LuaJIT in it cannot be read.
    fn build(&mut self, id: ExecutableId) -> Vec<String> {
        let file = Arc::clone(self.executables.file(id));
        let built = builder::build(
            &file,
            &mut self.rules,
            &mut self.builds,
            &mut TableStats::default(),
        );
        let (known, found) = match built {
            Ok((table, found)) if self.maps.words.len() < MAX_WORDS => {
                (Known::Table(self.maps.add_table(table.as_ref())), Some(found))
            }
            Ok((_, found)) => (Known::Refused, Some(found)),
            Err(_) => (Known::Refused, None),
        };
        self.maps.layouts = self.builds.layouts().collect();
        self.known.insert(id, known);
        let found = found.unwrap_or_default();
        self.lua.insert(id, found.builds);
        found.refused
    }

    /// Walks a stack of a process; `lua`: its VMs.
    pub(super) fn walk(
        &mut self,
        generation: &Generation,
        lua: abi::ms_lua_process,
        registers: &Registers,
        max_depth: u32,
        mut read: impl FnMut(u64, &mut [u8]) -> bool,
    ) -> Walked {
        self.maps.lua = Some(lua);
        loop {
            self.maps.mappings = self.mappings(generation);
            let (words, end, last) =
                host_walk_to_end(&self.maps, &self.rules, registers, max_depth, &mut read);
            let frames = user_frames(&words);
            let has_more = end == WalkEnd::NoTable && self.build_for(generation, &frames);
            if !has_more {
                let sp = last.get(abi::MS_REG_RSP as usize).unwrap_or(u64::MAX);
                return Walked { frames, end, sp };
            }
        }
    }

    /// Builds the table that a walk ended for. Says whether there is one now that there was not.
    fn build_for(&mut self, generation: &Generation, frames: &[UserFrame]) -> bool {
        let last = frames.iter().rev().find_map(|frame| match frame {
            UserFrame::Native(frame) => Some(frame),
            UserFrame::Lua(_) => None,
        });
        let wanted = last.and_then(|frame| {
            let lookup = frame.addr.wrapping_sub(u64::from(!frame.exact));
            generation.find(lookup)?.executable
        });
        match wanted {
            Some(id) if !self.known.contains_key(&id) => {
                self.build(id);
                matches!(self.known.get(&id), Some(Known::Table(_)))
            }
            _ => false,
        }
    }

    fn mappings(&self, generation: &Generation) -> Vec<abi::ms_mapping> {
        let line = |mapping: &crate::generation::CodeMapping| {
            let (table, kind) = match mapping.executable.map(|id| self.known.get(&id)) {
                Some(Some(Known::Table(table))) => (*table, abi::MS_MAPPING_FILE),
                Some(_) => (0, abi::MS_MAPPING_NO_TABLE),
                None => (abi::MS_NO_TABLE, abi::MS_MAPPING_ANON),
            };
            abi::ms_mapping {
                start: mapping.start,
                end: mapping.end,
                bias: mapping.bias,
                table,
                kind,
            }
        };
        generation.mappings.iter().map(line).collect()
    }

    /// Where the code of a LuaJIT is, and the name of its file.
    pub(super) fn name_of(&self, generation: &Generation, code: &Range<u64>) -> String {
        let id = generation.find(code.start).and_then(|mapping| mapping.executable);
        id.map(|id| self.executables.file(id).path().to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}
