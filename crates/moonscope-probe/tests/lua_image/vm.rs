//! Writes the memory of a plan, and what a walk of it gives.

use moonscope_unwind::{Registers, abi};

use super::code::{C, DISPATCH, ENTERING, HANDLER, HELPER, INNER, LEAVING, NOWHERE, ROOT, TRACE};
use super::plan::{Call, Callee, Entry, How, Leaf, Place, Plan};
use super::words::{OBJECT, closure_word, lua_word};
use super::{HEAP, Image, STACK, Segment, layout};

/// Places in the heap.
pub const STATES: u64 = HEAP + 0x1000;
pub const CODE: u64 = HEAP + 0x2000;
pub const STACKS: u64 = HEAP + 0x1_0000;
pub const STATE_SIZE: u64 = 0x100;
pub const CODE_SIZE: u64 = 0x200;
pub const STACK_SIZE: u64 = 0x1000;
const MAX_THREADS: usize = 8;
const MAX_VMS: usize = 2;
const MAX_FUNCTIONS: u64 = (STACKS - CODE) / CODE_SIZE;
pub const HEAP_SIZE: usize = (STACKS - HEAP) as usize + MAX_THREADS * STACK_SIZE as usize;

/// Instructions of each function.
const SIZEBC: u32 = 32;
const CONTINUATION: u64 = INNER + 0x30;

/// A callee is at most so many slots above its caller's frame.
const MAX_SLOT: u8 = 16;
/// Bytes of a call: the frame, its slots, a continuation, and the copy of a vararg function.
const ROOM: u64 = 2 * 8 * (MAX_SLOT as u64 + 6);
/// Native stack for a frame of the VM and the C frames of one entry.
const NATIVE_ROOM: u64 = 80 + 256 * 16 + 4096;

struct Function {
    object: u64,
    link: u64,
    /// Of a Lua function.
    bytecode: Option<u64>,
    at: u8,
    words: [u64; 2],
}

impl Function {
    fn kind(&self) -> u32 {
        kind_of(&self.words)
    }
}

fn kind_of(words: &[u64; 2]) -> u32 {
    (words[0] >> abi::MS_FRAME_LUA_KIND_SHIFT & 0xf) as u32
}

struct Thread {
    l: u64,
    vm: usize,
    base: u64,
    cframe: u64,
}

pub struct Builder {
    image: Image,
    threads: Vec<Thread>,
    /// Those that run, the innermost last.
    running: Vec<usize>,
    functions: u64,
    sp: u64,
    pc: u64,
    /// Of the function at the top of the Lua stack; those of an entry without frames say what is below.
    top: Option<Function>,
    /// Root first: a native frame, or a Lua one.
    out: Vec<Vec<u64>>,
    segments: Vec<Segment>,
}

impl Builder {
    pub fn new(plan: &Plan) -> Self {
        let mut registers = Registers::new([0; abi::MS_NR_REGS as usize]);
        registers.regs.fill(0x33);
        let image = Image {
            layout: layout(plan.gc64),
            heap: vec![0; HEAP_SIZE],
            stack: vec![0; (STACK.end - STACK.start) as usize],
            registers,
            coroutine_parents: false,
            vms: Vec::new(),
            words: Vec::new(),
            segments: Vec::new(),
        };
        Self {
            image,
            threads: Vec::new(),
            running: Vec::new(),
            functions: 0,
            sp: STACK.end - 64,
            pc: ROOT + 4,
            top: None,
            out: vec![vec![ROOT + 4]],
            segments: Vec::new(),
        }
    }

    pub fn build(mut self, plan: &Plan) -> Image {
        for entry in &plan.entries {
            if self.sp - STACK.start < NATIVE_ROOM {
                break;
            }
            self.enter(entry);
        }
        self.leaf(plan);
        for index in 0..self.threads.len() {
            self.write_state(index);
        }
        let mut image = self.image;
        // the order in which VMs are known means nothing
        if plan.c_frames % 2 == 1 {
            image.vms.reverse();
        }
        image.words = self.out.into_iter().rev().flatten().collect();
        image.segments = self.segments.into_iter().rev().collect();
        image
    }

    // ---- native frames ----------------------------------------------------------------------------------

    fn set(&mut self, register: u32, value: u64) {
        self.image.registers.set(register as usize, Some(value));
    }

    /// Calls a function at `pc` whose caller's frame begins `size` bytes above its stack pointer.
    fn push(&mut self, pc: u64, size: u64) {
        let back = self.pc;
        self.image.put(self.sp - 8, &back.to_le_bytes());
        self.sp -= size;
        self.pc = pc;
    }

    fn push_c(&mut self, frames: u8) {
        for _ in 0..frames {
            self.push(C + 0x21, 16);
            self.out.push(vec![C + 0x21]);
        }
    }

    // ---- entries ----------------------------------------------------------------------------------------

    fn enter(&mut self, entry: &Entry) {
        let place = match (self.running.is_empty(), entry.place) {
            (true, Place::Resume | Place::Empty | Place::Callback) => Place::OtherVm,
            (_, place) => place,
        };
        let starts = matches!(place, Place::Resume | Place::OtherVm) || self.running.is_empty();
        if starts && self.threads.len() == MAX_THREADS {
            return;
        }
        if !starts && !self.has_room() {
            return;
        }
        // only a function of the VM itself resumes without C
        let is_empty = self
            .segments
            .last()
            .is_some_and(|segment| segment.frames.is_empty());
        let resumes = place == Place::Resume
            && !is_empty
            && self
                .top
                .as_ref()
                .is_some_and(|top| top.kind() == abi::MS_LUA_BUILTIN);
        self.push_c(match entry.c_frames {
            0 if resumes || self.running.is_empty() => 0,
            frames => frames.clamp(1, 8),
        });
        if starts {
            self.start_thread(place);
        }
        self.push_cframe(place == Place::Empty);
        let segment = self.segments.len();
        let Thread { l, base, .. } = *self.thread();
        self.segments.push(Segment {
            l,
            base,
            pc: None,
            frames: Vec::new(),
        });
        if place != Place::Empty {
            self.first_frame(place, entry.calls.first());
            for call in entry.calls.iter().skip(1) {
                if !self.call(call) {
                    break;
                }
            }
        }
        self.close(segment, place == Place::Empty);
    }

    /// Is there place for another call?
    fn has_room(&self) -> bool {
        let Some(&index) = self.running.last() else {
            return true;
        };
        let end = STACKS + STACK_SIZE * (index as u64 + 1) - 0x40;
        self.threads[index].base + ROOM < end && self.functions < MAX_FUNCTIONS
    }

    fn thread(&mut self) -> &mut Thread {
        let innermost = self.running.last().copied().unwrap_or(0);
        &mut self.threads[innermost]
    }

    fn g(&mut self) -> u64 {
        let vm = self.thread().vm;
        self.image.vms[vm]
    }

    fn start_thread(&mut self, place: Place) {
        let mut vm = self.running.last().map_or(0, |&index| self.threads[index].vm);
        if place == Place::OtherVm && self.image.vms.len() < MAX_VMS {
            vm = self.image.vms.len();
        }
        if vm == self.image.vms.len() {
            self.image.vms.push(HEAP + 0x400 * vm as u64);
        }
        let number = self.threads.len();
        let stack = STACKS + STACK_SIZE * number as u64;
        let thread = Thread {
            l: STATES + STATE_SIZE * number as u64,
            vm,
            base: stack + 8 * u64::from(self.image.layout.fields().frame_slots),
            cframe: 0,
        };
        // the slot below the bottom holds the thread itself
        let (bottom, l) = (thread.base, thread.l);
        self.write_slots(bottom, l, 0);
        self.threads.push(thread);
        self.running.push(number);
        self.top = None;
    }

    /// The frame of the VM, with the registers that its caller has.
    fn push_cframe(&mut self, is_empty: bool) {
        let cframe = self.image.layout.cframe;
        self.push(INNER + 0x20, cframe.size.into());
        let cfa = self.sp + u64::from(cframe.size);
        for (register, words) in [
            (abi::MS_REG_RBX, 3),
            (abi::MS_REG_RBP, 2),
            (abi::MS_REG_R14, 5),
            (abi::MS_REG_R15, 4),
        ] {
            let value = self.image.registers.get(register as usize).unwrap_or(0);
            self.image.put(cfa - 8 * words, &value.to_le_bytes());
        }
        let sp = self.sp;
        let nres: i32 = if is_empty { -8 } else { 1 };
        let (l, prev) = {
            let thread = self.thread();
            (thread.l, std::mem::replace(&mut thread.cframe, sp))
        };
        self.image.reference(sp + u64::from(cframe.l), l);
        self.image.reference(sp + u64::from(cframe.pc), l);
        // flags, as a coroutine has them
        self.image.put(
            sp + u64::from(cframe.prev),
            &(prev | u64::from(prev != 0)).to_le_bytes(),
        );
        self.image.put(sp + u64::from(cframe.nres), &nres.to_le_bytes());
        let g = self.g();
        self.image
            .reference(g + u64::from(self.image.layout.build.cur_l), l);
        let dispatch = g + u64::from(self.image.layout.build.g2disp);
        self.set(abi::MS_REG_R14, dispatch);
        self.set(abi::MS_REG_RBP, l);
    }

    /// The frames are written: what a walk of the segment gives.
    fn close(&mut self, segment: usize, is_empty: bool) {
        let top = self.top.as_ref().filter(|_| !is_empty);
        let pc = top.and_then(|top| Some(top.bytecode? + 4 * u64::from(top.at) + 4));
        let thread = self.running.last().map_or(0, |&index| index);
        let base = self.threads[thread].base;
        if let Some(pc) = pc {
            // as before each call of a C function
            let place = self.sp + u64::from(self.image.layout.cframe.pc);
            self.image.reference(place, pc);
            self.set(abi::MS_REG_RBX, pc);
        }
        let g = self.image.vms[self.threads[thread].vm];
        let entry = &mut self.segments[segment];
        entry.base = base;
        entry.pc = pc;
        for frame in &entry.frames {
            self.out.push(frame.to_vec());
        }
        entry.frames.reverse();
        let flags = if is_empty { abi::MS_SEGMENT_EMPTY } else { 0 };
        let mark = lua_word(abi::MS_LUA_SEGMENT, entry.l, g | flags);
        self.out.push(mark.to_vec());
        self.out.push(vec![INNER + 0x20]);
    }

    // ---- Lua frames -------------------------------------------------------------------------------------

    fn first_frame(&mut self, place: Place, call: Option<&Call>) {
        let call = call.copied().unwrap_or(Call {
            callee: Callee::Lua,
            how: How::Call,
            slot: 0,
            at: 1,
        });
        let caller = self.thread().base;
        let slots = u64::from(self.image.layout.fields().frame_slots);
        let base = caller + 8 * (2 * slots + u64::from(call.slot % MAX_SLOT));
        let link = match place {
            Place::Callback => {
                self.continuation(base, 1, 0x2001);
                2
            }
            Place::Call => 1,
            _ => 5,
        };
        self.frame(&call, base, (base - caller) | link);
    }

    /// Another call on top; false if there can be none.
    fn call(&mut self, call: &Call) -> bool {
        let caller = self.thread().base;
        let Some(top) = self.top.as_ref().filter(|_| self.has_room()) else {
            return false;
        };
        let slot = call.slot % MAX_SLOT;
        let slots = u64::from(self.image.layout.fields().frame_slots);
        match top.kind() {
            abi::MS_LUA_FUNCTION => {
                let (bytecode, at) = (top.bytecode.unwrap_or(0), u64::from(top.at));
                let pc = bytecode + 4 * at + 4;
                if call.how == How::Call {
                    // the call instruction says in which slot the callee is: its field A
                    self.image.put(bytecode + 4 * at, &[0x42, slot, 1, 1]);
                    self.frame(call, caller + 8 * (slots + u64::from(slot)), pc);
                } else {
                    let base = caller + 8 * (2 * slots + u64::from(slot));
                    let value = if call.how == How::TailCall {
                        0
                    } else {
                        CONTINUATION
                    };
                    self.continuation(base, value, pc);
                    self.frame(call, base, (base - caller) | 2);
                }
                true
            }
            abi::MS_LUA_BUILTIN => {
                let base = caller + 8 * (slots + u64::from(slot));
                self.frame(call, base, (base - caller) | 6);
                true
            }
            _ => false,
        }
    }

    /// Writes a frame, and its copy if it is one of a vararg function.
    fn frame(&mut self, call: &Call, base: u64, link: u64) {
        let mut function = self.function(call);
        function.link = link;
        self.write_slots(base, function.object, link);
        let mut base = base;
        if call.callee == Callee::Vararg {
            let delta =
                8 * (u64::from(self.image.layout.fields().frame_slots) + u64::from(call.slot % MAX_SLOT));
            base += delta;
            self.write_slots(base, function.object, delta | 3);
        }
        self.thread().base = base;
        if let Some(segment) = self.segments.last_mut() {
            segment.frames.push(function.words);
        }
        self.top = Some(function);
    }

    fn write_slots(&mut self, base: u64, object: u64, link: u64) {
        if self.image.layout.fields().ref_size == 8 {
            let tag: u64 = if (STATES..CODE).contains(&object) {
                0x1fff9
            } else {
                0x1fff7
            };
            self.image.put(base - 16, &(object | tag << 47).to_le_bytes());
            self.image.put(base - 8, &link.to_le_bytes());
        } else {
            self.image.put(base - 8, &(object | link << 32).to_le_bytes());
        }
    }

    fn continuation(&mut self, base: u64, value: u64, pc: u64) {
        if self.image.layout.fields().ref_size == 8 {
            self.image.put(base - 32, &value.to_le_bytes());
            self.image.put(base - 24, &pc.to_le_bytes());
        } else {
            self.image.put(base - 16, &(value | pc << 32).to_le_bytes());
        }
    }

    fn function(&mut self, call: &Call) -> Function {
        let fields = self.image.layout.fields();
        let proto = CODE + CODE_SIZE * (self.functions % MAX_FUNCTIONS);
        let object = proto + OBJECT;
        self.functions += 1;
        let at = call.at % (SIZEBC as u8 - 1);
        let mut bytecode = None;
        let (ffid, words) = match call.callee {
            Callee::Lua | Callee::Vararg => {
                let first = proto + u64::from(fields.pt_size);
                bytecode = Some(first);
                self.image.put(proto + u64::from(fields.gct), &[7]);
                self.image
                    .put(proto + u64::from(fields.pt_sizebc), &SIZEBC.to_le_bytes());
                self.image.reference(object + u64::from(fields.fn_pc), first);
                (0, lua_word(abi::MS_LUA_FUNCTION, proto, u64::from(at) + 1))
            }
            Callee::Builtin => (20 + call.slot % 100, [0; 2]),
            Callee::C => (1, lua_word(abi::MS_LUA_C_FUNCTION, C + 0x10, object)),
        };
        let words = match call.callee {
            Callee::Builtin => lua_word(abi::MS_LUA_BUILTIN, object, ffid.into()),
            _ => words,
        };
        self.image.put(object + u64::from(fields.gct), &[8, ffid]);
        if call.callee == Callee::C {
            self.image
                .put(object + u64::from(fields.fn_c), &(C + 0x10).to_le_bytes());
        }
        Function {
            object,
            link: 0,
            bytecode,
            at,
            words,
        }
    }

    fn write_state(&mut self, index: usize) {
        let fields = self.image.layout.fields();
        let Thread { l, vm, base, cframe } = self.threads[index];
        let stack = STACKS + STACK_SIZE * index as u64;
        let g = self.image.vms[vm];
        self.image.put(l + u64::from(fields.gct), &[6]);
        self.image.reference(l + u64::from(fields.l_glref), g);
        self.image.reference(l + u64::from(fields.l_base), base);
        self.image.reference(l + u64::from(fields.l_stack), stack);
        self.image
            .reference(l + u64::from(fields.l_maxstack), stack + STACK_SIZE - 0x40);
        self.image
            .put(l + u64::from(fields.l_cframe), &(cframe | 1).to_le_bytes());
    }

    // ---- the leaf ---------------------------------------------------------------------------------------

    /// The VM runs a trace, whose stack pointer is so many words below its entry.
    fn run_trace(&mut self, spill: u8) {
        const NUMBER: u16 = 7;
        const LIST: u64 = HEAP + 0x900;
        const OBJECT: u64 = HEAP + 0xa00;
        let (g, base, build) = (self.g(), self.thread().base, self.image.layout.build);
        let size = u64::from(self.image.layout.fields().ref_size);
        self.image.reference(g + u64::from(build.jit_base), base);
        self.image
            .put(g + u64::from(build.vmstate), &u32::from(NUMBER).to_le_bytes());
        self.image.put(g + u64::from(build.trace), &LIST.to_le_bytes());
        self.image.reference(LIST + size * u64::from(NUMBER), OBJECT);
        // szmcode, mcode, spadjust, traceno of GCtrace (lj_jit.h)
        let fields = match size {
            8 => [0x54, 0x58, 0x66, 0x68],
            _ => [0x3c, 0x40, 0x4e, 0x50],
        };
        self.image.put(OBJECT + fields[0], &0x200_u32.to_le_bytes());
        self.image.put(OBJECT + fields[1], &TRACE.to_le_bytes());
        self.image
            .put(OBJECT + fields[2], &(8 * u16::from(spill)).to_le_bytes());
        self.image.put(OBJECT + fields[3], &NUMBER.to_le_bytes());
        self.sp -= 16 + 8 * u64::from(spill);
        self.pc = TRACE + 0x100;
    }

    /// Code of C without unwind information is called, and what is between is not seen.
    fn push_gap(&mut self, mapped: bool, c_frames: u8) {
        self.push(C + 0x21, 16);
        self.push(if mapped { TRACE + 0x800 } else { NOWHERE }, 64);
        self.sp -= 32;
        if mapped || c_frames == 0 {
            self.out.push(vec![self.pc]);
        }
    }

    fn leaf(&mut self, plan: &Plan) {
        let in_lua = self.segments.last().is_some_and(|segment| segment.pc.is_some());
        let in_builtin = self.segments.last().is_some_and(|segment| {
            segment
                .frames
                .first()
                .is_some_and(|frame| kind_of(frame) == abi::MS_LUA_BUILTIN)
        });
        // the word of the VM's frame; those of its segment are before it
        let vm = self.out.len() - 1;
        let mut c_frames = plan.c_frames % 8;
        let stale = self.running.last().map(|&index| {
            STACKS + STACK_SIZE * index as u64 + 8 * u64::from(self.image.layout.fields().frame_slots)
        });
        match plan.leaf {
            Leaf::Handler | Leaf::Subroutine | Leaf::Helper if in_lua => {
                let base = self.thread().base;
                self.set(abi::MS_REG_RDX, base);
                self.thread().base = stale.unwrap_or(base);
                self.pc = if plan.leaf == Leaf::Handler {
                    HANDLER + 0x55
                } else {
                    INNER + 0x55
                };
                self.out[vm] = vec![self.pc];
                c_frames = 0;
                if plan.leaf == Leaf::Helper {
                    self.push(HELPER + 7, 8);
                    self.out.push(vec![HELPER + 7]);
                }
            }
            Leaf::Trace { spill } | Leaf::TraceGap { spill, .. } if in_lua => {
                let base = self.thread().base;
                self.run_trace(spill);
                self.thread().base = stale.unwrap_or(base);
                self.out[vm] = vec![self.pc];
                self.out[vm - 1][1] |= abi::MS_SEGMENT_TRACE;
                if let Leaf::TraceGap { mapped, .. } = plan.leaf {
                    self.out[vm - 1][1] |= abi::MS_SEGMENT_GAP | abi::MS_SEGMENT_CALL;
                    self.push_gap(mapped, c_frames);
                }
                // the innermost function's position is in its snapshots only
                let innermost = closure_word(self.out[vm - 2][0]);
                self.out[vm - 2] = innermost.into();
                if let Some(segment) = self.segments.last_mut() {
                    segment.pc = None;
                    segment.frames[0] = innermost;
                }
            }
            Leaf::Replacing if in_builtin => {
                // a frame of the thread itself stands for the call, and has the link that the metamethod's
                // type is written over
                let (replaced, l) = (self.thread().base, self.thread().l);
                let Some(Function { object, link, .. }) = self.top else {
                    return;
                };
                self.write_slots(replaced, object, 0xffff_fff7);
                let base = replaced + 8 * 2 * u64::from(self.image.layout.fields().frame_slots);
                self.continuation(base, 0, link);
                self.write_slots(base, l, (base - replaced) | 2);
                self.thread().base = base;
                self.out.remove(vm - 2);
                if let Some(segment) = self.segments.last_mut() {
                    segment.base = base;
                    segment.frames.remove(0);
                }
                c_frames = c_frames.max(1);
            }
            Leaf::Gap { mapped } if !self.running.is_empty() => {
                self.out.truncate(vm);
                self.out[vm - 1][1] |= abi::MS_SEGMENT_GAP;
                self.push_gap(mapped, c_frames);
            }
            Leaf::Entering | Leaf::Dispatching | Leaf::Leaving if !self.running.is_empty() => {
                self.push_c(c_frames.max(1));
                c_frames = 0;
                if plan.leaf == Leaf::Entering {
                    self.push(ENTERING + 9, 8);
                } else if plan.leaf == Leaf::Leaving {
                    let base = self.thread().base;
                    self.set(abi::MS_REG_RBX, base);
                    self.thread().base = stale.unwrap_or(base);
                    self.push(LEAVING + 9, 8);
                } else {
                    self.push_cframe(false);
                    self.set(abi::MS_REG_RBX, 0x20 | 1);
                    self.pc = DISPATCH + 9;
                }
                self.out.push(vec![self.pc]);
            }
            _ => c_frames = c_frames.max(1),
        }
        self.push_c(c_frames);
        if let Some(leaf) = self.out.last_mut() {
            leaf[0] |= abi::MS_FRAME_EXACT;
        }
        let (sp, pc) = (self.sp, self.pc);
        self.set(abi::MS_REG_RSP, sp);
        self.set(abi::MS_REG_RIP, pc);
    }
}
