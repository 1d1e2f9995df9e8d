//! Is it the limit of locked memory that refuses BPF objects?
//!
//! Before Linux 5.11 programs and maps count as locked memory of their user, beside the rings of perf events
//! (kernel/bpf/syscall.c, bpf_charge_memlock), and what exceeds the limit is answered with EPERM as a missing
//! privilege is.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// `CAP_SYS_ADMIN` and `CAP_BPF` of include/uapi/linux/capability.h: one of them is enough.
const BPF_CAPABILITIES: u64 = 1 << 21 | 1 << 39;

/// The limit in bytes, if nothing but it can be why the kernel answered EPERM. libbpf has tried to raise it.
pub fn limit_that_refuses() -> Option<u64> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let may_load = effective_capabilities(&status)? & BPF_CAPABILITIES != 0;
    getrlimit(Resource::Memlock)
        .current
        .filter(|_| may_load && version(&release).is_some_and(|version| version < (5, 11)))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// `5.10.0-46-cloud-amd64` is (5, 10).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_capabilities_are_read() {
        assert_eq!(version("5.10.0-46-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("7.2"), Some((7, 2)));
        assert_eq!(version("odd"), None);
        assert_eq!(
            effective_capabilities("CapPrm:\t0\nCapEff:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(effective_capabilities("CapEff:\tzz\n"), None);
    }

    /// This machine's kernel, or the privileges of this test, decide which of the two it is.
    #[test]
    fn newer_kernels_have_no_such_limit() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        if version(&release).is_some_and(|version| version >= (5, 11)) {
            assert_eq!(limit_that_refuses(), None);
        }
    }
}
