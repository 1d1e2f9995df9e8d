//! When an output cannot be written, the recording must not be lost: it goes to the temporary directory.

use std::path::Path;

use moonscope_profile::Profile;

use crate::exit::Failure;
use crate::output::{Outputs, default_path};

/// Saves everything in our own format, and says in the failure where it is.
pub fn save(profile: &Profile, failure: Failure) -> Failure {
    let Some(name) = default_path("json")
        .file_name()
        .map(|name| std::env::temp_dir().join(name))
    else {
        return failure;
    };
    match write(profile, &name) {
        Ok(()) => failure.with_remedy(format!(
            "nothing is lost: the whole recording is in {0}\n(moonscope convert {0} -o FILE makes any other format of it)",
            name.display()
        )),
        Err(_) => failure.with_remedy("the recording could not be saved in the temporary directory either"),
    }
}

fn write(profile: &Profile, path: &Path) -> Result<(), Failure> {
    Outputs::check(&[path.to_owned()], false)?
        .write_all(profile)
        .map(drop)
}
