//! All user registers of threads that wait, by a BPF iterator over tasks (`bpf/waiting.bpf.c`). `/proc` tells the stack
//! pointer and the instruction pointer only: a function whose frame is found by its frame pointer is not walked through
//! with those.
//!
//! Nobody is stopped. Registers belong to the moment at which a thread was looked at if it was switched out as often then,
//! and stands at the same place.

use std::io::Read;
use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ErrorKind, Iter, Link, OpenObject};
use moonscope_process::thread::Place;
use moonscope_process::{Pid, Thread};
use moonscope_unwind::{Registers, abi};
use rustc_hash::FxHashMap;

use crate::skeleton::waiting::{WaitingSkel, WaitingSkelBuilder};
use crate::statistics::{VerifierCost, verifier_cost};

/// Why the registers of threads are not known. What stands before it is what they were needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTold {
    /// BPF is not permitted.
    NotPermitted,
    /// The kernel does not take the program.
    NotTaken,
}

impl NotTold {
    /// Why a stack was cut where a register was needed.
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::NotPermitted => {
                "register not saved; the thread's own are told by BPF only, which is not permitted (CAP_BPF, CAP_PERFMON)"
            }
            Self::NotTaken => {
                "register not saved; the thread's own are told by BPF only, by a task iterator, which this kernel does not \
                 take (Linux 5.8 with BTF; moonscope doctor)"
            }
        }
    }
}

/// A thread's registers, and how often it had been switched out.
struct Saved {
    switches: u64,
    registers: Registers,
}

impl Saved {
    /// Are these the registers with which the thread waits? It was switched out to wait, and has not been since.
    fn are_of(&self, thread: &Thread) -> bool {
        let Place::Waiting { sp, pc, .. } = thread.place else {
            return false;
        };
        let register = |number: u32| self.registers.get(number as usize);
        self.switches == thread.switches
            && register(abi::MS_REG_RSP) == Some(sp)
            && register(abi::MS_REG_RIP) == Some(pc)
    }
}

/// The loaded iterator.
pub(crate) struct SavedRegisters {
    link: Link,
    skel: WaitingSkel<'static>,
    process: Pid,
    threads: FxHashMap<Pid, Saved>,
}

impl SavedRegisters {
    /// Loads it: some milliseconds.
    pub(crate) fn load() -> Result<Self, NotTold> {
        let why = |err: libbpf_rs::Error| match err.kind() {
            ErrorKind::PermissionDenied => NotTold::NotPermitted,
            _ => NotTold::NotTaken,
        };
        // nothing is printed: whoever is cut for it says why
        let printing = libbpf_rs::set_print(None);
        let loaded = Self::load_quietly();
        libbpf_rs::set_print(printing);
        let (skel, link) = loaded.map_err(why)?;
        Ok(Self {
            link,
            skel,
            process: 0,
            threads: FxHashMap::default(),
        })
    }

    fn load_quietly() -> Result<(WaitingSkel<'static>, Link), libbpf_rs::Error> {
        // the skeleton borrows this for as long as it lives, which is as long as anything is looked at
        let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let skel = WaitingSkelBuilder::default().open(storage)?.load()?;
        let link = skel.progs.waiting_threads.attach()?;
        Ok((skel, link))
    }

    /// What it took to verify the program.
    pub(crate) fn verifier_cost(&self) -> Option<VerifierCost> {
        verifier_cost(&self.skel.progs.waiting_threads)
    }

    /// The registers with which a thread waits as it was seen.
    pub(super) fn of(&mut self, process: Pid, thread: &Thread) -> Option<Registers> {
        if self.process != process {
            self.read(process);
        }
        self.known(thread).or_else(|| {
            // it has run since
            self.read(process);
            self.known(thread)
        })
    }

    fn known(&self, thread: &Thread) -> Option<Registers> {
        let saved = self.threads.get(&thread.tid)?;
        saved.are_of(thread).then_some(saved.registers)
    }

    /// Reads those of all threads of a process anew.
    fn read(&mut self, process: Pid) {
        self.process = process;
        self.threads.clear();
        if let Some(settings) = self.skel.maps.bss_data.as_deref_mut() {
            settings.ms_process = process;
        }
        let mut bytes = Vec::new();
        let read = Iter::new(&self.link).map(|mut iter| iter.read_to_end(&mut bytes));
        if matches!(read, Ok(Ok(_))) {
            let (records, _) = bytes.as_chunks::<RECORD>();
            self.threads.extend(records.iter().filter_map(parse));
        }
    }
}

/// Words of a `struct ms_waiting`: tid, switches, `struct pt_regs`.
const WORDS: usize = 2 + 21;
const RECORD: usize = 8 * WORDS;

/// Where each register is in `struct pt_regs` (`bpf/kernel.h`).
const ORDER: [(usize, u32); 17] = [
    (0, abi::MS_REG_R15),
    (1, abi::MS_REG_R14),
    (2, abi::MS_REG_R13),
    (3, abi::MS_REG_R12),
    (4, abi::MS_REG_RBP),
    (5, abi::MS_REG_RBX),
    (6, abi::MS_REG_R11),
    (7, abi::MS_REG_R10),
    (8, abi::MS_REG_R9),
    (9, abi::MS_REG_R8),
    (10, abi::MS_REG_RAX),
    (11, abi::MS_REG_RCX),
    (12, abi::MS_REG_RDX),
    (13, abi::MS_REG_RSI),
    (14, abi::MS_REG_RDI),
    (16, abi::MS_REG_RIP),
    (19, abi::MS_REG_RSP),
];

/// The code segment of 32-bit programs (arch/x86/include/asm/segment.h): no walk leads through those.
const CS: usize = 17;
const USER32_CS: u64 = 0x23;

fn parse(record: &[u8; RECORD]) -> Option<(Pid, Saved)> {
    let (words, _) = record.as_chunks::<8>();
    let word = |at: usize| words.get(at).map(|word| u64::from_ne_bytes(*word));
    let mut registers = Registers {
        regs: [0; abi::MS_NR_REGS as usize],
        valid: 0,
    };
    for (at, register) in ORDER {
        registers.set(register as usize, word(2 + at));
    }
    let saved = Saved {
        switches: word(1)?,
        registers,
    };
    (word(2 + CS)? != USER32_CS).then_some((Pid::try_from(word(0)?).ok()?, saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thread 7, switched out 5 times, with its register n of `struct pt_regs` being 100 + n, but for the code segment.
    fn record(cs: u64) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let (words, _) = bytes.as_chunks_mut::<8>();
        words[0] = 7u64.to_ne_bytes();
        words[1] = 5u64.to_ne_bytes();
        for at in 0..21 {
            words[2 + at] = (100 + at as u64).to_ne_bytes();
        }
        words[2 + CS] = cs.to_ne_bytes();
        bytes
    }

    #[test]
    fn registers_are_where_the_kernel_has_them() {
        let (tid, saved) = parse(&record(0x33)).unwrap();
        let register = |number: u32| saved.registers.get(number as usize);
        assert_eq!((tid, saved.switches), (7, 5));
        // include/uapi/asm/ptrace.h, __x86_64__: r15, r14, r13, r12, rbp, rbx, r11, ..., orig_rax, rip, cs, eflags, rsp, ss
        assert_eq!(register(abi::MS_REG_RBP), Some(104));
        assert_eq!(register(abi::MS_REG_RIP), Some(116));
        assert_eq!(register(abi::MS_REG_RSP), Some(119));
        assert!(parse(&record(USER32_CS)).is_none());
    }

    #[test]
    fn registers_of_another_wait_are_not_taken() {
        let (tid, saved) = parse(&record(0x33)).unwrap();
        let waits = |switches, sp, pc| Thread {
            tid,
            comm: String::new(),
            state: 'S',
            switches,
            place: Place::Waiting { call: None, sp, pc },
        };
        assert!(saved.are_of(&waits(5, 119, 116)));
        assert!(!saved.are_of(&waits(6, 119, 116)));
        assert!(!saved.are_of(&waits(5, 111, 116)));
        assert!(!saved.are_of(&waits(5, 119, 112)));
        let runs = Thread {
            place: Place::Running,
            ..waits(5, 119, 116)
        };
        assert!(!saved.are_of(&runs));
    }
}
