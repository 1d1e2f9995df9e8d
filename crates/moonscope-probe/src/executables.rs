//! All executable files met in a session: each once, whoever maps it under whatever name.

use std::path::PathBuf;
use std::sync::Arc;

use moonscope_process::{Executable, ExecutableData, ExecutableKey, Mapping, Pid, ProcessError};
use moonscope_unwind::{Table, UnwindData};
use rustc_hash::FxHashMap;

use crate::tables::{LoadedTable, TableSlot, TableStore};

/// An executable file of this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutableId(pub u32);

/// What `/proc/PID/maps` says of a file. It names one file for as long as we hold that file open; the
/// path is there because an overlay file system may give one inode number to two files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileIdentity {
    device: (u32, u32),
    inode: u64,
    path: PathBuf,
}

#[derive(Debug)]
enum TableState {
    Missing,
    Loaded(LoadedTable),
    /// Its unwind information cannot be read: there will never be a table.
    Unusable,
}

struct Entry {
    file: Arc<Executable>,
    table: TableState,
    /// How many mappings of living processes refer to it.
    users: u32,
    /// Order in which tables fell out of use.
    unused_since: u64,
    /// For walks in user space, made on demand.
    unwind: Option<Option<Arc<UnwindData>>>,
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
}

/// The bytes of a file, kept mapped while a walk in user space may need them.
struct FileBytes(Arc<ExecutableData>);

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The register of executables.
#[derive(Default)]
pub struct Executables {
    entries: Vec<Entry>,
    by_key: FxHashMap<ExecutableKey, ExecutableId>,
    by_identity: FxHashMap<FileIdentity, ExecutableId>,
    clock: u64,
    /// What happened to tables.
    pub counts: TableCounts,
}

impl Executables {
    /// The file that a mapping of a process maps.
    pub fn open(&mut self, pid: Pid, mapping: &Mapping) -> Result<ExecutableId, ProcessError> {
        let identity = mapping.path().map(|path| FileIdentity {
            device: mapping.device,
            inode: mapping.inode,
            path: path.to_owned(),
        });
        if let Some(&id) = identity.as_ref().and_then(|identity| self.by_identity.get(identity)) {
            return Ok(id);
        }
        let file = Executable::open(pid, mapping)?;
        let id = match self.by_key.get(file.key()) {
            // Another name or a copy of a known file. The identity is not remembered: only of the file
            // that we hold open we know that its inode number is not used again.
            Some(&id) => return Ok(id),
            None => ExecutableId(self.entries.len() as u32),
        };
        self.by_key.insert(file.key().clone(), id);
        if let Some(identity) = identity {
            self.by_identity.insert(identity, id);
        }
        self.entries.push(Entry {
            file: Arc::new(file),
            table: TableState::Missing,
            users: 0,
            unused_since: 0,
            unwind: None,
        });
        Ok(id)
    }

    /// The file.
    pub fn file(&self, id: ExecutableId) -> &Arc<Executable> {
        &self.entries[id.0 as usize].file
    }

    /// How many there are; ids count from 0.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was met.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A mapping more refers to the file.
    pub fn add_user(&mut self, id: ExecutableId) {
        self.entries[id.0 as usize].users += 1;
    }

    /// A mapping less refers to the file. Its table stays until its room is needed.
    pub fn remove_user(&mut self, id: ExecutableId) {
        self.clock += 1;
        let entry = &mut self.entries[id.0 as usize];
        entry.users = entry.users.saturating_sub(1);
        entry.unused_since = self.clock;
    }

    /// The table of a file, built and loaded if it is not yet; `None` if there is no room for it.
    pub fn table(&mut self, id: ExecutableId, store: &mut TableStore) -> Option<TableSlot> {
        match &self.entries[id.0 as usize].table {
            TableState::Loaded(table) => return Some(table.slot),
            TableState::Unusable => return None,
            TableState::Missing => {}
        }
        let built = match self.file(id).data() {
            Ok(data) => Table::build(&data, &mut store.rules).map_err(|_| ()),
            Err(_) => Err(()),
        };
        let Ok(table) = built else {
            self.counts.unusable += 1;
            self.entries[id.0 as usize].table = TableState::Unusable;
            return None;
        };
        self.counts.built += 1;
        let loaded = loop {
            let loaded = match &table {
                Some(table) => store.load(table),
                None => store.load_without_info(),
            };
            if loaded.is_some() || !self.evict_one(store) {
                break loaded;
            }
        };
        let Some(loaded) = loaded else {
            self.counts.no_room += 1;
            return None;
        };
        let slot = loaded.slot;
        self.entries[id.0 as usize].table = TableState::Loaded(loaded);
        Some(slot)
    }

    /// Unloads the table that has been out of use for longest.
    fn evict_one(&mut self, store: &mut TableStore) -> bool {
        let oldest = self
            .entries
            .iter_mut()
            .filter(|entry| entry.users == 0 && matches!(entry.table, TableState::Loaded(_)))
            .min_by_key(|entry| entry.unused_since);
        let Some(entry) = oldest else { return false };
        if let TableState::Loaded(table) = std::mem::replace(&mut entry.table, TableState::Missing) {
            store.unload(table);
        }
        entry.unwind = None;
        self.counts.evicted += 1;
        true
    }

    /// What a walk in user space needs of the file.
    pub fn unwind_data(&mut self, id: ExecutableId) -> Option<Arc<UnwindData>> {
        let entry = &mut self.entries[id.0 as usize];
        entry
            .unwind
            .get_or_insert_with(|| {
                let data = FileBytes(entry.file.data().ok()?);
                UnwindData::new(data).ok().map(Arc::new)
            })
            .clone()
    }
}
