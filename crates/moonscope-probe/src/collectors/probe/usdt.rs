//! USDT probes of an ELF file: the notes that `<sys/sdt.h>` leaves in `.note.stapsdt`.
//!
//! A note has the address of the probe, that of `.stapsdt.base` when it was linked, that of a counter which says
//! whether somebody looks (0: none), and three strings: provider, name, arguments
//! (https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation).

use moonscope_process::Executable;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, elf};

/// One place where a probe is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsdtSite {
    /// Who provides it.
    pub provider: String,
    /// Its name.
    pub name: String,
    /// Where it is in the file.
    pub offset: u64,
    /// Where its counter is in the file; 0: it has none.
    pub counter: u64,
}

/// `NT_STAPSDT`
const KIND: u32 = 3;

/// Probes of one file: the largest programs have some thousand.
const MAX_SITES: usize = 1 << 16;

/// All of a file; what is damaged is left out.
pub fn sites(file: &Executable) -> Vec<UsdtSite> {
    let Ok(data) = file.data() else {
        return Vec::new();
    };
    parse(&data, |vaddr| file.offset_of_vaddr(vaddr)).unwrap_or_default()
}

fn parse(data: &[u8], offset_of: impl Fn(u64) -> Option<u64>) -> Option<Vec<UsdtSite>> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let (_, section) = sections.section_by_name(endian, b".note.stapsdt")?;
    let base = sections
        .section_by_name(endian, b".stapsdt.base")
        .map(|(_, section)| section.sh_addr(endian));
    if section.sh_type(endian) != elf::SHT_NOTE {
        return None;
    }
    let mut rest = section.data(endian, data).ok()?;
    let mut found = Vec::new();
    while let Some((kind, description, after)) = next_note(rest) {
        rest = after;
        if kind == KIND
            && let Some(site) = site(description, base, &offset_of)
        {
            found.push(site);
        }
        if found.len() >= MAX_SITES {
            break;
        }
    }
    Some(found)
}

/// Kind and description of the first note, and what comes after it.
fn next_note(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (name, description) = (word(0)? as usize, word(4)? as usize);
    let from = 12usize.checked_add(name)?.checked_next_multiple_of(4)?;
    let to = from.checked_add(description)?;
    let next = to.checked_next_multiple_of(4)?;
    let is_ours = bytes.get(12..20) == Some(b"stapsdt\0") && name == 8;
    let kind = if is_ours { word(8)? } else { 0 };
    Some((kind, bytes.get(from..to)?, bytes.get(next..).unwrap_or_default()))
}

fn site(note: &[u8], base: Option<u64>, offset_of: impl Fn(u64) -> Option<u64>) -> Option<UsdtSite> {
    let word = |at: usize| Some(u64::from_le_bytes(note.get(at..at + 8)?.try_into().ok()?));
    let (place, linked, counter) = (word(0)?, word(8)?, word(16)?);
    // moved after it was linked (prelink)
    let moved = base.map_or(0, |base| base.wrapping_sub(linked));
    let mut strings = note.get(24..)?.split(|&byte| byte == 0);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (provider, name) = (text(strings.next()?), text(strings.next()?));
    if provider.is_empty() || name.is_empty() {
        return None;
    }
    Some(UsdtSite {
        provider,
        name,
        offset: offset_of(place.wrapping_add(moved))?,
        counter: match counter {
            0 => 0,
            counter => offset_of(counter.wrapping_add(moved))?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], description: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((description.len() as u32).to_le_bytes());
        bytes.extend(KIND.to_le_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(description);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn description(place: u64, base: u64, counter: u64, strings: &[u8]) -> Vec<u8> {
        let words = [place, base, counter].map(u64::to_le_bytes).concat();
        [&words, strings].concat()
    }

    #[test]
    fn a_probe_moves_with_its_base() {
        let note = description(0x1000, 0x2000, 0x3000, b"shop\0sold\08@%rax\0");
        let found = site(&note, Some(0x2100), |vaddr| Some(vaddr - 0x100)).unwrap();
        assert_eq!((found.offset, found.counter), (0x1000, 0x3000));
        assert_eq!((found.provider.as_str(), found.name.as_str()), ("shop", "sold"));
    }

    #[test]
    fn notes_of_others_and_torn_ones_are_left_out() {
        let ours = note(b"stapsdt\0", &description(1, 0, 0, b"a\0b\0\0"));
        let others = note(b"GNU\0", b"whatever");
        let all = [others, ours.clone()].concat();
        let (kind, _, rest) = next_note(&all).unwrap();
        assert_eq!(kind, 0);
        assert_eq!(next_note(rest).unwrap().0, KIND);
        for len in 0..ours.len() {
            // nothing but an end, at whatever byte it is torn
            if let Some((_, description, _)) = next_note(&ours[..len]) {
                let _ = site(description, None, Some);
            }
        }
        let huge = [&u32::MAX.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &[0; 8]].concat();
        assert!(next_note(&huge).is_none());
    }
}
