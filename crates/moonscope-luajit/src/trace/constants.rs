//! The IR constants of a trace: links and functions of inlined frames, and prototypes.

use super::{MAX_OBJECTS, TraceError};
use crate::layout::GcMode;
use crate::object::number;
use crate::snapshot::Constants;
use moonscope_process::RemoteMemory;

/// `REF_BIAS`: IR constants are numbered downwards from it.
const REF_BIAS: u32 = 0x8000;
/// `REF_NIL`: a constant that every trace has, whose opcode is `IR_KPRI`. What `IR_KGC` and `IR_KNULL`
/// are follows from it (`IRDEF` in lj_ir.h: KPRI, KINT, KGC, KPTR, KKPTR, KNULL, KNUM, KINT64, KSLOT).
pub(super) const REF_NIL: u32 = REF_BIAS - 1;
const KINT_AFTER_KPRI: u8 = 1;
const KGC_AFTER_KPRI: u8 = 2;
const KNULL_AFTER_KPRI: u8 = 5;
const KSLOT_AFTER_KPRI: u8 = 8;
/// Types of constants (`IRTDEF` in lj_ir.h).
const IRT_TYPE: u8 = 0x1f;
const IRT_PROTO: u8 = 7;
pub(super) const IRT_FUNC: u8 = 8;
const IRT_STR: u8 = 4;
const IRT_INT: u8 = 19;
/// Types whose constants take two IR slots (`IRT_IS64`): light user data, P64, NUM, I64, U64; in GC64 nil
/// and all objects too.
const IS64_GC32: u32 = 1 << 3 | 1 << 9 | 1 << 14 | 1 << 21 | 1 << 22;
const IS64_GC64: u32 = IS64_GC32 | 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12;

/// Bytes of one IR instruction.
const IR_SIZE: usize = 8;

/// The constants of a trace.
pub(super) struct IrConstants {
    mode: GcMode,
    /// Number of the first.
    first: u32,
    bytes: Vec<u8>,
    kgc: u8,
    /// Prototypes among them: a trace keeps alive those that it inlined.
    pub(super) protos: Vec<u64>,
    /// Functions among them, of all kinds, with their numbers.
    pub(super) functions: Vec<(u16, u64)>,
}

impl IrConstants {
    pub(super) fn read(
        memory: &impl RemoteMemory,
        mode: GcMode,
        ir: u64,
        nk: u32,
    ) -> Result<Self, TraceError> {
        let first = nk;
        let mut bytes = vec![0; REF_BIAS.saturating_sub(first) as usize * IR_SIZE];
        memory
            .read_exact(ir.wrapping_add(u64::from(first) * IR_SIZE as u64), &mut bytes)
            .map_err(|_| TraceError::Unreadable)?;
        let mut constants = Self {
            mode,
            first,
            bytes,
            kgc: 0,
            protos: Vec::new(),
            functions: Vec::new(),
        };
        let (_, kpri) = constants.kind(REF_NIL).ok_or(TraceError::NotATrace)?;
        constants.kgc = kpri.wrapping_add(KGC_AFTER_KPRI);
        let knull = kpri.wrapping_add(KNULL_AFTER_KPRI);
        let protos = constants.objects_of(IRT_PROTO, knull);
        constants.protos = protos.into_iter().map(|(_, proto)| proto).collect();
        constants.functions = constants.objects_of(IRT_FUNC, knull);
        Ok(constants)
    }

    /// The objects of a type, with their numbers. Walks the constants upwards, over the second slots of wide ones (as `gc_traverse_trace` does).
    fn objects_of(&self, wanted: u8, knull: u8) -> Vec<(u16, u64)> {
        let is64 = match self.mode {
            GcMode::Gc64 => IS64_GC64,
            GcMode::Gc32 => IS64_GC32,
        };
        let mut objects = Vec::new();
        let mut at = self.first;
        while at < REF_BIAS - 3 && objects.len() < MAX_OBJECTS {
            let Some((kind, op)) = self.kind(at) else { break };
            if kind == wanted && op == self.kgc {
                objects.extend(self.object(at).map(|object| (at as u16, object)));
            }
            at += 1;
            if is64 >> kind & 1 != 0 && op != knull {
                at += 1;
            }
        }
        objects
    }

    /// The string that a constant is, or under which something is in a table (`KSLOT`).
    pub(super) fn string(&self, reference: u16) -> Option<u64> {
        let kslot = self
            .kgc
            .wrapping_sub(KGC_AFTER_KPRI)
            .wrapping_add(KSLOT_AFTER_KPRI);
        let mut reference = u32::from(reference);
        if self.kind(reference)?.1 == kslot {
            let offset = reference.checked_sub(self.first)? as usize * IR_SIZE;
            reference = number::<2>(&self.bytes, offset)? as u32;
        }
        let is_string = self.kind(reference)? == (IRT_STR, self.kgc);
        is_string.then(|| self.object(reference))?
    }

    /// The function that a constant is.
    pub(super) fn function_at(&self, reference: u16) -> Option<u64> {
        Constants::function(self, reference)
    }

    /// The value of a `KINT`, in place of its operands.
    pub(super) fn integer(&self, reference: u16) -> Option<i32> {
        let kint = self
            .kgc
            .wrapping_sub(KGC_AFTER_KPRI)
            .wrapping_add(KINT_AFTER_KPRI);
        let reference = u32::from(reference);
        if self.kind(reference)? != (IRT_INT, kint) {
            return None;
        }
        let offset = reference.checked_sub(self.first)? as usize * IR_SIZE;
        number::<4>(&self.bytes, offset).map(|value| (value as u32).cast_signed())
    }

    /// Type and opcode.
    fn kind(&self, reference: u32) -> Option<(u8, u8)> {
        let offset = reference.checked_sub(self.first)? as usize * IR_SIZE;
        Some((
            self.bytes.get(offset + 4)? & IRT_TYPE,
            *self.bytes.get(offset + 5)?,
        ))
    }

    /// The object of a `KGC`: in its second slot, or in place of its operands.
    fn object(&self, reference: u32) -> Option<u64> {
        let offset = reference.checked_sub(self.first)? as usize * IR_SIZE;
        match self.mode {
            GcMode::Gc64 => number::<8>(&self.bytes, offset + IR_SIZE),
            GcMode::Gc32 => number::<4>(&self.bytes, offset),
        }
    }
}

impl Constants for IrConstants {
    fn word(&self, reference: u16) -> Option<u64> {
        let offset = u32::from(reference).checked_sub(self.first)? as usize * IR_SIZE;
        number::<8>(&self.bytes, offset + IR_SIZE)
    }

    fn function(&self, reference: u16) -> Option<u64> {
        let reference = u32::from(reference);
        let is_function = self.kind(reference)? == (IRT_FUNC, self.kgc);
        is_function.then(|| self.object(reference))?
    }
}
