//! A thread that runs, while it does not: taken off its processor by somebody else's turn, it stands still, and all of
//! its memory is of one moment.
//!
//! Nobody has to stop it for that. Whoever is woken by a tick of its clock (`running`) and may run on no other processor
//! than the thread's is what takes its turn, as any program on that processor would; on a busy machine others do too. The
//! kernel records when a thread is taken off a processor, with its registers, and when it is put on one again
//! (PERF_RECORD_SWITCH): if it was not, between the first word that was read and the last one, it had not moved.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use moonscope_process::Pid;
use moonscope_unwind::Registers;

use super::running::{RECORD_SAMPLE, user_registers};
use crate::perf_event::{self, Attr, RecordRing, Whose};

/// A power of two: 128 KiB, some 600 times off a processor and back.
const RING_PAGES: usize = 32;
// include/uapi/linux/perf_event.h
const RECORD_LOST: u32 = 2;
const RECORD_SWITCH: u32 = 14;
const SWITCH_OUT: u16 = 1 << 13;
const SWITCH_OUT_PREEMPT: u16 = 1 << 14;

/// Where a thread is, as far as the records tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Where {
    /// On a processor, or no record told.
    #[default]
    Unknown,
    /// The registers that it is about to be taken off with.
    Leaving(Registers),
    /// Off its processor, and would go on if it could.
    Off(Registers),
    /// Off its processor, as it waits for something.
    Waits,
}

impl Where {
    /// What a record says: its kind, its flags, and the registers in it.
    fn after(self, kind: u32, misc: u16, registers: Option<Registers>) -> Self {
        match (kind, self) {
            (RECORD_SAMPLE, _) => registers.map_or(Self::Unknown, Self::Leaving),
            (RECORD_SWITCH, Self::Leaving(at)) if misc & SWITCH_OUT != 0 => match misc & SWITCH_OUT_PREEMPT {
                0 => Self::Waits,
                _ => Self::Off(at),
            },
            (RECORD_SWITCH | RECORD_LOST, _) => Self::Unknown,
            (_, before) => before,
        }
    }
}

/// Tells whether a thread stands still.
pub(super) struct Standstill {
    ring: RecordRing,
    event: OwnedFd,
    thread: Where,
    cpu: u32,
}

impl Standstill {
    /// `cpu`: where it ran last.
    pub(super) fn new(tid: Pid, cpu: u32) -> io::Result<Self> {
        let event = perf_event::open_for(&Attr::standstill(), Whose::Process(tid))?;
        let ring = RecordRing::map(event.as_fd(), RING_PAGES)?;
        perf_event::enable(event.as_fd())?;
        Ok(Self {
            ring,
            event,
            thread: Where::Unknown,
            cpu,
        })
    }

    /// The processor that it was on last.
    pub(super) const fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Where it is now.
    pub(super) fn look(&mut self) -> Where {
        self.drain();
        self.thread
    }

    /// Nothing came since it was looked at: all that was read meanwhile is of one moment. A thread that is put on a
    /// processor is recorded before it stores anything.
    pub(super) fn has_not_moved(&mut self) -> bool {
        self.drain() == 0 && matches!(self.thread, Where::Off(_))
    }

    /// How many records there were.
    fn drain(&mut self) -> usize {
        let (thread, its_cpu) = (&mut self.thread, &mut self.cpu);
        let mut records = 0;
        self.ring.drain(|kind, misc, body| {
            records += 1;
            // PERF_SAMPLE_CPU, of a sample and behind all other records alike
            let cpu = match kind {
                RECORD_SAMPLE => body.first_chunk(),
                RECORD_SWITCH => body.last_chunk::<8>().and_then(|cpu| cpu.first_chunk()),
                _ => None,
            };
            if let Some(cpu) = cpu {
                *its_cpu = u32::from_ne_bytes(*cpu);
            }
            let registers = body.get(8..).and_then(user_registers).map(|(at, _)| at);
            *thread = thread.after(kind, misc, registers);
        });
        records
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        let _ = perf_event::disable(self.event.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(records: &[(u32, u16)]) -> Where {
        let registers = Registers {
            regs: [7; moonscope_unwind::abi::MS_NR_REGS as usize],
            valid: !0,
        };
        records.iter().fold(Where::Unknown, |thread, &(kind, misc)| {
            thread.after(kind, misc, (kind == RECORD_SAMPLE).then_some(registers))
        })
    }

    #[test]
    fn a_thread_is_off_between_being_taken_off_and_being_put_on_again() {
        let is_off = |records: &[(u32, u16)]| matches!(after(records), Where::Off(_));
        let (sample, on) = ((RECORD_SAMPLE, 0), (RECORD_SWITCH, 0));
        let preempted = (RECORD_SWITCH, SWITCH_OUT | SWITCH_OUT_PREEMPT);
        assert!(is_off(&[sample, preempted]));
        assert!(is_off(&[on, sample, preempted, on, sample, preempted]));
        assert!(!is_off(&[]));
        assert!(!is_off(&[sample, preempted, on]));
        assert_eq!(after(&[sample, (RECORD_SWITCH, SWITCH_OUT)]), Where::Waits);
        // the registers of another time
        assert!(!is_off(&[sample, on, preempted]));
        assert!(!is_off(&[sample, preempted, (RECORD_LOST, 0)]));
    }
}
