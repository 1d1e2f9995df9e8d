//! A thread that runs, at one tick of its clock: perf_event_open(2) copies its user registers and the top of its stack,
//! with no BPF and without stopping it.
//!
//! The copy is of one moment. All other memory is read right after it, while the thread goes on, unless it stands still
//! meanwhile (`standstill`): what does not fit together is looked at again.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use moonscope_process::Pid;
use moonscope_unwind::{Registers, abi};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::perf_event::{self, Attr, RecordRing, Whose};

/// A power of two: 128 KiB, two records.
const RING_PAGES: usize = 32;
pub(super) const RECORD_SAMPLE: u32 = 9;
/// PERF_SAMPLE_REGS_ABI_64
const ABI_64: u64 = 2;

/// The registers that [`Attr::user_state`] asks for, in the order in which they are written: that of their numbers in
/// arch/x86/include/uapi/asm/perf_regs.h.
const ORDER: [u32; 17] = [
    abi::MS_REG_RAX,
    abi::MS_REG_RBX,
    abi::MS_REG_RCX,
    abi::MS_REG_RDX,
    abi::MS_REG_RSI,
    abi::MS_REG_RDI,
    abi::MS_REG_RBP,
    abi::MS_REG_RSP,
    abi::MS_REG_RIP,
    abi::MS_REG_R8,
    abi::MS_REG_R9,
    abi::MS_REG_R10,
    abi::MS_REG_R11,
    abi::MS_REG_R12,
    abi::MS_REG_R13,
    abi::MS_REG_R14,
    abi::MS_REG_R15,
];

/// A thread at one moment.
pub(super) struct Moment {
    /// The CPU that it ran on.
    pub(super) cpu: u32,
    pub(super) registers: Registers,
    /// Memory from the stack pointer on.
    stack: Vec<u8>,
}

impl Moment {
    pub(super) fn sp(&self) -> u64 {
        self.registers.get(abi::MS_REG_RSP as usize).unwrap_or(0)
    }

    /// What was at this address; `None` if it was not copied.
    pub(super) fn read(&self, addr: u64, into: &mut [u8]) -> Option<()> {
        let start = usize::try_from(addr.checked_sub(self.sp())?).ok()?;
        let Range { start, end } = start..start.checked_add(into.len())?;
        into.copy_from_slice(self.stack.get(start..end)?);
        Some(())
    }

    /// From the body of a record (PERF_SAMPLE_CPU, _REGS_USER, _STACK_USER; include/uapi/linux/perf_event.h).
    fn parse(body: &[u8]) -> Option<Self> {
        let (cpu, body) = body.split_first_chunk::<8>()?;
        let [cpu @ .., _, _, _, _] = *cpu;
        let (registers, body) = user_registers(body)?;
        // the size of the copy, the copy, and how much of it is memory of the thread
        let (size, body) = body.split_first_chunk()?;
        let size = usize::try_from(u64::from_ne_bytes(*size)).ok()?;
        let (copy, body) = body.split_at_checked(size)?;
        let copied = usize::try_from(u64::from_ne_bytes(*body.first_chunk()?)).ok()?;
        Some(Self {
            cpu: u32::from_ne_bytes(cpu),
            registers,
            stack: copy.get(..copied)?.to_vec(),
        })
    }
}

/// PERF_SAMPLE_REGS_USER of `GENERAL_REGISTERS`, and what is behind it.
pub(super) fn user_registers(body: &[u8]) -> Option<(Registers, &[u8])> {
    let (words, _) = body.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
    if words.next()? != ABI_64 {
        return None;
    }
    let mut registers = Registers {
        regs: [0; abi::MS_NR_REGS as usize],
        valid: 0,
    };
    for register in ORDER {
        registers.set(register as usize, Some(words.next()?));
    }
    Some((registers, body.get(8 * (1 + ORDER.len())..)?))
}

/// Catches a thread at ticks of its clock.
pub(super) struct Catcher {
    ring: RecordRing,
    event: OwnedFd,
}

impl Catcher {
    pub(super) fn new(tid: Pid) -> io::Result<Self> {
        let event = perf_event::open_for(&Attr::user_state(), Whose::Process(tid))?;
        let ring = RecordRing::map(event.as_fd(), RING_PAGES)?;
        Ok(Self { ring, event })
    }

    /// Where the thread is at its next tick; `None` if it does not run within this time.
    pub(super) fn next(&mut self, patience: Duration) -> Option<Moment> {
        // what came while nobody waited is old
        self.ring.drain(|_, _, _| {});
        perf_event::enable(self.event.as_fd()).ok()?;
        let deadline = Instant::now() + patience;
        let mut newest = None;
        while newest.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !is_readable(&self.event, left) {
                break;
            }
            self.ring.drain(|kind, _, body| {
                if kind == RECORD_SAMPLE {
                    newest = Moment::parse(body).or(newest.take());
                }
            });
        }
        let _ = perf_event::disable(self.event.as_fd());
        newest
    }
}

/// Is something there within this time? A thread that ended hangs up.
fn is_readable(event: &OwnedFd, patience: Duration) -> bool {
    let mut polled = [PollFd::new(event, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    rustix::event::poll(&mut polled, Some(&patience)).is_ok_and(|ready| ready > 0)
        && polled[0].revents().contains(PollFlags::IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn record() -> Vec<u64> {
        let mut words = vec![3, ABI_64];
        words.extend(100..100 + ORDER.len() as u64);
        // 16 bytes of which 8 are memory of the thread
        words.extend([16, 0x1122, 0x3344, 8]);
        words
    }

    #[test]
    fn registers_come_in_the_order_of_perf_and_the_stack_behind_them() {
        let moment = Moment::parse(&body(&record())).unwrap();
        let register = |number: u32| moment.registers.get(number as usize);
        assert_eq!(register(abi::MS_REG_RBX), Some(101));
        assert_eq!(register(abi::MS_REG_RDX), Some(103));
        assert_eq!(register(abi::MS_REG_RIP), Some(108));
        assert_eq!((moment.sp(), register(abi::MS_REG_R15)), (107, Some(116)));
        assert_eq!(moment.cpu, 3);
        let mut word = [0; 8];
        assert!(moment.read(107, &mut word).is_some());
        assert_eq!(u64::from_ne_bytes(word), 0x1122);
        assert!(moment.read(108, &mut word).is_none() && moment.read(0, &mut word).is_none());
    }

    #[test]
    fn a_record_that_is_too_short_or_of_another_kind_is_none() {
        let whole = body(&record());
        for len in 0..whole.len() {
            assert!(Moment::parse(&whole[..len]).is_none(), "{len}");
        }
        let mut words = record();
        words[1] = 1;
        assert!(Moment::parse(&body(&words)).is_none());
        words[1] = ABI_64;
        *words.last_mut().unwrap() = u64::MAX;
        assert!(Moment::parse(&body(&words)).is_none());
    }
}
