//! The bytes of DWARF sections, read with a meter running.
//!
//! `gimli` and `addr2line` are careful with what they read but set no bounds to how much: a few hundred
//! kilobytes of hostile DWARF can share one list of ranges among thousands of units, or nest inlined
//! functions (one byte each) until the recursion runs over the stack. Both read everything through
//! `gimli::Reader`, so the bounds stand there: every read counts, and looks at how deep the stack is. When
//! a bound is hit, reading fails like at the end of the data.

use gimli::{Error, LittleEndian, Reader, ReaderOffsetId};
use memmap2::Mmap;
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Reads left, and the address below which the stack must not grow.
    static METER: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// Runs `work` with so many reads and so many bytes of stack; gives its result and the reads left.
pub(crate) fn with_meter<T>(reads: u64, stack: usize, work: impl FnOnce() -> T) -> (T, u64) {
    let floor = stack_address().saturating_sub(stack);
    let before = METER.replace((reads, floor));
    let result = work();
    let (left, _) = METER.replace(before);
    (result, left)
}

/// Some address in the current frame. Stacks grow down on every processor we know.
#[inline(always)]
fn stack_address() -> usize {
    let here = 0u8;
    std::hint::black_box(&raw const here) as usize
}

/// Counts one read and what it costs beyond.
#[inline]
fn count(more: usize) -> bool {
    METER.with(|meter| {
        let (left, floor) = meter.get();
        let cost = 1 + (more as u64 >> 6);
        if left < cost {
            meter.set((0, floor));
            return false;
        }
        if stack_address() < floor {
            return false;
        }
        meter.set((left - cost, floor));
        true
    })
}

/// The bytes of a section.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Part of a mapped file.
    Mapped(Arc<Mmap>, std::ops::Range<usize>),
    /// Unpacked.
    Owned(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map, range) => map.get(range.clone()).unwrap_or_default(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A position in a section.
#[derive(Clone, Debug)]
pub(crate) struct MeteredReader {
    bytes: Arc<Bytes>,
    start: usize,
    end: usize,
}

impl MeteredReader {
    /// The whole section.
    pub(crate) fn new(bytes: Bytes) -> Self {
        let end = bytes.get().len();
        Self {
            bytes: Arc::new(bytes),
            start: 0,
            end,
        }
    }

    /// What has not been read yet.
    #[inline]
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get().get(self.start..self.end).unwrap_or_default()
    }

    fn eof(&self) -> Error {
        Error::UnexpectedEof(self.offset_id())
    }
}

impl Reader for MeteredReader {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn empty(&mut self) {
        self.end = self.start;
    }

    fn truncate(&mut self, len: usize) -> Result<(), Error> {
        if len > Reader::len(self) {
            return Err(self.eof());
        }
        self.end = self.start + len;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.start.saturating_sub(base.start)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        // An address, so that positions in different sections differ.
        ReaderOffsetId(self.bytes.get().as_ptr() as u64 + self.start as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let at = usize::try_from(id.0.checked_sub(self.offset_id().0)?).ok()?;
        (at <= Reader::len(self)).then_some(at)
    }

    fn find(&self, byte: u8) -> Result<usize, Error> {
        let found = memchr::memchr(byte, self.rest());
        if !count(found.unwrap_or_else(|| Reader::len(self))) {
            return Err(self.eof());
        }
        found.ok_or_else(|| self.eof())
    }

    fn skip(&mut self, len: usize) -> Result<(), Error> {
        if len > Reader::len(self) || !count(0) {
            return Err(self.eof());
        }
        self.start += len;
        Ok(())
    }

    fn split(&mut self, len: usize) -> Result<Self, Error> {
        let mut first = self.clone();
        first.truncate(len)?;
        self.skip(len)?;
        Ok(first)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>, Error> {
        Ok(Cow::Borrowed(self.rest()))
    }

    // A mapped file can change while it is looked at; a `str` must not. So texts are copies.
    fn to_string(&self) -> Result<Cow<'_, str>, Error> {
        String::from_utf8(self.rest().to_vec())
            .map(Cow::Owned)
            .map_err(|_| Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>, Error> {
        let text = String::from_utf8(self.rest().to_vec());
        Ok(Cow::Owned(text.unwrap_or_else(|err| {
            String::from_utf8_lossy(err.as_bytes()).into_owned()
        })))
    }

    #[inline]
    fn read_slice(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        match self.rest().get(..buf.len()) {
            Some(bytes) if count(0) => buf.copy_from_slice(bytes),
            _ => return Err(self.eof()),
        }
        self.start += buf.len();
        Ok(())
    }
}
