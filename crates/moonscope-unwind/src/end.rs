//! How a walk ended: `enum ms_end` of `bpf/abi.h` as a Rust type with words for people.

use std::fmt;

use crate::abi;

/// How a walk ended. Same numbers as `enum ms_end` in `bpf/abi.h`; a test compares the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum WalkEnd {
    /// There is no user part: a kernel thread.
    None,
    /// The return address is undefined: `_start`, `clone`, a thread's start.
    Root,
    /// The return address is 0, or there is no unwind information and the frame pointer is 0.
    RootZero,
    /// As many frames as were asked for.
    Depth,
    /// The mappings of the process were not known yet.
    NewProcess,
    /// The mappings changed since they were read.
    Stale,
    /// An address in no executable mapping.
    NoMapping,
    /// The unwind table of the file was not loaded.
    NoTable,
    /// Neither unwind information nor a frame pointer.
    NoRow,
    /// A rule that the row format cannot express.
    Unsupported,
    /// The rule needs a register that a callee did not save.
    LostRegister,
    /// Stack memory could not be read; in user space: the copy of the stack ended.
    Unreadable,
    /// The stack pointer would not have moved towards the root.
    NotIncreasing,
    /// 32-bit code.
    Compat,
    /// The user registers were not available.
    NoRegisters,
    /// A uprobe took the return address, and where the kernel keeps it is not known.
    Uprobe,
}

impl WalkEnd {
    /// All ends, in the order of their numbers.
    pub const ALL: [WalkEnd; abi::MS_NR_ENDS as usize] = [
        WalkEnd::None,
        WalkEnd::Root,
        WalkEnd::RootZero,
        WalkEnd::Depth,
        WalkEnd::NewProcess,
        WalkEnd::Stale,
        WalkEnd::NoMapping,
        WalkEnd::NoTable,
        WalkEnd::NoRow,
        WalkEnd::Unsupported,
        WalkEnd::LostRegister,
        WalkEnd::Unreadable,
        WalkEnd::NotIncreasing,
        WalkEnd::Compat,
        WalkEnd::NoRegisters,
        WalkEnd::Uprobe,
    ];

    /// The end with this `enum ms_end` number.
    pub fn from_number(number: u32) -> Option<WalkEnd> {
        WalkEnd::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The `enum ms_end` number.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Whether the stack reached its outermost frame, or had none to reach.
    pub fn is_complete(self) -> bool {
        matches!(self, WalkEnd::None | WalkEnd::Root | WalkEnd::RootZero)
    }

    /// A few words for a report: "stack unreadable".
    pub fn phrase(self) -> &'static str {
        match self {
            WalkEnd::None => "no user stack",
            WalkEnd::Root => "complete",
            WalkEnd::RootZero => "complete (return address 0)",
            WalkEnd::Depth => "depth limit reached",
            WalkEnd::NewProcess => "process not known yet",
            WalkEnd::Stale => "mappings changed",
            WalkEnd::NoMapping => "address outside all executable mappings",
            WalkEnd::NoTable => "unwind table not loaded",
            WalkEnd::NoRow => "no unwind row",
            WalkEnd::Unsupported => "unwind rule not supported",
            WalkEnd::LostRegister => "register not saved",
            WalkEnd::Unreadable => "stack unreadable",
            WalkEnd::NotIncreasing => "stack pointer not increasing",
            WalkEnd::Compat => "32-bit code",
            WalkEnd::NoRegisters => "no user registers",
            WalkEnd::Uprobe => "return address taken by a uprobe",
        }
    }
}

impl fmt::Display for WalkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_c_header() {
        let c = [
            (WalkEnd::None, abi::MS_END_NONE),
            (WalkEnd::Root, abi::MS_END_ROOT),
            (WalkEnd::RootZero, abi::MS_END_ROOT_ZERO),
            (WalkEnd::Depth, abi::MS_END_DEPTH),
            (WalkEnd::NewProcess, abi::MS_END_NEW_PROCESS),
            (WalkEnd::Stale, abi::MS_END_STALE),
            (WalkEnd::NoMapping, abi::MS_END_NO_MAPPING),
            (WalkEnd::NoTable, abi::MS_END_NO_TABLE),
            (WalkEnd::NoRow, abi::MS_END_NO_ROW),
            (WalkEnd::Unsupported, abi::MS_END_UNSUPPORTED),
            (WalkEnd::LostRegister, abi::MS_END_LOST_REGISTER),
            (WalkEnd::Unreadable, abi::MS_END_UNREADABLE),
            (WalkEnd::NotIncreasing, abi::MS_END_NOT_INCREASING),
            (WalkEnd::Compat, abi::MS_END_COMPAT),
            (WalkEnd::NoRegisters, abi::MS_END_NO_REGISTERS),
            (WalkEnd::Uprobe, abi::MS_END_UPROBE),
        ];
        assert_eq!(c.len(), abi::MS_NR_ENDS as usize);
        for (end, number) in c {
            assert_eq!(end.number(), number, "{end:?}");
            assert_eq!(WalkEnd::from_number(number), Some(end));
        }
        assert_eq!(WalkEnd::from_number(abi::MS_NR_ENDS), None);
    }

    #[test]
    fn every_end_has_its_own_phrase() {
        let phrases: BTreeSet<_> = WalkEnd::ALL.iter().map(|end| end.phrase()).collect();
        assert_eq!(phrases.len(), WalkEnd::ALL.len());
    }
}
