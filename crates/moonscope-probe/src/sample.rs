//! Records of the ring buffer, as they come (`struct ms_sample` and `struct ms_event` of `bpf/abi.h`).

use moonscope_unwind::{Registers, StackCopy, WalkEnd, abi};

/// A record of the ring buffer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made on the stack, one at a time")]
pub enum Record<'a> {
    /// A tick in a wanted task.
    Sample(RawSample<'a>),
    /// A process began, changed or ended.
    Event(abi::ms_event),
    /// Two stacks are one.
    Pair(abi::ms_pair),
    /// A file has a number from now on.
    File(FileRecord<'a>),
}

/// A file and its names (`struct ms_file_event`).
#[derive(Clone, Copy, Debug)]
pub struct FileRecord<'a> {
    /// Everything but the names.
    pub head: abi::ms_file_event,
    /// Its names, leaf first, each with a NUL behind it.
    pub names: &'a [u8],
}

impl<'a> FileRecord<'a> {
    fn parse(words: &'a [u64]) -> Option<Self> {
        let head: abi::ms_file_event = plain(words)?;
        let rest = bytes_of(&words[size_of::<abi::ms_file_event>() / 8..]);
        let names = rest.get(..head.len as usize)?;
        Some(Self { head, names })
    }
}

/// A sample as the kernel side shipped it.
#[derive(Debug)]
pub struct RawSample<'a> {
    /// Everything but the stacks.
    pub head: abi::ms_sample,
    /// Kernel and user frames, leaf first; split them with [`RawSample::kernel`] and [`RawSample::user`].
    frames: &'a [u64],
    /// Registers and stack, where user space must walk.
    copy: Option<(Registers, StackCopy<'a>)>,
}

impl<'a> Record<'a> {
    /// When it was made (CLOCK_MONOTONIC, nanoseconds).
    pub fn time(&self) -> u64 {
        match self {
            Self::Sample(sample) => sample.head.time,
            Self::Event(event) => event.time,
            Self::Pair(pair) => pair.time,
            Self::File(file) => file.head.time,
        }
    }

    /// Takes a record apart; `None` if it is none of ours, which means a defect.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        // records of the ring buffer are 8-byte aligned (kernel/bpf/ringbuf.c)
        // SAFETY: any bytes are a valid u64; what is not aligned is left out and refused below.
        let (before, words, _) = unsafe { bytes.align_to::<u64>() };
        if !before.is_empty() {
            return None;
        }
        match (*words.first()? & 0xffff_ffff) as u32 {
            abi::MS_EVENT_SAMPLE => RawSample::parse(words).map(Record::Sample),
            abi::MS_EVENT_FORK | abi::MS_EVENT_EXEC | abi::MS_EVENT_EXIT => {
                plain::<abi::ms_event>(words).map(Record::Event)
            }
            abi::MS_EVENT_PAIR => plain::<abi::ms_pair>(words).map(Record::Pair),
            abi::MS_EVENT_FILE => FileRecord::parse(words).map(Record::File),
            _ => None,
        }
    }
}

impl<'a> RawSample<'a> {
    fn parse(words: &'a [u64]) -> Option<Self> {
        let head: abi::ms_sample = plain(words)?;
        let rest = &words[size_of::<abi::ms_sample>() / 8..];
        let (frames, rest) =
            rest.split_at_checked(usize::from(head.nr_kernel) + usize::from(head.nr_user))?;
        let copy = if head.flags & abi::MS_SAMPLE_STACK == 0 {
            None
        } else {
            let (regs, stack) = rest.split_first_chunk::<{ abi::MS_NR_REGS as usize }>()?;
            let bytes = bytes_of(stack).get(..head.stack_len as usize)?;
            Some((
                Registers::new(*regs),
                StackCopy {
                    sp: head.stack_start,
                    bytes,
                },
            ))
        };
        Some(Self { head, frames, copy })
    }

    /// A sample with these frames ([`RawSample::frames`]) whose stack need not be walked any more.
    pub fn without_copy(head: abi::ms_sample, frames: &'a [u64]) -> Self {
        Self {
            head,
            frames,
            copy: None,
        }
    }

    /// Kernel addresses, leaf first.
    pub fn kernel(&self) -> &'a [u64] {
        &self.frames[..usize::from(self.head.nr_kernel)]
    }

    /// User frames with their `MS_FRAME_*` bits, leaf first.
    pub fn user(&self) -> &'a [u64] {
        &self.frames[usize::from(self.head.nr_kernel)..]
    }

    /// All frames: what tells raw stacks apart.
    pub fn frames(&self) -> &'a [u64] {
        self.frames
    }

    /// How the walk in the kernel ended.
    pub fn end(&self) -> WalkEnd {
        WalkEnd::from_number(self.head.end.into()).unwrap_or(WalkEnd::None)
    }

    /// Words between the stack pointer and the return address, if it was taken where a function was called.
    pub fn called(&self) -> Option<u32> {
        (self.head.flags & abi::MS_SAMPLE_CALLED != 0).then_some(self.head.called)
    }

    /// The user registers and a copy of the stack, if user space has to walk.
    pub fn copy(&self) -> Option<(Registers, StackCopy<'a>)> {
        self.copy
    }
}

/// The bytes of a thread's name, with NUL bytes at its end.
pub fn comm_bytes(sample: &RawSample<'_>) -> [u8; abi::MS_COMM_LEN as usize] {
    sample.head.comm.map(|byte| byte as u8)
}

/// A thread's name as text.
pub fn comm_text(sample: &RawSample<'_>) -> String {
    let comm = comm_bytes(sample);
    let len = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..len]).into_owned()
}

/// A record that is kept for later.
#[derive(Debug)]
pub struct KeptRecord(Vec<u64>);

impl KeptRecord {
    /// A copy of a record.
    pub fn new(bytes: &[u8]) -> Self {
        let words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        Self(words.collect())
    }

    /// Its bytes, aligned as they were.
    pub fn bytes(&self) -> &[u8] {
        bytes_of(&self.0)
    }

    /// The sample, if it is one.
    pub fn sample(&self) -> Option<RawSample<'_>> {
        match Record::parse(self.bytes()) {
            Some(Record::Sample(sample)) => Some(sample),
            _ => None,
        }
    }
}

fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: the memory of words may be looked at as bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// Copies a C struct of `bpf/abi.h` out of words.
fn plain<T: Copy>(words: &[u64]) -> Option<T> {
    if size_of_val(words) < size_of::<T>() || align_of::<T>() > align_of::<u64>() {
        return None;
    }
    // SAFETY: large enough and aligned; the structs of `abi.h` hold only integers.
    Some(unsafe { words.as_ptr().cast::<T>().read() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(head: abi::ms_sample, tail: &[u64]) -> Vec<u64> {
        let mut words = vec![0u64; size_of::<abi::ms_sample>() / 8];
        // SAFETY: the vector is as large as the struct.
        unsafe { words.as_mut_ptr().cast::<abi::ms_sample>().write(head) };
        words.extend_from_slice(tail);
        words
    }

    #[test]
    fn frames_are_split_where_the_head_says() {
        let head = abi::ms_sample {
            kind: abi::MS_EVENT_SAMPLE,
            nr_kernel: 1,
            nr_user: 2,
            ..Default::default()
        };
        let words = sample(head, &[10, 20, 30]);
        let Some(Record::Sample(raw)) = Record::parse(bytes_of(&words)) else {
            panic!("not a sample")
        };
        assert_eq!((raw.kernel(), raw.user()), (&[10][..], &[20, 30][..]));
        assert!(raw.copy().is_none());
    }

    #[test]
    fn a_record_that_promises_more_than_it_holds_is_refused() {
        let head = abi::ms_sample {
            kind: abi::MS_EVENT_SAMPLE,
            nr_kernel: 1,
            nr_user: 3,
            ..Default::default()
        };
        assert!(Record::parse(bytes_of(&sample(head, &[10, 20, 30]))).is_none());
        let head = abi::ms_sample {
            flags: abi::MS_SAMPLE_STACK,
            stack_len: 9,
            ..head
        };
        let head = abi::ms_sample {
            kind: abi::MS_EVENT_SAMPLE,
            nr_kernel: 0,
            nr_user: 0,
            ..head
        };
        assert!(Record::parse(bytes_of(&sample(head, &[0; abi::MS_NR_REGS as usize + 1]))).is_none());
        assert!(Record::parse(&[]).is_none());
    }

    #[test]
    fn names_of_a_file_end_where_the_head_says() {
        let record = |len: u32| {
            let head = abi::ms_file_event {
                kind: abi::MS_EVENT_FILE,
                number: 3,
                len,
                ..Default::default()
            };
            let mut words = vec![0u64; size_of::<abi::ms_file_event>() / 8];
            // SAFETY: the vector is as large as the struct.
            unsafe { words.as_mut_ptr().cast::<abi::ms_file_event>().write(head) };
            words.push(u64::from_ne_bytes(*b"a\0etc\0--"));
            words
        };
        let words = record(6);
        let Some(Record::File(file)) = Record::parse(bytes_of(&words)) else {
            panic!("not a file")
        };
        assert_eq!((file.head.number, file.names), (3, &b"a\0etc\0"[..]));
        assert!(Record::parse(bytes_of(&record(9))).is_none());
    }
}
