//! Memory of a thread inside LuaJIT, written by hand: VMs, coroutines, their stacks and the native stack, with
//! the words that a walk of it has to give.
//!
//! Layouts are those of LuaJIT's lj_obj.h, lj_frame.h and vm_x64.dasc. A [`Plan`] tells who called whom; any
//! plan is possible (what does not fit is left out), so that tests and fuzzers may make them of anything.

#![allow(dead_code)] // each user needs a part

mod code;
mod plan;
mod vm;
pub mod words;

pub use plan::{Call, Callee, Entry, How, Leaf, Place, Plan};
#[allow(unused_imports)] // as above
pub use vm::{CODE, CODE_SIZE, STACK_SIZE, STACKS, STATE_SIZE, STATES};

use code::Code;
use moonscope_luajit::{BuildOffsets, CFrame, GcMode, Layout};
use moonscope_process::BufferMemory;
use moonscope_unwind::walk_host::host_walk_words;
use moonscope_unwind::{Registers, WalkEnd, abi};

/// Where objects of Lua are: 32 bits are enough for them.
pub const HEAP: u64 = 0x10_0000;
/// Where the native stack begins and ends.
pub const STACK: std::ops::Range<u64> = 0x7ffc_0000_0000..0x7ffc_0000_4000;

/// Offsets of a build that there could be.
pub fn layout(gc64: bool) -> Layout {
    let (mode, l, pc, nres) = match gc64 {
        true => (GcMode::Gc64, 16, 24, 8),
        false => (GcMode::Gc32, 24, 28, 16),
    };
    Layout {
        mode,
        cframe: CFrame {
            size: 80,
            l,
            pc,
            prev: 32,
            nres,
        },
        build: BuildOffsets {
            g2disp: 0xf80,
            vmstate: 0xb8,
            cur_l: 0x170,
            jit_base: 0x178,
            trace: 0x458,
            sizetrace: 0x464,
            gc_total: 0x10,
        },
        trace: None,
    }
}

/// A segment of a walk: what one entry into a VM has on the Lua stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub l: u64,
    /// Its innermost frame.
    pub base: u64,
    /// Where that one is in its bytecode, if it is a Lua function.
    pub pc: Option<u64>,
    /// Leaf first, as words.
    pub frames: Vec<[u64; 2]>,
}

/// The memory and registers of a thread.
#[derive(Clone, Debug)]
pub struct Image {
    pub layout: Layout,
    pub heap: Vec<u8>,
    pub stack: Vec<u8>,
    pub registers: Registers,
    /// Whether the parents of coroutines are wanted.
    pub coroutine_parents: bool,
    /// `global_State`s of the process.
    pub vms: Vec<u64>,
    /// What the walk must give, leaf first.
    pub words: Vec<u64>,
    /// The segments in it, innermost first.
    pub segments: Vec<Segment>,
}

impl Image {
    /// All of its memory, as another walker reads it.
    pub fn memory(&self) -> BufferMemory {
        BufferMemory::new()
            .with(HEAP, self.heap.clone())
            .with(STACK.start, self.stack.clone())
    }

    /// Walks as the kernel does.
    pub fn walk(&self, max_depth: u32) -> (Vec<u64>, WalkEnd) {
        let Code { maps, rules } = self.code();
        host_walk_words(&maps, &rules, &self.registers, max_depth, |addr, into| {
            let piece = match addr < STACK.start {
                true => addr.checked_sub(HEAP).map(|at| (at, &self.heap)),
                false => addr.checked_sub(STACK.start).map(|at| (at, &self.stack)),
            };
            let from = piece.and_then(|(at, bytes)| bytes.get(at as usize..)?.get(..into.len()));
            from.is_some_and(|from| {
                into.copy_from_slice(from);
                true
            })
        })
    }

    fn code(&self) -> Code {
        let mut code = Code::new(&self.layout);
        let mut process = abi::ms_lua_process::default();
        for (vm, &g) in process.vm.iter_mut().zip(&self.vms) {
            *vm = abi::ms_lua_vm { g, layout: 0 };
            process.count += 1;
        }
        code.maps.lua = Some(process);
        code.maps.coroutine_parents = self.coroutine_parents;
        code
    }

    /// The bytes of one of the two memories from here on.
    pub fn bytes_at(&mut self, addr: u64) -> Option<&mut [u8]> {
        let (start, bytes) = match addr < STACK.start {
            true => (HEAP, &mut self.heap),
            false => (STACK.start, &mut self.stack),
        };
        bytes.get_mut(usize::try_from(addr.checked_sub(start)?).ok()?..)
    }

    /// Writes as many bytes as there are.
    pub fn put(&mut self, addr: u64, bytes: &[u8]) {
        if let Some(place) = self.bytes_at(addr) {
            let len = place.len().min(bytes.len());
            place[..len].copy_from_slice(&bytes[..len]);
        }
    }

    /// Writes a reference, as wide as they are.
    pub fn reference(&mut self, addr: u64, value: u64) {
        let size = usize::from(self.layout.fields().ref_size);
        self.put(addr, &value.to_le_bytes()[..size]);
    }
}

impl Plan {
    /// The memory of this plan.
    pub fn image(&self) -> Image {
        vm::Builder::new(self).build(self)
    }
}
