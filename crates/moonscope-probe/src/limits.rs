//! All sizes of the kernel side in one place, with what each costs.

/// Sizes of maps and arrays. Arrays are allocated in full by the kernel when the object is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Words of all unwind tables together, a power of two; 4 bytes each. One row is one word.
    pub words: usize,
    /// Unwind tables loaded at the same time, a power of two; 32 bytes each.
    pub tables: usize,
    /// Executable mappings of all known processes together, a power of two; 32 bytes each.
    pub mappings: usize,
    /// Processes known at the same time; about 100 bytes each.
    pub processes: usize,
    /// Processes asked for at the same time; about 70 bytes each.
    pub targets: usize,
    /// Ring buffer, a power of two of pages. A sample of 40 frames takes 400 bytes; one that must be
    /// walked in user space up to 42 KiB.
    pub ring_bytes: u32,
}

impl Limits {
    /// For some processes: 16 MiB of tables are the rows of 25 MiB of `.eh_frame`, five times libLLVM's.
    const SOME: Self = Self {
        words: 4 << 20,
        tables: 1 << 10,
        mappings: 1 << 15,
        processes: 4 << 10,
        targets: 16 << 10,
        ring_bytes: 8 << 20,
    };

    /// For a whole machine.
    const ALL: Self = Self {
        words: 8 << 20,
        tables: 1 << 12,
        mappings: 1 << 17,
        processes: 32 << 10,
        targets: 1 << 10,
        ring_bytes: 16 << 20,
    };

    /// The sizes for some processes, or for all of a machine.
    pub fn new(whole_machine: bool) -> Self {
        if whole_machine { Self::ALL } else { Self::SOME }
    }
}

/// Finished mapping lists that are kept of each process, so that samples on their way still find theirs.
pub const KEPT_GENERATIONS: usize = 4;

/// Distinct raw stacks whose resolution is remembered; beyond that the memory of them starts anew.
/// About 400 bytes each.
pub const REMEMBERED_STACKS: usize = 1 << 15;
