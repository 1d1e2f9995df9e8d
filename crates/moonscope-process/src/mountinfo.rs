//! `/proc/self/mountinfo`: what is mounted where.
//!
//! A line (proc(5)): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS…] - TYPE SOURCE SUPEROPTIONS`.
//! Blank, tab, newline and backslash in names are written as a backslash and three octal digits.

use crate::{ProcessError, bytes};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the device that files of it have.
    pub device: (u32, u32),
    /// The directory of the file system that is visible at `point`.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Type of the file system: `cgroup2`, `tracefs`, …
    pub kind: String,
    /// Options of the file system itself, with commas.
    pub super_options: String,
}

/// The mounts of our own mount namespace. A later one can hide an earlier one.
pub fn read() -> Result<Vec<Mount>, ProcessError> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = bytes::read_file(PATH).map_err(|cause| ProcessError::Io {
        what: PATH.to_owned(),
        cause,
    })?;
    Ok(parse(&text))
}

/// Parses the text of a `mountinfo` file. Lines of another form are left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&byte| byte == b' ');
    let device = device(words.nth(2)?)?;
    let root = path(words.next()?);
    let point = path(words.next()?);
    words.find(|word| *word == b"-")?;
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let kind = text(words.next()?);
    let super_options = text(words.nth(1)?);
    Some(Mount {
        device,
        root,
        point,
        kind,
        super_options,
    })
}

fn device(word: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = str::from_utf8(word).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn path(word: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match digits {
            Some(digits) if byte == b'\\' => {
                out.push(digits.iter().fold(0u8, |value, digit| {
                    value.wrapping_mul(8).wrapping_add(digit - b'0')
                }));
                rest = &after[3..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn a_mount_point_with_blanks_and_optional_fields_is_read() {
        let text =
            b"30 23 0:26 /sub /a\\040b\\134c rw,nosuid shared:9 master:3 - cgroup2 cgroup2 rw,nsdelegate\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].device, (0, 26));
        assert_eq!(mounts[0].root, Path::new("/sub"));
        assert_eq!(mounts[0].point, Path::new("/a b\\c"));
        assert_eq!(
            (mounts[0].kind.as_str(), mounts[0].super_options.as_str()),
            ("cgroup2", "rw,nsdelegate")
        );
    }

    #[test]
    fn our_own_proc_is_mounted() {
        assert!(read().unwrap().iter().any(|mount| mount.kind == "proc"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[-a/ 0-9\\\\\n]{0,80}") {
            let _ = parse(text.as_bytes());
        }
    }
}
