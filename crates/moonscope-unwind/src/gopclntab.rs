//! The function table that the Go runtime itself unwinds by; stripped programs keep it.
//!
//! It lists for every function how far the stack pointer has moved since the call. Format: Go 1.18 and later
//! (src/internal/abi/symtab.go, src/runtime/symtab.go, `_func` in src/runtime/runtime2.go); tests compare it
//! with `.debug_frame` of the same program. Earlier releases keep their frame pointers.

use crate::go_place::GoPlace;

/// Magic numbers of Go 1.18 and 1.20; the newer one only adds a field behind those read here but one.
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// `abi.FuncFlag`: the outermost frame of a stack (`runtime.goexit`, `mstart`, `rt0_go`).
const TOP_FRAME: u8 = 1 << 0;
/// `abi.FuncFlag`: writes the stack pointer, so what is above on the stack is not its caller (`mcall`,
/// `systemstack`, `morestack`): the stack of the scheduler ends there.
const SP_WRITE: u8 = 1 << 1;
/// `abi.FuncFlag`: written in assembly, and free to leave rbp alone.
const ASM: u8 = 1 << 2;

/// No Go function has a larger frame: the runtime's stacks end at 1 GiB.
const MAX_FRAME: i64 = 1 << 30;

/// Spans of one function that are looked at. The longest real ones have some thousands.
const MAX_SPANS: usize = 1 << 16;

/// A parsed `.gopclntab`.
#[derive(Clone, Copy)]
pub(crate) struct GoTable<'a> {
    text: u64,
    quantum: u64,
    functions: usize,
    names: &'a [u8],
    pc_tables: &'a [u8],
    /// The function table and the `_func` records that it points at.
    records: &'a [u8],
    flag_offset: usize,
}

/// One function.
#[derive(Clone, Copy)]
pub(crate) struct GoFunction<'a> {
    /// Where it starts, as a file virtual address.
    pub(crate) start: u64,
    flags: u8,
    quantum: u64,
    spans: &'a [u8],
}

/// How to find the caller of a Go frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoFrame {
    /// There is none.
    Root,
    /// The table's value makes no sense: frames of 1 GiB that are to stop an unwinder.
    Unsupported,
    /// The return address is so many bytes above the stack pointer.
    Returns { above: u32, rbp: GoRbp },
}

/// Where the caller's rbp is. Go code keeps no other register for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoRbp {
    Unchanged,
    /// Saved right below the return address.
    BelowReturnAddress,
    Unknown,
}

/// Whether this is the start of a table of a known version for x86-64.
pub(crate) fn is_table(bytes: &[u8]) -> bool {
    flag_offset(bytes).is_some()
}

/// Where the flags are in the `_func` records of a table of this version.
fn flag_offset(bytes: &[u8]) -> Option<usize> {
    let flag_offset = match u32_at(bytes, 0)? {
        GO_1_18 => 37,
        GO_1_20 => 41,
        _ => return None,
    };
    let (&quantum, &pointer) = (bytes.get(6)?, bytes.get(7)?);
    (pointer == 8 && quantum != 0).then_some(flag_offset)
}

impl<'a> GoTable<'a> {
    /// `None` if this is not a table of a known version for x86-64.
    pub(crate) fn parse(place: &GoPlace<'a>) -> Option<GoTable<'a>> {
        let bytes = place.table;
        let flag_offset = flag_offset(bytes)?;
        let quantum = u64::from(*bytes.get(6)?);
        // counts of functions and files, the text address, then where names, units, files, pc tables and
        // functions start
        let word = |n: usize| u64_at(bytes, 8 + 8 * n);
        let part = |n: usize| bytes.get(usize::try_from(word(n)?).ok()?..);
        let names = bytes.get(usize::try_from(word(3)?).ok()?..usize::try_from(word(4)?).ok()?)?;
        let (pc_tables, records) = (part(6)?, part(7)?);
        let functions = usize::try_from(word(0)?).ok()?;
        // 8 bytes for each function and 4 for the end of the last one
        if functions == 0 || functions > records.len().checked_sub(4)? / 8 {
            return None;
        }
        Some(GoTable {
            text: place.text,
            quantum,
            functions,
            names,
            pc_tables,
            records,
            flag_offset,
        })
    }

    /// How many functions there are.
    pub(crate) fn len(&self) -> usize {
        self.functions
    }

    /// Where function `n` starts and the next one does, as file virtual addresses.
    pub(crate) fn range(&self, n: usize) -> Option<(u64, u64)> {
        Some((self.start_of(n)?, self.start_of(n + 1)?))
    }

    fn start_of(&self, n: usize) -> Option<u64> {
        self.text.checked_add(u32_at(self.records, 8 * n)?.into())
    }

    /// Function `n`.
    pub(crate) fn function(&self, n: usize) -> Option<GoFunction<'a>> {
        let record = u32_at(self.records, 8 * n + 4)? as usize;
        let record = self.records.get(record..)?;
        Some(GoFunction {
            start: self.start_of(n)?,
            flags: *record.get(self.flag_offset)?,
            quantum: self.quantum,
            spans: self.pc_tables.get(u32_at(record, 16)? as usize..)?,
        })
    }

    /// Names, each with a zero at its end.
    pub(crate) fn names(&self) -> &'a [u8] {
        self.names
    }

    /// Where the name of function `n` is in [`GoTable::names`].
    pub(crate) fn name_place(&self, n: usize) -> Option<u32> {
        let record = u32_at(self.records, 8 * n + 4)? as usize;
        u32_at(self.records.get(record..)?, 4)
    }

    /// The frame of code at a file virtual address; `None` if it belongs to no function.
    pub(crate) fn frame_at(&self, vaddr: u64) -> Option<GoFrame> {
        // how many functions start at or before vaddr: `found`, and up to `left` more
        let (mut found, mut left) = (0, self.functions);
        while left > 0 {
            let half = left.div_ceil(2);
            if self.start_of(found + half - 1)? <= vaddr {
                found += half;
            }
            left /= 2;
        }
        let n = found.checked_sub(1)?;
        if self.range(n)?.1 <= vaddr {
            return None;
        }
        let Some(function) = self.function(n) else {
            return Some(GoFrame::Unsupported);
        };
        if function.is_outermost() {
            return Some(GoFrame::Root);
        }
        let mut moved = None;
        for span in function.spans() {
            moved = Some(span.moved);
            if vaddr < span.end {
                break;
            }
        }
        // the last one holds in the padding behind the function too
        Some(moved.map_or(GoFrame::Unsupported, |moved| function.frame(moved)))
    }
}

/// Code in which the stack pointer has moved equally far since the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) moved: i64,
}

impl<'a> GoFunction<'a> {
    /// Nothing is above its frame.
    pub(crate) fn is_outermost(&self) -> bool {
        self.flags & (TOP_FRAME | SP_WRITE) != 0
    }

    /// Its code in order.
    pub(crate) fn spans(&self) -> Spans<'a> {
        Spans {
            input: self.spans,
            at: self.start,
            moved: -1,
            first: true,
            quantum: self.quantum,
            left: MAX_SPANS,
        }
    }

    /// The frame where the stack pointer is `moved` bytes below the return address.
    pub(crate) fn frame(&self, moved: i64) -> GoFrame {
        let Some(above) = u32::try_from(moved)
            .ok()
            .filter(|_| (0..MAX_FRAME).contains(&moved))
        else {
            return GoFrame::Unsupported;
        };
        let rbp = match above {
            0 => GoRbp::Unchanged,
            8.. if self.flags & ASM == 0 => GoRbp::BelowReturnAddress,
            _ => GoRbp::Unknown,
        };
        GoFrame::Returns { above, rbp }
    }
}

/// See [`GoFunction::spans`]. Pairs of differences: the value up to an address, then the address.
pub(crate) struct Spans<'a> {
    input: &'a [u8],
    at: u64,
    moved: i64,
    /// Only the first difference may be 0; later it is the end.
    first: bool,
    quantum: u64,
    left: usize,
}

impl Spans<'_> {
    /// Bytes that have not been read.
    pub(crate) fn rest(&self) -> usize {
        self.input.len()
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        self.left = self.left.checked_sub(1)?;
        let value = varint(&mut self.input)?;
        if value == 0 && !self.first {
            return None;
        }
        self.first = false;
        self.moved += i64::from(value >> 1) ^ -i64::from(value & 1);
        let length = u64::from(varint(&mut self.input)?).checked_mul(self.quantum)?;
        let start = self.at;
        self.at = start.checked_add(length)?;
        Some(Span {
            start,
            end: self.at,
            moved: self.moved,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn varint(input: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..32).step_by(7) {
        let byte = *input.split_off_first()?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
