//! Runs programs one instruction of the VM after the other and compares what the processor does with what
//! [`VmText`] says of the place. Outside of the VM they run at full speed: meanwhile all of its code is breakpoints.
//!
//! The truth is a list of the VM's frames, kept by watching the entries: at the first instruction of an entry stub the
//! CFA is rsp + 8 and the registers are the caller's; the frame is gone when the stack pointer is at the CFA or above.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::FileExt;

use common::{Build, Host};
use moonscope_luajit::{CallerBase, GcMode, Layout, SavedRegister, VmText};
use moonscope_process::{ProcessMemory, RemoteMemory};

/// The script takes about 60,000.
const MAX_STEPS: u64 = 1_000_000;
const BREAKPOINT: u8 = 0xcc;

type Registers = libc::user_regs_struct;

/// One frame of the VM on the native stack.
struct Frame {
    cfa: u64,
    at_entry: Registers,
}

struct Tracer<'a> {
    pid: libc::pid_t,
    memory: ProcessMemory,
    /// `/proc/PID/mem`, and what belongs into the VM's text.
    text: std::fs::File,
    code: Vec<u8>,
    vm: &'a VmText,
    layout: Layout,
    bias: u64,
    g: u64,
    frames: Vec<Frame>,
    seen: std::collections::BTreeSet<u64>,
    steps: u64,
}

/// How many steps in each kind of place.
#[derive(Debug, Default)]
struct Counts {
    window: u64,
    helper: u64,
    below: u64,
    dispatch: u64,
    /// `L->cframe` of `G->cur_L` names the innermost frame there.
    live: u64,
    /// It does not.
    not_live: u64,
}

fn ptrace(request: libc::c_uint, pid: libc::pid_t, data: *mut libc::c_void) {
    // SAFETY: the requests used here read or write at most the structure that `data` names
    let result = unsafe { libc::ptrace(request, pid, std::ptr::null_mut::<libc::c_void>(), data) };
    assert_eq!(result, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
}

fn wait(pid: libc::pid_t) -> libc::c_int {
    let mut status = 0;
    // SAFETY: `status` lives for the call
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert_eq!(waited, pid);
    status
}

impl Tracer<'_> {
    fn registers(&self) -> Registers {
        // SAFETY: a structure of numbers
        let mut regs: Registers = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.pid, (&raw mut regs).cast());
        regs
    }

    fn reference(&self, addr: u64) -> u64 {
        match self.layout.mode {
            GcMode::Gc64 => self.memory.read_u64(addr).unwrap(),
            GcMode::Gc32 => self.memory.read_u32(addr).unwrap().into(),
        }
    }

    /// Runs to the SIGSTOP at the end of the script.
    fn run(&mut self) -> Counts {
        let mut counts = Counts::default();
        loop {
            let regs = self.registers();
            let pc = regs.rip.wrapping_sub(self.bias);
            if self.vm.contains(pc) {
                self.check(&regs, &mut counts);
                self.steps += 1;
                assert!(self.steps < MAX_STEPS);
                ptrace(libc::PTRACE_SINGLESTEP, self.pid, std::ptr::null_mut());
                assert_eq!(self.stopped_by(), libc::SIGTRAP);
                continue;
            }
            self.leave_frames(&regs);
            if !self.run_to_the_vm() {
                return counts;
            }
        }
    }

    /// False if the script has ended.
    fn run_to_the_vm(&mut self) -> bool {
        let text = self.vm.start + self.bias;
        self.text
            .write_all_at(&vec![BREAKPOINT; self.code.len()], text)
            .unwrap();
        ptrace(libc::PTRACE_CONT, self.pid, std::ptr::null_mut());
        let signal = self.stopped_by();
        self.text.write_all_at(&self.code, text).unwrap();
        if signal == libc::SIGSTOP {
            return false;
        }
        assert_eq!(signal, libc::SIGTRAP);
        let mut regs = self.registers();
        regs.rip -= 1;
        ptrace(libc::PTRACE_SETREGS, self.pid, (&raw mut regs).cast());
        true
    }

    fn stopped_by(&self) -> libc::c_int {
        let status = wait(self.pid);
        assert!(libc::WIFSTOPPED(status), "ended: {status:#x}");
        libc::WSTOPSIG(status)
    }

    fn leave_frames(&mut self, regs: &Registers) {
        while self.frames.last().is_some_and(|frame| regs.rsp >= frame.cfa) {
            self.frames.pop();
        }
    }

    fn check(&mut self, regs: &Registers, counts: &mut Counts) {
        let pc = regs.rip.wrapping_sub(self.bias);
        self.leave_frames(regs);
        self.seen.insert(pc);
        let entries = &self.vm.entries;
        if [entries.resume, entries.pcall, entries.call, entries.cpcall].contains(&pc) {
            self.enter(regs, 8);
        } else if entries.ffi_callback == Some(pc) {
            self.enter(regs, 16);
        }
        if let Some(row) = self.vm.helper(pc) {
            counts.helper += 1;
            let back = self
                .memory
                .read_u64(regs.rsp + u64::from(row.cfa_offset) - 8)
                .unwrap();
            if let Some(frame) = self
                .frames
                .last()
                .filter(|_| self.vm.contains(back.wrapping_sub(self.bias)))
            {
                let cfa = regs.rsp + u64::from(row.cfa_offset);
                assert_eq!(cfa, frame.cfa - u64::from(self.vm.cframe_size), "helper {pc:#x}");
            }
            return;
        }
        let frame = self
            .frames
            .last()
            .unwrap_or_else(|| panic!("no frame at {pc:#x}"));
        let cframe = frame.cfa - u64::from(self.vm.cframe_size);
        if let Some(window) = self.vm.window(pc) {
            counts.window += 1;
            assert_eq!(
                regs.rsp + u64::from(window.cfa_offset),
                frame.cfa,
                "window at {pc:#x}"
            );
            self.check_saved(&window.saved, frame, regs, pc);
            if window.caller_base == CallerBase::PcRegister {
                assert_eq!(regs.rbx & 7, 0, "PC is no base at {pc:#x}");
            }
            return;
        }
        if self.vm.below.iter().any(|range| range.contains(&pc)) {
            counts.below += 1;
            assert!(regs.rsp < cframe, "not below at {pc:#x}");
        } else {
            assert_eq!(regs.rsp, cframe, "outside of windows at {pc:#x}");
            if self.vm.dispatch.contains(&pc) {
                counts.dispatch += 1;
            }
        }
        // outside of windows the running coroutine names this frame
        let current = self.reference(self.g + u64::from(self.layout.build.cur_l));
        let raw = self
            .memory
            .read_u64(current + u64::from(self.layout.fields().l_cframe))
            .unwrap()
            & !3;
        if raw == cframe {
            counts.live += 1;
        } else {
            counts.not_live += 1;
        }
    }

    fn enter(&mut self, regs: &Registers, to_cfa: u64) {
        self.frames.push(Frame {
            cfa: regs.rsp + to_cfa,
            at_entry: *regs,
        });
    }

    fn check_saved(&self, saved: &[SavedRegister], frame: &Frame, regs: &Registers, pc: u64) {
        let number = |regs: &Registers, register| match register {
            3 => regs.rbx,
            6 => regs.rbp,
            12 => regs.r12,
            13 => regs.r13,
            14 => regs.r14,
            15 => regs.r15,
            _ => panic!("register {register}"),
        };
        let callback = self.vm.entries.ffi_callback == Some(frame.at_entry.rip.wrapping_sub(self.bias));
        for register in [3u8, 6, 12, 13, 14, 15] {
            // the trampoline of a callback has changed rbp already
            if callback && register == 6 {
                continue;
            }
            let now = match saved.iter().find(|saved| saved.register == register) {
                Some(saved) => {
                    let at = frame.cfa.wrapping_add_signed(saved.cfa_offset.into());
                    self.memory.read_u64(at).unwrap()
                }
                None => number(regs, register),
            };
            assert_eq!(
                now,
                number(&frame.at_entry, register),
                "register {register} at {pc:#x}"
            );
        }
    }
}

fn step_through(build: &Build) -> Option<()> {
    let vm = build.vm();
    let layout = build.layout();
    let mut host = Host::start(build, 1)?;
    let pid = libc::pid_t::try_from(host.pid()).unwrap();
    let (bias, _) = host.bias(build);
    ptrace(libc::PTRACE_SEIZE, pid, std::ptr::null_mut());
    host.go();
    // its own SIGSTOP: first as a signal, then as a group stop if it is delivered; it is not
    let status = wait(pid);
    assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP);
    let memory = ProcessMemory::new(host.pid());
    let mut code = vec![0; usize::try_from(vm.end - vm.start).unwrap()];
    memory.read_exact(vm.start + bias, &mut code).unwrap();
    let mem = format!("/proc/{pid}/mem");
    let mut tracer = Tracer {
        pid,
        memory,
        text: std::fs::OpenOptions::new().write(true).open(mem).unwrap(),
        code,
        vm: &vm,
        layout,
        bias,
        g: host.g[0],
        frames: Vec::new(),
        seen: std::collections::BTreeSet::new(),
        steps: 0,
    };
    let counts = tracer.run();
    println!(
        "{}: {} steps, {} places, {counts:?}",
        build.path.display(),
        tracer.steps,
        tracer.seen.len()
    );
    let visited = vm
        .windows
        .iter()
        .filter(|row| tracer.seen.contains(&row.start))
        .count();
    println!("{visited} of {} windows visited", vm.windows.len());
    assert!(tracer.frames.is_empty() && counts.window > 0 && counts.helper > 0);
    // the fast function coroutine.resume sets cur_L back a few instructions after the coroutine has left
    assert!(counts.not_live * 100 < counts.live);
    Some(())
}

#[test]
fn at_every_instruction_of_a_program_the_frame_is_where_the_windows_say() {
    for build in common::builds().iter().filter(|build| build.is_library()) {
        step_through(build);
    }
}
