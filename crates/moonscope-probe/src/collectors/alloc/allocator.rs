//! The allocator in a file: its functions, and where probes go.

use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{FlowControl, OpKind};
use moonscope_process::Executable;
use moonscope_unwind::abi;

use super::entry::entry;
use super::exits::exits;
use super::image::{Image, Member, Target};
use super::names::{Role, is_operator};
use crate::breakpoints::set::Place;

/// Programs of `bpf/alloc.bpf.h`.
pub const CALL: &str = "alloc_call";
pub const EXIT: &str = "alloc_exit";
pub const FREE: &str = "alloc_free";
pub const COUNT: &str = "alloc_count";

/// The allocator in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocator {
    /// Names of its functions.
    pub functions: Vec<String>,
    /// Where the probes of a recording go, in this order: where functions are left, so that no call begins without an end;
    /// `free`; what resizes; the others. Then nothing is seen to be allocated whose end is not seen.
    pub probes: Vec<Place>,
    /// Where those go that only count calls.
    pub counting: Vec<Place>,
    /// The kernel does not emulate an instruction at the beginning of the functions that are called most: two traps and not
    /// one.
    pub is_slow: bool,
    /// Functions that may be left in a way that no probe sees.
    pub unclear: Vec<String>,
}

impl Allocator {
    /// Reads a file; `None`: there is none in it.
    pub fn find(file: &Executable) -> Option<Self> {
        let image = Image::read(file)?;
        let mut found = Self::default();
        let (mut ends, mut begins) = (BTreeMap::new(), Vec::new());
        for (&start, Member { name, extent, role }) in &image.family {
            let extent = whole(&image, start, extent);
            if extent.is_empty() || is_operator(name) && leaves_it_to_another(&image, &extent) {
                continue;
            }
            let begin = entry(&image, &extent);
            let Some(offset) = image.offset(begin.vaddr) else {
                continue;
            };
            let (program, cookie) = match role {
                Role::Frees => (FREE, 0),
                Role::Allocates(call) => (CALL, u64::from(*call) | begin.words << abi::MS_ALLOC_WORDS_SHIFT),
            };
            if program == CALL {
                let left = exits(&image, name, extent);
                if left.is_unclear || (left.places.is_empty() && !left.passes_on) {
                    found.unclear.push(name.clone());
                }
                ends.extend(left.places);
            }
            begins.push(Place {
                offset,
                program,
                cookie,
            });
            found.is_slow |= !begin.is_emulated && (name == "malloc" || name == "free");
            found.counting.push(Place {
                offset,
                program: COUNT,
                cookie: u64::from(program == FREE),
            });
            found.functions.push(name.clone());
        }
        let ends = ends.into_iter().map(|(offset, how)| Place {
            offset,
            program: EXIT,
            cookie: u64::from(how),
        });
        begins.sort_by_key(rank);
        found.probes = ends.chain(begins).collect();
        (!found.functions.is_empty()).then_some(found)
    }
}

fn rank(begin: &Place) -> u32 {
    match (begin.program, begin.cookie as u32 & abi::MS_ALLOC_CALL_MASK) {
        (FREE, _) => 0,
        (_, abi::MS_ALLOC_RESIZE | abi::MS_ALLOC_RESIZE_PRODUCT) => 1,
        _ => 2,
    }
}

/// From the beginning to where its symbol ends, or its unwind entry where the symbol has no size.
fn whole(image: &Image<'_>, start: u64, extent: &Range<u64>) -> Range<u64> {
    if !extent.is_empty() {
        return extent.clone();
    }
    image
        .function(start)
        .map_or(start..start, |range| start..range.end)
}

/// Does it call, or jump to, another function of the family?
fn leaves_it_to_another(image: &Image<'_>, extent: &Range<u64>) -> bool {
    image.instructions(extent).any(|instruction| {
        let target = match instruction.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch
                if instruction.op0_kind() == OpKind::NearBranch64 =>
            {
                image.target(instruction.near_branch_target())
            }
            FlowControl::IndirectCall | FlowControl::IndirectBranch
                if instruction.is_ip_rel_memory_operand() =>
            {
                image.target_in(instruction.ip_rel_memory_address())
            }
            _ => return false,
        };
        matches!(target, Target::Allocates | Target::Frees)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the system: whichever of these is there.
    const LIBRARIES: [&str; 2] = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];

    #[test]
    fn each_function_of_the_c_library_has_a_beginning_and_known_ends() {
        let Some(file) = LIBRARIES
            .iter()
            .find_map(|path| Executable::open_path(path.as_ref()).ok())
        else {
            return;
        };
        let found = Allocator::find(&file).unwrap();
        for name in [
            "malloc",
            "calloc",
            "realloc",
            "free",
            "posix_memalign",
            "memalign",
            "reallocarray",
        ] {
            assert!(
                found.functions.iter().any(|function| function == name),
                "{name}: {found:?}"
            );
        }
        assert!(found.unclear.is_empty(), "{found:?}");
        assert_eq!(found.counting.len(), found.functions.len());
        let count = |program| {
            found
                .probes
                .iter()
                .filter(|place| place.program == program)
                .count()
        };
        assert_eq!(count(CALL) + count(FREE), found.functions.len());
        assert!(count(EXIT) >= count(CALL), "{found:?}");
        // ends first, then what frees
        let ranks: Vec<u32> = found.probes[count(EXIT)..].iter().map(rank).collect();
        assert!(
            ranks.is_sorted()
                && found.probes[..count(EXIT)]
                    .iter()
                    .all(|place| place.program == EXIT)
        );
    }

    #[test]
    fn what_allocates_by_another_file_has_no_allocator() {
        let program = ["/bin/true", "/usr/bin/true"];
        let file = program
            .iter()
            .find_map(|path| Executable::open_path(path.as_ref()).ok())
            .unwrap();
        assert_eq!(Allocator::find(&file), None);
    }
}
