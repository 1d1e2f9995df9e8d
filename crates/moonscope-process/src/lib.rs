//! A process seen from outside: its mappings, the files it runs, its memory, its cgroups and containers.
//!
//! Everything here reads `/proc` (proc(5)) or system calls made for this, and never stops, traces or
//! writes to the process. What a process controls (names, mappings, files, cgroup paths) is hostile
//! input: parsers give an error or skip, they do not panic, and paths inside a container are never
//! followed out of its root.

mod bytes;
pub mod cgroup;
pub mod container;
mod counted;
mod elf;
pub mod error;
pub mod executable;
mod identity;
pub mod list;
mod mapped_file;
pub mod maps;
pub mod memory;
pub mod mountinfo;
pub mod nginx;
mod perf_map;
pub mod process;
mod process_state;
mod root;
mod sigbus;
pub mod thread;
mod visible;

pub use cgroup::{Cgroup, CgroupMounts};
pub use container::Container;
pub use counted::counted;
pub use error::{ProcessError, reason};
pub use executable::{BuildId, Executable, ExecutableData, ExecutableKey, Segment};
pub use maps::{Mapping, MappingName, read_maps};
pub use memory::{BufferMemory, ProcessMemory, RemoteMemory};
pub use perf_map::PerfMap;
pub use process::{Namespaces, Process, StartTime};
pub use root::{is_dir_in_root, open_in_root};
pub use thread::Thread;
pub use visible::{Visible, visible};

/// A process id in the pid namespace that moonscope runs in (the thread group id, what users call pid).
pub type Pid = u32;
