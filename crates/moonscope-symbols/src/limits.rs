//! Every bound of this crate, with what it costs at worst. What hits one is left out and told in
//! [`crate::Coverage::problems`].

/// Section headers of one file; 64 bytes each. Shared libraries have 30 to 40.
pub(crate) const MAX_SECTIONS: u64 = 1 << 16;

/// Bytes of the section name table.
pub(crate) const MAX_SECTION_NAMES: u64 = 4 << 20;

/// Bytes of one symbol table; 24 bytes a symbol. While a table is made, this and the names are held:
/// 100 MB for the 2 million symbols of a debug build of a browser, and given back at once.
pub(crate) const MAX_SYMBOL_BYTES: u64 = 96 << 20;

/// Bytes of one string table of symbol names.
pub(crate) const MAX_STRING_BYTES: u64 = 512 << 20;

/// Symbols of one executable from all sources together, 32 bytes each while the table is made.
pub(crate) const MAX_SYMBOLS: usize = 4 << 20;

/// Bytes of names that one finished table keeps.
pub(crate) const MAX_NAME_BYTES: usize = 128 << 20;

/// Bytes of one name as it stands in the file. Templates make mangled names of some kilobytes; a cut
/// name is not demangled.
pub(crate) const MAX_RAW_NAME: usize = 16 << 10;

/// Bytes of a name looked at to choose among aliases, so that a string table without a single NUL
/// costs no more than any other.
pub(crate) const MAX_COMPARED_NAME: usize = 128;

/// Bytes of a name or path as it is given out.
pub(crate) const MAX_SHOWN_NAME: usize = 4 << 10;

/// Relocations read to name PLT stubs, 24 bytes each.
pub(crate) const MAX_RELOCATION_BYTES: u64 = 16 << 20;

/// Bytes of sections that hold PLT stubs; 16 bytes a stub.
pub(crate) const MAX_PLT_BYTES: u64 = 4 << 20;

/// Bytes of the mini debug information after unpacking. Fedora's largest are some megabytes.
pub(crate) const MAX_MINI_DEBUG_INFO: usize = 64 << 20;

/// Bytes the xz decoder may use: 9 MiB for `xz -6`, which is what distributions use.
pub(crate) const MAX_XZ_MEMORY: u64 = 80 << 20;

/// A separate debug file that is found by name is read whole for its checksum, about 0.3 s a GiB.
pub(crate) const MAX_CHECKSUMMED: u64 = 4 << 30;

/// Bytes of one DWARF section that must be unpacked. Sections that are not compressed are mapped.
pub(crate) const MAX_UNPACKED_SECTION: u64 = 1 << 30;

/// Reads of DWARF until what was made of it is dropped and begun again. A read keeps at most one row of
/// 24 bytes (most keep nothing), so a hostile file can make us hold 0.8 GiB, at most 1.5 for a moment. The
/// whole libc needs 2 million.
pub(crate) const MAX_DWARF_READS: u64 = 32 << 20;

/// How often it is begun again for one file: 0.3 s each. Then the file has no lines any more.
pub(crate) const MAX_DWARF_RESTARTS: u32 = 16;

/// Stack that reading DWARF may use: nested inlined functions recurse. Ours are 8 MiB (main) and 2 MiB.
pub(crate) const MAX_DWARF_STACK: usize = 1 << 20;

/// Inlined frames at one address. GCC and LLVM stay below 60.
pub(crate) const MAX_INLINED: usize = 256;

/// Bytes of the symbol tables of all executables together; the least recently used go first. The one
/// in use may exceed it alone.
pub(crate) const CACHE_BYTES: usize = 24 << 20;

/// The same when lines or inlined functions are asked for: what has been read of DWARF counts too.
pub(crate) const CACHE_BYTES_WITH_DWARF: usize = 256 << 20;

/// Executables in the cache. Those with DWARF hold a mapping each.
pub(crate) const CACHE_FILES: usize = 256;

/// Kernel functions remembered between two readings of kallsyms, some 100 bytes each.
pub(crate) const MAX_KERNEL_FUNCTIONS: usize = 1 << 14;

/// Bytes of the whole list of kernel symbols that are kept; of 120,000 symbols it takes 6 MiB.
pub(crate) const MAX_KERNEL_LIST: usize = 32 << 20;

/// Kernel addresses remembered to be nothing, 24 bytes each.
pub(crate) const MAX_KERNEL_UNKNOWN: usize = 1 << 14;

/// A kernel function reaches to the next symbol, but no further than this: kallsyms has no sizes, and
/// after the last function of a module or a BPF program comes a hole. The largest function of 6.18 has
/// about 40 KiB.
pub(crate) const MAX_KERNEL_FUNCTION: u64 = 256 << 10;

/// Bytes of one line of kallsyms or a perf map that are looked at.
pub(crate) const MAX_LINE: usize = 4 << 10;

/// Bytes of a perf map that are read, from its end: newer entries win.
pub(crate) const MAX_PERF_MAP: u64 = 256 << 20;

/// Problems told about one executable.
pub(crate) const MAX_PROBLEMS: usize = 16;

/// And about all.
pub(crate) const MAX_ALL_PROBLEMS: usize = 256;
