//! Functions and prototypes as far as stacks need them: what kind a function is, and where its bytecode lies.

use crate::layout::{Fields, GcMode};
use moonscope_process::RemoteMemory;

/// `~LJ_TTHREAD`, `~LJ_TPROTO`, `~LJ_TFUNC`, `~LJ_TTRACE` (lj_obj.h): the type byte of an object.
pub(crate) const GCT_THREAD: u8 = 6;
pub(crate) const GCT_PROTO: u8 = 7;
pub(crate) const GCT_FUNC: u8 = 8;
pub(crate) const GCT_TRACE: u8 = 9;

/// `LJ_GCVMASK`: a tagged 64-bit slot holds its reference in the low 47 bits.
const GC64_REFERENCE: u64 = (1 << 47) - 1;

/// `LJ_MAX_BCINS` (lj_def.h): no function has more instructions.
const MAX_BYTECODE: u32 = 1 << 26;

/// How far before an instruction the start of its function is looked for: functions with more
/// instructions are generated code; at worst 64 reads of a page.
const MAX_SCAN_BACK: u64 = 256 << 10;

/// Where the bytecode of a prototype lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProtoCode {
    /// Address of its first instruction, the function header.
    pub bytecode: u64,
    /// Number of instructions.
    pub sizebc: u32,
    /// Address of the `GCproto`.
    pub proto: u64,
}

/// What a function object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// Bytecode.
    Lua(ProtoCode),
    /// A C function, and its address.
    C {
        /// `GCfuncC.f`.
        f: u64,
    },
    /// Built into LuaJIT, by its number (`FF_*`).
    Builtin {
        /// `GCfunc.ffid`.
        ffid: u8,
    },
}

impl GcMode {
    /// The reference in a stack slot: without its tag, or the low half.
    pub(crate) fn reference(self, slot: u64) -> u64 {
        match self {
            Self::Gc64 => slot & GC64_REFERENCE,
            Self::Gc32 => slot & u64::from(u32::MAX),
        }
    }
}

/// A number of 1, 2, 4 or 8 bytes at `offset` of these bytes; `None` if they end before.
pub(crate) fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(N)?;
    let mut wide = [0; 8];
    wide.get_mut(..N)?.copy_from_slice(bytes.get(offset..end)?);
    Some(u64::from_le_bytes(wide))
}

/// An object reference at `offset`, as wide as this object model has them.
pub(crate) fn reference_at(fields: &Fields, bytes: &[u8], offset: u16) -> Option<u64> {
    if fields.ref_size == 8 {
        Some(GcMode::Gc64.reference(number::<8>(bytes, usize::from(offset))?))
    } else {
        number::<4>(bytes, usize::from(offset))
    }
}

/// Reads an object reference.
pub(crate) fn read_reference(memory: &impl RemoteMemory, fields: &Fields, addr: u64) -> Option<u64> {
    let mut buf = [0; 8];
    let bytes = buf.get_mut(..usize::from(fields.ref_size).min(8))?;
    memory.read_exact(addr, bytes).ok()?;
    reference_at(fields, &buf, 0)
}

impl ProtoCode {
    /// Reads where the bytecode of this prototype lies; `None` if there is none.
    pub fn read(memory: &impl RemoteMemory, fields: &Fields, proto: u64) -> Option<Self> {
        let mut head = [0; 16];
        memory.read_exact(proto, &mut head).ok()?;
        let sizebc = number::<4>(&head, usize::from(fields.pt_sizebc))? as u32;
        let valid = number::<1>(&head, usize::from(fields.gct))? == u64::from(GCT_PROTO)
            && (1..=MAX_BYTECODE).contains(&sizebc);
        let bytecode = proto.checked_add(u64::from(fields.pt_size))?;
        bytecode.checked_add(u64::from(sizebc) * 4)?;
        valid.then_some(Self {
            bytecode,
            sizebc,
            proto,
        })
    }

    /// The number of the instruction at this address, if it is one of this prototype.
    pub fn index(&self, pc: u64) -> Option<u32> {
        let offset = pc.checked_sub(self.bytecode)?;
        let index = u32::try_from(offset / 4).ok()?;
        (offset % 4 == 0 && index < self.sizebc).then_some(index)
    }

    /// Looks for the prototype that an instruction belongs to, backwards from the instruction. Bytecode
    /// follows its prototype, and a candidate must have the type byte, a size that covers `pc`, and
    /// constants exactly where the compiler puts them.
    pub fn containing(memory: &impl RemoteMemory, fields: &Fields, pc: u64) -> Option<Self> {
        const STEP: u64 = 4096;
        let size = u64::from(fields.pt_size);
        if !pc.is_multiple_of(4) {
            return None;
        }
        let lowest = pc.saturating_sub(MAX_SCAN_BACK + size);
        let mut high = pc.checked_sub(size)?;
        while high > lowest {
            let low = (high & !(STEP - 1)).max(lowest);
            let mut buf = [0; STEP as usize];
            let bytes = buf.get_mut(..usize::try_from(high - low).ok()?.min(STEP as usize))?;
            memory.read_exact(low, bytes).ok()?;
            // The type byte may be in the next piece: a candidate in the last 16 bytes is read again.
            // Objects are aligned to 8 bytes (lj_alloc.c).
            let candidates = (low..=high).rev().filter(|at| at % 8 == 0);
            for at in candidates {
                let gct = (at - low) as usize + usize::from(fields.gct);
                if bytes.get(gct).is_some_and(|&byte| byte != GCT_PROTO) {
                    continue;
                }
                if let Some(code) = Self::checked(memory, fields, at)
                    && code.index(pc).is_some()
                {
                    return Some(code);
                }
            }
            high = low.checked_sub(1)?;
        }
        None
    }

    /// Like [`Self::read`], where nothing but the bytes says that a prototype is here.
    fn checked(memory: &impl RemoteMemory, fields: &Fields, proto: u64) -> Option<Self> {
        let code = Self::read(memory, fields, proto)?;
        let half = |offset: u16| memory.read_u32(proto + u64::from(offset)).ok().map(u64::from);
        let k = read_reference(memory, fields, proto + u64::from(fields.pt_k))?;
        let (sizekgc, sizept) = (half(fields.pt_sizekgc)?, half(fields.pt_sizept)?);
        // fs_finish in lj_parse.c, lj_bcread_proto in lj_bcread.c
        let objects = code.bytecode + u64::from(code.sizebc) * 4;
        let numbers = (objects + sizekgc * u64::from(fields.ref_size) - proto).next_multiple_of(8);
        (k == proto + numbers && numbers <= sizept).then_some(code)
    }
}

impl Function {
    /// Reads what the function object at this address is; `None` if it is none.
    pub fn read(memory: &impl RemoteMemory, fields: &Fields, addr: u64) -> Option<Self> {
        let mut head = [0; 0x30];
        // A Lua function without upvalues ends before the C function's address.
        let len = usize::from(fields.fn_pc + fields.ref_size);
        memory.read_exact(addr, head.get_mut(..len)?).ok()?;
        if number::<1>(&head, usize::from(fields.gct))? != u64::from(GCT_FUNC) {
            return None;
        }
        match number::<1>(&head, usize::from(fields.fn_ffid))? as u8 {
            0 => {
                let pc = reference_at(fields, &head, fields.fn_pc)?;
                let proto = pc.checked_sub(u64::from(fields.pt_size))?;
                ProtoCode::read(memory, fields, proto).map(Self::Lua)
            }
            1 => {
                let f = memory.read_u64(addr.checked_add(u64::from(fields.fn_c))?).ok()?;
                Some(Self::C { f })
            }
            ffid => Some(Self::Builtin { ffid }),
        }
    }
}
