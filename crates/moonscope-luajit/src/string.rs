//! Strings of a Lua heap (`GCstr`, lj_obj.h).
//!
//! In 2020-06 strings got an identifier (`sid`) before their hash, which moved the length by 4 bytes, and in
//! GC32 the text too. No version number tells the two apart reliably, the strings themselves do: the text has
//! a 0 behind its last byte ([`StrLayout::find`]).

use crate::GcMode;
use crate::value::{Value, gct, is_object, table_nodes};
use crate::{Layout, globals, vms};
use moonscope_process::{ProcessError, RemoteMemory};

/// Longest string that is believed while telling layouts apart. Of 2^32 hashes, which stand where the other
/// layout has its length, one in 65 536 is below it.
const MAX_WITNESS: u32 = 1 << 16;

/// Strings that are looked at to tell the layouts apart.
const MAX_WITNESSES: usize = 256;

/// Strings that must agree.
const MIN_WITNESSES: usize = 3;

/// Where a build of LuaJIT keeps the length and the text of its strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StrLayout {
    mode: GcMode,
    /// `GCstr.len`, 4 bytes.
    len: u16,
    /// `sizeof(GCstr)`: the text follows.
    text: u16,
}

/// What a string reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuaString {
    /// The text, or as much of it as was asked for.
    pub bytes: Vec<u8>,
    /// Bytes that the string really has.
    pub len: u32,
}

/// Why a string could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StringError {
    /// The object there is no string.
    #[error("no Lua string at {address:#x}")]
    NotAString {
        /// Where one was expected.
        address: u64,
    },
    /// Neither layout fits, or both do.
    #[error("{agree} of {looked_at} Lua strings fit a known layout: too few to rely on")]
    UnknownLayout {
        /// Strings that fit the better layout and not the other.
        agree: usize,
        /// Strings that were looked at.
        looked_at: usize,
    },
    /// The memory cannot be read.
    #[error(transparent)]
    Memory(#[from] ProcessError),
}

impl StrLayout {
    /// Strings with `sid`: since 2020-06.
    pub const fn with_sid(mode: GcMode) -> Self {
        match mode {
            GcMode::Gc64 => Self {
                mode,
                len: 0x14,
                text: 0x18,
            },
            GcMode::Gc32 => Self {
                mode,
                len: 0x10,
                text: 0x14,
            },
        }
    }

    /// Strings before that: 2.1.0-beta3 and older.
    pub const fn without_sid(mode: GcMode) -> Self {
        match mode {
            GcMode::Gc64 => Self {
                mode,
                len: 0x10,
                text: 0x18,
            },
            GcMode::Gc32 => Self {
                mode,
                len: 0xc,
                text: 0x10,
            },
        }
    }

    /// The object model it belongs to.
    pub const fn mode(&self) -> GcMode {
        self.mode
    }

    /// Where the length is.
    pub(crate) const fn len(&self) -> u16 {
        self.len
    }

    /// Where the text is.
    pub(crate) const fn text(&self) -> u16 {
        self.text
    }

    /// Bytes that a string of this length has: `lj_str_size` (lj_str.h), before that `sizestring` (lj_obj.h).
    pub(crate) const fn bytes(&self, len: u32) -> u64 {
        let is_new = self.len == Self::with_sid(self.mode).len;
        match is_new {
            true => self.text as u64 + ((len as u64 + 4) & !3),
            false => self.text as u64 + len as u64 + 1,
        }
    }

    /// Tells the layout of a VM from some of its strings: at least three must fit one layout and not the
    /// other, and eight times as many as fit only the other.
    pub fn find<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        witnesses: impl IntoIterator<Item = u64>,
    ) -> Result<Self, StringError> {
        let [new, old] = [Self::with_sid(mode), Self::without_sid(mode)];
        let (mut for_new, mut for_old, mut looked_at) = (0, 0, 0);
        for address in witnesses.into_iter().take(MAX_WITNESSES) {
            looked_at += 1;
            match (new.fits(memory, address), old.fits(memory, address)) {
                (true, false) => for_new += 1,
                (false, true) => for_old += 1,
                _ => {}
            }
        }
        let enough = |votes: usize, against: usize| votes >= MIN_WITNESSES && votes > 8 * against;
        if enough(for_new, for_old) {
            Ok(new)
        } else if enough(for_old, for_new) {
            Ok(old)
        } else {
            let agree = for_new.max(for_old);
            Err(StringError::UnknownLayout { agree, looked_at })
        }
    }

    /// Tells the layout of the VM at `g` by the names of its global variables or, where its main thread has none, by those
    /// in its registry.
    pub fn of_vm<M: RemoteMemory>(memory: &M, layout: &Layout, g: u64) -> Result<Self, StringError> {
        let main = vms::main_thread(memory, g, layout).ok();
        match main.map(|thread| Self::of_thread(memory, layout.mode, thread)) {
            None | Some(Err(StringError::UnknownLayout { .. })) => {
                let mut tables = globals::values(memory, layout, g);
                for table in tables.clone() {
                    let inside = table_nodes(memory, layout.mode, table).into_iter();
                    tables.extend(inside.filter_map(|(_, value)| match value {
                        Value::Table(address) => Some(address),
                        _ => None,
                    }));
                }
                Self::of_tables(memory, layout.mode, tables)
            }
            Some(found) => found,
        }
    }

    /// Tells the layout of a VM by the names of the global variables of a thread of it.
    pub fn of_thread<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        thread: u64,
    ) -> Result<Self, StringError> {
        Self::of_tables(memory, mode, globals::of_thread(memory, mode, thread)?)
    }

    fn of_tables<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        tables: Vec<u64>,
    ) -> Result<Self, StringError> {
        let keys = tables.into_iter().flat_map(|table| {
            let nodes = table_nodes(memory, mode, table).into_iter();
            nodes.filter_map(|(key, _)| match key {
                Value::String(address) => Some(address),
                _ => None,
            })
        });
        Self::find(memory, mode, keys)
    }

    /// True if there is a string at `address` that this layout describes.
    fn fits<M: RemoteMemory + ?Sized>(&self, memory: &M, address: u64) -> bool {
        let fits = || {
            let len = self
                .length(memory, address)
                .ok()
                .filter(|len| *len <= MAX_WITNESS)?;
            let mut text = vec![0; len as usize + 1];
            memory.read_exact(self.text_at(address), &mut text).ok()?;
            // Names have no 0 in them; an empty string would fit a length of 0 read from padding.
            Some(len > 0 && text.iter().position(|byte| *byte == 0) == Some(len as usize))
        };
        fits() == Some(true)
    }

    fn text_at(&self, address: u64) -> u64 {
        address.wrapping_add(self.text.into())
    }

    /// Length of the string at `address`, checked to be one.
    pub fn length<M: RemoteMemory + ?Sized>(&self, memory: &M, address: u64) -> Result<u32, StringError> {
        if !is_object(memory, self.mode, address, gct::STRING) {
            return Err(StringError::NotAString { address });
        }
        Ok(memory.read_u32(address.wrapping_add(self.len.into()))?)
    }

    /// Reads the first `limit` bytes of the string at `address`.
    pub fn read<M: RemoteMemory + ?Sized>(
        &self,
        memory: &M,
        address: u64,
        limit: usize,
    ) -> Result<LuaString, StringError> {
        let len = self.length(memory, address)?;
        let wanted = limit.min(usize::try_from(len).unwrap_or(limit));
        let mut bytes = vec![0; wanted + usize::from(wanted as u64 == u64::from(len))];
        memory.read_exact(self.text_at(address), &mut bytes)?;
        // The 0 behind the text is the proof that this is a string and has this length.
        if bytes.len() > wanted && bytes.pop() != Some(0) {
            return Err(StringError::NotAString { address });
        }
        Ok(LuaString { bytes, len })
    }
}
