//! Names of files of which a recording writes many.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moonscope_profile::{Format, Utc};

use crate::exit::{Code, Failure};

/// The number of the file, from 1 on.
const NUMBER: char = 'N';
/// When what is in it began: date and time in UTC, with milliseconds.
const TIME: char = 'T';

/// A name with `%N` or `%T` in it; one that has neither gets `-%T` before its ending.
pub fn pattern(path: &Path) -> Result<PathBuf, Failure> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut has_any = false;
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            continue;
        }
        match letters.next() {
            Some(NUMBER | TIME) => has_any = true,
            Some('%') => {}
            other => {
                let what = format!(
                    "{}: %{} stands for nothing",
                    path.display(),
                    other.map(String::from).unwrap_or_default()
                );
                return Err(Failure::new(Code::Usage, what)
                    .with_remedy("use %N for the number, %T for the time at which it begins, %% for %"));
            }
        }
    }
    if has_any {
        return Ok(path.to_owned());
    }
    let ending = ending(&name);
    let stem = &name[..name.len() - ending];
    Ok(path.with_file_name(format!("{stem}-%{TIME}{}", &name[name.len() - ending..])))
}

/// Length of the ending that tells the format.
fn ending(name: &str) -> usize {
    let lower = name.to_ascii_lowercase();
    let endings = Format::all().into_iter().flat_map(Format::endings);
    endings
        .filter(|ending| lower.ends_with(**ending))
        .map(|ending| ending.len())
        .max()
        .unwrap_or(0)
}

/// The name of one of the files.
pub fn fill(pattern: &Path, number: u64, began: Duration) -> PathBuf {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let mut filled = String::new();
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '%') {
            (_, true) => match letters.next() {
                Some(NUMBER) => filled += &format!("{number:06}"),
                Some(TIME) => filled += &time(began),
                other => filled.extend(other),
            },
            (letter, false) => filled.push(letter),
        }
    }
    pattern.with_file_name(OsString::from(filled))
}

/// `20260131-120000.250`.
fn time(since_1970: Duration) -> String {
    let Utc {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Utc::from_nanos(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX));
    let millis = since_1970.subsec_millis();
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{millis:03}")
}

/// Files that were written, of which only the newest are kept.
pub struct Keep {
    /// Files of so many intervals; `None`: all.
    limit: Option<usize>,
    written: VecDeque<Vec<PathBuf>>,
}

impl Keep {
    /// Nothing written yet.
    pub fn new(limit: Option<usize>) -> Self {
        Self {
            limit,
            written: VecDeque::new(),
        }
    }

    /// These were written; the oldest ones beyond the limit go. Nothing goes that we did not write.
    pub fn add(&mut self, files: Vec<PathBuf>) {
        let Some(limit) = self.limit else { return };
        self.written.push_back(files);
        while self.written.len() > limit {
            for file in self.written.pop_front().into_iter().flatten() {
                // somebody else may have taken it away
                let _ = fs::remove_file(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(path: &str) -> String {
        let pattern = pattern(Path::new(path)).unwrap();
        let name = fill(&pattern, 7, Duration::from_millis(1_767_225_600_050));
        name.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_name_without_a_place_for_the_time_gets_one_before_its_ending() {
        assert_eq!(filled("/d%/x.svg"), "/d%/x-20260101-000000.050.svg");
        assert_eq!(filled("x.PB.gz"), "x-20260101-000000.050.PB.gz");
        assert_eq!(
            filled("x%%.speedscope.json"),
            "x%-20260101-000000.050.speedscope.json"
        );
    }

    #[test]
    fn the_number_and_the_time_stand_where_they_were_asked_for() {
        assert_eq!(filled("x-%N.svg"), "x-000007.svg");
        assert_eq!(filled("%T-%N-100%%.txt"), "20260101-000000.050-000007-100%.txt");
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for path in ["%d.svg", "x%.svg", "x.svg%"] {
            assert!(pattern(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn only_the_newest_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut keep = Keep::new(Some(2));
        for name in ["a", "b", "c"] {
            let file = dir.path().join(name);
            fs::write(&file, name).unwrap();
            keep.add(vec![file]);
        }
        assert!(!dir.path().join("a").exists());
        assert!(dir.path().join("b").exists() && dir.path().join("c").exists());
    }
}
