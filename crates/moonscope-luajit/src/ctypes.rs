//! The table of C types of a VM (`CTState`, lj_ctype.h), which it has once the program has used the FFI.

use crate::layout::Layout;
use crate::object::{number, read_reference};
use moonscope_process::RemoteMemory;

/// Where the kind of a type stands in `CType.info`, whose lower half is another type.
pub(crate) const CT_SHIFT: u32 = 28;
pub(crate) const CT_PTR: u32 = 2;
/// The last kind that has a size of its own (`CT_HASSIZE`).
const CT_ENUM: u32 = 5;
pub(crate) const CT_FUNC: u32 = 6;
pub(crate) const CT_TYPEDEF: u32 = 7;
pub(crate) const CT_ATTRIB: u32 = 8;
/// Types of types that are followed.
pub(crate) const MAX_TYPES: u32 = 8;
/// `CTID_MAX`: at most 1.5 MiB are read.
const MAX_IDS: u32 = 1 << 16;
/// `CTSIZE_PTR`: what the VM takes for a type without a size.
const POINTER: u32 = 8;

/// Where the table is.
pub(crate) struct CTypes {
    table: u64,
    top: u32,
    capacity: u32,
    size: u64,
}

impl CTypes {
    /// `global_State.ctype_state` stands behind `jit_base`; what is there must name this VM.
    pub(crate) fn read(memory: &impl RemoteMemory, layout: &Layout, g: u64) -> Option<Self> {
        let fields = layout.fields();
        let at = u64::from(layout.build.jit_base) + u64::from(fields.ref_size);
        let state = read_reference(memory, fields, g.checked_add(at)?)?;
        // tab, top, sizetab, L, g
        let mut head = [0; 32];
        memory.read_exact(state, &mut head).ok()?;
        let is_it = number::<8>(&head, 24)? == g;
        is_it.then_some(Self {
            table: number::<8>(&head, 0)?,
            top: number::<4>(&head, 8)? as u32,
            capacity: number::<4>(&head, 12)? as u32,
            size: fields.ctype_size.into(),
        })
    }

    /// `CType.info` of a type.
    pub(crate) fn info(&self, memory: &impl RemoteMemory, id: u32) -> Option<u32> {
        if id >= self.top {
            return None;
        }
        let at = self.table.checked_add(u64::from(id) * self.size)?;
        memory.read_u32(at).ok()
    }

    /// Bytes that were allocated for the table.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.capacity) * self.size
    }

    /// Bytes that a value of each type has (`lj_cdata_free`, lj_cdata.c), by its number; `None` for one that contradicts itself.
    pub(crate) fn sizes(&self, memory: &impl RemoteMemory) -> Option<Vec<Option<u32>>> {
        let top = self.top.min(MAX_IDS) as usize;
        let size = self.size as usize;
        let mut table = vec![0; top * size];
        memory.read_exact(self.table, &mut table).ok()?;
        let entry = |id: u32| {
            let at = (id as usize).checked_mul(size)?;
            Some((
                number::<4>(&table, at)? as u32,
                number::<4>(&table, at + 4)? as u32,
            ))
        };
        let size_of = |id: u32| {
            let (mut info, mut size) = entry(id)?;
            for _ in 0..MAX_TYPES {
                match info >> CT_SHIFT {
                    CT_ATTRIB => (info, size) = entry(info & 0xffff)?,
                    kind if kind <= CT_ENUM => return Some(size),
                    _ => return Some(POINTER),
                }
            }
            None
        };
        Some((0..top as u32).map(size_of).collect())
    }
}
