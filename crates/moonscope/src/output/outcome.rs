//! What became of the places that data was to go to.

use std::io;
use std::path::{Path, PathBuf};

use moonscope_process::reason;
use moonscope_profile::{Format, WriteError};

use super::place::Place;
use super::with_causes;
use crate::exit::{Code, Failure};

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name; `None` for stdout.
    pub path: Option<PathBuf>,
    /// Its length.
    pub bytes: u64,
    /// What it was written as.
    pub format: Format,
}

/// What was written, and why the rest was not.
#[derive(Debug, Default)]
pub struct Outcome {
    /// These were.
    pub written: Vec<Written>,
    /// One for each of the others.
    failures: Vec<Failure>,
}

impl Outcome {
    pub(super) fn add(&mut self, place: &Place, format: Format, result: Result<u64, WriteError>) {
        match result {
            Ok(bytes) => self.written.push(Written {
                path: place.path().map(Path::to_owned),
                bytes,
                format,
            }),
            Err(err) => self.failures.push(failure(place, &err)),
        }
    }

    /// Why something is missing, in one failure; `None`: nothing is. Partial if something was written.
    pub fn failure(&mut self) -> Option<Failure> {
        let failure = std::mem::take(&mut self.failures)
            .into_iter()
            .reduce(Failure::and)?;
        Some(match self.written.is_empty() {
            true => failure,
            false => failure.with_code(Code::Partial),
        })
    }

    /// For whoever says nothing of what was written: the failure does, if there is one.
    pub fn complete(mut self) -> Result<(), Failure> {
        let Some(mut failure) = self.failure() else {
            return Ok(());
        };
        for path in self.written.iter().filter_map(|file| file.path.as_deref()) {
            failure = failure.with_remedy(format_args!("{} is written", path.display()));
        }
        Err(failure)
    }
}

fn failure(place: &Place, err: &WriteError) -> Failure {
    let (code, what, remedy) = match err {
        WriteError::Io(err) if err.kind() == io::ErrorKind::AlreadyExists => (
            Code::Failed,
            "exists already".to_owned(),
            "give another name, or --force to replace it",
        ),
        WriteError::Io(err) => (
            Code::Failed,
            format!("cannot write: {}", reason(err)),
            match err.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space, or write to another file system"
                }
                io::ErrorKind::FileTooLarge => "raise the limit of file sizes (ulimit -f)",
                _ => "",
            },
        ),
        WriteError::Empty => (Code::NoSamples, err.to_string(), ""),
        WriteError::NoSuchValue { .. } | WriteError::NoDiff { .. } => (Code::Usage, err.to_string(), ""),
        err => (Code::Failed, with_causes(err), ""),
    };
    let failure = Failure::new(code, format_args!("{place}: {what}"));
    match remedy {
        "" => failure,
        remedy => failure.with_remedy(remedy),
    }
}
