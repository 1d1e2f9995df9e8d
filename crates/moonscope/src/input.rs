//! Reading recorded files: the ending tells the format, or `--from`, or the content.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use moonscope_process::reason;
use moonscope_profile::{Format, Profile, visible};

use crate::exit::{Code, Failure};
use crate::output::with_causes;

/// Reads a profile; `-` is stdin.
pub fn read(path: &Path, format: Option<Format>) -> Result<Profile, Failure> {
    let name = if path.as_os_str() == "-" {
        "stdin".into()
    } else {
        path.display().to_string()
    };
    let name = visible(&name).into_owned();
    let mut input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).map_err(|err| {
            Failure::new(
                Code::Failed,
                format_args!("{name}: cannot open: {}", reason(&err)),
            )
        })?;
        if file.metadata().is_ok_and(|found| found.is_dir()) {
            return Err(Failure::new(Code::Failed, format_args!("{name}: is a directory")));
        }
        Box::new(file)
    };
    // Many tools end their folded stacks with .txt, and pprof with .prof: an ending that is of no
    // readable format says nothing.
    let by_ending = Format::from_path(path).ok().filter(|format| format.is_readable());
    let profile = match format.or(by_ending) {
        Some(format) => format.read(&mut input),
        None => Format::read_any(&mut input),
    };
    profile.map_err(|err| Failure::new(Code::Failed, visible(&format!("{name}: {}", with_causes(&err)))))
}
