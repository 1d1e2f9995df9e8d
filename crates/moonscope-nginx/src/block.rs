//! A structure of another process, copied at once.

use moonscope_process::{ProcessError, RemoteMemory};

/// Strings of nginx that are longer are cut: no header line is (`large_client_header_buffers`, 8 KiB by default).
const MAX_STR: usize = 8 << 10;

/// Bytes of a structure at its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) addr: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Copies `len` bytes.
    pub(crate) fn read(memory: &impl RemoteMemory, addr: u64, len: u64) -> Result<Self, ProcessError> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        memory.read_exact(addr, &mut bytes)?;
        Ok(Self { addr, bytes })
    }

    /// Bytes that were copied already.
    pub(crate) fn of(addr: u64, bytes: &[u8]) -> Self {
        Self {
            addr,
            bytes: bytes.to_vec(),
        }
    }

    /// So many bytes; `None`: they are not all in it.
    pub(crate) fn bytes(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let from = usize::try_from(offset).ok()?;
        self.bytes
            .get(from..from.checked_add(usize::try_from(len).ok()?)?)
    }

    /// A byte; 0 beyond the end.
    pub(crate) fn byte(&self, offset: u64) -> u8 {
        self.piece(offset).map_or(0, |[byte]| byte)
    }

    fn piece<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let from = usize::try_from(offset).ok()?;
        self.bytes.get(from..from.checked_add(N)?)?.try_into().ok()
    }

    /// A pointer or `ngx_uint_t`; 0 beyond the end.
    pub(crate) fn word(&self, offset: u64) -> u64 {
        self.piece(offset).map_or(0, u64::from_le_bytes)
    }

    /// An `int`; 0 beyond the end.
    pub(crate) fn int(&self, offset: u64) -> i32 {
        self.piece(offset).map_or(0, i32::from_le_bytes)
    }

    /// 16 bits; 0 beyond the end.
    pub(crate) fn short(&self, offset: u64) -> u16 {
        self.piece(offset).map_or(0, u16::from_le_bytes)
    }

    /// The bytes of an `ngx_str_t` (length, address); empty if they cannot be read.
    pub(crate) fn string(&self, memory: &impl RemoteMemory, offset: u64) -> Vec<u8> {
        string(memory, self.word(offset), self.word(offset + 8))
    }

    /// An `ngx_list_t` or a part of one, begins here: address of this offset.
    pub(crate) fn at(&self, offset: u64) -> u64 {
        self.addr.wrapping_add(offset)
    }
}

/// So many bytes, at most [`MAX_STR`]; empty if they cannot be read.
pub(crate) fn string(memory: &impl RemoteMemory, len: u64, addr: u64) -> Vec<u8> {
    let len = usize::try_from(len).map_or(MAX_STR, |len| len.min(MAX_STR));
    let mut bytes = vec![0; len];
    match memory.read_exact(addr, &mut bytes) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}
