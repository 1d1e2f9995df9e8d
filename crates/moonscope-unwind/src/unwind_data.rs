//! One executable's unwind information, ready for looking up single addresses in user space.
//!
//! This is DWARF as it stands in the file: rows are evaluated by gimli at each look-up. The table of
//! `.eh_frame_hdr` serves as the index where there is one; otherwise an index is made at the first need.
//! Where DWARF is silent, the function table of a Go program speaks.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use gimli::{CfaRule, EndianSlice, LittleEndian, RegisterRule, UnwindContext, UnwindSection, UnwindTableRow};

use crate::clone_gap;
use crate::eh_return;
use crate::entry_point;
use crate::error::UnwindError;
use crate::go_place::GoPlace;
use crate::gopclntab::{GoFrame, GoTable};
use crate::sections::{self, Code};
use crate::stubs::Stub;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Fde<'a> = gimli::FrameDescriptionEntry<Slice<'a>>;

/// FDEs that an index may hold (24 bytes each).
const MAX_INDEX: usize = 4 << 20;

/// The unwind information of one executable file. Made once per file, shared by all its mappings.
pub struct UnwindData {
    file: Box<dyn AsRef<[u8]> + Send + Sync>,
    code: Vec<Code>,
    bases: gimli::BaseAddresses,
    eh_frame: Option<Range<usize>>,
    eh_frame_hdr: Option<Range<usize>>,
    debug_frame: Option<Box<[u8]>>,
    /// Go's function table, and where the code starts that it counts from.
    gopclntab: Option<(Range<usize>, u64)>,
    /// The code that runs from the entry point on; unwind information may say otherwise.
    entry: Option<Range<u64>>,
    /// The same of these.
    stubs: Vec<Stub>,
    eh_index: OnceLock<Vec<Indexed>>,
    debug_index: OnceLock<Vec<Indexed>>,
}

/// An FDE's range and its place in the section.
struct Indexed {
    start: u64,
    end: u64,
    offset: usize,
}

/// The rules for one address.
pub(crate) struct FrameRules<'data, 'ctx> {
    pub(crate) row: &'ctx UnwindTableRow<usize>,
    /// The augmentation marks a signal frame.
    pub(crate) signal: bool,
    pub(crate) encoding: gimli::Encoding,
    /// What the expressions of the row point into.
    pub(crate) section: &'data [u8],
    /// The frame may be another one's already, whatever the row says (`eh_return.rs`).
    pub(crate) is_frameless: bool,
}

impl fmt::Debug for UnwindData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnwindData")
            .field("code", &self.code)
            .field("eh_frame", &self.eh_frame)
            .field("debug_frame", &self.debug_frame.as_ref().map(|bytes| bytes.len()))
            .finish_non_exhaustive()
    }
}

impl UnwindData {
    /// Finds the unwind information of the ELF file `file`. A file may have none; it still can be asked.
    pub fn new(file: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<UnwindData, UnwindError> {
        let bytes = file.as_ref();
        let found = sections::find(bytes)?;
        let bases = found.bases();
        let place = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
            start..start.wrapping_add(part.len())
        };
        let eh_frame = found.eh_frame.as_ref().map(|section| place(&section.data));
        let eh_frame_hdr = found.eh_frame_hdr.map(|(_, bytes)| place(bytes));
        let debug_frame = found.debug_frame.map(|section| section.data.into());
        let gopclntab = found.gopclntab.map(|go| (place(go.table), go.text));
        let code = found.code;
        let (entry_point, stubs) = (found.entry, found.stubs);
        let mut this = UnwindData {
            file: Box::new(file),
            code,
            bases,
            eh_frame,
            eh_frame_hdr,
            debug_frame,
            gopclntab,
            entry: None,
            stubs,
            eh_index: OnceLock::new(),
            debug_index: OnceLock::new(),
        };
        this.entry = entry_point.and_then(|entry| {
            let code = this.code_at(entry.vaddr, entry_point::MAX_LENGTH)?;
            Some(entry.vaddr..entry_point::reach(entry, code)?)
        });
        Ok(this)
    }

    /// Whether the code at a file virtual address runs from the entry point on, so that nothing has called it.
    pub(crate) fn is_entry(&self, vaddr: u64) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.contains(&vaddr))
    }

    /// How many words a stub has pushed at a file virtual address; `None`: this is no stub.
    pub(crate) fn pushed_by_stub(&self, vaddr: u64) -> Option<u8> {
        let after = self.stubs.partition_point(|stub| stub.start <= vaddr);
        let stub = self.stubs.get(after.checked_sub(1)?)?;
        (vaddr < stub.end && self.code_at(vaddr, 1).is_some()).then_some(stub.pushed)
    }

    /// Whether a thread and the one that it makes have different stacks at a file virtual address.
    pub(crate) fn is_clone_gap(&self, vaddr: u64) -> bool {
        clone_gap::is_inside(vaddr, |start| self.code_at(start, clone_gap::MAX_LENGTH))
    }

    /// Up to `len` bytes of code at a file virtual address.
    pub fn code_at(&self, vaddr: u64, len: usize) -> Option<&[u8]> {
        let index = self
            .code
            .partition_point(|range| range.start <= vaddr)
            .checked_sub(1)?;
        let range = self.code.get(index).filter(|range| vaddr < range.end)?;
        let start = range
            .offset
            .checked_add(usize::try_from(vaddr - range.start).ok()?)?;
        let len = len.min(usize::try_from(range.end - vaddr).ok()?);
        self.file().get(start..start.checked_add(len)?)
    }

    fn file(&self) -> &[u8] {
        (*self.file).as_ref()
    }

    /// The rules at a file virtual address; `None` where nothing describes it.
    pub(crate) fn rules_at<'ctx>(
        &self,
        vaddr: u64,
        context: &'ctx mut UnwindContext<usize>,
    ) -> Result<Option<FrameRules<'_, 'ctx>>, gimli::Error> {
        if let Some(bytes) = self.eh_frame.clone().and_then(|range| self.file().get(range)) {
            let section = gimli::EhFrame::new(bytes, LittleEndian);
            if let Some(fde) = self.eh_frame_fde(&section, bytes, vaddr)? {
                return self.rules_of(&fde, &section, bytes, context, vaddr).map(Some);
            }
        }
        let Some(bytes) = self.debug_frame.as_deref() else {
            return Ok(None);
        };
        let mut section = gimli::DebugFrame::new(bytes, LittleEndian);
        section.set_address_size(8);
        let index = self.debug_index.get_or_init(|| index_of(&section, &self.bases));
        match find(index, &section, &self.bases, vaddr)? {
            Some(fde) => self.rules_of(&fde, &section, bytes, context, vaddr).map(Some),
            None => Ok(None),
        }
    }

    /// The frame of Go code at a file virtual address that [`UnwindData::rules_at`] knows nothing of.
    pub(crate) fn go_frame_at(&self, vaddr: u64) -> Option<GoFrame> {
        let (range, text) = self.gopclntab.clone()?;
        let place = GoPlace {
            table: self.file().get(range)?,
            text,
        };
        self.code_at(vaddr, 1)?;
        GoTable::parse(&place)?.frame_at(vaddr)
    }

    fn rules_of<'a, 'ctx, S: UnwindSection<Slice<'a>>>(
        &self,
        fde: &Fde<'a>,
        section: &S,
        bytes: &'a [u8],
        context: &'ctx mut UnwindContext<usize>,
        vaddr: u64,
    ) -> Result<FrameRules<'a, 'ctx>, gimli::Error> {
        let row = fde.unwind_info_for_address(section, &self.bases, context, vaddr)?;
        let is_frameless = saves_eh_data(row) && self.is_frameless(fde, section, vaddr)?;
        Ok(FrameRules {
            row,
            signal: fde.is_signal_trampoline(),
            encoding: fde.cie().encoding(),
            section: bytes,
            is_frameless,
        })
    }

    /// Whether the frame of this function may be another one's at an address.
    fn is_frameless<'a, S: UnwindSection<Slice<'a>>>(
        &self,
        fde: &Fde<'a>,
        section: &S,
        vaddr: u64,
    ) -> Result<bool, gimli::Error> {
        let mut context = UnwindContext::new();
        let mut rows = fde.rows(section, &self.bases, &mut context)?;
        while let Some(row) = rows.next_row()? {
            let stack = gimli::Register(eh_return::STACK);
            if saves_eh_data(row)
                && matches!(row.cfa(), CfaRule::RegisterAndOffset { register, .. } if *register == stack)
            {
                let start = fde.initial_address();
                let code = sections::code_of(self.file(), &self.code, start..fde.end_address());
                let part = code.and_then(|code| eh_return::without_frame(start, row.start_address(), code));
                return Ok(part.is_some_and(|part| part.contains(&vaddr)));
            }
        }
        Ok(false)
    }

    fn eh_frame_fde<'a>(
        &'a self,
        section: &gimli::EhFrame<Slice<'a>>,
        bytes: &'a [u8],
        vaddr: u64,
    ) -> Result<Option<Fde<'a>>, gimli::Error> {
        if let Some(hdr) = self.eh_frame_hdr.clone().and_then(|range| self.file().get(range)) {
            let parsed = gimli::EhFrameHdr::new(hdr, LittleEndian).parse(&self.bases, 8);
            if let Some(table) = parsed.as_ref().ok().and_then(|hdr| hdr.table()) {
                let found =
                    table.fde_for_address(section, &self.bases, vaddr, UnwindSection::cie_from_offset);
                return match found {
                    Ok(fde) => Ok(Some(fde)),
                    Err(gimli::Error::NoUnwindInfoForAddress) => Ok(None),
                    Err(error) => Err(error),
                };
            }
        }
        debug_assert!(!bytes.is_empty());
        let index = self.eh_index.get_or_init(|| index_of(section, &self.bases));
        find(index, section, &self.bases, vaddr)
    }
}

fn saves_eh_data(row: &UnwindTableRow<usize>) -> bool {
    let is_saved = |&register: &u16| {
        matches!(
            row.register(gimli::Register(register)),
            Some(RegisterRule::Offset(_))
        )
    };
    eh_return::DATA.iter().all(is_saved)
}

fn index_of<'a, S: UnwindSection<Slice<'a>>>(section: &S, bases: &gimli::BaseAddresses) -> Vec<Indexed> {
    let mut index = Vec::new();
    let mut entries = section.entries(bases);
    while let Ok(Some(entry)) = entries.next() {
        let gimli::CieOrFde::Fde(partial) = entry else {
            continue;
        };
        if let Ok(fde) = partial.parse(UnwindSection::cie_from_offset) {
            let end = fde.initial_address().saturating_add(fde.len());
            index.push(Indexed {
                start: fde.initial_address(),
                end,
                offset: fde.offset(),
            });
        }
        if index.len() >= MAX_INDEX {
            break;
        }
    }
    index.sort_by_key(|entry| entry.start);
    index
}

fn find<'a, S>(
    index: &[Indexed],
    section: &S,
    bases: &gimli::BaseAddresses,
    vaddr: u64,
) -> Result<Option<Fde<'a>>, gimli::Error>
where
    S: UnwindSection<Slice<'a>>,
    S::Offset: From<usize>,
{
    let place = index.partition_point(|entry| entry.start <= vaddr).checked_sub(1);
    match place
        .and_then(|place| index.get(place))
        .filter(|entry| vaddr < entry.end)
    {
        None => Ok(None),
        Some(entry) => {
            let offset = S::Offset::from(entry.offset);
            section
                .fde_from_offset(bases, offset, UnwindSection::cie_from_offset)
                .map(Some)
        }
    }
}
