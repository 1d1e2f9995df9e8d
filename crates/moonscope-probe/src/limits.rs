//! All sizes of the kernel side in one place, with what each costs.

use std::os::fd::{FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys;
use moonscope_luajit::ScanBudget;
use moonscope_unwind::abi;

/// Sizes of maps and arrays. Arrays are allocated in full by the kernel when the object is loaded.
///
/// What does not fit costs time and no samples: they are walked in user space, and [`TableCounts`] and
/// [`ProcessCounts`] tell. Sizes that cannot be are made into the next larger one that can.
///
/// [`TableCounts`]: crate::TableCounts
/// [`ProcessCounts`]: crate::ProcessCounts
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
    /// Distinct stacks whose values are summed up in the kernel between two readings, twice about 100 bytes each, and
    /// as many that are known to have been shipped. What does not fit is shipped one by one.
    pub stacks: usize,
    /// Files that can be told apart by name; some 200 bytes each, and as many bytes as their paths have.
    pub files: usize,
    /// Pages that were read ahead and that nobody asked for; about 100 bytes each.
    pub pages: usize,
    /// Threads that may be blocked, or in a call that is measured, at the same time; about 100 bytes each.
    pub threads: usize,
    /// Threads with an event loop that are watched; about 600 bytes each.
    pub loops: usize,
    /// Coroutines that may wait at the same time, and as many that were seen to run; about 150 bytes each.
    pub coroutines: usize,
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
        stacks: 16 << 10,
        files: 16 << 10,
        pages: 64 << 10,
        threads: 16 << 10,
        loops: 1 << 10,
        coroutines: 64 << 10,
    };

    /// For a whole machine.
    const ALL: Self = Self {
        words: 8 << 20,
        tables: 1 << 12,
        mappings: 1 << 17,
        processes: 32 << 10,
        targets: 1 << 10,
        ring_bytes: 16 << 20,
        stacks: 64 << 10,
        files: 64 << 10,
        pages: 256 << 10,
        threads: 64 << 10,
        loops: 4 << 10,
        coroutines: 64 << 10,
    };

    /// The largest array that kernels before 5.11 or so allocate as one value (KMALLOC_MAX_SIZE,
    /// `array_map_alloc_check` in kernel/bpf/arraymap.c).
    const OLD_KERNEL_BYTES: usize = 4 << 20;

    /// The sizes for some processes, or for all of a machine, as far as this kernel allows them.
    pub fn new(whole_machine: bool) -> Self {
        let mut limits = if whole_machine { Self::ALL } else { Self::SOME };
        if !allows_value_of(limits.words * 4) {
            limits.words = Self::OLD_KERNEL_BYTES / 4;
            limits.mappings = limits
                .mappings
                .min(Self::OLD_KERNEL_BYTES / size_of::<abi::ms_mapping>());
        }
        limits
    }

    /// The next sizes that the object can have: `bpf/maps.h` has the smallest, and masks want powers of two.
    pub(crate) fn possible(self) -> Self {
        let at_least = |wanted: usize, least: u32| wanted.max(least as usize).next_power_of_two();
        let page = rustix::param::page_size() as u32;
        Self {
            words: at_least(self.words, SMALLEST_WORDS),
            tables: at_least(self.tables, SMALLEST_LIST),
            mappings: at_least(self.mappings, SMALLEST_LIST),
            processes: self.processes.max(1),
            targets: self.targets.max(1),
            ring_bytes: self.ring_bytes.max(page).next_power_of_two(),
            stacks: self.stacks.max(1),
            files: self.files.max(1),
            pages: self.pages.max(1),
            threads: self.threads.max(1),
            loops: self.loops.max(1),
            coroutines: self.coroutines.max(1),
        }
    }
}

/// `MS_WORDS_MIN` of `bpf/maps.h`.
const SMALLEST_WORDS: u32 = 1024;
/// `MS_TABLES_MIN` and `MS_MAPPINGS_MIN` of `bpf/maps.h`.
const SMALLEST_LIST: u32 = 64;

/// Does the kernel take an array whose single value has so many bytes? Tried, because the limit was lifted
/// in stable kernels too.
fn allows_value_of(bytes: usize) -> bool {
    let map_type = libbpf_sys::BPF_MAP_TYPE_ARRAY;
    // more would be filled with zeros for nothing
    let bytes = bytes.min(Limits::OLD_KERNEL_BYTES + 1);
    // SAFETY: no memory is passed; the result is a new file descriptor or negative.
    let fd = unsafe {
        libbpf_sys::bpf_map_create(map_type, std::ptr::null(), 4, bytes as u32, 1, std::ptr::null())
    };
    if fd < 0 {
        // not permitted is told when the object is loaded
        return std::io::Error::from_raw_os_error(-fd).raw_os_error() != Some(libc::E2BIG);
    }
    // SAFETY: as above, nobody else owns it; dropping it closes it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

/// Finished mapping lists that are kept of each process, so that samples on their way still find theirs.
pub const KEPT_GENERATIONS: usize = 4;

/// Records that wait for the mappings of their processes, with copies of stacks: so much is taken out of the ring buffer
/// before they are dealt with.
pub const MAX_KEPT_BYTES: usize = 4 << 20;

/// Stacks walked here that wait for tables, about 2 KiB each: a second of some thousand samples. Of more it may not be told that Lua
/// is missing in them.
pub const MAX_UNPLACED: usize = 1 << 13;

/// Distinct raw stacks whose resolution is remembered; beyond that the memory of them starts anew.
/// About 400 bytes each.
pub const REMEMBERED_STACKS: usize = 1 << 15;

/// Distinct stacks of a recording, counted as nodes of their tree: some 50 bytes each. A day of a busy
/// machine stays below; what comes after is counted as cut.
pub const MAX_STACK_NODES: usize = 4 << 20;

/// Stacks whose values come later that are remembered, about 100 bytes each; beyond that all are shipped anew.
pub const MAX_DEFINITIONS: usize = 1 << 18;

/// How long unwind information stays in our own memory after a walk in user space. It maps the file, and
/// its index takes about 16 bytes for each function.
pub const KEEP_UNWIND_DATA: std::time::Duration = std::time::Duration::from_secs(1);

/// How long the first tick waits for unwind tables, at most. Those of most programs take 10 ms, but ten times that and
/// more on a machine that is busy with the very program. Until they are there samples are walked from stack copies, in
/// which there is no Lua; so starting later is better, as long as whoever waits for it does not wonder.
pub const TABLES_AT_START: std::time::Duration = std::time::Duration::from_secs(2);

/// Processes whose files are looked at before the programs are loaded, so that tables are built meanwhile: the first ones,
/// as those of one service share their files. A look takes some 0.3 ms, and it is looked again later.
pub const PROCESSES_AHEAD: usize = 16;

/// How long all processes of a machine are looked at before the first tick, those first that use a CPU most. A look takes
/// some 0.3 ms; whoever was not looked at is when a sample of it comes.
pub const ALL_AT_START: std::time::Duration = std::time::Duration::from_millis(300);

/// Unwind rules that the table of one file may add to those of all. libc has 300; a file with very many would take
/// the 65,536 numbers from all others.
pub const MAX_NEW_RULES: usize = 1 << 13;

/// The shortest time between two searches of room for what had none, for one process or one table: the table is
/// built anew for it, which takes 100 ms for a large library.
pub const ROOM_REST: std::time::Duration = std::time::Duration::from_secs(1);

/// The shortest time between two looks at new mappings, apart from those that samples ask for: at most 500
/// a second, which cost some 10 microseconds each.
pub const MAPPINGS_REST: std::time::Duration = std::time::Duration::from_millis(2);

/// The next look while so much is mapped that not all is told of at once ([`crate::side_band`]), if a process of ours
/// has just begun a program or mapped something: a loader maps the next library within a millisecond or so, and a
/// short program must be looked at while it lives.
pub const MAPPINGS_SOON: std::time::Duration = std::time::Duration::from_millis(4);

/// Perf maps that are held open: a directory and a file each.
pub const MAX_PERF_MAPS: usize = 512;

/// Lua VMs of one process that are remembered, of more those that samples had last: http, stream, and one for each worker
/// thread; hosts that keep a pool of them have hundreds.
pub const MAX_LUA_VMS: usize = 256;

/// Lua prototypes of one process that are remembered, about 300 bytes each; beyond that the memory of them
/// starts anew.
pub const MAX_PROTOTYPES: usize = 1 << 16;

/// What a scan of a process for Lua VMs may read: 2 GiB take half a second.
pub const LUA_SCAN: ScanBudget = ScanBudget {
    bytes: 2 << 30,
    vms: MAX_LUA_VMS,
};

/// Reasons why LuaJITs cannot be read that are told, and things that are wrong with files.
pub const MAX_REASONS: usize = 64;

/// What is known of stacks, files, processes and Lua functions is looked through for what nobody needs any more when it
/// has become twice as much, but not while it is less than this.
pub const FEW_NODES: usize = 1 << 16;
/// The same for files, each of which is held open.
pub const FEW_FILES: usize = 256;
/// The same for processes, some 100 bytes each.
pub const FEW_PROCESSES: usize = 1024;
/// The same for Lua functions, some 200 bytes each.
pub const FEW_FUNCTIONS: usize = 4096;

/// Stacks whose values come later and that were not met in so many intervals are forgotten, if there are more than
/// [`FEW_DEFINITIONS`].
pub const IDLE_INTERVALS: u32 = 8;
/// About 100 bytes each.
pub const FEW_DEFINITIONS: usize = 1 << 13;
/// So many of them at most at the end of an interval: each is a system call of some 0.5 microseconds.
pub const FORGOTTEN_AT_ONCE: usize = 1 << 13;
