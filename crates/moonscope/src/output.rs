//! Files that are whole or not there: written beside their place under another name, then renamed.
//!
//! Everything that can be known to fail (unknown ending, existing file, unwritable directory) fails in
//! [`Outputs::check`], before anything is recorded.

mod outcome;
mod place;
mod temporary;

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use moonscope_profile::{Format, Profile, Utc, WriteError, WriteOptions};

use crate::exit::{Code, Failure};
pub use outcome::{Outcome, Written};
use place::Place;

/// Whether a file that exists may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Keep,
    /// It is replaced once the new one is whole.
    Replace,
}

impl From<bool> for Existing {
    /// What `--force` means.
    fn from(force: bool) -> Self {
        if force { Self::Replace } else { Self::Keep }
    }
}

/// Where data goes, each place with its format.
#[derive(Clone, Debug)]
pub struct Outputs {
    places: Vec<(Place, Format)>,
    existing: Existing,
    /// How graphs and tables show the data.
    pub options: WriteOptions,
}

impl Outputs {
    /// Checks that each of these files can be written. The ending picks the format.
    pub fn check(paths: &[PathBuf], existing: impl Into<Existing>) -> Result<Self, Failure> {
        Self::check_as(paths, None, existing)
    }

    /// The same with a format for those that have no ending: `-` for stdout, and devices.
    pub fn check_as(
        paths: &[PathBuf],
        format: Option<Format>,
        existing: impl Into<Existing>,
    ) -> Result<Self, Failure> {
        let existing = existing.into();
        let mut places: Vec<(Place, Format)> = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            if paths[..number].contains(path) {
                return Err(Failure::new(
                    Code::Usage,
                    format_args!("{}: given twice", path.display()),
                ));
            }
            let format = format_of(path, format)?;
            if path.as_os_str() == "-" && format == Format::Pprof && io::stdout().is_terminal() {
                let what = "pprof is binary data: not written to a terminal";
                return Err(Failure::new(Code::Usage, what).with_remedy("redirect it, or use -o FILE.pb.gz"));
            }
            places.push((Place::check(path, existing)?, format));
        }
        Ok(Self {
            places,
            existing,
            options: WriteOptions::default(),
        })
    }

    /// The formats, in the order of the paths.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.places.iter().map(|(_, format)| *format)
    }

    /// The same with other names of files.
    pub fn renamed(&self, name: impl Fn(&Path) -> PathBuf) -> Self {
        let renamed = |(place, format): &(Place, Format)| (place.renamed(&name), *format);
        Self {
            places: self.places.iter().map(renamed).collect(),
            existing: self.existing,
            options: self.options.clone(),
        }
    }

    /// Writes a profile to all places.
    pub fn write_all(&self, profile: &Profile) -> Outcome {
        self.write_each(|format, out| format.write(profile, &self.options, out))
    }

    /// Lets `write` write each place. When one fails the others are written all the same.
    pub fn write_each(&self, write: impl Fn(Format, &mut dyn Write) -> Result<(), WriteError>) -> Outcome {
        let mut outcome = Outcome::default();
        for (place, format) in &self.places {
            let result = place.write(self.existing, |out| write(*format, out));
            outcome.add(place, *format, result);
        }
        outcome
    }
}

/// Is it a place of which nothing is replaced and nothing renamed: stdout, a pipe, a device?
pub fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-" || place::is_special(path)
}

fn format_of(path: &Path, format: Option<Format>) -> Result<Format, Failure> {
    match (Format::from_path(path), format) {
        (Ok(format), _) | (Err(_), Some(format)) => Ok(format),
        (Err(_), None) if path.as_os_str() == "-" => {
            let what = "stdout has no ending that would tell the format";
            Err(Failure::new(Code::Usage, what).with_remedy("add --to FORMAT (see moonscope list formats)"))
        }
        (Err(unknown), None) => Err(Failure::new(Code::Usage, unknown)),
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A file name that is not taken: `moonscope-20260131-120000.svg` (UTC) in the current directory.
pub fn default_path(ending: &str) -> PathBuf {
    default_path_in(Path::new(""), ending)
}

/// The same in this directory.
pub fn default_path_in(directory: &Path, ending: &str) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let Utc {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Utc::from_nanos(u64::try_from(now).unwrap_or(0));
    let stem = format!("moonscope-{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}");
    let ending = ending.trim_start_matches('.');
    let mut path = directory.join(format!("{stem}.{ending}"));
    let mut nr = 2;
    while fs::symlink_metadata(&path).is_ok() {
        path = directory.join(format!("{stem}-{nr}.{ending}"));
        nr += 1;
    }
    path
}
