//! What the garbage collector of a VM knows, and what else one look at its `global_State` tells.

use moonscope_process::RemoteMemory;

use super::layout::{HeapError, HeapLayout};
use crate::layout::TraceFields;
use crate::object::{number, read_reference, reference_at};
use crate::traces::current_fields;
use crate::vm_state::VmState;

/// Length of the array of traces: LuaJIT has at most 65535 (`TraceNo1`, lj_jit.h).
const MAX_TRACES: u64 = 1 << 16;
const TRACE: u64 = crate::object::GCT_TRACE as u64;

/// `gc.state` (`GCS*`, lj_gc.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between two cycles.
    Pause,
    /// It marks what is in use.
    Propagate,
    /// It ends marking.
    Atomic,
    /// It frees strings.
    SweepStrings,
    /// It frees other objects.
    Sweep,
    /// It calls finalizers.
    Finalize,
    /// A number that has no meaning.
    Unknown(u8),
}

impl Phase {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Pause,
            1 => Self::Propagate,
            2 => Self::Atomic,
            3 => Self::SweepStrings,
            4 => Self::Sweep,
            5 => Self::Finalize,
            _ => Self::Unknown(number),
        }
    }

    /// Its name in lj_gc.h, without `GCS`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Propagate => "propagate",
            Self::Atomic => "atomic",
            Self::SweepStrings => "sweepstring",
            Self::Sweep => "sweep",
            Self::Finalize => "finalize",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Compiled code of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Traces.
    pub count: u64,
    /// Bytes of their machine code.
    pub machine_code: u64,
    /// Places for traces: as many as there ever were at a time, rounded up.
    pub capacity: u64,
    /// Entries that do not lead to the trace of that number: changed meanwhile.
    pub torn: u64,
}

/// The collector of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `gc.total`: bytes in use, as `collectgarbage "count"` has them in KiB.
    pub total: u64,
    /// `gc.threshold`: the next step is due when as much is in use.
    pub threshold: u64,
    /// `gc.debt`: how far behind it is.
    pub debt: u64,
    /// `gc.estimate`: what was in use after the last cycle, about.
    pub estimate: u64,
    /// `gc.pause`: percent of the estimate that are waited for before the next cycle.
    pub pause: u32,
    /// `gc.stepmul`: percent of what is allocated that is worked off meanwhile.
    pub stepmul: u32,
    /// What it is doing.
    pub phase: Phase,
    /// It is stopped (`collectgarbage "stop"`): the threshold cannot be reached.
    pub is_stopped: bool,
    /// `hookmask`: events (`LUA_MASK*`, the low 4 bits) and states (`HOOK_*`, lj_obj.h).
    pub hookmask: u8,
    /// Strings in the table.
    pub strings: u64,
    /// Buckets of it.
    pub buckets: u64,
    /// Compiled code; `None` if the VM has no compiler.
    pub traces: Option<Traces>,
    /// What the VM does, or did last.
    pub vm: VmState,
    /// A coroutine of it has a frame on a native stack.
    pub is_running: bool,
}

impl Collector {
    /// Reads it.
    pub fn read(memory: &impl RemoteMemory, heap: &HeapLayout) -> Result<Self, HeapError> {
        let gone = || HeapError::Unreadable { g: heap.g };
        let fields = heap.layout.fields();
        let mut gc = [0; 0x60];
        let bytes = gc.get_mut(..fields.gc_size.into()).ok_or_else(gone)?;
        memory
            .read_exact(heap.g.wrapping_add(heap.gc.into()), bytes)
            .map_err(|_| gone())?;
        let size = |offset: u16| {
            match fields.ref_size {
                8 => number::<8>(&gc, offset.into()),
                _ => number::<4>(&gc, offset.into()),
            }
            .unwrap_or(0)
        };
        let half = |offset: u16| number::<4>(&gc, offset.into()).unwrap_or(0) as u32;
        let mut hookmask = [0];
        memory
            .read_exact(heap.g.wrapping_add(heap.hookmask.into()), &mut hookmask)
            .map_err(|_| gone())?;
        let (_, buckets, strings) = heap.buckets(memory).ok_or_else(gone)?;
        let vm = VmState::read(memory, heap.g, &heap.layout).ok_or_else(gone)?;
        let threshold = size(fields.ref_size);
        Ok(Self {
            total: size(0),
            threshold,
            debt: size(fields.gc_debt),
            estimate: size(fields.gc_estimate),
            stepmul: half(fields.gc_stepmul),
            pause: half(fields.gc_stepmul + 4),
            phase: Phase::of(number::<1>(&gc, usize::from(fields.gc_currentwhite) + 1).unwrap_or(0) as u8),
            is_stopped: is_limit(threshold, fields.ref_size),
            hookmask: hookmask[0],
            strings,
            buckets,
            traces: traces(memory, heap),
            is_running: vm.running(memory, &heap.layout).is_some(),
            vm,
        })
    }
}

/// `LJ_MAX_MEM` (lj_def.h), which `collectgarbage "stop"` sets the threshold to.
fn is_limit(threshold: u64, ref_size: u16) -> bool {
    match ref_size {
        8 => threshold >= 1 << 47,
        _ => threshold >= 0x7fff_ff00,
    }
}

/// Where the array of traces is, and its length.
pub(crate) fn trace_array(memory: &impl RemoteMemory, heap: &HeapLayout) -> Option<(u64, u64)> {
    let build = &heap.layout.build;
    if build.trace == 0 {
        return None;
    }
    let array = memory.read_u64(heap.g.checked_add(build.trace.into())?).ok()?;
    let length = memory
        .read_u32(heap.g.checked_add(build.sizetrace.into())?)
        .ok()?;
    Some((array, u64::from(length)))
}

fn traces(memory: &impl RemoteMemory, heap: &HeapLayout) -> Option<Traces> {
    let (array, capacity) = trace_array(memory, heap)?;
    let mut all = Traces {
        capacity,
        ..Traces::default()
    };
    if array == 0 {
        return Some(all);
    }
    // these fields are where they are in all builds of an object model
    let &TraceFields { szmcode, traceno, .. } = current_fields(heap.layout.mode)?;
    let fields = heap.layout.fields();
    let size = usize::from(fields.ref_size);
    let mut references = vec![0; capacity.min(MAX_TRACES) as usize * size];
    memory.read_exact(array, &mut references).ok()?;
    let at = |index: usize| read_reference_at(&references, index, fields);
    let used: Vec<(u64, u64)> = (1..references.len() / size.max(1))
        .filter_map(|index| Some((index as u64, at(index).filter(|&trace| trace != 0)?)))
        .collect();
    let addresses: Vec<u64> = used.iter().map(|&(_, trace)| trace).collect();
    let length = usize::from(traceno) + 2;
    let mut heads = vec![0; length * addresses.len()];
    let were_read = memory.read_each(&addresses, &mut heads);
    for (((index, _), head), was_read) in used.iter().zip(heads.chunks_exact(length)).zip(were_read) {
        let is_it = was_read
            && number::<1>(head, fields.gct.into()) == Some(TRACE)
            && number::<2>(head, traceno.into()) == Some(*index);
        match number::<4>(head, szmcode.into()).filter(|_| is_it) {
            Some(bytes) => {
                all.count += 1;
                all.machine_code += bytes;
            }
            None => all.torn += 1,
        }
    }
    Some(all)
}

fn read_reference_at(bytes: &[u8], index: usize, fields: &crate::layout::Fields) -> Option<u64> {
    let size = usize::from(fields.ref_size);
    reference_at(fields, bytes.get(index * size..)?, 0)
}

/// The reference at an address, if there is one.
pub(crate) fn read_at(memory: &impl RemoteMemory, heap: &HeapLayout, addr: u64) -> Option<u64> {
    read_reference(memory, heap.layout.fields(), addr)
}
