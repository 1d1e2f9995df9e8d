//! Where stacks were cut for want of unwind rows, the worst first: the last lines of a recording name the files.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use moonscope_luajit::find_vms;
use moonscope_probe::{ExecutableId, RawFrame, RawStackId, RawStacks, Recorded};
use moonscope_process::{Executable, counted};
use moonscope_profile::visible;
use moonscope_unwind::{RuleSet, Table, TableStats, WalkEnd};

use crate::doctor::code_bytes;

/// Files that are told of; `doctor` shows the others.
const MOST: usize = 3;

/// Cut stacks in one file that are worth a line, of all samples.
const WORTH: f64 = 0.05;

/// Of the code of a file that its tables describe: with so much, in percent, it was built with them.
const BUILT_WITH_TABLES: u64 = 90;

/// What a stack ends in, and no table or frame pointer leads out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Code of a file; an address of it.
    File(ExecutableId, u64),
    /// Memory that is no file.
    Generated,
}

/// What can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// The file has no unwind tables, or few.
    Tables,
    /// It has, and not for this code.
    Assembly,
    /// The file's own LuaJIT, which was refused.
    Lua,
    /// Generated code, of a LuaJIT which was refused.
    LuaTraces,
    /// Generated code.
    FramePointers,
}

impl Remedy {
    fn words(self) -> &'static str {
        match self {
            Self::Tables => {
                "its unwind tables say nothing of that code; a build with them (-fasynchronous-unwind-tables) has whole \
                 stacks"
            }
            Self::Assembly => {
                "its unwind tables describe nearly all of its code, and not that one, which is assembly or damaged"
            }
            Self::Lua => "its LuaJIT, whose Lua frames are missing",
            Self::LuaTraces => {
                "of the LuaJIT whose Lua frames are missing, if nothing else generates code there"
            }
            Self::FramePointers => {
                "it keeps no frame pointers, or not everywhere: Java needs -XX:+PreserveFramePointer, Node.js \
                 --interpreted-frames-native-stack, and also then what they call natively may be cut"
            }
        }
    }
}

/// A line for each file in which many of the `kept` samples were cut. `lacks_lua`: there is a LuaJIT that was refused, and has
/// code of its own.
pub fn lines(recorded: &Recorded, kept: u64, lacks_lua: bool) -> Vec<String> {
    let mut cut = BTreeMap::new();
    count(&recorded.stacks, &mut cut);
    let mut worst: Vec<_> = of_files(&cut).into_iter().collect();
    worst.retain(|(_, (_, samples))| is_worth_a_line(*samples, kept));
    worst.sort_by_key(|(_, (_, samples))| Reverse(*samples));
    let line = |(file, (place, samples)): (Option<ExecutableId>, (Place, u64))| {
        let file = file.and_then(|id| recorded.file(id));
        let (what, remedy) = match (file, place) {
            (Some(file), Place::File(_, vaddr)) => (
                visible(&file.path().to_string_lossy()).to_string(),
                of_file(file, vaddr),
            ),
            _ if lacks_lua => ("generated code".to_owned(), Remedy::LuaTraces),
            _ => ("generated code".to_owned(), Remedy::FramePointers),
        };
        line(&what, samples, remedy)
    };
    worst.into_iter().take(MOST).map(line).collect()
}

fn line(what: &str, samples: u64, remedy: Remedy) -> String {
    format!(
        "stacks cut in {what}: {}; {}",
        counted(samples, "sample"),
        remedy.words()
    )
}

fn is_worth_a_line(samples: u64, kept: u64) -> bool {
    samples > 0 && samples as f64 >= WORTH * kept as f64
}

/// Adds how many samples were cut where. What an event measures, bytes or time, says nothing of how often.
fn count(stacks: &RawStacks, cut: &mut BTreeMap<Place, u64>) {
    for (stack, _, samples) in stacks.counts() {
        if let Some(place) = where_cut(stacks, stack) {
            *cut.entry(place).or_default() += samples;
        }
    }
}

/// All of each file together, with the place in it where most were cut.
fn of_files(cut: &BTreeMap<Place, u64>) -> BTreeMap<Option<ExecutableId>, (Place, u64)> {
    let mut worst: Vec<_> = cut.iter().collect();
    worst.sort_by_key(|&(_, samples)| Reverse(*samples));
    let mut files = BTreeMap::new();
    for (&place, &samples) in worst {
        let file = match place {
            Place::File(id, _) => Some(id),
            Place::Generated => None,
        };
        files.entry(file).or_insert((place, 0)).1 += samples;
    }
    files
}

/// Where the outermost frame is, if there was no row for it.
fn where_cut(stacks: &RawStacks, stack: RawStackId) -> Option<Place> {
    let (mut outermost, mut next) = (None, None);
    for frame in stacks.leaf_to_root(stack) {
        next = outermost.replace(frame);
    }
    match (outermost?, next?.of_lua()) {
        (RawFrame::Cut(why), _) if *why != WalkEnd::NoRow.phrase() => None,
        (RawFrame::Cut(_), RawFrame::File { executable, vaddr }) => Some(Place::File(*executable, *vaddr)),
        (RawFrame::Cut(_), RawFrame::Memory { .. }) => Some(Place::Generated),
        _ => None,
    }
}

/// What helps with this code of a file.
fn of_file(file: &Executable, vaddr: u64) -> Remedy {
    let Ok(data) = file.data() else {
        return Remedy::Tables;
    };
    // a LuaJIT that was not refused has rules of its own
    if find_vms(&data).is_ok_and(|vms| vms.iter().any(|vm| (vm.start..vm.end).contains(&vaddr))) {
        return Remedy::Lua;
    }
    let mut stats = TableStats::default();
    let built = Table::build_counting(&data, &mut RuleSet::new(), &mut stats);
    let code = object::File::parse(&**data).map_or(0, |elf| code_bytes(&elf));
    match built {
        Ok(Some(_)) if code > 0 && stats.described_bytes * 100 >= code * BUILT_WITH_TABLES => {
            Remedy::Assembly
        }
        _ => Remedy::Tables,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_probe::{ProcessId, Thread, What};
    use moonscope_unwind::abi;

    fn file(vaddr: u64) -> RawFrame {
        RawFrame::File {
            executable: ExecutableId(7),
            vaddr,
        }
    }

    fn generated() -> RawFrame {
        RawFrame::Memory {
            process: ProcessId(0),
            name: "[anon]".into(),
            addr: 0x7000,
            offset: 0,
        }
    }

    /// Stacks, root first, with how often they were seen; each time is worth a million of what is measured.
    fn counted_in(stacks: &[(Vec<RawFrame>, u64)]) -> BTreeMap<Place, u64> {
        let mut raw = RawStacks::default();
        for (frames, count) in stacks {
            let id = raw.intern(frames.iter().cloned()).unwrap();
            let thread = Thread {
                process: None,
                pid: 1,
                tid: 1,
                comm: [0; 16],
                lua: None,
            };
            let sum = abi::ms_sum {
                count: *count,
                value: [count * 1_000_000; abi::MS_VALUES as usize],
            };
            raw.add(id, thread, What { event: 0, tag: 0 }, &sum);
        }
        let mut cut = BTreeMap::new();
        count(&raw, &mut cut);
        cut
    }

    #[test]
    fn samples_are_counted_and_not_what_they_measure() {
        let no_row = RawFrame::Cut(WalkEnd::NoRow.phrase());
        let cut = counted_in(&[
            (vec![no_row.clone(), file(16), generated()], 60),
            (vec![no_row.clone(), file(32)], 3),
            (vec![no_row, generated(), file(16)], 10),
            (vec![file(16)], 30),
        ]);
        let files = of_files(&cut);
        assert_eq!(
            files[&Some(ExecutableId(7))],
            (Place::File(ExecutableId(7), 16), 63)
        );
        assert_eq!(files[&None], (Place::Generated, 10));
        assert!(
            line("/bin/busybox", 63, Remedy::Tables).starts_with("stacks cut in /bin/busybox: 63 samples; ")
        );
    }

    #[test]
    fn few_cut_stacks_are_not_worth_a_line_nor_are_those_cut_for_another_reason() {
        assert!(!is_worth_a_line(4, 100) && !is_worth_a_line(0, 0) && is_worth_a_line(5, 100));
        for end in [WalkEnd::Depth, WalkEnd::LostRegister] {
            let stack = vec![RawFrame::Cut(end.phrase()), file(16)];
            assert!(counted_in(&[(stack, 60)]).is_empty(), "{end:?}");
        }
    }

    #[test]
    fn a_file_that_has_unwind_tables_is_not_to_be_built_with_them() {
        let own = Executable::open_path(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(of_file(&own, 0), Remedy::Assembly);
    }
}
