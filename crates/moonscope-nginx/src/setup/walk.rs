//! What one function does to the tops of the chains of filters, whose addresses it takes, and what it calls.
//!
//! A walk over its instructions, the way that falls through before the one that jumps, each once. What registers hold is followed
//! as far as these things need: addresses, and what a top held. A store of the compiler's may stand before or behind
//! the one that the source has first, so a filter and its `next` are paired by what was loaded, not by the order of stores: the
//! n-th filter that a function puts on top has behind it what the top held after n - 1.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use moonscope_process::RemoteMemory;

use super::{Chain, Code, Installed, Next, Tops};

/// Instructions of a function that are looked at: the largest `postconfiguration` has some hundreds.
const MAX_INSTRUCTIONS: usize = 4000;

/// What a function does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Filters that it puts on top.
    pub(super) installed: Vec<Installed>,
    /// Functions whose address it takes.
    pub(super) taken: BTreeSet<u64>,
    /// Functions that it calls.
    pub(super) calls: BTreeSet<u64>,
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Unknown,
    Addr(u64),
    /// What the top of this chain held after so many stores of this function.
    Old(usize, usize),
}

/// What is known at an instruction.
#[derive(Clone)]
struct State {
    registers: BTreeMap<Register, Value>,
    /// The two halves of the vector registers: compilers store two variables that stand side by side at once.
    vectors: BTreeMap<Register, [Value; 2]>,
    /// Stores to each top so far.
    stores: Vec<usize>,
}

struct Walk<'a, M, C> {
    memory: &'a M,
    code: &'a C,
    tops: &'a Tops,
    summary: Summary,
    /// Filters put on a top, and whether what it held was loaded and where that was stored, by top and number.
    filters: BTreeSet<(usize, usize, u64)>,
    loaded: BTreeSet<(usize, usize)>,
    kept: BTreeMap<(usize, usize), BTreeSet<u64>>,
}

/// Walks over the function at this address.
pub(super) fn summary(memory: &impl RemoteMemory, code: &impl Code, tops: &Tops, function: u64) -> Summary {
    let mut walk = Walk {
        memory,
        code,
        tops,
        summary: Summary::default(),
        filters: BTreeSet::new(),
        loaded: BTreeSet::new(),
        kept: BTreeMap::new(),
    };
    walk.run(function);
    walk.finish()
}

impl<M: RemoteMemory, C: Code> Walk<'_, M, C> {
    fn run(&mut self, function: u64) {
        let state = State {
            registers: BTreeMap::new(),
            vectors: BTreeMap::new(),
            stores: vec![0; self.tops.len()],
        };
        let mut ways = vec![(function, state)];
        let mut seen = HashSet::new();
        let code = self.code;
        while let Some((start, mut state)) = ways.pop() {
            let Some(bytes) = code.code(start) else { continue };
            for insn in Decoder::with_ip(64, bytes, start, DecoderOptions::NONE) {
                if insn.is_invalid() || seen.len() >= MAX_INSTRUCTIONS || !seen.insert(insn.ip()) {
                    break;
                }
                self.step(&insn, &mut state);
                match insn.flow_control() {
                    FlowControl::ConditionalBranch => ways.push((insn.near_branch_target(), state.clone())),
                    FlowControl::UnconditionalBranch => {
                        // also a call in the end: what is called then is a part of the function
                        ways.push((insn.near_branch_target(), state));
                        break;
                    }
                    FlowControl::IndirectBranch => {
                        // likewise through the linker's table
                        if let Some(Value::Addr(target)) = self.operand(&insn, 0, &state) {
                            ways.push((target, state));
                        }
                        break;
                    }
                    FlowControl::Call => self.call(insn.near_branch_target()),
                    FlowControl::IndirectCall => {
                        if let Some(Value::Addr(target)) = self.operand(&insn, 0, &state) {
                            self.call(target);
                        }
                    }
                    FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt => break,
                    _ => {}
                }
            }
        }
    }

    fn call(&mut self, target: u64) {
        self.summary.calls.insert(self.behind_stub(target));
    }

    /// Where the linker's stub at this address jumps to: `endbr64` or not, then `jmp [rip+x]`.
    fn behind_stub(&self, target: u64) -> u64 {
        let Some(bytes) = self.code.code(target) else {
            return target;
        };
        let mut insns = Decoder::with_ip(64, bytes, target, DecoderOptions::NONE).into_iter();
        let first = insns.find(|insn| insn.mnemonic() != Mnemonic::Endbr64);
        let jump = first.filter(|insn| insn.mnemonic() == Mnemonic::Jmp && insn.is_ip_rel_memory_operand());
        jump.and_then(|insn| self.memory.read_u64(insn.ip_rel_memory_address()).ok())
            .filter(|&to| self.code.code(to).is_some())
            .unwrap_or(target)
    }

    fn step(&mut self, insn: &Instruction, state: &mut State) {
        let effect = self.effect(insn, state);
        let mut info = InstructionInfoFactory::new();
        for used in info.info(insn).used_registers() {
            if is_written(used.access()) {
                let register = used.register().full_register();
                state.registers.remove(&register);
                // the full register of an xmm is its zmm
                state.vectors.remove(&register);
            }
        }
        if matches!(insn.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            state.registers.retain(|name, _| is_kept_by_calls(*name));
            state.vectors.clear();
        }
        match effect {
            Effect::None => {}
            Effect::Register(register, value) => {
                self.take(value);
                state.registers.insert(register.full_register(), value);
            }
            Effect::Vector(register, values) => {
                state.vectors.insert(register.full_register(), values);
            }
            Effect::Store(addr, values) => {
                for (number, value) in values.into_iter().enumerate() {
                    self.take(value);
                    self.store(addr.wrapping_add(8 * number as u64), value, state);
                }
            }
        }
    }

    fn take(&mut self, value: Value) {
        if let Value::Addr(addr) = value
            && self.code.code(addr).is_some()
        {
            self.summary.taken.insert(addr);
        }
    }

    fn store(&mut self, addr: u64, value: Value, state: &mut State) {
        let top = self.tops.iter().position(|(_, top)| *top == addr);
        match (top, value) {
            (Some(top), value) => {
                if let Value::Addr(filter) = value
                    && self.code.code(filter).is_some()
                {
                    self.filters.insert((top, state.stores[top], filter));
                }
                state.stores[top] += 1;
            }
            (None, Value::Old(top, number)) => {
                self.kept.entry((top, number)).or_default().insert(addr);
            }
            _ => {}
        }
    }

    /// What an instruction does that is followed.
    fn effect(&mut self, insn: &Instruction, state: &State) -> Effect {
        use Mnemonic::{
            Lea, Mov, Movapd, Movaps, Movdqa, Movdqu, Movhpd, Movhps, Movlps, Movq, Movupd, Movups,
        };
        let to_memory = insn.op_count() > 0 && insn.op_kind(0) == OpKind::Memory;
        let value = |walk: &mut Self, op| walk.operand(insn, op, state).unwrap_or(Value::Unknown);
        match insn.mnemonic() {
            Lea => match address(insn, state) {
                Some(addr) => Effect::Register(insn.op0_register(), Value::Addr(addr)),
                None => Effect::None,
            },
            Mov if to_memory && insn.memory_size().size() == 8 => match address(insn, state) {
                Some(addr) => Effect::Store(addr, vec![value(self, 1)]),
                None => {
                    // a place that is not known, as in the list of handlers of a phase
                    let value = value(self, 1);
                    self.take(value);
                    Effect::None
                }
            },
            Mov if !to_memory && insn.op0_register().size() >= 4 => {
                let value = value(self, 1);
                match insn.op0_register().size() == 8 || insn.op1_kind() != OpKind::Memory {
                    true => Effect::Register(insn.op0_register(), value),
                    false => Effect::None,
                }
            }
            Movq | Movlps if to_memory => match address(insn, state) {
                Some(addr) => Effect::Store(addr, vec![vector(state, insn.op1_register())[0]]),
                None => Effect::None,
            },
            Movhps | Movhpd if to_memory => match address(insn, state) {
                Some(addr) => Effect::Store(addr, vec![vector(state, insn.op1_register())[1]]),
                None => Effect::None,
            },
            Movq if insn.op0_register().is_xmm() => {
                Effect::Vector(insn.op0_register(), [value(self, 1), Value::Unknown])
            }
            Movq => Effect::Register(insn.op0_register(), value(self, 1)),
            Movhps | Movhpd | Mnemonic::Pinsrq => {
                let low = vector(state, insn.op0_register())[0];
                match insn.mnemonic() == Mnemonic::Pinsrq && insn.immediate(2) != 1 {
                    true => Effect::None,
                    false => Effect::Vector(insn.op0_register(), [low, value(self, 1)]),
                }
            }
            Mnemonic::Punpcklqdq | Mnemonic::Movlhps => {
                let low = vector(state, insn.op0_register())[0];
                match insn.op1_kind() == OpKind::Register {
                    true => Effect::Vector(insn.op0_register(), [low, vector(state, insn.op1_register())[0]]),
                    false => Effect::Vector(insn.op0_register(), [low, value(self, 1)]),
                }
            }
            Movaps | Movups | Movapd | Movupd | Movdqa | Movdqu => self.whole_vector(insn, state, to_memory),
            _ => Effect::None,
        }
    }

    fn whole_vector(&mut self, insn: &Instruction, state: &State, to_memory: bool) -> Effect {
        if to_memory {
            return match address(insn, state) {
                Some(addr) => Effect::Store(addr, vector(state, insn.op1_register()).to_vec()),
                None => Effect::None,
            };
        }
        if insn.op1_kind() == OpKind::Register {
            return Effect::Vector(insn.op0_register(), vector(state, insn.op1_register()));
        }
        match address(insn, state) {
            Some(addr) => {
                let values = [self.load(addr, state), self.load(addr.wrapping_add(8), state)];
                Effect::Vector(insn.op0_register(), values)
            }
            None => Effect::None,
        }
    }

    /// The value of an operand of 8 bytes, or an immediate.
    fn operand(&mut self, insn: &Instruction, op: u32, state: &State) -> Option<Value> {
        Some(match insn.op_kind(op) {
            OpKind::Register if insn.op_register(op).is_xmm() => vector(state, insn.op_register(op))[0],
            OpKind::Register if insn.op_register(op).size() == 8 => {
                *state.registers.get(&insn.op_register(op).full_register())?
            }
            OpKind::Memory if insn.memory_size().size() == 8 => {
                let addr = address(insn, state)?;
                self.load(addr, state)
            }
            OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => {
                Value::Addr(insn.immediate(op))
            }
            _ => return None,
        })
    }

    fn load(&mut self, addr: u64, state: &State) -> Value {
        if let Some(top) = self.tops.iter().position(|(_, top)| *top == addr) {
            self.loaded.insert((top, state.stores[top]));
            return Value::Old(top, state.stores[top]);
        }
        if !self.code.is_fixed(addr) {
            return Value::Unknown;
        }
        self.memory.read_u64(addr).map_or(Value::Unknown, Value::Addr)
    }

    fn finish(mut self) -> Summary {
        for &(top, number, filter) in &self.filters {
            let kept: Vec<u64> = self
                .kept
                .get(&(top, number))
                .into_iter()
                .flatten()
                .copied()
                .collect();
            let next = match kept[..] {
                [addr] => Next::At(addr),
                [] if !self.loaded.contains(&(top, number)) => Next::Last,
                _ => Next::Unknown,
            };
            let chain: Chain = self.tops[top].0;
            self.summary.installed.push(Installed { chain, filter, next });
        }
        self.summary
    }
}

/// What an instruction leaves behind.
enum Effect {
    None,
    Register(Register, Value),
    Vector(Register, [Value; 2]),
    Store(u64, Vec<Value>),
}

fn vector(state: &State, register: Register) -> [Value; 2] {
    let known = state.vectors.get(&register.full_register());
    known.copied().unwrap_or([Value::Unknown; 2])
}

/// The address of the operand in memory, where it is known.
fn address(insn: &Instruction, state: &State) -> Option<u64> {
    if insn.memory_index() != Register::None || insn.segment_prefix() != Register::None {
        return None;
    }
    if insn.is_ip_rel_memory_operand() {
        return Some(insn.ip_rel_memory_address());
    }
    let displacement = insn.memory_displacement64();
    match insn.memory_base() {
        Register::None => Some(displacement),
        base => match state.registers.get(&base.full_register())? {
            Value::Addr(addr) => Some(addr.wrapping_add(displacement)),
            _ => None,
        },
    }
}

fn is_written(access: OpAccess) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}

/// psABI x86-64, section 3.2.1
fn is_kept_by_calls(register: Register) -> bool {
    use Register::{R12, R13, R14, R15, RBP, RBX};
    [RBX, RBP, R12, R13, R14, R15].contains(&register)
}
