//! What can go wrong when a profile is read or written.

use std::io;

use crate::format::Format;

/// Why a file is not a profile we can read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The input itself failed.
    #[error("cannot read")]
    Io(#[from] io::Error),
    /// The input is empty or of no known form.
    #[error("not a profile: the content is neither moonscope JSON, nor pprof, nor folded stacks")]
    Unrecognised,
    /// This format is only written.
    #[error("{} cannot be read back; readable are {}", .format.name(), Format::readable_names())]
    WriteOnly {
        /// The format.
        format: Format,
    },
    /// A line of folded stacks that has no count.
    #[error("line {line}: {what}")]
    Folded {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Not JSON, or not of our form.
    #[error("line {line}, column {column}: {what}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// JSON of our form that contradicts itself.
    #[error("{list} entry {index}: {what}")]
    Inconsistent {
        /// The list in the file.
        list: &'static str,
        /// The entry, counted from 0.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Our JSON in a version that this program does not know.
    #[error("written by a newer moonscope: version {found} of the format, known is {known}")]
    Version {
        /// The version of the file.
        found: u64,
        /// The newest that can be read.
        known: u64,
    },
    /// Not a pprof message.
    #[error("byte {offset}: {what}")]
    Pprof {
        /// Place in the decompressed input.
        offset: usize,
        /// What is wrong there.
        what: String,
    },
    /// More than [`limits`](crate::limits) allow.
    #[error("too large: more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

impl ReadError {
    pub(crate) fn too_large(what: &'static str, limit: usize) -> Self {
        Self::TooLarge {
            what,
            limit: limit as u64,
        }
    }
}

/// Why a profile could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output itself failed: disk full, pipe closed.
    #[error("cannot write")]
    Io(#[from] io::Error),
    /// There is nothing to draw.
    #[error("nothing to draw: no sample has a value above 0")]
    Empty,
    /// There is no such value type.
    #[error("no value {wanted:?} in this profile; it has {known}")]
    NoSuchValue {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// The stacks, each spelled out, would fill the memory.
    #[error("too large: more than {limit} frames in all stacks together")]
    TooLarge {
        /// How many are allowed.
        limit: u64,
    },
    /// The format cannot hold this.
    #[error("{} cannot hold a difference; formats that can are {known}", .format.name())]
    NoDiff {
        /// The format.
        format: Format,
        /// Those that can.
        known: String,
    },
}
