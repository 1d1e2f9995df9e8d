//! The file formats: which there are, how a file's ending picks one, and the way to their code.

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{ReadError, WriteError};
use crate::options::WriteOptions;
use crate::profile::Profile;
use crate::{folded, json, limits, pprof, speedscope, stack_analyzer, svg, table};

/// A file format for profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Flame graph to look at in a browser.
    Svg,
    /// One line for each stack, as `stackcollapse-perf.pl` and `flamegraph.pl` have it.
    Folded,
    /// The protocol buffer of `go tool pprof`, Pyroscope, Parca, ….
    Pprof,
    /// For <https://www.speedscope.app>.
    Speedscope,
    /// Our own lossless form.
    Json,
    /// A table and a call tree for people.
    Text,
    /// The text form of Stack_Analyzer.
    StackAnalyzer,
}

/// No format has the ending of this file.
#[derive(Debug, thiserror::Error)]
#[error("{}: unknown ending; known are {}", .path.display(), Format::all_endings())]
pub struct UnknownEnding {
    /// The file.
    pub path: PathBuf,
}

/// No format has this name.
#[derive(Debug, thiserror::Error)]
#[error("unknown format {name:?}; known are {}", Format::all_names())]
pub struct UnknownFormat {
    /// The name.
    pub name: String,
}

impl Format {
    /// Every format there is.
    pub fn all() -> [Self; 7] {
        [
            Self::Svg,
            Self::Folded,
            Self::Pprof,
            Self::Speedscope,
            Self::Json,
            Self::Text,
            Self::StackAnalyzer,
        ]
    }

    /// The name for options such as `--to`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Folded => "folded",
            Self::Pprof => "pprof",
            Self::Speedscope => "speedscope",
            Self::Json => "json",
            Self::Text => "txt",
            Self::StackAnalyzer => "stack-analyzer",
        }
    }

    /// The endings of its files, the usual one first.
    pub fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Svg => &[".svg"],
            Self::Folded => &[".folded", ".collapsed"],
            Self::Pprof => &[".pb.gz", ".pprof"],
            Self::Speedscope => &[".speedscope.json"],
            Self::Json => &[".json"],
            Self::Text => &[".txt"],
            Self::StackAnalyzer => &[".stacks"],
        }
    }

    /// What it is and what opens it, in a few words.
    pub fn description(self) -> &'static str {
        match self {
            Self::Svg => "flame graph for the browser, with search and zoom",
            Self::Folded => "one line per stack; flamegraph.pl, inferno, speedscope, grep",
            Self::Pprof => "protocol buffer, gzip; go tool pprof, Pyroscope, Parca, Grafana",
            Self::Speedscope => "for speedscope.app: its views Left Heavy and Sandwich",
            Self::Json => "everything that was recorded, lossless; for moonscope and scripts",
            Self::Text => "table of functions and call tree, for reading and mail",
            Self::StackAnalyzer => "blocks of Stack_Analyzer, for its exporter and scripts that read them",
        }
    }

    /// Whether moonscope reads it back.
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Folded | Self::Pprof | Self::Json)
    }

    /// Whether a comparison of two profiles can be written to it.
    pub fn holds_diff(self) -> bool {
        matches!(self, Self::Svg | Self::Folded | Self::Text)
    }

    /// The format with this name; a leading dot or a full ending does as well.
    pub fn from_name(name: &str) -> Result<Self, UnknownFormat> {
        let wanted = name.strip_prefix('.').unwrap_or(name);
        Self::all()
            .into_iter()
            .find(|format| {
                format.name() == wanted || format.endings().iter().any(|ending| &ending[1..] == wanted)
            })
            .ok_or_else(|| UnknownFormat {
                name: name.to_owned(),
            })
    }

    /// The format that the ending of a file's name stands for; of several the longest.
    pub fn from_path(path: &Path) -> Result<Self, UnknownEnding> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_ascii_lowercase();
        let endings = Self::all()
            .into_iter()
            .flat_map(|format| format.endings().iter().map(move |ending| (*ending, format)));
        endings
            .filter(|(ending, _)| name.len() > ending.len() && name.ends_with(ending))
            .max_by_key(|(ending, _)| ending.len())
            .map(|(_, format)| format)
            .ok_or_else(|| UnknownEnding {
                path: path.to_owned(),
            })
    }

    /// The readable format that this content is of, judged by its first bytes.
    pub fn detect(content: &[u8]) -> Option<Self> {
        let start = content.trim_ascii_start();
        if start.starts_with(b"{") {
            Some(Self::Json)
        } else if content.starts_with(&[0x1f, 0x8b]) || pprof::looks_raw(content) {
            Some(Self::Pprof)
        } else if folded::looks_folded(start) {
            Some(Self::Folded)
        } else {
            None
        }
    }

    /// Writes a profile in this format.
    pub fn write(
        self,
        profile: &Profile,
        options: &WriteOptions,
        out: &mut dyn Write,
    ) -> Result<(), WriteError> {
        match self {
            Self::Svg => svg::write(profile, options, out),
            Self::Folded => folded::write(profile, options, out),
            Self::Pprof => pprof::write(profile, out),
            Self::Speedscope => speedscope::write(profile, options, out),
            Self::Json => json::write(profile, out),
            Self::Text => table::write(profile, options, out),
            Self::StackAnalyzer => stack_analyzer::write(profile, out),
        }
    }

    /// Reads a profile in this format.
    pub fn read(self, input: &mut dyn Read) -> Result<Profile, ReadError> {
        if !self.is_readable() {
            return Err(ReadError::WriteOnly { format: self });
        }
        self.parse(&read_bounded(input)?)
    }

    /// Reads a profile in this format from memory.
    pub fn parse(self, content: &[u8]) -> Result<Profile, ReadError> {
        match self {
            Self::Folded => folded::read(content),
            Self::Pprof => pprof::read(content),
            Self::Json => json::read(content),
            Self::Svg | Self::Speedscope | Self::Text | Self::StackAnalyzer => {
                Err(ReadError::WriteOnly { format: self })
            }
        }
    }

    /// Reads a profile whose format is found out from its content.
    pub fn read_any(input: &mut dyn Read) -> Result<Profile, ReadError> {
        let content = read_bounded(input)?;
        Self::detect(&content)
            .ok_or(ReadError::Unrecognised)?
            .parse(&content)
    }

    fn all_names() -> String {
        Self::all().map(Self::name).join(", ")
    }

    pub(crate) fn readable_names() -> String {
        let names: Vec<_> = Self::all()
            .into_iter()
            .filter(|format| format.is_readable())
            .map(Self::name)
            .collect();
        names.join(", ")
    }

    fn all_endings() -> String {
        let endings: Vec<_> = Self::all()
            .iter()
            .flat_map(|format| format.endings())
            .copied()
            .collect();
        endings.join(" ")
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All of the input, or an error when it is longer than [`limits::MAX_INPUT`].
pub(crate) fn read_bounded(input: &mut dyn Read) -> Result<Vec<u8>, ReadError> {
    read_at_most(input, limits::MAX_INPUT)
}

fn read_at_most(input: &mut dyn Read, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut content = Vec::new();
    input.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(ReadError::TooLarge { what: "bytes", limit });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ending_decides() {
        let formats = ["a.json", "a.speedscope.json", "A.SVG", "a.pb.gz", "a.b.txt"]
            .map(|name| Format::from_path(Path::new(name)).map(Format::name).unwrap());
        assert_eq!(formats, ["json", "speedscope", "svg", "pprof", "txt"]);
    }

    #[test]
    fn an_unknown_ending_is_told_what_is_known() {
        for name in ["a.doc", "a", ".svg", "dir.svg/.."] {
            let err = Format::from_path(Path::new(name)).unwrap_err().to_string();
            assert!(err.contains("unknown ending; known are .svg .folded"), "{err}");
        }
    }

    #[test]
    fn a_format_is_found_by_its_name_and_by_its_ending() {
        assert_eq!(Format::from_name("pb.gz").unwrap(), Format::Pprof);
        assert_eq!(Format::from_name(".svg").unwrap(), Format::Svg);
        assert!(
            Format::from_name("gif")
                .unwrap_err()
                .to_string()
                .contains("known are svg, folded")
        );
    }

    #[test]
    fn an_endless_input_is_refused() {
        assert_eq!(read_at_most(&mut &b"1234"[..], 4).unwrap(), b"1234");
        let err = read_at_most(&mut std::io::repeat(0), 1 << 20).unwrap_err();
        assert_eq!(err.to_string(), "too large: more than 1048576 bytes");
    }

    #[test]
    fn content_tells_its_format() {
        assert_eq!(Format::detect(b" \n{\"format\":"), Some(Format::Json));
        assert_eq!(Format::detect(b"\x1f\x8b\x08"), Some(Format::Pprof));
        assert_eq!(
            Format::detect(b"\n# comment\nmain;foo 12\n"),
            Some(Format::Folded)
        );
        assert_eq!(Format::detect(b"\x0a\x04\x08\x01\x10\x02"), Some(Format::Pprof));
        assert_eq!(Format::detect(b"#!/bin/sh\necho hello\n"), None);
        assert_eq!(Format::detect(b""), None);
    }
}
