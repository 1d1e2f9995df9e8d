//! Settings of the kernel, as `/proc/sys` has them.

use std::fs;

/// The number in a file of `/proc/sys`, named as sysctl(8) does with slashes: `kernel/kptr_restrict`.
pub(super) fn number(name: &str) -> Option<i64> {
    fs::read_to_string(format!("/proc/sys/{name}"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Major and minor number of the running kernel.
pub(super) fn kernel_version() -> (u32, u32) {
    parse_version(&release())
}

/// What `uname -r` says.
pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `6.18.44-cloud` → (6, 18).
fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|char: char| !char.is_ascii_digit())
        .map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_distributions_are_read() {
        assert_eq!(parse_version("5.10.0-46-cloud-amd64"), (5, 10));
        assert_eq!(parse_version("6.18.44"), (6, 18));
        assert_eq!(parse_version("7.2"), (7, 2));
        assert_eq!(parse_version("odd"), (0, 0));
    }
}
