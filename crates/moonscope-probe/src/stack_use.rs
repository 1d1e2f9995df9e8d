//! How much stack the BPF programs need. Newer kernels give each function a stack of its own; Linux 5.10 has 512 bytes
//! for all that are called from one another (`check_max_stack_depth`, kernel/bpf/verifier.c), and no test on a newer
//! kernel would tell.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};

/// What the build made of `bpf/moonscope.bpf.c`.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/moonscope.bpf.o"));

/// MAX_BPF_STACK and MAX_CALL_FRAMES.
const MOST_BYTES: u64 = 512;
const MOST_FRAMES: usize = 8;
/// Each function's part is a multiple of this.
const UNIT: u64 = 32;

// opcodes and registers (Documentation/bpf/standardization/instruction-set.rst)
const LOAD_IMMEDIATE: u8 = 0x18;
const ADD_IMMEDIATE: u8 = 0x07;
const MOVE: u8 = 0xbf;
const CALL: u8 = 0x85;
const FRAME_POINTER: u8 = 10;
const CLASS: u8 = 7;
const CLASS_LOAD: u8 = 1;
const CLASS_STORES: [u8; 2] = [2, 3];
/// `src_reg` of a call of another function of the program.
const LOCAL_CALL: u8 = 1;

struct Instruction {
    opcode: u8,
    target: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            opcode: bytes[0],
            target: bytes[1] & 15,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes(bytes[2..4].try_into().unwrap()),
            immediate: i32::from_le_bytes(bytes[4..8].try_into().unwrap()),
        }
    }

    /// Bytes below the frame pointer that it reaches, if it uses that; `before`: the instruction in front of it.
    fn depth(&self, before: Option<&Self>) -> u64 {
        let class = self.opcode & CLASS;
        let uses_frame = (class == CLASS_LOAD && self.source == FRAME_POINTER)
            || (CLASS_STORES.contains(&class) && self.target == FRAME_POINTER);
        let makes_pointer = self.opcode == ADD_IMMEDIATE
            && before.is_some_and(|before| {
                before.opcode == MOVE && before.source == FRAME_POINTER && before.target == self.target
            });
        let below = match (uses_frame, makes_pointer) {
            (true, _) => i64::from(-i32::from(self.offset)),
            (_, true) => -i64::from(self.immediate),
            _ => 0,
        };
        u64::try_from(below).unwrap_or(0)
    }
}

/// A function: what it needs itself, and whom it calls.
#[derive(Default)]
struct Function {
    bytes: u64,
    calls: BTreeSet<String>,
    is_program: bool,
}

fn functions() -> BTreeMap<String, Function> {
    let file = object::File::parse(OBJECT).unwrap();
    let symbols: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .collect();
    let at = |section, address: u64| {
        let covers = |symbol: &&object::Symbol<'_, '_>| {
            symbol.section_index() == Some(section)
                && (symbol.address()..symbol.address() + symbol.size()).contains(&address)
        };
        Some(symbols.iter().find(covers)?.name().unwrap().to_owned())
    };
    let mut functions: BTreeMap<String, Function> = BTreeMap::new();
    for section in file.sections() {
        let relocations: BTreeMap<u64, _> = section.relocations().collect();
        let code = section.data().unwrap_or_default();
        let mut before: Option<Instruction> = None;
        for (place, bytes) in (0..).step_by(8).zip(code.chunks_exact(8)) {
            let Some(name) = at(section.index(), place) else {
                continue;
            };
            let instruction = Instruction::parse(bytes);
            let function = functions.entry(name).or_default();
            function.is_program = section.name() != Ok(".text");
            function.bytes = function.bytes.max(instruction.depth(before.as_ref()));
            // relative to the next instruction, in instructions; of code that is in memory, in bytes
            let callee = match (instruction.opcode, relocations.get(&place)) {
                (CALL | LOAD_IMMEDIATE, Some(relocation)) => {
                    let RelocationTarget::Symbol(index) = relocation.target() else {
                        panic!("relocation of another kind at {place:#x}");
                    };
                    let symbol = file.symbol_by_index(index).unwrap();
                    let inside = match instruction.opcode {
                        CALL => 8 * (i64::from(instruction.immediate) + 1),
                        _ => i64::from(instruction.immediate),
                    };
                    match symbol.kind() {
                        SymbolKind::Section => at(symbol.section_index().unwrap(), inside.cast_unsigned()),
                        SymbolKind::Text => Some(symbol.name().unwrap().to_owned()),
                        _ => None,
                    }
                }
                (CALL, None) if instruction.source == LOCAL_CALL => {
                    let inside = place.cast_signed() + 8 * (i64::from(instruction.immediate) + 1);
                    at(section.index(), inside.cast_unsigned())
                }
                _ => None,
            };
            function.calls.extend(callee);
            before = Some(instruction);
        }
    }
    functions
}

/// The chain of calls that needs most, from this function on.
fn deepest(functions: &BTreeMap<String, Function>, name: &str) -> (u64, Vec<String>) {
    let function = &functions[name];
    let own = function.bytes.max(1).next_multiple_of(UNIT);
    let below = function.calls.iter().map(|callee| deepest(functions, callee));
    let (bytes, mut chain) = below.max().unwrap_or_default();
    chain.insert(0, format!("{name} {own}"));
    (own + bytes, chain)
}

#[test]
fn every_chain_of_calls_has_room_on_the_oldest_kernel() {
    let functions = functions();
    let programs: Vec<_> = functions
        .iter()
        .filter(|(_, function)| function.is_program)
        .map(|(name, _)| name)
        .collect();
    assert!(programs.len() > 10, "{programs:?}");
    let walker = deepest(&functions, "cpu_tick_plain_loop").1;
    assert!(walker.len() > 3, "the walk is missing: {walker:?}");
    for name in programs {
        let (bytes, chain) = deepest(&functions, name);
        assert!(
            bytes <= MOST_BYTES && chain.len() <= MOST_FRAMES,
            "{bytes} bytes: {}",
            chain.join(", ")
        );
    }
}
