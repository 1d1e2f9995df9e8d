//! BPF: which kinds of programs and maps the kernel takes from us, tried with programs of two instructions.

use super::check::Check;
use super::kernel::{LESS_LOCKDOWN, WITH_BTF};
use super::perf::{self, Clock};
use super::privilege;
use libbpf_sys as sys;
use moonscope_process::reason;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const GROUP: &str = "bpf";

pub(super) fn checks() -> Vec<Check> {
    let perf_event = perf_event();
    let (kernel_memory, bpf_loop) = match &perf_event {
        Ok(_) => (kernel_memory(), bpf_loop()),
        Err(_) => (untried("kernel memory"), untried("bpf_loop")),
    };
    vec![
        needed("perf event program", "samples: loaded and attached", perf_event),
        needed(
            "raw tracepoint",
            "fork, exec, exit: loaded and attached",
            raw_tracepoint(),
        ),
        kernel_memory,
        needed("ring buffer", "carries the samples", ring_buffer()),
        bpf_loop,
        wanted(
            "BTF tracepoint",
            "off-CPU and I/O events",
            tracing("sched_switch", sys::BPF_TRACE_RAW_TP),
        ),
        wanted(
            "tracepoint",
            "I/O events on old kernels",
            load(sys::BPF_PROG_TYPE_TRACEPOINT, None),
        ),
        wanted("uprobe", "events on functions, when asked for", uprobe()),
        wanted(
            "task iterator",
            "whole stacks of threads that wait, in code with frame pointers",
            tracing("task", sys::BPF_TRACE_ITER),
        ),
    ]
}

/// Recording cannot do without it.
fn needed(name: &'static str, used: &'static str, result: io::Result<OwnedFd>) -> Check {
    match result {
        Ok(_) => Check::ok(GROUP, name, used),
        Err(err) => {
            let remedy = remedy(&err);
            Check::info(GROUP, name, reason(&err)).missing("nothing can be recorded", remedy)
        }
    }
}

/// Other events than `cpu` use it.
fn wanted(name: &'static str, used: &'static str, result: io::Result<OwnedFd>) -> Check {
    match result {
        Ok(_) => Check::ok(GROUP, name, used),
        // libbpf's answer where no type information has it
        Err(err) if err.raw_os_error() == Some(libc::ESRCH) => {
            let found = "not in the kernel's type information (BTF)";
            Check::info(GROUP, name, found).limited(format!("no {used}"), WITH_BTF)
        }
        Err(err) => {
            let remedy = remedy(&err);
            Check::info(GROUP, name, reason(&err)).limited(format!("no {used}"), remedy)
        }
    }
}

fn remedy(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(libc::EPERM) => privilege::remedy().to_owned(),
        // bpf(2) does not say this of such programs; perf_event_open(2) does
        Some(libc::EACCES) => perf::not_opened(err),
        Some(libc::ENOSYS) => {
            "boot a kernel built with CONFIG_BPF_SYSCALL=y, or allow bpf() in seccomp".to_owned()
        }
        _ => "boot a newer kernel (5.17 or later has all), or one built with this feature".to_owned(),
    }
}

/// `r0 = 0; exit`.
fn instructions() -> [sys::bpf_insn; 2] {
    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    // SAFETY: all zeros is a valid instruction of plain numbers.
    let mut program: [sys::bpf_insn; 2] = unsafe { std::mem::zeroed() };
    program[0].code = MOV64_IMM;
    program[1].code = EXIT;
    program
}

/// Loads the smallest program of a kind; `attach` is its attach type and the kernel's type that it attaches to.
fn load(kind: sys::bpf_prog_type, attach: Option<(sys::bpf_attach_type, u32)>) -> io::Result<OwnedFd> {
    let program = instructions();
    // SAFETY: all zeros are the default options.
    let mut options: sys::bpf_prog_load_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of::<sys::bpf_prog_load_opts>() as sys::size_t;
    if let Some((attach_type, btf_id)) = attach {
        options.expected_attach_type = attach_type;
        options.attach_btf_id = btf_id;
    }
    // SAFETY: names are C strings, `program` and `options` live until the call returns.
    owned(unsafe {
        sys::bpf_prog_load(
            kind,
            c"moonscope_try".as_ptr(),
            c"Dual BSD/GPL".as_ptr(),
            program.as_ptr(),
            program.len() as sys::size_t,
            &mut options,
        )
    })
}

/// libbpf returns a descriptor or a negative error number.
fn owned(result: i32) -> io::Result<OwnedFd> {
    match result {
        // SAFETY: a new descriptor that nobody else knows.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

fn perf_event() -> io::Result<OwnedFd> {
    /// `PERF_EVENT_IOC_SET_BPF`
    const SET_BPF: u64 = 0x4004_2408;
    let program = load(sys::BPF_PROG_TYPE_PERF_EVENT, None)?;
    let event = perf::open(Clock::CpuClock).or_else(|_| perf::open(Clock::Cycles))?;
    // SAFETY: both descriptors are open; this ioctl takes a descriptor as its argument.
    match unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF as libc::Ioctl, program.as_raw_fd()) } {
        0 => Ok(program),
        _ => Err(io::Error::last_os_error()),
    }
}

fn raw_tracepoint() -> io::Result<OwnedFd> {
    let program = load(sys::BPF_PROG_TYPE_RAW_TRACEPOINT, None)?;
    // SAFETY: a C string and an open descriptor. The tracepoint is left when the result is dropped.
    owned(unsafe { sys::bpf_raw_tracepoint_open(c"sched_process_exit".as_ptr(), program.as_raw_fd()) })
}

fn tracing(target: &str, attach_type: sys::bpf_attach_type) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(target)?;
    let id = find_btf_id(&name, attach_type)?;
    load(sys::BPF_PROG_TYPE_TRACING, Some((attach_type, id)))
}

fn find_btf_id(name: &CStr, attach_type: sys::bpf_attach_type) -> io::Result<u32> {
    // SAFETY: a C string that lives until the call returns.
    let id = unsafe { sys::libbpf_find_vmlinux_btf_id(name.as_ptr(), attach_type) };
    u32::try_from(id).map_err(|_| io::Error::from_raw_os_error(-id))
}

fn uprobe() -> io::Result<OwnedFd> {
    // Uprobes are programs of the kprobe type; the kernel has them if it has the event source.
    std::fs::metadata("/sys/bus/event_source/devices/uprobe/type")?;
    load(sys::BPF_PROG_TYPE_KPROBE, None)
}

fn ring_buffer() -> io::Result<OwnedFd> {
    let size = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    let (kind, name) = (sys::BPF_MAP_TYPE_RINGBUF, c"moonscope_try");
    // SAFETY: a C string; no options.
    owned(unsafe { sys::bpf_map_create(kind, name.as_ptr(), 0, 0, size, std::ptr::null()) })
}

fn untried(name: &'static str) -> Check {
    Check::info(GROUP, name, "cannot be tried without a perf event program")
}

/// May perf event programs call this? 1 yes, 0 no, below the error.
fn has_helper(helper: sys::bpf_func_id) -> i32 {
    // SAFETY: plain numbers; no options.
    unsafe { sys::libbpf_probe_bpf_helper(sys::BPF_PROG_TYPE_PERF_EVENT, helper, std::ptr::null()) }
}

/// All kernels have the helper; `lockdown=confidentiality` takes it away. Unlike the file in securityfs this can be
/// tried everywhere.
fn kernel_memory() -> Check {
    const NAME: &str = "kernel memory";
    match has_helper(sys::BPF_FUNC_probe_read_kernel) {
        1 => Check::ok(GROUP, NAME, "tasks and saved registers can be read"),
        0 => Check::info(GROUP, NAME, "the kernel is locked down (confidentiality)").missing(
            "BPF programs that read the kernel's memory are refused, also for root",
            LESS_LOCKDOWN,
        ),
        error => {
            let err = io::Error::from_raw_os_error(-error);
            Check::info(GROUP, NAME, reason(&err)).limited("not known", remedy(&err))
        }
    }
}

fn bpf_loop() -> Check {
    const NAME: &str = "bpf_loop";
    match has_helper(sys::BPF_FUNC_loop) {
        1 => Check::ok(GROUP, NAME, "walks up to 1024 frames"),
        // tests/kernels has stacks of 220 frames walked by Linux 5.10
        0 => Check::info(
            GROUP,
            NAME,
            "not in this kernel (Linux 5.17 has it): a plain loop walks as far",
        ),
        error => {
            let err = io::Error::from_raw_os_error(-error);
            Check::info(GROUP, NAME, reason(&err)).limited("not known", remedy(&err))
        }
    }
}
