//! Recognises the few DWARF expressions that compilers, linkers and libraries put into unwind information.
//!
//! The row format has no general expressions; what is not recognised here becomes an unsupported row.
//! Operation codes: DWARF 5, table 7.9.

use gimli::Reader;

use crate::cfi::Slice;

mod op {
    pub(super) const DEREF: u8 = 0x06;
    pub(super) const CONST1U: u8 = 0x08;
    pub(super) const CONST1S: u8 = 0x09;
    pub(super) const CONST2U: u8 = 0x0a;
    pub(super) const CONST2S: u8 = 0x0b;
    pub(super) const CONST4U: u8 = 0x0c;
    pub(super) const CONST4S: u8 = 0x0d;
    pub(super) const CONSTU: u8 = 0x10;
    pub(super) const CONSTS: u8 = 0x11;
    pub(super) const AND: u8 = 0x1a;
    pub(super) const MINUS: u8 = 0x1c;
    pub(super) const MUL: u8 = 0x1e;
    pub(super) const PLUS: u8 = 0x22;
    pub(super) const PLUS_UCONST: u8 = 0x23;
    pub(super) const SHL: u8 = 0x24;
    pub(super) const GE: u8 = 0x2a;
    pub(super) const LIT0: u8 = 0x30;
    pub(super) const LIT31: u8 = 0x4f;
    pub(super) const BREG0: u8 = 0x70;
    pub(super) const BREG31: u8 = 0x8f;
    pub(super) const BREGX: u8 = 0x92;
}

/// What an expression computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// register + offset
    Sum { register: u16, offset: i64 },
    /// *(register + offset) + add
    Deref { register: u16, offset: i64, add: i64 },
    /// *(register + offset + 8 * index) + add: how libcrypto keeps a stack pointer behind an array
    /// (crypto/bn/asm/x86_64-mont.pl)
    DerefIndexed {
        register: u16,
        offset: i64,
        index: u16,
        add: i64,
    },
    /// rsp + 8, and 8 more from byte `threshold` of a 16-byte stub on
    Plt { threshold: u8 },
}

/// The form of an expression, if it is one of the known ones.
pub(crate) fn recognise(bytes: &[u8]) -> Option<Form> {
    if let Some(threshold) = plt(bytes) {
        return Some(Form::Plt { threshold });
    }
    let mut input = Slice::new(bytes, gimli::LittleEndian);
    let (register, mut offset) = base(&mut input)?;
    let mut ahead = input;
    if let Some(index) = indexed(&mut ahead) {
        let add = sum(&mut ahead)?;
        return ahead.is_empty().then_some(Form::DerefIndexed {
            register,
            offset,
            index,
            add,
        });
    }
    offset = offset.checked_add(sum(&mut input)?)?;
    if input.is_empty() {
        return Some(Form::Sum { register, offset });
    }
    if input.read_u8().ok()? != op::DEREF {
        return None;
    }
    let add = sum(&mut input)?;
    input.is_empty().then_some(Form::Deref {
        register,
        offset,
        add,
    })
}

/// The expression that linkers write for `.plt`: within a stub, `rsp + 8` until the push, `rsp + 16` after.
/// The place of the push differs between the kinds of stub, so the literal comes from the bytes.
fn plt(bytes: &[u8]) -> Option<u8> {
    const RSP: u8 = op::BREG0 + 7;
    const RIP: u8 = op::BREG0 + 16;
    match *bytes {
        [
            RSP,
            8,
            RIP,
            0,
            mask,
            op::AND,
            literal,
            op::GE,
            shift,
            op::SHL,
            op::PLUS,
        ] if mask == op::LIT0 + 15 && shift == op::LIT0 + 3 => {
            literal.checked_sub(op::LIT0).filter(|&threshold| threshold <= 15)
        }
        _ => None,
    }
}

fn base(input: &mut Slice<'_>) -> Option<(u16, i64)> {
    let register = match input.read_u8().ok()? {
        code @ op::BREG0..=op::BREG31 => u16::from(code - op::BREG0),
        op::BREGX => input.read_uleb128_u16().ok()?,
        _ => return None,
    };
    Some((register, input.read_sleb128().ok()?))
}

/// `index; 8; mul; plus; deref`: the register that counts words.
fn indexed(input: &mut Slice<'_>) -> Option<u16> {
    let (index, 0) = base(input)? else { return None };
    let rest = [op::LIT0 + 8, op::MUL, op::PLUS, op::DEREF];
    rest.iter()
        .all(|&code| input.read_u8().is_ok_and(|read| read == code))
        .then_some(index)
}

/// Any number (at most two, so that time is bounded) of constants added or subtracted, up to what is neither.
fn sum(input: &mut Slice<'_>) -> Option<i64> {
    let mut total = 0i64;
    for _ in 0..2 {
        let mut ahead = *input;
        let Ok(code) = ahead.read_u8() else { break };
        if code == op::DEREF {
            break;
        }
        let add = if code == op::PLUS_UCONST {
            i64::try_from(ahead.read_uleb128().ok()?).ok()?
        } else {
            let value = constant(code, &mut ahead)?;
            match ahead.read_u8().ok()? {
                op::PLUS => value,
                op::MINUS => value.checked_neg()?,
                _ => return None,
            }
        };
        total = total.checked_add(add)?;
        *input = ahead;
    }
    Some(total)
}

fn constant(code: u8, input: &mut Slice<'_>) -> Option<i64> {
    match code {
        op::LIT0..=op::LIT31 => Some(i64::from(code - op::LIT0)),
        op::CONST1U => input.read_u8().ok().map(i64::from),
        op::CONST1S => input.read_i8().ok().map(i64::from),
        op::CONST2U => input.read_u16().ok().map(i64::from),
        op::CONST2S => input.read_i16().ok().map(i64::from),
        op::CONST4U => input.read_u32().ok().map(i64::from),
        op::CONST4S => input.read_i32().ok().map(i64::from),
        op::CONSTU => i64::try_from(input.read_uleb128().ok()?).ok(),
        op::CONSTS => input.read_sleb128().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_register_and_offset() {
        assert_eq!(
            recognise(&[0x77, 8]),
            Some(Form::Sum {
                register: 7,
                offset: 8
            })
        );
        assert_eq!(
            recognise(&[0x76, 0x78]),
            Some(Form::Sum {
                register: 6,
                offset: -8
            })
        );
        assert_eq!(
            recognise(&[0x92, 13, 0x78, 0x23, 24]),
            Some(Form::Sum {
                register: 13,
                offset: 16
            })
        );
    }

    #[test]
    fn a_saved_stack_pointer_as_libcrypto_has_it() {
        // readelf: breg7 (rsp): 40; deref; plus_uconst: 8
        assert_eq!(
            recognise(&[0x77, 40, 0x06, 0x23, 8]),
            Some(Form::Deref {
                register: 7,
                offset: 40,
                add: 8
            })
        );
        assert_eq!(
            recognise(&[0x76, 0x58, 0x06]),
            Some(Form::Deref {
                register: 6,
                offset: -40,
                add: 0
            })
        );
        assert_eq!(
            recognise(&[0x77, 0, 0x06, 0x38, 0x1c]),
            Some(Form::Deref {
                register: 7,
                offset: 0,
                add: -8
            })
        );
    }

    #[test]
    fn the_stubs_of_a_linker() {
        for threshold in [9, 10, 11] {
            let bytes = [
                0x77,
                8,
                0x80,
                0,
                0x3f,
                0x1a,
                0x30 + threshold,
                0x2a,
                0x33,
                0x24,
                0x22,
            ];
            assert_eq!(recognise(&bytes), Some(Form::Plt { threshold }));
        }
    }

    #[test]
    fn a_stack_pointer_behind_an_array_as_libcrypto_has_it() {
        // readelf: breg7 (rsp): 8; breg9 (r9): 0; lit8; mul; plus; deref; plus_uconst: 8
        assert_eq!(
            recognise(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8]),
            Some(Form::DerefIndexed {
                register: 7,
                offset: 8,
                index: 9,
                add: 8
            })
        );
    }

    #[test]
    fn anything_else_is_refused() {
        // a factor of 4, and an index with an offset
        assert_eq!(
            recognise(&[0x77, 8, 0x79, 0, 0x34, 0x1e, 0x22, 0x06, 0x23, 8]),
            None
        );
        assert_eq!(
            recognise(&[0x77, 8, 0x79, 8, 0x38, 0x1e, 0x22, 0x06, 0x23, 8]),
            None
        );
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(&[0x77]), None);
        assert_eq!(recognise(&[0x77, 8, 0x06, 0x06]), None);
        assert_eq!(recognise(&[0x77, 8, 0x06, 0x23]), None);
    }
}
