//! Names of block devices: `/sys/dev/block` has a link `MAJOR:MINOR` for each, to a folder of its name.

use std::collections::BTreeMap;
use std::path::Path;

/// Block devices by number.
#[derive(Debug, Default)]
pub struct Devices {
    names: BTreeMap<String, String>,
}

impl Devices {
    /// Looks which there are now. Those that were there before keep their names.
    pub fn look(&mut self) {
        self.look_in(Path::new("/sys/dev/block"));
    }

    fn look_in(&mut self, folder: &Path) {
        // without sysfs they have numbers
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(to) = std::fs::read_link(entry.path()) else {
                continue;
            };
            let number = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = to.file_name() {
                self.names
                    .entry(number)
                    .or_insert_with(|| name.to_string_lossy().into_owned());
            }
        }
    }

    /// The name of a device, or its number.
    pub fn name(&self, major: u32, minor: u32) -> String {
        let number = format!("{major}:{minor}");
        self.names.get(&number).cloned().unwrap_or(number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_has_its_number() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../devices/virtual/block/loop7", folder.path().join("7:7")).unwrap();
        let mut devices = Devices::default();
        devices.look_in(folder.path());
        assert_eq!([devices.name(7, 7), devices.name(7, 8)], ["loop7", "7:8"]);
    }
}
