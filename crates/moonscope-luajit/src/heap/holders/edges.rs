//! What an object refers to, as the collector marks it (lj_gc.c, `propagatemark`).

use std::time::Instant;

use moonscope_process::RemoteMemory;

use super::paths::Label;
use super::{MAX_WORDS, Walk};
use crate::heap::objects::Kind;
use crate::layout::GcMode;
use crate::lua_stack::{Base, SegmentEnd, frames};
use crate::object::{number, reference_at};

/// Bytes of a table's parts that are read at a time.
const PART: u64 = 96 << 10;
/// `LJ_MAX_ASIZE`, `1 << LJ_MAX_HBITS`, checked before.
const NODE: u64 = 24;
/// `GCtab.marked`: `LJ_GC_WEAKKEY`, `LJ_GC_WEAKVAL` (lj_gc.h), as the collector saw it last.
const WEAK_KEYS: u64 = 0x08;
const WEAK_VALUES: u64 = 0x10;
/// Slots of a stack, constants of a prototype.
const MAX_SLOTS: u64 = 1 << 17;
/// Open upvalues are reached through the functions that have them.
const MAX_UPVALUES: u64 = 256;

/// The object that a value refers to.
fn object(mode: GcMode, raw: u64) -> Option<(u64, Kind)> {
    // as crate::value::Value, with coroutines
    let (tag, address) = match mode {
        GcMode::Gc64 => (raw.cast_signed() >> 47, raw & ((1 << 47) - 1)),
        GcMode::Gc32 => (i64::from(((raw >> 32) as u32).cast_signed()), raw & 0xffff_ffff),
    };
    Some((address, Kind::of(u8::try_from(!tag).ok()?)?))
}

/// Is there a value?
fn is_nil(mode: GcMode, raw: u64) -> bool {
    match mode {
        GcMode::Gc64 => raw == u64::MAX,
        GcMode::Gc32 => raw >> 32 == u64::from(u32::MAX),
    }
}

impl<M: RemoteMemory> Walk<'_, M> {
    /// Notes what this object refers to; `None` if that cannot be read.
    pub(super) fn edges(&mut self, at: u64, path: u32, kind: Kind) -> Option<()> {
        match kind {
            Kind::Table => self.table(at, path),
            Kind::Function => self.function(at, path),
            Kind::Upvalue => self.upvalue(at, path),
            Kind::Thread => self.thread(at, path),
            Kind::Prototype => self.prototype(at, path),
            Kind::Userdata => self.userdata(at, path),
            Kind::String | Kind::Cdata | Kind::Trace => Some(()),
        }
    }

    fn head(&mut self, at: u64, len: u16) -> Option<[u8; 0x70]> {
        let mut head = [0; 0x70];
        self.pages.read(at, head.get_mut(..len.into())?)?;
        Some(head)
    }

    /// Reads this memory piece by piece, of elements of `size` bytes.
    fn elements(
        &mut self,
        at: u64,
        (count, size): (u64, u64),
        mut each: impl FnMut(&mut Self, u64, &[u8]),
    ) -> Option<()> {
        let mut done = 0;
        let mut bytes = Vec::new();
        while done < count {
            let some = (count - done).min(PART / size);
            let begin = at.checked_add(done * size)?;
            bytes.resize((some * size) as usize, 0);
            // small ones are near what is read anyway
            match some * size <= 2048 {
                true => self.pages.read(begin, &mut bytes)?,
                false => self.memory.read_exact(begin, &mut bytes).ok()?,
            }
            for (index, element) in bytes.chunks_exact(size as usize).enumerate() {
                each(self, begin + index as u64 * size, element);
            }
            done += some;
            if done < count && self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                self.is_late = true;
                return None;
            }
        }
        Some(())
    }

    fn table(&mut self, at: u64, path: u32) -> Option<()> {
        let fields = self.heap.layout.fields();
        let mode = self.heap.layout.mode;
        let head = self.head(at, fields.tab_size)?;
        let marked = number::<1>(&head, fields.ref_size.into())?;
        if let Some(metatable) = reference_at(fields, &head, fields.tab_metatable) {
            self.refer_to((metatable, Kind::Table), path, Label::Metatable);
        }
        let array = reference_at(fields, &head, fields.tab_array)?;
        let count = number::<4>(&head, fields.tab_asize.into())?;
        if marked & WEAK_VALUES == 0 {
            self.elements(array, (count, 8), |walk, _, value| {
                let raw = number::<8>(value, 0).unwrap_or(u64::MAX);
                if let Some(object) = object(mode, raw) {
                    walk.refer_to(object, path, Label::Item);
                }
            })?;
        }
        let nodes = reference_at(fields, &head, fields.tab_node)?;
        let count = match number::<4>(&head, fields.tab_hmask.into())? {
            // the node that all empty tables share
            0 => return Some(()),
            mask => mask + 1,
        };
        self.elements(nodes, (count, NODE), |walk, _, node| {
            let (Some(value), Some(key)) = (number::<8>(node, 0), number::<8>(node, 8)) else {
                return;
            };
            if is_nil(mode, value) {
                return;
            }
            let key = object(mode, key);
            if let Some(key) = key.filter(|_| marked & WEAK_KEYS == 0) {
                // a key is a part of its table
                match key.1 {
                    Kind::String => walk.refer(key, path),
                    _ => walk.refer_to(key, path, Label::Item),
                }
            }
            if let Some(value) = object(mode, value).filter(|_| marked & WEAK_VALUES == 0) {
                let label = match key {
                    Some((key, Kind::String)) => Label::Key(key),
                    _ => Label::Item,
                };
                walk.refer_to(value, path, label);
            }
        })
    }

    fn function(&mut self, at: u64, path: u32) -> Option<()> {
        let fields = self.heap.layout.fields();
        let mode = self.heap.layout.mode;
        let head = self.head(at, fields.fn_pc + fields.ref_size)?;
        let env = reference_at(fields, &head, fields.fn_env)?;
        self.refer_to((env, Kind::Table), path, Label::Environment);
        let count = number::<1>(&head, usize::from(fields.fn_ffid) + 1)?;
        if number::<1>(&head, fields.fn_ffid.into())? != 0 {
            let values = at.checked_add(u64::from(fields.fn_c) + 8)?;
            return self.elements(values, (count, 8), |walk, _, value| {
                let raw = number::<8>(value, 0).unwrap_or(u64::MAX);
                if let Some(object) = object(mode, raw) {
                    walk.refer_to(object, path, Label::Item);
                }
            });
        }
        let prototype = reference_at(fields, &head, fields.fn_pc)?.checked_sub(fields.pt_size.into())?;
        self.refer_to((prototype, Kind::Prototype), path, Label::Code);
        let references = at.checked_add(u64::from(fields.fn_pc + fields.ref_size))?;
        let mut index = 0;
        self.elements(
            references,
            (count, fields.ref_size.into()),
            |walk, _, reference| {
                if let Some(upvalue) = reference_at(fields, reference, 0) {
                    walk.refer_to((upvalue, Kind::Upvalue), path, Label::Upvalue(prototype, index));
                }
                index += 1;
            },
        )
    }

    /// A variable is what it holds.
    fn upvalue(&mut self, at: u64, path: u32) -> Option<()> {
        let fields = self.heap.layout.fields();
        let head = self.head(at, fields.uv_v + fields.ref_size)?;
        let place = reference_at(fields, &head, fields.uv_v)?;
        let mut raw = [0; 8];
        self.pages.read(place, &mut raw)?;
        if let Some(object) = object(self.heap.layout.mode, u64::from_le_bytes(raw)) {
            self.refer(object, path);
        }
        Some(())
    }

    fn thread(&mut self, at: u64, path: u32) -> Option<()> {
        let fields = self.heap.layout.fields();
        let mode = self.heap.layout.mode;
        let head = self.head(at, fields.l_stacksize + 4)?;
        let env = reference_at(fields, &head, fields.l_env)?;
        self.refer_to((env, Kind::Table), path, Label::Environment);
        let (stack, top) = (
            reference_at(fields, &head, fields.l_stack)?,
            reference_at(fields, &head, fields.l_top)?,
        );
        // stored before each call of C; bytecode that runs may use more
        let count = (top.checked_sub(stack)? / 8).min(MAX_SLOTS);
        self.elements(stack, (count, 8), |walk, _, value| {
            let raw = number::<8>(value, 0).unwrap_or(u64::MAX);
            if let Some(object) = object(mode, raw) {
                walk.refer_to(object, path, Label::Stack);
            }
        })?;
        // where references are half of a slot, that of a frame's function has no tag (lj_gc.c, gc_traverse_frames)
        if mode == GcMode::Gc32
            && let Ok(walk) = frames(
                self.memory,
                &self.heap.layout,
                at,
                Base::stored(),
                SegmentEnd::Bottom,
            )
        {
            for frame in walk.frames {
                self.refer_to((frame.function, Kind::Function), path, Label::Stack);
            }
        }
        let mut upvalue = reference_at(fields, &head, fields.l_openupval)?;
        for _ in 0..MAX_UPVALUES {
            if upvalue == 0 {
                break;
            }
            self.refer_to((upvalue, Kind::Upvalue), path, Label::Stack);
            let head = self.head(upvalue, fields.ref_size)?;
            upvalue = reference_at(fields, &head, 0)?;
        }
        Some(())
    }

    fn prototype(&mut self, at: u64, path: u32) -> Option<()> {
        let fields = self.heap.layout.fields();
        let head = self.head(at, fields.pt_size)?;
        let name = reference_at(fields, &head, fields.pt_chunkname)?;
        self.refer((name, Kind::String), path);
        let count = number::<4>(&head, fields.pt_sizekgc.into())?.min(MAX_SLOTS);
        let size = u64::from(fields.ref_size);
        let constants = reference_at(fields, &head, fields.pt_k)?.checked_sub(count * size)?;
        let gct = u64::from(fields.gct);
        self.elements(constants, (count, size), |walk, _, reference| {
            let Some(constant) = reference_at(fields, reference, 0) else {
                return;
            };
            let kind = constant.checked_add(gct).and_then(|gct| walk.pages.byte(gct));
            let Some(kind) = kind.and_then(Kind::of) else {
                return;
            };
            if kind == Kind::String && walk.words.len() < MAX_WORDS {
                walk.words.insert(constant);
            }
            walk.refer((constant, kind), path);
        })
    }

    fn userdata(&mut self, at: u64, path: u32) -> Option<()> {
        let fields = self.heap.layout.fields();
        let head = self.head(at, fields.ud_size)?;
        let metatable = reference_at(fields, &head, fields.tab_metatable)?;
        self.refer_to((metatable, Kind::Table), path, Label::Metatable);
        let env = reference_at(fields, &head, fields.fn_env)?;
        self.refer_to((env, Kind::Table), path, Label::Environment);
        Some(())
    }
}
