//! What the kernel knows about our programs: how long they run, and how much work it was to verify them.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libbpf_rs::skel::Skel;
use libbpf_rs::{ProgramMut, libbpf_sys};

use crate::collectors;
use crate::error::ProbeError;
use crate::limits::Limits;
use crate::live::registers::SavedRegisters;
use crate::object::{Object, Settings, WalkLoop};

/// Time spent in our programs, from the kernel's own statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Nanoseconds in the programs.
    pub nanoseconds: u64,
    /// How often they ran.
    pub runs: u64,
}

/// What it took to verify a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierCost {
    /// Name of the program in `bpf/`.
    pub program: String,
    /// Instructions that the verifier went through, of one million that it allows (Linux 5.16; 0 before).
    pub verified: u32,
    /// Instructions of the program.
    pub instructions: u32,
}

/// Loads all programs, with one walker loop.
fn load_all(walk_loop: WalkLoop) -> Result<Object, ProbeError> {
    let settings = Settings {
        force_loop: Some(walk_loop),
        ..Settings::default()
    };
    let mut collectors = collectors::create(&collectors::all())?;
    Object::load(&settings, &Limits::new(false), &mut collectors)
}

/// Loads the programs and says what it took to verify each, with one walker loop.
pub fn verifier_costs(walk_loop: WalkLoop) -> Result<Vec<VerifierCost>, ProbeError> {
    let object = load_all(walk_loop)?;
    let loaded = object.skel.object().progs_mut();
    let of_object = loaded
        .filter(|program| program.autoload())
        .filter_map(|program| verifier_cost(&program));
    let of_waiting = SavedRegisters::load()
        .ok()
        .and_then(|waiting| waiting.verifier_cost());
    Ok(of_object.chain(of_waiting).collect())
}

/// What it took to verify a loaded program.
pub(crate) fn verifier_cost(program: &ProgramMut<'_>) -> Option<VerifierCost> {
    let info = program_info(program)?;
    Some(VerifierCost {
        program: program.name().to_string_lossy().into_owned(),
        verified: info.verified_insns,
        instructions: info.xlated_prog_len / 8,
    })
}

pub(crate) fn program_info(program: &ProgramMut<'_>) -> Option<libbpf_sys::bpf_prog_info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of_val(&info) as u32;
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: the call fills at most `len` bytes of `info`.
    let got =
        unsafe { libbpf_sys::bpf_obj_get_info_by_fd(fd, std::ptr::from_mut(&mut info).cast(), &mut len) };
    (got == 0).then_some(info)
}

/// Loads the programs and says of each whether it runs on a stack of its own, one for each CPU (Linux 6.13), and not on that
/// of the thread: by the machine code that the kernel made of it, which it shows to whoever sees the addresses of kernel
/// functions. Of x86-64.
pub fn have_own_stacks(walk_loop: WalkLoop) -> Result<Vec<(String, bool)>, ProbeError> {
    /// `add r9, gs:[...]`: nothing but the stack is in r9 (emit_priv_frame_ptr, arch/x86/net/bpf_jit_comp.c).
    const FINDS_STACK: [u8; 5] = [0x65, 0x4c, 0x03, 0x0c, 0x25];
    let object = load_all(walk_loop)?;
    let loaded = object.skel.object().progs_mut();
    Ok(loaded
        .filter(|program| program.autoload())
        .map(|program| {
            let code = machine_code(&program);
            let has_one = code.windows(FINDS_STACK.len()).any(|bytes| bytes == FINDS_STACK);
            (program.name().to_string_lossy().into_owned(), has_one)
        })
        .collect())
}

/// What the kernel made of a program, with all its functions; empty if it does not show that.
fn machine_code(program: &ProgramMut<'_>) -> Vec<u8> {
    let Some(known) = program_info(program) else {
        return Vec::new();
    };
    let mut code = vec![0u8; known.jited_prog_len as usize];
    let mut info = libbpf_sys::bpf_prog_info {
        jited_prog_len: known.jited_prog_len,
        jited_prog_insns: code.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut len = size_of_val(&info) as u32;
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: the call fills at most `len` bytes of `info`, and as many of `code` as it is told there are.
    let got =
        unsafe { libbpf_sys::bpf_obj_get_info_by_fd(fd, std::ptr::from_mut(&mut info).cast(), &mut len) };
    if got != 0 {
        code.clear();
    }
    code
}

/// Keeps the kernel's BPF run-time statistics on for as long as it lives (Linux 5.8).
pub struct StatsSwitch(#[allow(dead_code, reason = "closing it switches the statistics off")] OwnedFd);

impl StatsSwitch {
    /// Switches them on; they cost some 20 to 40 nanoseconds for each run of each BPF program.
    pub fn on() -> Option<Self> {
        // SAFETY: no memory is passed; the result is a new file descriptor or negative.
        let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        // SAFETY: as above, nobody else owns it.
        (fd >= 0).then(|| Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}
