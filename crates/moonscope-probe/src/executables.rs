//! All executable files met in a session: each once, whoever maps it under whatever name.

mod forget;

use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moonscope_process::{
    Executable, ExecutableData, ExecutableKey, Mapping, MappingName, Pid, ProcessError, read_maps, visible,
};
use moonscope_unwind::{Table, UnwindData};
use rustc_hash::FxHashMap;

use crate::builder::{Builder, Built, NoTable};
use crate::file_problems::FileProblems;
use crate::limits::{KEEP_UNWIND_DATA, MAX_REASONS, ROOM_REST};
use crate::lua::LuaBuild;
use crate::numbered::Numbered;
use crate::tables::{TableSlot, TableStore};

/// An executable file of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutableId(pub u32);

/// What `/proc/PID/maps` says of a file. It names one file for as long as we hold that file open and nobody writes to it; the
/// path is there because an overlay file system may give one inode number to two files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileIdentity {
    device: (u32, u32),
    inode: u64,
    path: PathBuf,
}

/// A file with LuaJIT in it.
#[derive(Clone, Copy)]
pub struct LuaFile<'a> {
    /// Its number.
    pub id: ExecutableId,
    /// The file.
    pub file: &'a Executable,
    /// LuaJITs in it: one, as a rule.
    pub builds: &'a [LuaBuild],
}

#[derive(Debug)]
enum TableState {
    Missing,
    /// Being built before anybody maps the file, as far as is known: it has no place yet.
    Begun,
    /// Being built; walks end at its place until it is filled.
    Ordered(TableSlot),
    /// In the kernel's reach, with the words it occupies.
    Loaded(TableSlot, Range<usize>),
    /// There will be none, see [`NoTable`].
    Refused(TableSlot),
    /// There was no room for so many words, then.
    NoRoom(TableSlot, usize, Instant),
}

struct Entry {
    file: Arc<Executable>,
    table: TableState,
    /// How many mappings of living processes refer to it.
    users: u32,
    /// Order in which tables fell out of use.
    unused_since: u64,
    /// For walks in user space, made on demand.
    unwind: Option<UnwindOfFile>,
    /// LuaJIT in it, known when its table is.
    lua: Vec<LuaBuild>,
}

impl TableState {
    /// Words that it occupies.
    fn words(&self) -> usize {
        match self {
            Self::Loaded(_, words) => words.len(),
            _ => 0,
        }
    }
}

impl Entry {
    fn is_being_built(&self) -> bool {
        matches!(self.table, TableState::Begun | TableState::Ordered(_))
    }

    /// Has it a place that nobody would miss?
    fn is_evictable(&self) -> bool {
        // one that is ordered will be filled
        self.users == 0 && !self.is_being_built() && !matches!(self.table, TableState::Missing)
    }
}

struct UnwindOfFile {
    /// `None`: it cannot be read.
    data: Option<Arc<UnwindData>>,
    used: Instant,
}

/// Events that limits caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Tables built.
    pub built: u64,
    /// Tables evicted to make room.
    pub evicted: u64,
    /// Tables that found no room even so.
    pub no_room: u64,
    /// Files whose unwind information could not be read.
    pub unusable: u64,
    /// Files with too many unwind rules, for one file or for all together.
    pub too_many_rules: u64,
}

/// The bytes of a file, kept mapped while a walk in user space may need them.
struct FileBytes(Arc<ExecutableData>);

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The register of executables.
pub struct Executables {
    builder: Builder,
    entries: Numbered<Entry>,
    by_key: FxHashMap<ExecutableKey, ExecutableId>,
    by_identity: FxHashMap<FileIdentity, ExecutableId>,
    clock: u64,
    /// What happened to tables.
    pub counts: TableCounts,
    /// LuaJITs that cannot be read, and why.
    pub lua_refused: Vec<String>,
    /// Files of which something could not be used.
    pub problems: FileProblems,
    /// A file with LuaJIT was met since this was last asked.
    pub has_new_lua: bool,
}

impl Executables {
    /// None met yet. Starts the thread that builds tables.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            builder: Builder::start()?,
            entries: Numbered::default(),
            by_key: FxHashMap::default(),
            by_identity: FxHashMap::default(),
            clock: 0,
            counts: TableCounts::default(),
            lua_refused: Vec::new(),
            problems: FileProblems::default(),
            has_new_lua: false,
        })
    }

    /// LuaJIT in a file, as far as the file was looked at.
    pub fn lua(&self, id: ExecutableId) -> &[LuaBuild] {
        &self.entries[id.0].lua
    }

    /// The files with LuaJIT, as far as files were looked at.
    pub fn with_lua(&self) -> impl Iterator<Item = LuaFile<'_>> {
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.lua.is_empty())
            .map(|(id, entry)| LuaFile {
                id: ExecutableId(id),
                file: &entry.file,
                builds: &entry.lua,
            })
    }

    /// The file that a mapping of a process maps.
    pub fn open(&mut self, pid: Pid, mapping: &Mapping) -> Result<ExecutableId, ProcessError> {
        let identity = mapping.path().map(|path| FileIdentity {
            device: mapping.device,
            inode: mapping.inode,
            path: path.to_owned(),
        });
        if let Some(id) = identity.as_ref().and_then(|identity| self.known(identity)) {
            return Ok(id);
        }
        let file = Executable::open(pid, mapping)?;
        Ok(self.add(file, identity))
    }

    /// The file that was met under this name, if it is that one still.
    fn known(&self, identity: &FileIdentity) -> Option<ExecutableId> {
        let id = *self.by_identity.get(identity)?;
        self.entries[id.0].file.is_as_it_was().then_some(id)
    }

    /// The file of a mapping whose process is gone: known already, or still at its path.
    pub fn find_seen(&mut self, mapping: &Mapping) -> Option<ExecutableId> {
        if mapping.name == MappingName::Vdso {
            return self.find_vdso(mapping.len());
        }
        let path = mapping.path()?;
        let identity = FileIdentity {
            device: mapping.device,
            inode: mapping.inode,
            path: path.to_owned(),
        };
        if let Some(id) = self.known(&identity) {
            return Some(id);
        }
        let file = Executable::open_path(path).ok()?;
        let found = std::fs::metadata(file.fd_path()?).ok()?;
        let device = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
        ((device, found.ino()) == (mapping.device, mapping.inode)).then(|| self.add(file, Some(identity)))
    }

    /// The vDSO of a process that is gone: the kernel maps one and the same into every 64-bit program, so into us.
    fn find_vdso(&mut self, len: u64) -> Option<ExecutableId> {
        let us = std::process::id();
        let maps = read_maps(us).ok()?;
        let is_it = |ours: &&Mapping| ours.name == MappingName::Vdso && ours.len() == len;
        self.open(us, maps.iter().find(is_it)?).ok()
    }

    fn add(&mut self, file: Executable, identity: Option<FileIdentity>) -> ExecutableId {
        if let Some(&id) = self.by_key.get(file.key()) {
            let entry = &mut self.entries[id.0];
            if !entry.file.is_as_it_was() {
                // it was written to, and has its old content again
                entry.file = Arc::new(file);
                entry.unwind = None;
                self.by_identity.extend(identity.map(|identity| (identity, id)));
                return id;
            }
            // Another name or a copy of a known file. The identity is not remembered: only of the file
            // that we hold open we know that its inode number is not used again.
            return id;
        }
        let key = file.key().clone();
        let id = ExecutableId(self.entries.add(Entry {
            file: Arc::new(file),
            table: TableState::Missing,
            users: 0,
            unused_since: 0,
            unwind: None,
            lua: Vec::new(),
        }));
        self.by_key.insert(key, id);
        if let Some(identity) = identity {
            self.by_identity.insert(identity, id);
        }
        id
    }

    /// The file.
    pub fn file(&self, id: ExecutableId) -> &Arc<Executable> {
        &self.entries[id.0].file
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = (ExecutableId, &Arc<Executable>)> {
        let entries = self.entries.iter();
        entries.map(|(id, entry)| (ExecutableId(id), &entry.file))
    }

    /// How many files are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// A mapping more refers to the file.
    pub fn add_user(&mut self, id: ExecutableId) {
        self.entries[id.0].users += 1;
    }

    /// A mapping less refers to the file. Its table stays until its room is needed.
    pub fn remove_user(&mut self, id: ExecutableId) {
        self.clock += 1;
        let entry = &mut self.entries[id.0];
        entry.users = entry.users.saturating_sub(1);
        entry.unused_since = self.clock;
    }

    /// The number of the rule in force at an address of a file, if its table is in the kernel's reach.
    pub fn rule_at(&self, id: ExecutableId, vaddr: u64, store: &TableStore) -> Option<u16> {
        match &self.entries[id.0].table {
            TableState::Loaded(slot, _) => store.rule_at(*slot, vaddr),
            _ => None,
        }
    }

    /// Is its table under way? Until it is there it is not known whether the file has Lua.
    pub fn is_being_built(&self, id: ExecutableId) -> bool {
        self.entries[id.0].is_being_built()
    }

    /// The place of a file's table, which is ordered if it is not there yet; `None` if there is no place.
    pub fn table(&mut self, id: ExecutableId, store: &mut TableStore) -> Option<TableSlot> {
        match &self.entries[id.0].table {
            TableState::Ordered(slot)
            | TableState::Loaded(slot, _)
            | TableState::Refused(slot)
            | TableState::NoRoom(slot, ..) => return Some(*slot),
            TableState::Missing | TableState::Begun => {}
        }
        let slot = loop {
            match store.reserve() {
                Some(slot) => break slot,
                None if self.evict_one(store, |_| true) => {}
                None => {
                    self.counts.no_room += 1;
                    return None;
                }
            }
        };
        match self.entries[id.0].table {
            TableState::Begun => self.entries[id.0].table = TableState::Ordered(slot),
            _ => self.order(id, slot),
        }
        Some(slot)
    }

    /// Begins to build tables of files that will be mapped, when there is no store yet.
    pub fn begin_tables(&mut self, files: impl IntoIterator<Item = ExecutableId>) {
        for id in files {
            let entry = &mut self.entries[id.0];
            if matches!(entry.table, TableState::Missing) {
                entry.table = TableState::Begun;
                self.builder.order(id, Arc::clone(&entry.file));
            }
        }
    }

    /// Loads the tables that are finished.
    pub fn collect_tables(&mut self, store: &mut TableStore) {
        while let Some(built) = self.builder.try_take() {
            self.load(built, store);
        }
    }

    /// Loads all tables that were ordered; waits for them, but not for longer than `limit`.
    pub fn wait_for_tables(&mut self, store: &mut TableStore, limit: Duration) {
        let end = Instant::now() + limit;
        while let Some(built) = self.builder.take(end.saturating_duration_since(Instant::now())) {
            self.load(built, store);
        }
    }

    fn load(&mut self, built: Built, store: &mut TableStore) {
        store.add_rules(&built.new_rules);
        store.add_lua_layouts(&built.new_layouts);
        for reason in built.lua.refused {
            if self.lua_refused.len() < MAX_REASONS && !self.lua_refused.contains(&reason) {
                self.lua_refused.push(reason);
            }
        }
        if let Some(damage) = built.damage {
            let path = self.entries[built.id.0].file.path();
            self.problems.add(format!("{}: {damage}", visible(path)));
        }
        self.has_new_lua |= !built.lua.builds.is_empty();
        self.entries[built.id.0].lua = built.lua.builds;
        if matches!(self.entries[built.id.0].table, TableState::Begun) {
            self.table(built.id, store);
        }
        let TableState::Ordered(slot) = self.entries[built.id.0].table else {
            return;
        };
        let state = match built.table {
            Ok(Some(table)) => {
                self.counts.built += 1;
                match self.fill(slot, &table, store) {
                    Some(words) => TableState::Loaded(slot, words),
                    None => {
                        self.counts.no_room += 1;
                        TableState::NoRoom(slot, TableStore::words_of(&table), Instant::now())
                    }
                }
            }
            Ok(None) => {
                self.counts.built += 1;
                store.fill_without_info(slot);
                TableState::Loaded(slot, 0..0)
            }
            Err(why) => {
                match why {
                    NoTable::Unreadable(why) => {
                        self.counts.unusable += 1;
                        self.problems.add(why);
                    }
                    NoTable::TooManyRules => self.counts.too_many_rules += 1,
                }
                TableState::Refused(slot)
            }
        };
        self.entries[built.id.0].table = state;
    }

    /// Fills a place, and evicts what must be for that; nothing if that would not be enough.
    fn fill(&mut self, slot: TableSlot, table: &Table, store: &mut TableStore) -> Option<Range<usize>> {
        let wanted = TableStore::words_of(table);
        if wanted > store.free_words() + self.evictable_words() {
            return None;
        }
        let has_words = |entry: &Entry| entry.table.words() > 0;
        // each try may wait for a grace period: only when it can succeed
        while store.free_words() < wanted && self.evict_one(store, has_words) {}
        loop {
            match store.fill(slot, table) {
                Some(words) => return Some(words),
                None if self.evict_one(store, has_words) => {}
                None => return None,
            }
        }
    }

    fn evictable_words(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.is_evictable())
            .map(|entry| entry.table.words())
            .sum()
    }

    /// Orders the tables of these files that there was no room for, if there may be some now. Says whether a
    /// file that has no place for a table may get one.
    pub fn look_for_room(
        &mut self,
        files: impl Iterator<Item = ExecutableId>,
        store: &mut TableStore,
    ) -> bool {
        let words = store.free_words() + self.evictable_words();
        let has_slot = store.free_slots() > 0 || self.entries.values().any(Entry::is_evictable);
        let mut may_get_slot = false;
        for id in files {
            match self.entries[id.0].table {
                TableState::Missing => may_get_slot |= has_slot,
                TableState::NoRoom(slot, wanted, tried)
                    if wanted <= words && tried.elapsed() >= ROOM_REST =>
                {
                    self.order(id, slot);
                }
                _ => {}
            }
        }
        may_get_slot
    }

    fn order(&mut self, id: ExecutableId, slot: TableSlot) {
        self.entries[id.0].table = TableState::Ordered(slot);
        self.builder.order(id, Arc::clone(self.file(id)));
    }

    /// What a walk in user space needs of the file.
    pub fn unwind_data(&mut self, id: ExecutableId) -> Option<Arc<UnwindData>> {
        let entry = &mut self.entries[id.0];
        let unwind = entry.unwind.get_or_insert_with(|| {
            let read = || UnwindData::new(FileBytes(entry.file.data().ok()?)).ok();
            UnwindOfFile {
                data: read().map(Arc::new),
                used: Instant::now(),
            }
        });
        unwind.used = Instant::now();
        // what is mapped changes with the file
        unwind.data.clone().filter(|_| entry.file.is_as_it_was())
    }

    /// Gives back memory that walks in user space used: pages of files at once, the rest when it was not
    /// needed for a while.
    pub fn release_memory(&mut self) {
        for entry in self.entries.values_mut() {
            let Some(unwind) = entry
                .unwind
                .take_if(|unwind| unwind.used.elapsed() > KEEP_UNWIND_DATA)
            else {
                if entry.unwind.is_some()
                    && let Ok(data) = entry.file.data()
                {
                    data.release_pages();
                }
                continue;
            };
            drop(unwind);
        }
    }
}
