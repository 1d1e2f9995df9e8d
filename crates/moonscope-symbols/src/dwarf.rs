//! Source lines and inlined functions of one executable, from DWARF.
//!
//! `addr2line` (the crate) does the work on the sections of the executable itself, or of its separate debug
//! file, and of the supplementary file that `dwz` has moved common parts to. Sections are mapped, not
//! copied, unless they are compressed. Split DWARF (`.dwo`, `.dwp`) is not followed: such functions keep
//! their symbol's name and have neither lines nor inlined frames.

use crate::elf_file::{ElfError, ElfFile};
use crate::limits::{
    MAX_DWARF_READS, MAX_DWARF_RESTARTS, MAX_DWARF_STACK, MAX_INLINED, MAX_SHOWN_NAME, MAX_UNPACKED_SECTION,
};
use crate::metered::{Bytes, MeteredReader, with_meter};
use gimli::SectionId;
use memmap2::{Mmap, MmapOptions};
use moonscope_process::counted;
use std::sync::Arc;

/// One frame: a function and where in it.
#[derive(Debug, Default)]
pub(crate) struct DwarfFrame {
    /// Linkage name if there is one, as it stands in the file.
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

/// The DWARF of one executable.
pub(crate) struct Dwarf {
    sections: Arc<gimli::Dwarf<MeteredReader>>,
    context: addr2line::Context<MeteredReader>,
    reads_left: u64,
    restarts_left: u32,
    /// What could not be read, and is not told yet.
    damage: Option<String>,
    /// Were all units looked at?
    was_checked: bool,
}

impl std::fmt::Debug for Dwarf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dwarf")
            .field("reads_left", &self.reads_left)
            .finish_non_exhaustive()
    }
}

/// Has this file descriptions of functions?
pub(crate) fn has_info(elf: &ElfFile) -> bool {
    [".debug_info", ".zdebug_info"]
        .iter()
        .any(|name| elf.section(name).is_some_and(|found| found.has_bytes()))
}

/// Has this file line tables?
pub(crate) fn has_lines(elf: &ElfFile) -> bool {
    [".debug_line", ".zdebug_line"]
        .iter()
        .any(|name| elf.section(name).is_some_and(|found| found.has_bytes()))
}

impl Dwarf {
    /// Reads the index of units. The caller has made sure that a truncated mapping does no harm.
    pub(crate) fn load(elf: &ElfFile, supplementary: Option<&ElfFile>) -> Result<Self, String> {
        let sections = Sections::of(elf);
        let mut dwarf = gimli::Dwarf::load(|id| sections.load(id)).map_err(|err| err.to_string())?;
        if let Some(supplementary) = supplementary {
            let sections = Sections::of(supplementary);
            dwarf
                .load_sup(|id| sections.load(id))
                .map_err(|err| err.to_string())?;
        }
        let sections = Arc::new(dwarf);
        let (context, reads_left) = index(&sections);
        let context = context.map_err(|err| format!("damaged DWARF: {err}"))?;
        Ok(Self {
            sections,
            context,
            reads_left,
            restarts_left: MAX_DWARF_RESTARTS,
            damage: None,
            was_checked: false,
        })
    }

    /// The frames at an address, outermost function first; empty if nothing is known or it is damaged.
    pub(crate) fn frames(&mut self, vaddr: u64) -> Vec<DwarfFrame> {
        // addr2line looks at [vaddr, vaddr + 1).
        if vaddr == u64::MAX {
            return Vec::new();
        }
        let mut frames = self.read_frames(vaddr);
        if self.reads_left == 0 && self.restarts_left > 0 {
            // Very large, or made to cost much: what has been kept is dropped, and this one tried again.
            self.restarts_left -= 1;
            if let (Ok(context), reads_left) = index(&self.sections) {
                (self.context, self.reads_left) = (context, reads_left);
                frames = self.read_frames(vaddr);
            }
        }
        // addr2line leaves out a unit that it cannot read, and does not say so
        let is_unknown = frames.as_ref().is_ok_and(Vec::is_empty);
        if is_unknown {
            self.check();
        }
        match frames {
            Ok(mut frames) => {
                frames.reverse();
                frames
            }
            Err(err) => {
                // that it costs too much is another matter
                if self.reads_left > 0 {
                    self.damage.get_or_insert_with(|| err.to_string());
                }
                Vec::new()
            }
        }
    }

    /// Looks whether all units can be read; once.
    pub(crate) fn check(&mut self) {
        if !std::mem::replace(&mut self.was_checked, true) {
            self.damage = broken_units(&self.sections);
        }
    }

    /// What could not be read since this was last asked.
    pub(crate) fn take_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    fn read_frames(&mut self, vaddr: u64) -> Result<Vec<DwarfFrame>, gimli::Error> {
        let context = &self.context;
        let (frames, left) = with_meter(self.reads_left, MAX_DWARF_STACK, || read_frames(context, vaddr));
        self.reads_left = left;
        frames
    }

    /// Memory that it holds, roughly: most reads keep nothing, a row or a range takes 24 bytes.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from((MAX_DWARF_READS - self.reads_left) * 4).unwrap_or(usize::MAX)
    }

    /// Has so much been read that something must be wrong with this file?
    pub(crate) fn is_exhausted(&self) -> bool {
        self.reads_left == 0
    }
}

/// Reads which unit covers which addresses.
fn index(
    sections: &Arc<gimli::Dwarf<MeteredReader>>,
) -> (Result<addr2line::Context<MeteredReader>, gimli::Error>, u64) {
    let work = || addr2line::Context::from_arc_dwarf(Arc::clone(sections));
    with_meter(MAX_DWARF_READS, MAX_DWARF_STACK, work)
}

/// Units that cannot be read: their abbreviations, their first entry or the head of their line table are damaged.
fn broken_units(sections: &gimli::Dwarf<MeteredReader>) -> Option<String> {
    let look = || {
        let (mut broken, mut first) = (0u64, None);
        let mut units = sections.units();
        while let Ok(Some(header)) = units.next() {
            if let Err(err) = sections.unit(header) {
                broken += 1;
                first.get_or_insert(err);
            }
        }
        first.map(|err| format!("{} cannot be read ({err})", counted(broken, "unit")))
    };
    let (damage, reads_left) = with_meter(MAX_DWARF_READS, MAX_DWARF_STACK, look);
    damage.filter(|_| reads_left > 0)
}

fn read_frames(
    context: &addr2line::Context<MeteredReader>,
    vaddr: u64,
) -> Result<Vec<DwarfFrame>, gimli::Error> {
    let mut found = context.find_frames(vaddr).skip_all_loads()?;
    let mut frames = Vec::new();
    while let Some(frame) = found.next()? {
        if frames.len() >= MAX_INLINED {
            return Ok(Vec::new());
        }
        let location = frame.location.as_ref();
        frames.push(DwarfFrame {
            name: frame.function.map(|function| {
                let name = function.name.rest();
                name[..name.len().min(crate::limits::MAX_RAW_NAME)].to_vec()
            }),
            file: location
                .and_then(|at| at.file)
                .filter(|file| !file.is_empty())
                .map(cut),
            // Line 0 means: no line of any source (DWARF 5, 6.2.2).
            line: location.and_then(|at| at.line).filter(|&line| line > 0),
        });
    }
    Ok(frames)
}

fn cut(path: &str) -> String {
    if path.len() > MAX_SHOWN_NAME {
        crate::demangle::bounded(path)
    } else {
        path.to_owned()
    }
}

/// The DWARF sections of one file.
struct Sections<'a> {
    elf: &'a ElfFile,
    map: Option<Arc<Mmap>>,
}

impl<'a> Sections<'a> {
    fn of(elf: &'a ElfFile) -> Self {
        let map = elf.file().and_then(|file| {
            // SAFETY: private and only read. If the file is truncated, the handler that
            // `moonscope_process` installs puts zeros there; if it is written to, readers see damaged
            // DWARF, which they must take anyway.
            unsafe { MmapOptions::new().map_copy_read_only(file) }.ok()
        });
        Self {
            elf,
            map: map.map(Arc::new),
        }
    }

    fn load(&self, id: SectionId) -> Result<MeteredReader, ElfError> {
        let empty = || MeteredReader::new(Bytes::Owned(Vec::new()));
        // Locations of variables and macros are of no use here.
        let unused = [
            SectionId::DebugLoc,
            SectionId::DebugLocLists,
            SectionId::DebugMacinfo,
            SectionId::DebugMacro,
            SectionId::DebugFrame,
            SectionId::EhFrame,
            SectionId::EhFrameHdr,
            SectionId::DebugNames,
            SectionId::DebugPubNames,
            SectionId::DebugPubTypes,
        ];
        if unused.contains(&id) {
            return Ok(empty());
        }
        let old_name = id.name().replacen(".debug_", ".zdebug_", 1);
        let section = self
            .elf
            .section(id.name())
            .or_else(|| self.elf.section(&old_name));
        let Some(section) = section.filter(|section| section.has_bytes()) else {
            return Ok(empty());
        };
        if let (Some(map), Some((_, offset, size))) = (&self.map, self.elf.in_place(section))
            && let (Ok(start), Ok(size)) = (usize::try_from(offset), usize::try_from(size))
        {
            return Ok(MeteredReader::new(Bytes::Mapped(
                Arc::clone(map),
                start..start.saturating_add(size),
            )));
        }
        let bytes = self
            .elf
            .unpacked(section, MAX_UNPACKED_SECTION, "DWARF section")?;
        Ok(MeteredReader::new(Bytes::Owned(bytes)))
    }
}
