//! Finds the unwind entry of a LuaJIT VM without reading all entries.
//!
//! The VM is one function of more than 10 KiB with one rule for all of it: CFA = sp + 80, and the registers
//! that its entries push (LuaJIT, vm_x64.dasc and vm_x86.dasc, `emit_asm_debug`). The search table of
//! `.eh_frame_hdr` is sorted by address, so only entries far from their successor need a look: a file of a
//! hundred megabytes has a few hundred of them.
//!
//! Formats: Linux Standard Base core, section 10.6; DWARF 5, section 6.4.

use std::ops::Range;

use crate::elf_code::ElfCode;

/// Less code than this is no VM: the smallest known has 14 KiB.
pub(crate) const MIN_VM: u64 = 10 << 10;
/// More is none either: the largest known has 24 KiB.
pub(crate) const MAX_VM: u64 = 256 << 10;
/// VMs of one file: several copies of LuaJIT in one file are possible, many are not.
pub(crate) const MAX_FOUND: usize = 8;
/// Large functions of a file that are looked at. LLVM's library has less than a thousand.
const MAX_LOOKS: usize = 1 << 16;

const SDATA4: u8 = 0x0b;
const PCREL_SDATA4: u8 = 0x1b;
const UDATA4: u8 = 0x03;
const DATAREL_SDATA4: u8 = 0x3b;

/// What the unwind information of a file says of VMs.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Code described as a VM, and the distance of its frame to its CFA.
    pub(crate) vms: Vec<(Range<u64>, u16)>,
    /// Stretches of code, large enough for a VM, that no entry describes.
    pub(crate) holes: Vec<Range<u64>>,
}

/// Looks for VMs in the unwind information.
pub(crate) fn find(elf: &ElfCode<'_>) -> Found {
    by_table(elf)
        .or_else(|| by_section(elf))
        .unwrap_or_else(|| Found {
            vms: Vec::new(),
            holes: code_ranges(elf).filter(is_large).collect(),
        })
}

/// Executable segments; a file has one or two.
fn code_ranges(elf: &ElfCode<'_>) -> impl Iterator<Item = Range<u64>> {
    const MAX_SEGMENTS: usize = 16;
    elf.segments
        .iter()
        .filter(|segment| segment.executable)
        .map(|segment| segment.start..segment.end())
        .take(MAX_SEGMENTS)
}

fn is_large(range: &Range<u64>) -> bool {
    range.end.saturating_sub(range.start) >= MIN_VM
}

/// By the search table; `None` if there is none in the usual encoding.
fn by_table(elf: &ElfCode<'_>) -> Option<Found> {
    let (base, header) = elf.eh_frame_hdr?;
    let (encodings, rest) = header.split_first_chunk::<4>()?;
    let [1, PCREL_SDATA4 | SDATA4, UDATA4, DATAREL_SDATA4] = *encodings else {
        return None;
    };
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let (count, rows) = rest.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let mut search = Search::default();
    for code in code_ranges(elf) {
        // address and entry of the function before
        let mut before: Option<(u64, u64)> = None;
        for row in rows.as_chunks::<8>().0.iter().take(count) {
            let [a, b, c, d, e, f, g, h] = *row;
            let at = base.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into());
            if !code.contains(&at) {
                continue;
            }
            search.between(elf, before, code.start, at);
            let entry = base.wrapping_add_signed(i32::from_le_bytes([e, f, g, h]).into());
            before = Some((at, entry));
        }
        search.between(elf, before, code.start, code.end);
    }
    Some(search.found)
}

#[derive(Default)]
struct Search {
    found: Found,
    looks: usize,
}

impl Search {
    /// The code from one function (or the start of the segment) to the next.
    fn between(&mut self, elf: &ElfCode<'_>, before: Option<(u64, u64)>, start: u64, next: u64) {
        let from = before.map_or(start, |(at, _)| at);
        if next.saturating_sub(from) < MIN_VM || self.looks >= MAX_LOOKS {
            return;
        }
        self.looks += 1;
        let fde = before
            .and_then(|(at, entry)| Fde::parse(elf.at(entry)?, entry).filter(|fde| fde.code.start == at));
        let described = fde.as_ref().map_or(from, |fde| fde.code.end);
        if let Some(fde) = fde {
            self.found.add(&fde);
        }
        let hole = described..next;
        if is_large(&hole) && self.found.holes.len() < MAX_LOOKS {
            self.found.holes.push(hole);
        }
    }
}

impl Found {
    fn add(&mut self, fde: &Fde<'_>) {
        let size = fde.code.end - fde.code.start;
        if (MIN_VM..=MAX_VM).contains(&size)
            && self.vms.len() < MAX_FOUND
            && let Some(frame) = fde.vm_frame()
        {
            self.vms.push((fde.code.clone(), frame));
        }
    }
}

/// Functions that are kept to look between them: 16 MiB. A static program has some thousand.
const MAX_FUNCTIONS: usize = 1 << 20;

/// By reading the whole section, where no search table is: a static program has none.
fn by_section(elf: &ElfCode<'_>) -> Option<Found> {
    let (base, section) = elf.eh_frame?;
    let mut found = Found::default();
    let mut functions = Vec::new();
    let mut at = 0usize;
    while let Some(bytes) = section.get(at..) {
        let Some((length, _)) = bytes.split_first_chunk::<4>() else {
            break;
        };
        if let Some(fde) = Fde::parse(bytes, base.wrapping_add(at as u64)) {
            found.add(&fde);
            if functions.len() < MAX_FUNCTIONS {
                functions.push((fde.code.start, fde.code.end));
            }
        }
        // a zero entry ends the entries of one object file, not always those of the section
        let Some(next) = at.checked_add(4 + u32::from_le_bytes(*length) as usize) else {
            break;
        };
        at = next;
    }
    functions.sort_unstable();
    for code in code_ranges(elf) {
        let mut described = code.start;
        let inside = functions.iter().filter(|(start, _)| code.contains(start));
        for &(start, end) in inside.chain([&(code.end, code.end)]) {
            let hole = described..start;
            if is_large(&hole) && found.holes.len() < MAX_LOOKS {
                found.holes.push(hole);
            }
            described = described.max(end);
        }
    }
    Some(found)
}

/// One entry, in the only encoding that assemblers and compilers emit for x86-64.
struct Fde<'a> {
    code: Range<u64>,
    instructions: &'a [u8],
}

impl<'a> Fde<'a> {
    /// The entry whose bytes start here, at address `addr`.
    fn parse(bytes: &'a [u8], addr: u64) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
        let (cie, body) = body.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*cie) == 0 {
            return None;
        }
        let (begin, body) = body.split_first_chunk::<4>()?;
        let (size, body) = body.split_first_chunk::<4>()?;
        let start = addr
            .wrapping_add(8)
            .wrapping_add_signed(i32::from_le_bytes(*begin).into());
        let end = start.checked_add(u32::from_le_bytes(*size).into())?;
        // the augmentation data has a length of one byte: no personality routine needs more
        let (&augmentation, body) = body.split_first()?;
        let instructions = body.get(usize::from(augmentation & 0x7f)..)?;
        Some(Self {
            code: start..end,
            instructions,
        })
    }

    /// The size of the frame, if the rule is that of a VM: one CFA for all of the code, and the registers
    /// saved in the order of the pushes.
    fn vm_frame(&self) -> Option<u16> {
        const DEF_CFA_OFFSET: u8 = 0x0e;
        const OFFSET: u8 = 0x80;
        // rbp, rbx, r15, r14 in the numbers of the psABI, in units of 8 bytes below the CFA
        const SAVED: [(u8, u8); 4] = [(6, 2), (3, 3), (15, 4), (14, 5)];
        let (&[DEF_CFA_OFFSET, size], mut rest) = self.instructions.split_first_chunk::<2>()? else {
            return None;
        };
        for (register, place) in SAVED {
            let (&[operation, operand], next) = rest.split_first_chunk::<2>()?;
            if operation != OFFSET | register || operand != place {
                return None;
            }
            rest = next;
        }
        (size < 0x80 && rest.iter().all(|&byte| byte == 0)).then_some(size.into())
    }
}
