//! What a VM has besides objects: its state, and tables and buffers of its parts.

use moonscope_process::RemoteMemory;

use super::layout::HeapLayout;
use super::sizes::trace_fields;
use super::state::{read_at, trace_array};
use crate::ctypes::CTypes;
use crate::object::number;

/// Words of a dispatch table at most, and of the instructions of built-in functions behind it (lj_dispatch.h).
const MAX_DISPATCH: usize = 512;
const MAX_BUILTINS: usize = 256;
/// The first instruction of a dispatch table is more than this away from the last one: VM code is a few tens of KiB.
const MAX_VM: u64 = 1 << 20;
/// Bytes of one buffer.
const MAX_BUFFER: u64 = 1 << 30;

/// Bytes of it; what cannot be told is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// `GG_State`: the main coroutine without its stack, the `global_State`, the compiler's state, the dispatch table.
    pub state: u64,
    /// Buckets of the table of strings.
    pub string_table: u64,
    /// The array of traces, and what the compiler records into.
    pub compiler: u64,
    /// C types that the program has declared (FFI).
    pub c_types: u64,
    /// The buffer that strings are put together in.
    pub buffer: u64,
}

impl Own {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.state + self.string_table + self.compiler + self.c_types + self.buffer
    }

    pub(super) fn read(memory: &impl RemoteMemory, heap: &HeapLayout) -> Self {
        let reference = u64::from(heap.layout.fields().ref_size);
        let trace_array = trace_array(memory, heap).map_or(0, |(_, length)| length.min(1 << 16) * reference);
        Self {
            state: state(memory, heap).unwrap_or(0),
            string_table: heap.buckets(memory).map_or(0, |(_, count, _)| count * reference),
            compiler: trace_array + recording(memory, heap).unwrap_or(0),
            c_types: CTypes::read(memory, &heap.layout, heap.g)
                .map_or(0, |types| types.bytes().min(MAX_BUFFER)),
            buffer: buffer(memory, heap).unwrap_or(0),
        }
    }
}

/// From the main coroutine to the end of the dispatch table, and the instructions behind it: of each built-in function one, whose
/// operation is the next number (lj_dispatch.c, `lj_dispatch_init`).
fn state(memory: &impl RemoteMemory, heap: &HeapLayout) -> Option<u64> {
    let table = heap.g.checked_add(heap.layout.build.g2disp.into())?;
    let mut bytes = vec![0; MAX_DISPATCH * 8 + MAX_BUILTINS * 4];
    let read = memory.read(table, &mut bytes).ok()?;
    bytes.truncate(read);
    let first = number::<8>(&bytes, 0)?;
    let is_code =
        |index: &usize| number::<8>(&bytes, index * 8).is_some_and(|word| word.abs_diff(first) < MAX_VM);
    let dispatch = (0..MAX_DISPATCH).take_while(is_code).count() * 8;
    let instruction = |index: usize| number::<4>(&bytes, dispatch + index * 4);
    let first = instruction(0)?;
    let is_next =
        |index: &usize| instruction(*index) == first.checked_add(*index as u64).filter(|op| *op < 256);
    let builtins = (0..MAX_BUILTINS).take_while(is_next).count() * 4;
    // GG_State is as large as a multiple of what it is aligned to
    let size = (heap.g - heap.main) + u64::from(heap.layout.build.g2disp) + (dispatch + builtins) as u64;
    Some(size.next_multiple_of(8))
}

/// Buffers of the compiler, which stand right before its array of traces (`jit_State`, lj_jit.h): `irbuf` (its instructions from
/// `irbotlim` to `irtoplim`), `sizesnap`, `snapbuf`, `snapmapbuf`, `sizesnapmap`.
fn recording(memory: &impl RemoteMemory, heap: &HeapLayout) -> Option<u64> {
    const BACK: u64 = 56;
    const IR: u64 = 8;
    if heap.layout.build.trace == 0 {
        return None;
    }
    let at = heap
        .g
        .checked_add(heap.layout.build.trace.into())?
        .checked_sub(BACK)?;
    let mut bytes = [0; BACK as usize];
    memory.read_exact(at, &mut bytes).ok()?;
    let word = |at| number::<8>(&bytes, at);
    let half = |at| number::<4>(&bytes, at);
    let (irbuf, top, bottom) = (word(0)?, half(8)?, half(12)?);
    let (sizesnap, snapbuf, snapmapbuf, sizesnapmap) = (half(20)?, word(24)?, word(32)?, half(40)?);
    // a buffer is there when it has a size, and its words are addresses
    let is_buffer =
        |addr: u64, size: u64| (addr == 0) == (size == 0) && addr.is_multiple_of(4) && size <= 1 << 20;
    let ir = top.checked_sub(bottom)?;
    let is_it = is_buffer(irbuf, ir) && is_buffer(snapbuf, sizesnap) && is_buffer(snapmapbuf, sizesnapmap);
    let snapshot = trace_fields(memory, heap).map_or(12, |trace| u64::from(trace.snapshot_size));
    is_it.then(|| ir * IR + sizesnap * snapshot + sizesnapmap * 4)
}

/// `tmpbuf`: three addresses (w, e, b) and a coroutine, in the newest builds behind two references to coroutines (`mainthref`, and
/// `vmthref`), else behind one.
fn buffer(memory: &impl RemoteMemory, heap: &HeapLayout) -> Option<u64> {
    let fields = heap.layout.fields();
    let reference = u64::from(fields.ref_size);
    let is_new = heap.strings != 0;
    let behind = heap.g + u64::from(heap.layout.build.vmstate) + 4;
    let begin = behind.next_multiple_of(reference);
    let size = if is_new { 8 } else { reference };
    let main = |at: u64| read_at(memory, heap, at) == Some(heap.main);
    let places = match is_new {
        true => [1, 2].map(|count| (begin + count * reference).next_multiple_of(8)),
        false => [begin, begin],
    };
    if is_new && !main(begin) {
        return None;
    }
    places.into_iter().find_map(|at| {
        let word = |index: u64| match size {
            4 => memory.read_u32(at + index * 4).ok().map(u64::from),
            _ => memory.read_u64(at + index * 8).ok(),
        };
        let (write, end, first) = (word(0)?, word(1)?, word(2)?);
        let of = read_at(memory, heap, at + 3 * size)?;
        let is_coroutine = crate::value::is_object(memory, heap.layout.mode, of, crate::value::gct::THREAD);
        let is_buffer = first <= write
            && write <= end
            && end - first <= MAX_BUFFER
            && first.is_multiple_of(8)
            && is_coroutine;
        is_buffer.then(|| end - first)
    })
}
