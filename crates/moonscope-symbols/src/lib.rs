//! Addresses to names: functions, inlined functions, source lines, of native code and of the kernel.
//!
//! [`Symbolizer`] is the whole face. For native code it looks, for each executable, at `.symtab`, at a
//! separate debug file (by build id or debug link, inside the container first), at `.gnu_debugdata`, at
//! `.dynsym` and at the PLT, and makes one table of disjoint ranges of them ([`Coverage`] says what there
//! was). An address that no symbol covers gets no name: the nearest lower symbol is a guess, and guesses
//! look like facts in a flame graph. For the kernel it reads `/proc/kallsyms`, for generated code
//! `/tmp/perf-PID.map`.
//!
//! Why not blazesym for these: we open executables as file descriptors (deleted files, other mount
//! namespaces) and their debug files in the root of a container, where blazesym takes paths; the checksum of
//! a debug link must be checked, mini debug information joined with `.dynsym`, PLT stubs named, and aliases
//! chosen the same way every time; a table of our own needs 32 bytes a function and no mapping of the file;
//! and the kernel's 122,000 symbols need not be kept to name a few hundred addresses. DWARF is read by
//! `addr2line` and `gimli`, behind a meter that bounds what hostile DWARF can cost.
//!
//! Files, maps and names come from processes that may be hostile: everything is bounded (`limits.rs`),
//! what is damaged is skipped and told, names are cut at 4 KiB. They may hold any character: who prints
//! them escapes them.

mod debug_files;
mod demangle;
mod dwarf;
mod elf_file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod kallsyms;
mod kallsyms_list;
mod kernel;
mod limits;
mod metered;
mod mini_debuginfo;
mod module;
mod perf_map;
mod plt;
mod symbolizer;
mod symtab;
mod table;

pub use kernel::KernelSymbols;
pub use symbolizer::{Coverage, Symbol, SymbolOptions, Symbolizer};
