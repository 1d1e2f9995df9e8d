//! When not all could be written where it was wanted, the recording must not be lost: it goes to the temporary directory.

use std::path::Path;

use moonscope_profile::{Format, Profile, visible};

use crate::exit::Failure;
use crate::output::{Outcome, Outputs, Written, default_path_in};

/// Saves everything in our own format if no file that was written has everything, and says in the failure which files are
/// complete.
pub fn save(profile: &Profile, failure: Failure, written: &mut Vec<Written>) -> Failure {
    let failure = match complete(written) {
        Some(complete) => failure.with_remedy(complete),
        None => failure,
    };
    if written.iter().any(|file| file.format == Format::Json) {
        return failure;
    }
    let name = default_path_in(&std::env::temp_dir(), "json");
    let saved = write(profile, &name).map(|outcome| outcome.written);
    match saved.unwrap_or_default() {
        files if files.is_empty() => {
            failure.with_remedy("the recording could not be saved in the temporary directory either")
        }
        files => {
            written.extend(files);
            failure.with_remedy(format!(
                "nothing is lost: the whole recording is in {0}\n(moonscope convert {0} -o FILE makes any other format of it)",
                name.display()
            ))
        }
    }
}

/// The files that are as they should be, in words.
fn complete(written: &[Written]) -> Option<String> {
    let names = written.iter().map(|file| match &file.path {
        Some(path) => visible(&path.to_string_lossy()).into_owned(),
        None => "stdout".to_owned(),
    });
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| format!("complete: {}", names.join(", ")))
}

fn write(profile: &Profile, path: &Path) -> Result<Outcome, Failure> {
    Ok(Outputs::check(&[path.to_owned()], false)?.write_all(profile))
}
