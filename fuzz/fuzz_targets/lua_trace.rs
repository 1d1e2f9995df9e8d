//! A trace in the memory of LuaJIT: its copy, what each address of it means, and whom its code calls.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_luajit::{
    BuildOffsets, CFrame, Callee, GcMode, Layout, TraceCopy, expand, handed_over_to, traces,
};
use moonscope_process::BufferMemory;

mod inputs;

use inputs::Bytes;

const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 0x8000;
const TRACE: u64 = MEMORY;
const IR: u64 = MEMORY + 0x1000;
const SNAPSHOTS: u64 = MEMORY + 0x2000;
const MAP: u64 = MEMORY + 0x3000;
const MCODE: u64 = MEMORY + 0x4000;
const PROTO: u64 = MEMORY + 0x5000;
const FUNCTION: u64 = MEMORY + 0x6000;
const G: u64 = MEMORY + 0x7000;
/// `REF_NIL`, of which every trace has the constants down to the second before it.
const REF_NIL: u64 = 0x7fff;

fuzz_target!(|content: &[u8]| {
    let mut input = Bytes(content);
    let mode = match input.byte() & 1 {
        0 => GcMode::Gc64,
        _ => GcMode::Gc32,
    };
    let layout = layout(mode);
    let memory = BufferMemory::new().with(MEMORY, bytes(&layout, &mut input));
    if let Ok(trace) = TraceCopy::read(&memory, &layout, G, TRACE) {
        for offset in 0..u64::from(trace.szmcode).min(0x200) {
            let Ok(expansion) = expand(&trace, offset) else {
                continue;
            };
            assert!(!expansion.frames.is_empty());
            for source in expansion.callees.iter().flatten() {
                let _ = source.callee(&memory, &layout, G, FUNCTION);
            }
            for call in expansion.called.iter().flat_map(|called| &called.calls) {
                if let Callee::C(function) = call.source.callee(&memory, &layout, G, FUNCTION) {
                    let called = expansion
                        .called
                        .as_ref()
                        .filter(|called| called.is_call_of(function));
                    assert!(called.is_none_or(|called| !called.at(call).is_empty()));
                }
            }
        }
    }
    let _ = handed_over_to(&memory, &layout, G, FUNCTION);
});

fn layout(mode: GcMode) -> Layout {
    Layout {
        mode,
        cframe: CFrame {
            size: 80,
            l: 16,
            pc: 24,
            prev: 32,
            nres: 8,
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
        trace: traces::candidates(mode).first().copied(),
    }
}

/// A trace of one function, whose parts are what the fuzzer says; then any words anywhere.
fn bytes(layout: &Layout, input: &mut Bytes<'_>) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let fields = layout.fields();
    let at = layout.trace.expect("there are layouts");
    let mut put = |addr: u64, value: &[u8]| {
        let from = (addr - MEMORY) as usize % SIZE;
        let len = value.len().min(SIZE - from);
        bytes[from..from + len].copy_from_slice(&value[..len]);
    };
    let reference = |value: u64| value.to_le_bytes()[..usize::from(fields.ref_size)].to_vec();
    let constants = u64::from(input.byte() % 64) + 2;
    let first = REF_NIL - constants;
    let sizebc = u32::from(input.byte() % 64) + 1;
    let bytecode = PROTO + u64::from(fields.pt_size);
    let end = bytecode + u64::from(sizebc) * 4;
    put(TRACE + u64::from(fields.gct), &[9]);
    put(
        TRACE + u64::from(at.nsnap),
        &u16::from(input.byte() % 32).to_le_bytes(),
    );
    put(
        TRACE + u64::from(at.nins),
        &(0x8000 + u32::from(input.byte())).to_le_bytes(),
    );
    put(TRACE + u64::from(at.ir), &(IR - first * 8).to_le_bytes());
    put(TRACE + u64::from(at.nk), &(first as u32).to_le_bytes());
    put(TRACE + u64::from(at.snap), &SNAPSHOTS.to_le_bytes());
    put(TRACE + u64::from(at.snapmap), &MAP.to_le_bytes());
    put(TRACE + u64::from(at.szmcode), &0x200_u32.to_le_bytes());
    put(TRACE + u64::from(at.mcode), &MCODE.to_le_bytes());
    put(TRACE + u64::from(at.traceno), &1_u16.to_le_bytes());
    put(TRACE + u64::from(at.startpt), &reference(PROTO));
    put(TRACE + u64::from(at.startpc), &reference(bytecode + 4));
    put(PROTO + u64::from(fields.gct), &[7]);
    put(PROTO + u64::from(fields.pt_sizebc), &sizebc.to_le_bytes());
    put(PROTO + u64::from(fields.pt_k), &reference(end + 0x100));
    put(
        PROTO + u64::from(fields.pt_sizept),
        &((end + 0x100 - PROTO) as u32).to_le_bytes(),
    );
    put(FUNCTION + u64::from(fields.gct), &[8, 0, 4]);
    put(FUNCTION + u64::from(fields.fn_pc), &reference(bytecode));
    for (start, len) in [(bytecode, 4 * sizebc as usize), (MCODE, 0x200), (MAP, 0x100)] {
        put(start, input.take(len));
    }
    while !input.0.is_empty() {
        let (place, kind) = (u64::from(input.half()), input.byte());
        let value = match kind % 4 {
            0 => input.long(),
            1 => MEMORY + u64::from(input.half()),
            2 => (bytecode + 4 * u64::from(input.byte())) << 8 | u64::from(input.byte() & 7),
            _ => input.word().into(),
        };
        let len = if kind & 4 == 0 { 8 } else { 4 };
        put(MEMORY + place, &value.to_le_bytes()[..len]);
    }
    bytes
}
