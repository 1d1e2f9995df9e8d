use super::*;
use crate::testing::{Image, MODES, Noise, layout};
use proptest::prelude::*;

const PROTO: u64 = Image::START + 0x2000;
const FUNCTION: u64 = Image::START + 0x2800;
const NAME: u64 = Image::START + 0x3000;

/// `op a, b, c` and `op a, d`, as lj_bc.h numbers them.
fn abc(op: u8, a: u8, b: u8, c: u8) -> Instruction {
    Instruction(u32::from_le_bytes([op, a, c, b]))
}

fn ad(op: u8, a: u8, d: u16) -> Instruction {
    let [low, high] = d.to_le_bytes();
    Instruction(u32::from_le_bytes([op, a, low, high]))
}

/// Where it comes from what the last of these instructions calls; the first constant is a name.
fn source(mode: GcMode, body: &[Instruction]) -> Option<Source> {
    let mut image = Image::new(mode);
    let bytecode = image.lua(FUNCTION, PROTO, 64);
    let k = read_reference(&image, mode.fields(), PROTO + u64::from(mode.fields().pt_k)).unwrap();
    // the constants are where the bytecode ends in these images, so the last words of that are the names
    image.reference(k - u64::from(mode.fields().ref_size), NAME);
    let code = ProtoCode {
        bytecode,
        sizebc: 64,
        proto: PROTO,
    };
    let instructions = [&[ad(89, 0, 0)], body].concat();
    Source::of_call(&image, mode, &code, (&instructions, body.len()))
}

#[test]
fn a_called_function_is_followed_to_a_variable_a_global_or_a_field() {
    let call = abc(op::CALL, 4, 1, 2);
    for mode in MODES {
        let upvalue = Source::Upvalue(3);
        assert_eq!(source(mode, &[ad(op::UGET, 4, 3), call]), Some(upvalue.clone()));
        assert_eq!(
            source(mode, &[ad(op::GGET, 4, 0), call]),
            Some(Source::Global(NAME))
        );
        let field = [ad(op::UGET, 4, 3), abc(op::TGETS, 4, 4, 0), call];
        assert_eq!(
            source(mode, &field),
            Some(Source::Field(Box::new(upvalue.clone()), NAME))
        );
        // a local variable, and its arguments behind it
        let copied = [ad(op::UGET, 1, 3), ad(op::MOV, 4, 1), ad(op::MOV, 6, 2), call];
        assert_eq!(source(mode, &copied), Some(upvalue));
    }
}

#[test]
fn what_the_bytecode_does_not_tell_is_not_guessed() {
    let call = abc(op::CALL, 4, 1, 2);
    let bodies = [
        // a parameter
        vec![ad(op::MOV, 4, 0), call],
        // the result of a call
        vec![ad(op::UGET, 3, 1), abc(op::CALL, 3, 2, 1), call],
        // `(a or b)()`: IST a; JMP over b
        vec![
            ad(op::UGET, 4, 1),
            ad(14, 0, 4),
            ad(op::JMP, 5, 0x8001),
            ad(op::UGET, 4, 2),
            call,
        ],
        // copies in a circle
        vec![ad(op::MOV, 4, 5), ad(op::MOV, 5, 4), ad(op::MOV, 4, 5), call],
    ];
    for body in bodies {
        assert_eq!(source(GcMode::Gc64, &body), None, "{body:x?}");
    }
}

#[test]
fn a_builtin_in_a_variable_is_found_there() {
    const BUILTIN: u64 = Image::START + 0x4000;
    const UPVALUE: u64 = Image::START + 0x4100;
    for mode in MODES {
        let fields = mode.fields();
        let mut image = Image::new(mode);
        image.lua(FUNCTION, PROTO, 8);
        image.put(FUNCTION + u64::from(fields.fn_ffid) + 1, &[1]);
        image.builtin(BUILTIN, 77);
        image.reference(FUNCTION + u64::from(fields.fn_pc + fields.ref_size), UPVALUE);
        image.reference(UPVALUE + u64::from(fields.uv_v), UPVALUE + 0x40);
        let tagged = match mode {
            GcMode::Gc64 => BUILTIN | (!8_u64) << 47,
            GcMode::Gc32 => BUILTIN | u64::from(!8_u32) << 32,
        };
        image.put(UPVALUE + 0x40, &tagged.to_le_bytes());
        let callee = |index| Source::Upvalue(index).callee(&image, &layout(mode), Image::START, FUNCTION);
        assert_eq!(callee(0), Callee::Builtin(77), "{mode:?}");
        assert_eq!(callee(1), Callee::Unknown, "{mode:?}: there is no second one");
    }
}

proptest! {
    #[test]
    fn noise_is_looked_up_in_bounded_time(
        seed: u64, gc64: bool, mask in prop::sample::select(vec![u64::MAX, 0x1f_ffff, 0xff_ffff, 0x00ff_00ff_0010_ffff]),
        index in 0_u32..8,
    ) {
        let mode = MODES[usize::from(!gc64)];
        let mut image = Image::new(mode);
        image.lua(FUNCTION, PROTO, 64);
        let memory = Noise { seed, mask, image, over: 0x2840 };
        let field = |object| Source::Field(Box::new(object), NAME);
        for source in [Source::Upvalue(index), field(Source::Global(NAME)), field(field(Source::Upvalue(index)))] {
            let _ = source.callee(&memory, &layout(mode), Image::START, FUNCTION);
        }
        let _ = handed_over_to(&memory, &layout(mode), Image::START, FUNCTION);
    }
}
