//! A VM written by hand, with a heap of which every object is known: for tests, and for the fuzzer, which damages it.

#![allow(dead_code)]

use moonscope_luajit::heap::Kind;
use moonscope_luajit::{BuildOffsets, CFrame, GcMode, Layout};
use moonscope_process::{ProcessError, RemoteMemory};

/// Where its memory begins; low, so that 32-bit references reach it.
pub const START: u64 = 0x10_0000;
pub const SIZE: usize = 0x4_0000;
const MAIN: u64 = START + 0x1000;
const BUCKETS: u64 = 256;

/// What an object is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    String { len: u8 },
    Table { array: u8, nodes: u8, colocated: bool },
    Function { upvalues: u8 },
    CFunction { upvalues: u8 },
    Upvalue,
    Thread { slots: u8, open_upvalues: u8 },
    Prototype { instructions: u8, constants: u8 },
    Userdata { len: u8 },
}

/// A VM, and what it holds.
#[derive(Clone)]
pub struct Vm {
    pub mode: GcMode,
    pub bytes: Vec<u8>,
    pub g: u64,
    next: u64,
    buckets: u64,
    strings: u32,
    /// Number and bytes of objects by kind.
    pub truth: Vec<(Kind, u64, u64)>,
}

impl RemoteMemory for Vm {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        let rest = addr
            .checked_sub(START)
            .and_then(|at| self.bytes.get(usize::try_from(at).ok()?..));
        let rest = rest
            .filter(|rest| !rest.is_empty())
            .ok_or(ProcessError::Unreadable { addr })?;
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl Vm {
    /// With these objects, which the registry refers to by number.
    pub fn new(mode: GcMode, objects: &[Object]) -> Self {
        let lua_state = match mode {
            GcMode::Gc64 => 0x60,
            GcMode::Gc32 => 0x40,
        };
        let mut vm = Self {
            mode,
            bytes: vec![0; SIZE],
            g: MAIN + lua_state,
            next: MAIN + 0x2000,
            buckets: 0,
            strings: 0,
            truth: Kind::ALL.iter().map(|&kind| (kind, 0, 0)).collect(),
        };
        vm.state();
        for &object in objects {
            vm.object(object);
        }
        vm
    }

    pub fn layout(&self) -> Layout {
        let (vmstate, cur_l, trace) = match self.mode {
            GcMode::Gc64 => (0xb8, 0x170, 0x460),
            GcMode::Gc32 => (0x88, 0x120, 0x358),
        };
        Layout {
            mode: self.mode,
            cframe: CFrame {
                size: 80,
                l: 16,
                pc: 24,
                prev: 32,
                nres: 8,
            },
            build: BuildOffsets {
                g2disp: 0xfa8,
                vmstate,
                cur_l,
                jit_base: cur_l + u32::from(self.size()),
                trace,
                sizetrace: trace + 12,
                gc_total: 0x10,
            },
            trace: None,
        }
    }

    fn size(&self) -> u16 {
        self.mode.fields().ref_size
    }

    /// What there is of this kind.
    pub fn of(&self, kind: Kind) -> (u64, u64) {
        self.truth
            .iter()
            .find(|(of, ..)| *of == kind)
            .map_or((0, 0), |&(_, count, bytes)| (count, bytes))
    }

    /// Overwrites bytes; outside of it nothing happens.
    pub fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = addr.checked_sub(START).and_then(|at| usize::try_from(at).ok());
        let place = at.and_then(|at| self.bytes.get_mut(at..at.checked_add(bytes.len())?));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    }

    fn reference(&mut self, addr: u64, value: u64) {
        let size = usize::from(self.size());
        self.put(addr, &value.to_le_bytes()[..size]);
    }

    fn half(&mut self, addr: u64, value: u32) {
        self.put(addr, &value.to_le_bytes());
    }

    fn reference_at(&self, addr: u64) -> u64 {
        let mut bytes = [0; 8];
        let size = usize::from(self.size());
        self.read_exact(addr, &mut bytes[..size]).unwrap_or_default();
        u64::from_le_bytes(bytes)
    }

    fn value(&self, kind: u8, at: u64) -> [u8; 8] {
        let tag = !u64::from(kind);
        match self.mode {
            GcMode::Gc64 => (tag << 47 | at).to_le_bytes(),
            GcMode::Gc32 => (tag << 32 | at).to_le_bytes(),
        }
    }

    fn allocate(&mut self, bytes: u64) -> u64 {
        let at = self.next;
        self.next = (at + bytes).next_multiple_of(8);
        at
    }

    fn count(&mut self, kind: Kind, bytes: u64) {
        if let Some(of) = self.truth.iter_mut().find(|(of, ..)| *of == kind) {
            of.1 += 1;
            of.2 += bytes;
        }
    }

    /// The main coroutine, the `global_State`, `package.loaded` in the registry, three strings.
    fn state(&mut self) {
        let fields = self.mode.fields();
        let (g, layout) = (self.g, self.layout());
        let slots = 40;
        self.put(MAIN + u64::from(fields.gct), &[6]);
        self.stack(MAIN, slots);
        self.count(Kind::Thread, slots * 8);
        // the list of all objects ends with it
        self.reference(g + 0x10 + u64::from(fields.gc_root), MAIN);
        self.buckets = self.allocate(BUCKETS * u64::from(self.size()));
        let (strempty, strings) = match self.mode {
            GcMode::Gc64 => (0x78, 0x98),
            GcMode::Gc32 => (0x4c, 0x68),
        };
        self.put(g + strempty + u64::from(fields.gct), &[4]);
        self.put(g + strings, &self.buckets.to_le_bytes());
        self.half(g + strings + 8, BUCKETS as u32 - 1);
        self.half(g + u64::from(layout.build.vmstate), !1);
        let names: Vec<u64> = [&b"_LOADED"[..], b"string", b"package"]
            .iter()
            .map(|name| self.string(name))
            .collect();
        let loaded = self.object(Object::Table {
            array: 0,
            nodes: 0,
            colocated: false,
        });
        let registry = self.table(32, 4);
        for (index, name) in names.iter().enumerate() {
            self.node(registry, index as u64, (4, *name), (11, loaded));
        }
        let env = u64::from(fields.l_env);
        self.reference(MAIN + env, registry);
        // anywhere between vmstate and cur_L
        let registry = self.value(11, registry);
        self.put(g + u64::from(layout.build.cur_l) - 0x40, &registry);
    }

    fn stack(&mut self, thread: u64, slots: u64) {
        let fields = self.mode.fields();
        let stack = self.allocate(slots * 8);
        let reserved = match self.mode {
            GcMode::Gc64 => 9,
            GcMode::Gc32 => 6,
        };
        self.reference(thread + u64::from(fields.l_glref), self.g);
        self.reference(thread + u64::from(fields.l_stack), stack);
        self.reference(
            thread + u64::from(fields.l_maxstack),
            stack + (slots - reserved) * 8,
        );
        self.put(thread + u64::from(fields.l_base), &(stack + 16).to_le_bytes());
        self.put(thread + u64::from(fields.l_top), &(stack + 16).to_le_bytes());
        self.half(thread + u64::from(fields.l_stacksize), slots as u32);
    }

    /// A new object at the head of the list.
    fn listed(&mut self, kind: u8, bytes: u64) -> u64 {
        let fields = self.mode.fields();
        let at = self.allocate(bytes);
        let root = self.g + 0x10 + u64::from(fields.gc_root);
        let first = self.reference_at(root);
        self.reference(at, first);
        self.reference(root, at);
        self.put(at + u64::from(fields.gct), &[kind]);
        at
    }

    fn string(&mut self, text: &[u8]) -> u64 {
        let fields = self.mode.fields();
        let (len, content) = match self.mode {
            GcMode::Gc64 => (0x14, 0x18),
            GcMode::Gc32 => (0x10, 0x14),
        };
        let bytes = content + (text.len() as u64 + 4) / 4 * 4;
        let at = self.allocate(bytes);
        self.put(at + u64::from(fields.gct), &[4]);
        self.half(at + len, text.len() as u32);
        self.put(at + content, text);
        self.strings += 1;
        // three strings to a bucket
        let bucket = self.buckets + u64::from(self.strings / 3) % BUCKETS * u64::from(self.size());
        let first = self.reference_at(bucket);
        self.reference(at, first & !1);
        self.reference(bucket, at | 1);
        let num = match self.mode {
            GcMode::Gc64 => 0xa4,
            GcMode::Gc32 => 0x74,
        };
        self.half(self.g + num, self.strings);
        self.count(Kind::String, bytes);
        at
    }

    /// A table; its array is in it.
    fn table(&mut self, array: u64, nodes: u64) -> u64 {
        let fields = self.mode.fields();
        let size = u64::from(fields.tab_size);
        let at = self.listed(11, size);
        let (values, hash) = (self.allocate(array * 8), self.allocate(nodes * 24));
        // all nil
        self.put(values, &vec![0xff; array as usize * 8]);
        self.put(hash, &vec![0xff; nodes as usize * 24]);
        self.reference(at + u64::from(fields.tab_array), values);
        self.reference(at + u64::from(fields.tab_node), hash);
        self.half(at + u64::from(fields.tab_asize), array as u32);
        self.half(at + u64::from(fields.tab_hmask), nodes.max(1) as u32 - 1);
        self.count(
            Kind::Table,
            size + array * 8 + if nodes > 1 { nodes * 24 } else { 0 },
        );
        at
    }

    fn node(&mut self, table: u64, index: u64, key: (u8, u64), value: (u8, u64)) {
        let node = self.reference_at(table + u64::from(self.mode.fields().tab_node)) + index * 24;
        let (key, value) = (self.value(key.0, key.1), self.value(value.0, value.1));
        self.put(node, &value);
        self.put(node + 8, &key);
    }

    /// A new object; sizes are those of lj_obj.h, counted by hand.
    pub fn object(&mut self, object: Object) -> u64 {
        let fields = self.mode.fields();
        let is_64 = self.mode == GcMode::Gc64;
        match object {
            Object::String { len } => {
                let text: Vec<u8> = (0..len)
                    .map(|at| b'a' + at.wrapping_add(self.strings as u8) % 26)
                    .collect();
                self.string(&text)
            }
            Object::Table {
                array,
                nodes,
                colocated,
            } => {
                let (array, nodes) = (u64::from(array % 16), u64::from(nodes % 16).next_power_of_two());
                let at = self.table(array, nodes);
                if colocated {
                    self.put(at + u64::from(fields.tab_colo), &[array as u8]);
                }
                at
            }
            Object::Function { upvalues } => {
                let bytes = if is_64 {
                    40 + u64::from(upvalues) * 8
                } else {
                    20 + u64::from(upvalues) * 4
                };
                let at = self.listed(8, bytes);
                self.put(at + u64::from(fields.gct) + 1, &[0, upvalues]);
                self.count(Kind::Function, bytes);
                at
            }
            Object::CFunction { upvalues } => {
                let bytes = if is_64 { 48 } else { 32 } + u64::from(upvalues) * 8;
                let at = self.listed(8, bytes);
                self.put(at + u64::from(fields.gct) + 1, &[1, upvalues]);
                self.count(Kind::Function, bytes);
                at
            }
            Object::Upvalue => {
                let at = self.listed(5, if is_64 { 48 } else { 24 });
                self.count(Kind::Upvalue, if is_64 { 48 } else { 24 });
                at
            }
            Object::Thread { slots, open_upvalues } => {
                let lua_state = self.g - MAIN;
                let at = self.listed(6, lua_state);
                let slots = u64::from(slots) + 20;
                self.stack(at, slots);
                self.count(Kind::Thread, lua_state + slots * 8);
                for _ in 0..open_upvalues % 8 {
                    let first = self.reference_at(at + u64::from(fields.l_openupval));
                    let upvalue = self.allocate(48);
                    self.put(upvalue + u64::from(fields.gct), &[5]);
                    self.reference(upvalue, first);
                    self.reference(at + u64::from(fields.l_openupval), upvalue);
                    self.count(Kind::Upvalue, if is_64 { 48 } else { 24 });
                }
                at
            }
            Object::Prototype {
                instructions,
                constants,
            } => {
                let constants = u64::from(constants) * u64::from(self.size());
                let code = if is_64 { 104 } else { 64 } + (u64::from(instructions) + 1) * 4;
                let bytes = (code + constants).next_multiple_of(8);
                let at = self.listed(7, bytes);
                self.half(at + u64::from(fields.pt_sizebc), u32::from(instructions) + 1);
                self.half(at + u64::from(fields.pt_sizept), bytes as u32);
                self.reference(at + u64::from(fields.pt_k), at + bytes);
                self.count(Kind::Prototype, bytes);
                at
            }
            Object::Userdata { len } => {
                let bytes = if is_64 { 48 } else { 24 } + u64::from(len);
                let at = self.listed(12, bytes);
                self.half(at + u64::from(fields.ud_len), len.into());
                self.count(Kind::Userdata, bytes);
                at
            }
        }
    }
}
