//! Calls that have not returned, as the kernel side keeps them.

use moonscope_unwind::abi;

/// `struct probe_call` of `bpf/probe.bpf.h`.
pub struct OpenCall {
    /// When it began (CLOCK_MONOTONIC, nanoseconds).
    pub since: u64,
    /// Nanoseconds of calls inside that have a value of their own.
    pub inner: u64,
    /// Its stack.
    pub stack: abi::ms_stack_id,
    /// Number of what was asked for.
    pub spec: u32,
}

impl OpenCall {
    /// Those of a thread, the outermost first.
    pub fn all(bytes: &[u8]) -> Vec<Self> {
        const HEAD: usize = 8;
        const SIZE: usize = 48;
        let word = |bytes: &[u8], at: usize| -> Option<u64> {
            Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        let depth = bytes.get(..4).and_then(|depth| depth.try_into().ok());
        let depth = depth.map_or(0, u32::from_ne_bytes) as usize;
        let calls = bytes
            .get(HEAD..)
            .unwrap_or_default()
            .chunks_exact(SIZE)
            .take(depth);
        calls
            .filter_map(|call| {
                Some(Self {
                    since: word(call, 8)?,
                    inner: word(call, 16)?,
                    stack: abi::ms_stack_id {
                        a: word(call, 24)?,
                        b: word(call, 32)?,
                    },
                    spec: word(call, 40)? as u32,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_calls_are_read_as_the_kernel_side_writes_them() {
        let mut bytes = vec![0u8; 8 + 64 * 48];
        bytes[0] = 2;
        for (call, base) in [(0usize, 100u64), (1, 200)] {
            for word in 0..6u64 {
                let at = 8 + call * 48 + word as usize * 8;
                bytes[at..at + 8].copy_from_slice(&(base + word).to_ne_bytes());
            }
        }
        let calls = OpenCall::all(&bytes);
        assert_eq!(calls.len(), 2);
        assert_eq!((calls[1].since, calls[1].inner, calls[1].spec), (201, 202, 205));
        assert_eq!((calls[1].stack.a, calls[1].stack.b), (203, 204));
        assert!(OpenCall::all(&bytes[..3]).is_empty());
    }
}
