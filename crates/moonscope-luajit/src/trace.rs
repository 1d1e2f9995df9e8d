//! A trace, copied out of the process: its machine code's extent, its snapshots, and the functions that
//! its frames refer to. The copy stays useful after the trace was flushed.

mod base_stores;
mod between;
mod calls;
mod constants;
mod guarded_builtins;
mod ir;
mod metamethods;
mod places;
mod way_calls;

use crate::callee::Source;
use crate::layout::{GcMode, Layout, TraceFields};
use crate::object::{Function, GCT_TRACE, ProtoCode, number, reference_at};
use crate::snapshot::{SnapFrame, decode};
use base_stores::base_stores;
pub(crate) use calls::TraceCall;
use constants::{IrConstants, REF_NIL};
use ir::Ir;
use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};
use std::ops::Range;

/// Bytes of one entry of a snapshot map.
const ENTRY_SIZE: usize = 4;
/// Snapshots of one trace; LuaJIT's default is 500 (`JIT_P_maxsnap`). At most 192 KiB are read.
const MAX_SNAPSHOTS: usize = 16 << 10;
/// Entries of one snapshot map: at most 512 KiB are read.
const MAX_ENTRIES: usize = 128 << 10;
/// Frames of all snapshots of one trace: at most 1 MiB is kept.
const MAX_FRAMES: usize = 64 << 10;
/// Machine code of one trace: offsets of snapshots have 16 bits, older builds end at the size of an area.
const MAX_MCODE: u32 = 1 << 20;
/// Functions and prototypes that one trace refers to: it has at most `JIT_P_maxirconst` constants, 500.
pub(crate) const MAX_OBJECTS: usize = 4096;
/// Prototypes that are looked for because of a program counter that no constant covers.
const MAX_SEARCHED: usize = 64;
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
    /// How many of its frames, from the outermost on, are those of all code up to the next one.
    pub certain: usize,
    /// Others may be called inside these on the way.
    pub may_call: bool,
    /// Of [`TraceCopy::callees`]: all that the innermost of them calls on the way, if that is known.
    pub callees: Option<Range<usize>>,
    /// Of [`TraceCopy::sure_calls`]: what is called for certain on the way to the next one.
    pub sure_calls: Range<usize>,
    /// Where the innermost of those frames is, is known.
    pub is_placed: bool,
}

/// A call that runs between two snapshots, whichever branches are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SureCall {
    /// Where its function comes from.
    pub source: Source,
    /// The instruction that calls; `None` if it may be one of several.
    pub pc: Option<u64>,
    /// Which function calls.
    pub(crate) by: Caller,
}

/// Of two snapshots, whose innermost function is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// That of the first one, which returns before the second.
    First,
    /// That of the second one.
    Second,
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
    /// Offsets behind each instruction that moves `jit_base`, ascending.
    pub(crate) base_stores: Vec<u32>,
    /// Calls of other code, ascending.
    pub(crate) calls: Vec<TraceCall>,
    /// `None`: without machine code offsets.
    pub(crate) snapshots: Option<Vec<Snapshot>>,
    pub(crate) frames: Vec<SnapFrame>,
    pub(crate) functions: FxHashMap<u64, Function>,
    pub(crate) callees: Vec<Source>,
    pub(crate) sure_calls: Vec<SureCall>,
    /// Builtins that it calls without being bound to one function object, by the IR instruction that yields it.
    pub(crate) guarded_builtins: FxHashMap<u16, u8>,
    /// Sorted by address.
    codes: Vec<ProtoCode>,
}

/// The fields of a `GCtrace` that a copy is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    nsnap: usize,
    nins: u32,
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
        let mut head = vec![0; Self::len(layout)?];
        memory
            .read_exact(addr, &mut head)
            .map_err(|_| TraceError::Unreadable)?;
        Self::from_bytes(layout, &head)
    }

    /// How many bytes of a trace are looked at.
    pub(crate) fn len(layout: &Layout) -> Result<usize, TraceError> {
        let at = layout.trace.as_ref().ok_or(TraceError::NoLayout)?;
        let last = [
            at.nsnap,
            at.nins,
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
        Ok(usize::from(last.into_iter().max().unwrap_or(0)) + 8)
    }

    /// Takes the first bytes of a trace apart.
    pub(crate) fn from_bytes(layout: &Layout, head: &[u8]) -> Result<Self, TraceError> {
        let at = layout.trace.as_ref().ok_or(TraceError::NoLayout)?;
        let gct = number::<1>(head, usize::from(layout.fields().gct));
        let header = Self::parse(layout.mode, at, head).filter(|_| gct == Some(u64::from(GCT_TRACE)));
        header.ok_or(TraceError::NotATrace)
    }

    fn parse(mode: GcMode, at: &TraceFields, head: &[u8]) -> Option<Self> {
        let wide = |offset: u16| number::<8>(head, usize::from(offset));
        let half = |offset: u16| number::<4>(head, usize::from(offset)).map(|value| value as u32);
        let short = |offset: u16| number::<2>(head, usize::from(offset)).map(|value| value as u16);
        let reference = |offset| reference_at(mode.fields(), head, offset);
        let header = Self {
            nsnap: usize::from(short(at.nsnap)?),
            nins: half(at.nins)?,
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
        let mut code = vec![0; szmcode as usize];
        memory
            .read_exact(mcode, &mut code)
            .map_err(|_| TraceError::Unreadable)?;
        let mut copy = Self {
            traceno,
            mcode,
            szmcode,
            startpt: header.startpt,
            startpc,
            startins: header.startins,
            link: header.link,
            root: header.root,
            base_stores: base_stores(&code, layout, g),
            calls: calls::calls(&code, mcode),
            snapshots: None,
            frames: Vec::new(),
            functions: FxHashMap::default(),
            callees: Vec::new(),
            sure_calls: Vec::new(),
            guarded_builtins: FxHashMap::default(),
            codes: Vec::new(),
        };
        let constants = IrConstants::read(memory, layout.mode, header.ir, header.nk)?;
        copy.read_snapshots(memory, layout, &header, &constants)?;
        copy.read_objects(memory, layout, &constants);
        let ir = Ir::read(memory, header.ir, header.nins);
        copy.read_builtins(&ir, &constants);
        copy.judge(memory, layout, &ir, &constants);
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

    /// What it holds in memory, in units of some 16 bytes.
    pub(crate) fn weight(&self) -> usize {
        let snapshots = self.snapshots.as_ref().map_or(0, Vec::len);
        8 + self.frames.len()
            + 2 * self.codes.len()
            + 3 * self.functions.len()
            + 5 * snapshots
            + 4 * self.callees.len()
            + 5 * self.sure_calls.len()
            + self.calls.len()
    }

    /// Whether calls may be inlined anywhere in it: then a place in it that is not known exactly may lack frames.
    pub fn may_inline(&self) -> bool {
        let Some(snapshots) = &self.snapshots else {
            return true;
        };
        snapshots.iter().any(|snapshot| {
            snapshot.tail_called || snapshot.frames.as_ref().is_none_or(|frames| frames.len() > 1)
        })
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
        // without offsets in the machine code nothing tells which snapshot is meant
        if layout.trace.and_then(|at| at.snapshot_mcofs) != Some(RawSnapshot::MCOFS) {
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
                certain: frames.as_ref().map_or(0, Range::len),
                frames,
                tail_called,
                may_call: false,
                callees: None,
                sure_calls: 0..0,
                is_placed: true,
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

    /// Finds out what is called through functions that are neither constants nor bytecode.
    fn read_builtins(&mut self, ir: &Ir, constants: &IrConstants) {
        let is_open = |frame: &&SnapFrame| frame.reference != 0 && self.code_at(frame.pc).is_none();
        let open: FxHashSet<u16> = self
            .frames
            .iter()
            .filter(is_open)
            .map(|frame| frame.reference)
            .collect();
        if !open.is_empty() {
            self.guarded_builtins = guarded_builtins::find(ir, &open, constants);
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
    const MCOFS: u16 = 6;

    fn parse(bytes: &[u8]) -> Self {
        Self {
            mapofs: number::<4>(bytes, 0).unwrap_or(0) as usize,
            mcofs: number::<2>(bytes, Self::MCOFS.into()).unwrap_or(0) as u16,
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

#[cfg(test)]
pub(crate) mod tests;
