//! Why a file yields no unwind information.

/// A file that cannot be used, as opposed to one that merely lacks unwind information.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnwindError {
    /// The headers do not parse as ELF.
    #[error("not an ELF file: {0}")]
    NotElf(String),
    /// ELF, but for another processor or of another word size.
    #[error("not a 64-bit x86-64 file")]
    WrongMachine,
    /// No segment of the file is executable.
    #[error("no executable segment")]
    NoCode,
    /// The executable segments lie further apart than any code model allows.
    #[error("executable segments span {0} bytes, more than this profiler handles")]
    TooLarge(u64),
    /// More rows than one table may have.
    #[error("more than {0} unwind rows")]
    TooManyRows(usize),
}
