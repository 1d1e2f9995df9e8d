//! Every bound on what a reader takes from a file, so that a hostile one costs bounded memory and time.
//!
//! A profile of a whole machine for an hour has some 10⁵ frames and 10⁶ stacks. The worst file within
//! these bounds takes about 2 GB; a limit that is hit is an error that names it, never a silent cut.

/// Bytes of input, after decompression.
pub const MAX_INPUT: u64 = 512 << 20;
/// Modules (about 100 bytes each, and the length of their path).
pub const MAX_MODULES: usize = 1 << 18;
/// Frames (about 250 bytes each with their index).
pub const MAX_FRAMES: usize = 1 << 21;
/// Nodes of the stack tree (about 50 bytes each with their index).
pub const MAX_STACKS: usize = 1 << 23;
/// Sets of labels (about 100 bytes each, and their text).
pub const MAX_LABEL_SETS: usize = 1 << 20;
/// Labels in one set.
pub const MAX_LABELS: usize = 64;
/// Samples (about 120 bytes each with their index).
pub const MAX_SAMPLES: usize = 1 << 22;
/// Values of each sample.
pub const MAX_VALUES: usize = 16;
/// Frames of one stack.
pub const MAX_DEPTH: usize = 8192;
/// Frames of all samples together, as graphs spell them out (4 to 8 bytes each): a file of a few
/// megabytes can otherwise stand for terabytes of stacks.
pub const MAX_SPELLED_OUT: u64 = 1 << 28;
/// Strings of a pprof file (16 bytes each, their text stays in the input).
pub const MAX_STRINGS: usize = 1 << 23;
/// Bytes of one sample, location or function of a pprof file.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Comments, reasons and other short lists.
pub const MAX_LIST: usize = 4096;
