//! perf_event_open(2), and the ring of records that an event may have.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// `struct perf_event_attr`, its first 96 bytes (PERF_ATTR_SIZE_VER3, include/uapi/linux/perf_event.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period_or_freq: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
}

const TYPE_HARDWARE: u32 = 0;
const TYPE_SOFTWARE: u32 = 1;
const TYPE_TRACEPOINT: u32 = 2;
const HARDWARE_CYCLES: u64 = 0;
const SOFTWARE_CPU_CLOCK: u64 = 0;
const SOFTWARE_CONTEXT_SWITCHES: u64 = 3;
const SOFTWARE_DUMMY: u64 = 9;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CPU: u64 = 1 << 7;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const SAMPLE_STACK_USER: u64 = 1 << 13;
/// The general registers and the instruction pointer: bits of `enum perf_event_x86_regs`
/// (arch/x86/include/uapi/asm/perf_regs.h).
const GENERAL_REGISTERS: u64 = 0x1ff | 0xff << 16;
const CLOCK_MONOTONIC: i32 = 1;
// bits of `flags`
const DISABLED: u64 = 1 << 0;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const MMAP: u64 = 1 << 8;
const COMM: u64 = 1 << 9;
const FREQ: u64 = 1 << 10;
const WATERMARK: u64 = 1 << 14;
const SAMPLE_ID_ALL: u64 = 1 << 18;
const MMAP2: u64 = 1 << 23;
const COMM_EXEC: u64 = 1 << 24;
const USE_CLOCKID: u64 = 1 << 25;
const CONTEXT_SWITCH: u64 = 1 << 26;
/// PERF_FLAG_FD_CLOEXEC
const OPEN_CLOEXEC: u64 = 1 << 3;
/// _IO('$', n)
const IOC_ENABLE: libc::Ioctl = 0x2400;
const IOC_DISABLE: libc::Ioctl = 0x2401;

impl Attr {
    fn new(kind: u32, config: u64, flags: u64) -> Self {
        Self {
            kind,
            size: size_of::<Self>() as u32,
            config,
            flags: flags | DISABLED,
            ..Self::default()
        }
    }

    /// CPU cycles, so many that there are `hz` samples per second.
    pub fn cycles(hz: u64) -> Self {
        Self {
            sample_period_or_freq: hz,
            ..Self::new(TYPE_HARDWARE, HARDWARE_CYCLES, FREQ)
        }
    }

    /// The kernel's timer.
    pub fn cpu_clock(hz: u64) -> Self {
        Self {
            sample_period_or_freq: 1_000_000_000 / hz,
            ..Self::new(TYPE_SOFTWARE, SOFTWARE_CPU_CLOCK, 0)
        }
    }

    /// A counter of the processor (`enum perf_hw_id`), a sample for each `period` events.
    pub fn hardware(config: u64, period: u64) -> Self {
        Self {
            sample_period_or_freq: period,
            ..Self::new(TYPE_HARDWARE, config, 0)
        }
    }

    /// A counter of the kernel (`enum perf_sw_ids`).
    pub fn software(config: u64, period: u64) -> Self {
        Self {
            sample_period_or_freq: period,
            ..Self::new(TYPE_SOFTWARE, config, 0)
        }
    }

    /// A tracepoint, by its number in tracefs.
    pub fn tracepoint(number: u64) -> Self {
        Self {
            sample_period_or_freq: 1,
            ..Self::new(TYPE_TRACEPOINT, number, 0)
        }
    }

    /// A breakpoint in a file (`kind` is that of uprobes; `text` its path) or in the kernel (of kprobes; a function).
    /// `counter` is where the file has a counter of those who look; 0: nowhere. kernel/events/core.c, perf_uprobe_event_init
    pub fn probe(kind: u32, is_return: bool, text: &CStr, offset: u64, counter: u64) -> Self {
        const COUNTER_SHIFT: u32 = 32;
        Self {
            config1: text.as_ptr() as u64,
            config2: offset,
            sample_period_or_freq: 1,
            ..Self::new(kind, u64::from(is_return) | counter << COUNTER_SHIFT, 0)
        }
    }

    /// A record of the CPU, the user registers and 60 KiB of the stack for each millisecond that a thread runs its own
    /// code; a record is at most 64 KiB.
    pub fn user_state() -> Self {
        Self {
            sample_period_or_freq: 1_000_000,
            sample_type: SAMPLE_CPU | SAMPLE_REGS_USER | SAMPLE_STACK_USER,
            sample_regs_user: GENERAL_REGISTERS,
            sample_stack_user: 60 << 10,
            // records
            wakeup: 1,
            ..Self::new(
                TYPE_SOFTWARE,
                SOFTWARE_CPU_CLOCK,
                EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR,
            )
        }
    }

    /// Whenever a thread is taken off its processor a record of the CPU and its user registers, and then one of that; and one
    /// whenever it is put back; they end with the CPU. It happens in the kernel, so it needs the permission to look there.
    pub fn standstill() -> Self {
        Self {
            sample_period_or_freq: 1,
            sample_type: SAMPLE_CPU | SAMPLE_REGS_USER,
            sample_regs_user: GENERAL_REGISTERS,
            ..Self::new(
                TYPE_SOFTWARE,
                SOFTWARE_CONTEXT_SWITCHES,
                CONTEXT_SWITCH | SAMPLE_ID_ALL,
            )
        }
    }

    /// No samples, but records of executable mappings and execs, each ending with its time. Whoever polls
    /// the event is woken for each `watermark` bytes.
    pub fn side_band(watermark: u32) -> Self {
        let flags = MMAP | MMAP2 | COMM | COMM_EXEC | SAMPLE_ID_ALL | USE_CLOCKID | WATERMARK;
        Self {
            sample_type: SAMPLE_TIME,
            clockid: CLOCK_MONOTONIC,
            wakeup: watermark,
            ..Self::new(TYPE_SOFTWARE, SOFTWARE_DUMMY, flags)
        }
    }
}

/// Whose an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// All processes on one CPU.
    Cpu(u32),
    /// All processes, of something that has no CPU: a probe.
    Everybody,
    /// One process.
    Process(u32),
}

/// Opens an event for all processes on a CPU; it is stopped.
pub fn open(attr: &Attr, cpu: u32) -> io::Result<OwnedFd> {
    open_for(attr, Whose::Cpu(cpu))
}

/// Opens an event; it is stopped. Texts that `attr` points at must live until this returns.
pub fn open_for(attr: &Attr, whose: Whose) -> io::Result<OwnedFd> {
    let (pid, cpu) = match whose {
        Whose::Cpu(cpu) => (-1, cpu as libc::c_int),
        // whatever CPU: a program runs for each hit, and none of them is counted
        Whose::Everybody => (-1, 0),
        Whose::Process(pid) => (pid as libc::pid_t, -1),
    };
    // SAFETY: perf_event_open(attr, process, cpu, no group, flags) reads `size` bytes of attr.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            pid,
            cpu,
            -1,
            OPEN_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new file descriptor that nobody else owns; it fits an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Starts an event.
pub fn enable(event: BorrowedFd<'_>) -> io::Result<()> {
    control(event, IOC_ENABLE)
}

/// Stops an event: nothing of it runs any more when this returns.
pub fn disable(event: BorrowedFd<'_>) -> io::Result<()> {
    control(event, IOC_DISABLE)
}

fn control(event: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: these requests take no argument.
    match unsafe { libc::ioctl(event.as_raw_fd(), request, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// `struct perf_event_mmap_page`
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// The records of one event on one CPU.
pub struct RecordRing {
    base: NonNull<u8>,
    page: usize,
    data: usize,
    record: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone; the kernel's side of it is ordered by DATA_HEAD.
unsafe impl Send for RecordRing {}

impl RecordRing {
    /// Maps the ring of an event; `pages` is a power of two.
    pub fn map(event: impl AsFd, pages: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                (pages + 1) * page,
                protection,
                flags,
                event,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            base,
            page,
            data: pages * page,
            record: Vec::new(),
        })
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: an aligned u64 in the first page, which is mapped as long as `self` lives.
        unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// Hands out kind, misc and body of each new record.
    pub fn drain(&mut self, mut take: impl FnMut(u32, u16, &[u8])) {
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.position(DATA_TAIL).load(Ordering::Relaxed);
        while tail < head {
            let mut header = [0; 8];
            self.copy(tail, &mut header);
            let [kind @ .., _, _, _, _] = header;
            let misc = u16::from_ne_bytes([header[4], header[5]]);
            let size = u16::from_ne_bytes([header[6], header[7]]);
            // the kernel writes no such record; without this a damaged one would loop forever
            if size < 8 || u64::from(size) > head - tail {
                break;
            }
            let mut record = std::mem::take(&mut self.record);
            record.resize(usize::from(size) - 8, 0);
            self.copy(tail + 8, &mut record);
            take(u32::from_ne_bytes(kind), misc, &record);
            self.record = record;
            tail += u64::from(size);
        }
        self.position(DATA_TAIL).store(head, Ordering::Release);
    }

    /// Copies from a position of the ring, which may lie across its end.
    fn copy(&self, from: u64, to: &mut [u8]) {
        let start = (from % self.data as u64) as usize;
        let first = to.len().min(self.data - start);
        let (before, after) = to.split_at_mut(first);
        // SAFETY: both parts lie within the data pages behind the first page; `size` is a u16, and the
        // ring is larger.
        unsafe {
            let data = self.base.as_ptr().add(self.page);
            std::ptr::copy_nonoverlapping(data.add(start), before.as_mut_ptr(), before.len());
            std::ptr::copy_nonoverlapping(data, after.as_mut_ptr(), after.len());
        }
    }
}

impl Drop for RecordRing {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.page + self.data) };
    }
}
