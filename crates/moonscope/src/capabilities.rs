//! What this process may do: its effective capabilities (capabilities(7)).

use std::fs;

/// `CAP_SYS_PTRACE` of include/uapi/linux/capability.h: look at processes of other users, and at those that may do more.
pub const SYS_PTRACE: u32 = 19;
/// `CAP_SYS_ADMIN` of the same file.
pub const SYS_ADMIN: u32 = 21;

/// Is it among the effective ones?
pub fn has(number: u32) -> bool {
    effective().is_some_and(|bits| bits & (1 << number) != 0)
}

/// All effective ones, as bits; `None` without `/proc`.
pub fn effective() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(bits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_of_root_without_sys_resource_are_read() {
        assert_eq!(
            parse("Name:\tx\nCapEff:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(parse("CapEff:\tzz\n"), None);
    }
}
