//! A trace, copied out of the process: its machine code's extent, its snapshots, and the functions that
//! its frames refer to. The copy stays useful after the trace was flushed.

use crate::layout::{GcMode, Layout, TraceFields};
use crate::object::{Function, GCT_TRACE, ProtoCode, number, reference_at};
use crate::snapshot::{Constants, SnapFrame, decode};
use moonscope_process::RemoteMemory;
use rustc_hash::FxHashMap;
use std::ops::Range;

/// `REF_BIAS`: IR constants are numbered downwards from it.
const REF_BIAS: u32 = 0x8000;
/// `REF_NIL`: a constant that every trace has, whose opcode is `IR_KPRI`. What `IR_KGC` and `IR_KNULL`
/// are follows from it (`IRDEF` in lj_ir.h: KPRI, KINT, KGC, KPTR, KKPTR, KNULL, KNUM, KINT64).
const REF_NIL: u32 = REF_BIAS - 1;
const KGC_AFTER_KPRI: u8 = 2;
const KNULL_AFTER_KPRI: u8 = 5;
/// Types of constants (`IRTDEF` in lj_ir.h).
const IRT_TYPE: u8 = 0x1f;
const IRT_PROTO: u8 = 7;
const IRT_FUNC: u8 = 8;
/// Types whose constants take two IR slots (`IRT_IS64`): light user data, P64, NUM, I64, U64; in GC64 nil
/// and all objects too.
const IS64_GC32: u32 = 1 << 3 | 1 << 9 | 1 << 14 | 1 << 21 | 1 << 22;
const IS64_GC64: u32 = IS64_GC32 | 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12;

/// Bytes of one IR instruction, and of one entry of a snapshot map.
const IR_SIZE: usize = 8;
const ENTRY_SIZE: usize = 4;
/// Snapshots of one trace; LuaJIT's default is 500 (`JIT_P_maxsnap`). At most 192 KiB are read.
const MAX_SNAPSHOTS: usize = 16 << 10;
/// Entries of one snapshot map: at most 2 MiB are read.
const MAX_ENTRIES: usize = 512 << 10;
/// Frames of all snapshots of one trace: at most 1 MiB is kept.
const MAX_FRAMES: usize = 64 << 10;
/// Machine code of one trace: offsets of snapshots have 16 bits.
const MAX_MCODE: u32 = 16 << 20;
/// Functions and prototypes that one trace refers to: it has at most `JIT_P_maxirconst` constants, 500.
const MAX_OBJECTS: usize = 4096;
/// Prototypes that are looked for because of a program counter that no constant covers.
const MAX_SEARCHED: usize = 64;
/// Bytes at the end of the machine code where `jit_base` is stored: the store (8), an addition to the stack
/// pointer (7), a jump (6), and up to 16 no-operations.
const TAIL: u64 = 40;

/// What tells one trace from another that later has its number or its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId {
    /// Its number.
    pub traceno: u16,
    /// Address of its machine code.
    pub mcode: u64,
    /// Bytes of it.
    pub szmcode: u32,
    /// Bytecode instruction where it starts.
    pub startpc: u64,
}

/// Why there is no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TraceError {
    /// This build's traces have no known layout.
    #[error("the layout of traces is not known")]
    NoLayout,
    /// It cannot be read: freed meanwhile, most likely.
    #[error("the trace cannot be read")]
    Unreadable,
    /// There is no trace at this address, or it is being recorded.
    #[error("no finished trace is there")]
    NotATrace,
    /// A size is beyond every bound.
    #[error("the trace is too large")]
    TooLarge,
    /// It changed while it was copied.
    #[error("the trace changed while it was copied")]
    Changed,
}

/// A snapshot, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub mcofs: u16,
    /// Of [`TraceCopy::frames`]; `None` if the snapshot contradicts itself.
    pub frames: Option<Range<usize>>,
    pub tail_called: bool,
}

/// A trace that does not need the process any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceCopy {
    /// Its number.
    pub traceno: u16,
    /// Address of its machine code.
    pub mcode: u64,
    /// Bytes of machine code.
    pub szmcode: u32,
    /// Prototype where it starts.
    pub startpt: u64,
    /// Bytecode instruction where it starts.
    pub startpc: u64,
    /// What that instruction was before it was patched.
    pub startins: u32,
    /// Trace that it continues in: itself for a loop, 0 if it returns to the interpreter.
    pub link: u16,
    /// Root trace of a side trace, else 0.
    pub root: u16,
    /// From here the machine code has moved `jit_base` up to its innermost frame, to link with a trace
    /// that starts there.
    pub(crate) base_moved_at: Option<u32>,
    /// `None`: without machine code offsets.
    pub(crate) snapshots: Option<Vec<Snapshot>>,
    pub(crate) frames: Vec<SnapFrame>,
    pub(crate) functions: FxHashMap<u64, Function>,
    /// Sorted by address.
    codes: Vec<ProtoCode>,
}

/// The fields of a `GCtrace` that a copy is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    nsnap: usize,
    ir: u64,
    nk: u32,
    snap: u64,
    snapmap: u64,
    startpt: u64,
    startins: u32,
    pub(crate) id: TraceId,
    link: u16,
    root: u16,
}

impl Header {
    pub(crate) fn read(memory: &impl RemoteMemory, layout: &Layout, addr: u64) -> Result<Self, TraceError> {
        let fields = layout.fields();
        let at = layout.trace.as_ref().ok_or(TraceError::NoLayout)?;
        let last = [
            at.nsnap,
            at.ir,
            at.nk,
            at.snap,
            at.snapmap,
            at.startpt,
            at.startpc,
            at.startins,
            at.szmcode,
            at.mcode,
            at.traceno,
            at.link,
            at.root,
        ];
        let len = usize::from(last.into_iter().max().unwrap_or(0)) + 8;
        let mut head = vec![0; len];
        memory
            .read_exact(addr, &mut head)
            .map_err(|_| TraceError::Unreadable)?;
        let gct = number::<1>(&head, usize::from(fields.gct));
        let header = Self::parse(layout.mode, at, &head).filter(|_| gct == Some(u64::from(GCT_TRACE)));
        header.ok_or(TraceError::NotATrace)
    }

    fn parse(mode: GcMode, at: &TraceFields, head: &[u8]) -> Option<Self> {
        let wide = |offset: u16| number::<8>(head, usize::from(offset));
        let half = |offset: u16| number::<4>(head, usize::from(offset)).map(|value| value as u32);
        let short = |offset: u16| number::<2>(head, usize::from(offset)).map(|value| value as u16);
        let reference = |offset| reference_at(mode.fields(), head, offset);
        let header = Self {
            nsnap: usize::from(short(at.nsnap)?),
            ir: wide(at.ir)?,
            nk: half(at.nk)?,
            snap: wide(at.snap)?,
            snapmap: wide(at.snapmap)?,
            startpt: reference(at.startpt)?,
            startins: half(at.startins)?,
            id: TraceId {
                traceno: short(at.traceno)?,
                mcode: wide(at.mcode)?,
                szmcode: half(at.szmcode)?,
                startpc: reference(at.startpc)?,
            },
            link: short(at.link)?,
            root: short(at.root)?,
        };
        let TraceId { mcode, szmcode, .. } = header.id;
        let is_finished = mcode != 0
            && szmcode != 0
            && mcode.checked_add(u64::from(szmcode)).is_some()
            && header.nk <= REF_NIL;
        is_finished.then_some(header)
    }
}

impl TraceCopy {
    /// Copies the trace at `addr` of the VM `g`.
    pub fn read(memory: &impl RemoteMemory, layout: &Layout, g: u64, addr: u64) -> Result<Self, TraceError> {
        let header = Header::read(memory, layout, addr)?;
        let TraceId {
            traceno,
            mcode,
            szmcode,
            startpc,
        } = header.id;
        if szmcode > MAX_MCODE || header.nsnap > MAX_SNAPSHOTS {
            return Err(TraceError::TooLarge);
        }
        let mut copy = Self {
            traceno,
            mcode,
            szmcode,
            startpt: header.startpt,
            startpc,
            startins: header.startins,
            link: header.link,
            root: header.root,
            base_moved_at: base_moved_at(memory, layout, g, &header.id),
            snapshots: None,
            frames: Vec::new(),
            functions: FxHashMap::default(),
            codes: Vec::new(),
        };
        let constants = IrConstants::read(memory, layout.mode, &header)?;
        copy.read_snapshots(memory, layout, &header, &constants)?;
        copy.read_objects(memory, layout, &constants);
        match Header::read(memory, layout, addr) {
            Ok(now) if now == header => Ok(copy),
            _ => Err(TraceError::Changed),
        }
    }

    /// What tells it from others.
    pub fn id(&self) -> TraceId {
        TraceId {
            traceno: self.traceno,
            mcode: self.mcode,
            szmcode: self.szmcode,
            startpc: self.startpc,
        }
    }

    /// Whether this address is in its machine code.
    pub fn contains(&self, address: u64) -> bool {
        address
            .checked_sub(self.mcode)
            .is_some_and(|offset| offset < u64::from(self.szmcode))
    }

    /// The prototype that a bytecode instruction of this trace belongs to.
    pub(crate) fn code_at(&self, pc: u64) -> Option<&ProtoCode> {
        let after = self.codes.partition_point(|code| code.bytecode <= pc);
        let code = self.codes.get(after.checked_sub(1)?)?;
        code.index(pc).map(|_| code)
    }

    fn read_snapshots(
        &mut self,
        memory: &impl RemoteMemory,
        layout: &Layout,
        header: &Header,
        constants: &IrConstants,
    ) -> Result<(), TraceError> {
        let size = layout.trace.as_ref().map_or(0, |at| at.snapshot_size);
        if usize::from(size) != RawSnapshot::SIZE {
            return Ok(());
        }
        let mut bytes = vec![0; header.nsnap * RawSnapshot::SIZE];
        memory
            .read_exact(header.snap, &mut bytes)
            .map_err(|_| TraceError::Unreadable)?;
        let raw: Vec<_> = bytes
            .chunks_exact(RawSnapshot::SIZE)
            .map(RawSnapshot::parse)
            .collect();
        let map = read_map(memory, header.snapmap, &raw)?;
        let mut snapshots = Vec::with_capacity(raw.len());
        for snapshot in &raw {
            let entries = map.get(snapshot.mapofs..).unwrap_or_default();
            let decoded = decode(layout.mode, entries, snapshot.nent, constants);
            let start = self.frames.len();
            let tail_called = decoded.as_ref().is_some_and(|frames| frames.tail_called);
            let frames = decoded.map(|decoded| {
                self.frames.extend(decoded.frames);
                start..self.frames.len()
            });
            if self.frames.len() > MAX_FRAMES {
                return Err(TraceError::TooLarge);
            }
            let mcofs = snapshot.mcofs;
            snapshots.push(Snapshot {
                mcofs,
                frames,
                tail_called,
            });
        }
        self.snapshots = Some(snapshots);
        Ok(())
    }

    /// Finds out what the functions in frames are, and which prototypes their instructions belong to.
    fn read_objects(&mut self, memory: &impl RemoteMemory, layout: &Layout, constants: &IrConstants) {
        let fields = layout.fields();
        let mut functions: Vec<u64> = self.frames.iter().map(|frame| frame.function).collect();
        functions.sort_unstable();
        functions.dedup();
        for function in functions.into_iter().filter(|&addr| addr != 0).take(MAX_OBJECTS) {
            if let Some(read) = Function::read(memory, fields, function) {
                self.functions.insert(function, read);
                self.codes.extend(match read {
                    Function::Lua(code) => Some(code),
                    _ => None,
                });
            }
        }
        let protos = constants.protos.iter().chain([&self.startpt]);
        let read = protos.filter_map(|&proto| ProtoCode::read(memory, fields, proto));
        self.codes.extend(read);
        self.order_codes();
        let mut pcs: Vec<u64> = self.frames.iter().map(|frame| frame.pc).collect();
        pcs.sort_unstable();
        pcs.dedup();
        let mut searched = 0;
        for pc in pcs {
            if pc == 0 || searched == MAX_SEARCHED || self.code_at(pc).is_some() {
                continue;
            }
            searched += 1;
            if let Some(code) = ProtoCode::containing(memory, fields, pc) {
                self.codes.push(code);
                self.order_codes();
            }
        }
    }

    fn order_codes(&mut self) {
        self.codes.sort_unstable();
        self.codes.dedup();
    }
}

/// `SnapShot` (lj_jit.h) since March 2021.
struct RawSnapshot {
    mapofs: usize,
    mcofs: u16,
    nent: usize,
}

impl RawSnapshot {
    const SIZE: usize = 12;

    fn parse(bytes: &[u8]) -> Self {
        Self {
            mapofs: number::<4>(bytes, 0).unwrap_or(0) as usize,
            mcofs: number::<2>(bytes, 6).unwrap_or(0) as u16,
            nent: number::<1>(bytes, 10).unwrap_or(0) as usize,
        }
    }
}

/// Reads the snapshot map. Behind the last entries are at most as many frame links, and the program counter.
fn read_map(memory: &impl RemoteMemory, addr: u64, raw: &[RawSnapshot]) -> Result<Vec<u32>, TraceError> {
    let ends = raw
        .iter()
        .map(|snapshot| snapshot.mapofs.saturating_add(2 * snapshot.nent + 2));
    let entries = ends.max().unwrap_or(0);
    if entries > MAX_ENTRIES {
        return Err(TraceError::TooLarge);
    }
    let mut bytes = vec![0; entries * ENTRY_SIZE];
    let mut done = 0;
    while done < bytes.len() {
        let rest = bytes.get_mut(done..).unwrap_or_default();
        match memory.read(addr.wrapping_add(done as u64), rest) {
            Ok(read) if read > 0 => done += read,
            _ => break,
        }
    }
    bytes.truncate(done);
    Ok(bytes
        .chunks_exact(ENTRY_SIZE)
        .map(|entry| number::<4>(entry, 0).unwrap_or(0) as u32)
        .collect())
}

/// The constants of a trace.
struct IrConstants {
    mode: GcMode,
    /// Number of the first.
    first: u32,
    bytes: Vec<u8>,
    kgc: u8,
    /// Prototypes among them: a trace keeps alive those that it inlined.
    protos: Vec<u64>,
}

impl IrConstants {
    fn read(memory: &impl RemoteMemory, mode: GcMode, header: &Header) -> Result<Self, TraceError> {
        let first = header.nk;
        let mut bytes = vec![0; REF_BIAS.saturating_sub(first) as usize * IR_SIZE];
        memory
            .read_exact(
                header.ir.wrapping_add(u64::from(first) * IR_SIZE as u64),
                &mut bytes,
            )
            .map_err(|_| TraceError::Unreadable)?;
        let mut constants = Self {
            mode,
            first,
            bytes,
            kgc: 0,
            protos: Vec::new(),
        };
        let (_, kpri) = constants.kind(REF_NIL).ok_or(TraceError::NotATrace)?;
        constants.kgc = kpri.wrapping_add(KGC_AFTER_KPRI);
        constants.protos = constants.find_protos(kpri.wrapping_add(KNULL_AFTER_KPRI));
        Ok(constants)
    }

    /// Walks the constants upwards, over the second slots of wide ones (as `gc_traverse_trace` does).
    fn find_protos(&self, knull: u8) -> Vec<u64> {
        let is64 = match self.mode {
            GcMode::Gc64 => IS64_GC64,
            GcMode::Gc32 => IS64_GC32,
        };
        let mut protos = Vec::new();
        let mut at = self.first;
        while at < REF_BIAS - 3 && protos.len() < MAX_OBJECTS {
            let Some((kind, op)) = self.kind(at) else { break };
            if kind == IRT_PROTO && op == self.kgc {
                protos.extend(self.object(at));
            }
            at += 1;
            if is64 >> kind & 1 != 0 && op != knull {
                at += 1;
            }
        }
        protos
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

/// Finds the store of the base register (edx) to `jit_base` at the end of the machine code
/// (`asm_tail_link` in lj_asm.c, `emit_setgl` in lj_emit_x86.h): `mov [r14+disp], rdx` in GC64,
/// `mov [address], edx` in GC32. Returns the offset behind it.
fn base_moved_at(memory: &impl RemoteMemory, layout: &Layout, g: u64, id: &TraceId) -> Option<u32> {
    let len = TAIL.min(u64::from(id.szmcode));
    let start = u64::from(id.szmcode) - len;
    let mut tail = [0; TAIL as usize];
    let tail = tail.get_mut(..len as usize)?;
    memory.read_exact(id.mcode.checked_add(start)?, tail).ok()?;
    let build = &layout.build;
    let displacement = build.jit_base.wrapping_sub(build.g2disp);
    let store = match layout.mode {
        GcMode::Gc64 => [&[0x49, 0x89, 0x96][..], &displacement.to_le_bytes()].concat(),
        GcMode::Gc32 => {
            let address = u32::try_from(g).ok()?.wrapping_add(build.jit_base);
            [&[0x89, 0x14, 0x25][..], &address.to_le_bytes()].concat()
        }
    };
    let at = tail.windows(store.len()).rposition(|window| window == store)?;
    u32::try_from(start + (at + store.len()) as u64).ok()
}
