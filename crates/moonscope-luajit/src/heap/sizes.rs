//! How many bytes an object has, as its allocation and its end in LuaJIT count them (lj_gc.c, `gc_freefunc`).

use moonscope_process::RemoteMemory;

use super::layout::HeapLayout;
use super::objects::Kind;
use crate::ctypes::CTypes;
use crate::layout::{GcMode, TraceFields};
use crate::object::{number, reference_at};
use crate::pages::Pages;
use crate::traces::{self, current_fields};

/// `LJ_MAX_ASIZE`, `1 << LJ_MAX_HBITS` (lj_def.h).
const MAX_ARRAY: u64 = (1 << 27) + 1;
const MAX_NODES: u64 = 1 << 26;
/// `sizeof(Node)`, `sizeof(TValue)`
const NODE: u64 = 24;
const SLOT: u64 = 8;
/// Bytes of one userdata or prototype, `LJ_MAX_UDATA`.
const MAX_BYTES: u64 = 0x7fff_ff00;
/// Slots behind `maxstack` (`LJ_STACK_EXTRA` and one), and what a stack may have at most.
const MAX_EXTRA: u64 = 16;
const MAX_STACK: u64 = 1 << 17;
/// Constants and instructions of a trace; references are 16 bits.
const MAX_IR: u64 = 1 << 16;
/// `UDTYPE_BUFFER`: a string buffer, whose content is elsewhere; and flags of one whose content is not its own
/// (`SBUF_FLAG_COW`, `SBUF_FLAG_BORROW`, lj_buf.h), in the low bits of `SBuf.L`.
const BUFFER: u64 = 3;
const NOT_ITS_OWN: u64 = 6;
/// `GCcdata.marked`: it has a `GCcdataVar` before it.
const VARIABLE: u64 = 0x80;

/// What sizes depend on, besides the object.
pub(super) struct Sizes {
    /// `sizeof(lua_State)`
    thread: u64,
    /// Bytes of a C type, by its number; `None` if the program does not use the FFI.
    ctypes: Option<Vec<Option<u32>>>,
    trace: Option<TraceFields>,
}

impl Sizes {
    pub(super) fn new(memory: &impl RemoteMemory, heap: &HeapLayout) -> Self {
        let ctypes = CTypes::read(memory, &heap.layout, heap.g);
        Self {
            thread: heap.g - heap.main,
            ctypes: ctypes.and_then(|ctypes| ctypes.sizes(memory)),
            trace: trace_fields(memory, heap),
        }
    }

    /// Bytes of the object of this kind; `None` if it contradicts itself.
    pub(super) fn of<M: RemoteMemory>(
        &self,
        pages: &mut Pages<'_, M>,
        heap: &HeapLayout,
        at: u64,
        kind: Kind,
    ) -> Option<u64> {
        match kind {
            Kind::Table => table(pages, heap, at),
            Kind::Function => function(pages, heap, at),
            Kind::Upvalue => Some(heap.layout.fields().uv_size.into()),
            Kind::Thread => {
                let stack = stack(pages, heap, at)?;
                // that of the main coroutine is a part of the state of the VM
                Some(stack + if at == heap.main { 0 } else { self.thread })
            }
            Kind::Prototype => prototype(pages, heap, at),
            Kind::Trace => self.trace(pages, heap, at),
            Kind::Cdata => self.cdata(pages, heap, at),
            Kind::Userdata => userdata(pages, heap, at),
            Kind::String => None,
        }
    }

    fn cdata<M: RemoteMemory>(&self, pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
        let fields = heap.layout.fields();
        let header = read::<16, M>(pages, at, fields.cd_size)?;
        // behind the reference
        let marked = number::<1>(&header, fields.ref_size.into())?;
        if marked & VARIABLE != 0 {
            // offset, extra: 2 bytes each; length of the content
            let var = read::<8, M>(pages, at.checked_sub(8)?, 8)?;
            let (extra, len) = (number::<2>(&var, 2)?, number::<4>(&var, 4)?);
            return (len <= MAX_BYTES).then_some(extra + len);
        }
        let id = number::<2>(&header, usize::from(fields.gct) + 1)?;
        let size = (*self.ctypes.as_ref()?.get(id as usize)?)?;
        (u64::from(size) <= MAX_BYTES).then(|| u64::from(fields.cd_size) + u64::from(size))
    }

    /// A trace and, behind it in one piece: instructions, snapshots, the map of these (lj_trace.c, `lj_trace_alloc`).
    fn trace<M: RemoteMemory>(&self, pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
        let fields = self.trace.as_ref().or_else(|| current_fields(heap.layout.mode))?;
        let head = read::<0x80, M>(pages, at, fields.root)?;
        let (nins, nk) = (
            number::<4>(&head, fields.nins.into())?,
            number::<4>(&head, fields.nk.into())?,
        );
        // the pieces name each other; the array of instructions begins before its first one
        let ir = number::<8>(&head, fields.ir.into())?.wrapping_add(nk * 8);
        let (snap, snapmap) = (
            number::<8>(&head, fields.snap.into())?,
            number::<8>(&head, fields.snapmap.into())?,
        );
        let entries = match fields.nsnap > fields.nk {
            // 2.1.0-beta3: two counts of 2 bytes
            true => number::<2>(&head, usize::from(fields.nsnap) + 2)?,
            false => number::<4>(&head, usize::from(fields.nk) + 4)?,
        };
        let count = nins.checked_sub(nk).filter(|&count| count <= MAX_IR)?;
        let is_one_piece = at < ir
            && ir - at < 0x100
            && ir.checked_add(count * 8) == Some(snap)
            && snap <= snapmap
            && snapmap - snap < MAX_BYTES
            && entries < MAX_BYTES;
        is_one_piece.then(|| snapmap - at + entries * 4)
    }
}

/// How traces are laid out, as far as code or a trace tells.
pub(super) fn trace_fields(memory: &impl RemoteMemory, heap: &HeapLayout) -> Option<TraceFields> {
    let told = heap.layout.trace;
    told.or_else(|| traces::settle(memory, heap.g, &heap.layout))
}

/// The first `len` bytes of an object.
fn read<const N: usize, M: RemoteMemory>(pages: &mut Pages<'_, M>, at: u64, len: u16) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    pages.read(at, bytes.get_mut(..usize::from(len))?)?;
    Some(bytes)
}

fn table<M: RemoteMemory>(pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
    let fields = heap.layout.fields();
    let head = read::<0x40, M>(pages, at, fields.tab_size)?;
    let (array, nodes) = (
        number::<4>(&head, fields.tab_asize.into())?,
        number::<4>(&head, fields.tab_hmask.into())? + 1,
    );
    if array > MAX_ARRAY || nodes > MAX_NODES || !nodes.is_power_of_two() {
        return None;
    }
    let colo = number::<1>(&head, fields.tab_colo.into())? as u8;
    // as lj_tab_free counts them: one node is the one that all empty tables share
    let nodes = if nodes == 1 { 0 } else { nodes };
    let array = if colo.cast_signed() > 0 { 0 } else { array };
    let beside = u64::from(colo & 0x7f);
    Some(u64::from(fields.tab_size) + beside * SLOT + array * SLOT + nodes * NODE)
}

fn function<M: RemoteMemory>(pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
    let fields = heap.layout.fields();
    let head = read::<16, M>(pages, at, 16)?;
    let upvalues = number::<1>(&head, usize::from(fields.fn_ffid) + 1)?;
    Some(match number::<1>(&head, fields.fn_ffid.into())? {
        0 => u64::from(fields.fn_pc) + u64::from(fields.ref_size) * (1 + upvalues),
        _ => u64::from(fields.fn_c) + SLOT * (1 + upvalues),
    })
}

fn prototype<M: RemoteMemory>(pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
    let fields = heap.layout.fields();
    let head = read::<0x68, M>(pages, at, fields.pt_size)?;
    let size = number::<4>(&head, fields.pt_sizept.into())?;
    let code = u64::from(fields.pt_size) + 4 * number::<4>(&head, fields.pt_sizebc.into())?;
    (code <= size && size <= MAX_BYTES).then_some(size)
}

/// Bytes of the stack of a coroutine.
pub(super) fn stack<M: RemoteMemory>(pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
    let fields = heap.layout.fields();
    let head = read::<0x60, M>(pages, at, fields.l_stacksize + 4)?;
    let (stack, end) = (
        reference_at(fields, &head, fields.l_stack)?,
        reference_at(fields, &head, fields.l_maxstack)?,
    );
    let slots = number::<4>(&head, fields.l_stacksize.into())?;
    let usable = end.checked_sub(stack)? / SLOT;
    let is_it = slots <= MAX_STACK && (1..=MAX_EXTRA).contains(&slots.checked_sub(usable)?);
    is_it.then_some(slots * SLOT)
}

fn userdata<M: RemoteMemory>(pages: &mut Pages<'_, M>, heap: &HeapLayout, at: u64) -> Option<u64> {
    let fields = heap.layout.fields();
    let head = read::<0x30, M>(pages, at, fields.ud_size)?;
    let len = number::<4>(&head, fields.ud_len.into()).filter(|&len| len <= MAX_BYTES)?;
    let own = u64::from(fields.ud_size) + len;
    if number::<1>(&head, usize::from(fields.gct) + 1)? != BUFFER {
        return Some(own);
    }
    // w, e, b, L: the content is from b to e
    let buffer = read::<32, M>(pages, at.checked_add(fields.ud_size.into())?, 32)?;
    let (end, begin) = (number::<8>(&buffer, 8)?, number::<8>(&buffer, 16)?);
    let flags = match heap.layout.mode {
        GcMode::Gc64 => number::<8>(&buffer, 24)?,
        GcMode::Gc32 => number::<4>(&buffer, 24)?,
    };
    match flags & NOT_ITS_OWN {
        0 => Some(own + end.checked_sub(begin).filter(|&bytes| bytes <= MAX_BYTES)?),
        _ => Some(own),
    }
}
