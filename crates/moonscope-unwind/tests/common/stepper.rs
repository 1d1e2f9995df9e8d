//! A program that is stepped instruction by instruction: whoever saw every call and return knows its stack.
//!
//! This is the truth where unwind information ends or is wrong and debuggers, which follow it too, know no better.

use std::ffi::CString;
use std::io;
use std::path::Path;

use moonscope_unwind::walk_host::{Maps, host_walk};
use moonscope_unwind::{Registers, StackCopy, Walk, WalkEnd, walk};

use crate::target::{Files, Process, Snapshot, ptrace};

const DEPTH: usize = 256;

/// A call that has not returned.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// Where the return address is.
    slot: u64,
    return_address: u64,
}

/// A thread that is stepped, alone in its process.
pub struct Stepper {
    pid: i32,
    files: Files,
    process: Process,
    maps: Maps,
    regs: libc::user_regs_struct,
    calls: Vec<Call>,
}

impl Stepper {
    /// Starts a program; it stands at its first instruction, or its loader's.
    pub fn start(program: &Path) -> Stepper {
        let path = CString::new(program.as_os_str().as_encoded_bytes()).unwrap();
        let arguments = [path.as_ptr(), std::ptr::null()];
        let environment = [std::ptr::null()];
        // SAFETY: the child calls nothing but system calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: both lists end with a null pointer, and the strings live on.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                libc::_exit(127);
            }
        }
        Stepper::of(pid)
    }

    /// Takes a traced thread that is about to stop.
    pub fn of(pid: i32) -> Stepper {
        let status = wait(pid);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        let regs = registers(pid).unwrap();
        let mut files = Files::default();
        let process = files.resolve(&Snapshot::read(pid, &regs));
        Stepper {
            pid,
            maps: process.maps(),
            files,
            process,
            regs,
            calls: Vec::new(),
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn pc(&self) -> u64 {
        self.regs.rip
    }

    /// Is `int3` the next instruction?
    pub fn is_at_trap(&self) -> bool {
        self.word(self.regs.rip).unwrap() & 0xff == 0xcc
    }

    pub fn rax(&self) -> u64 {
        self.regs.rax
    }

    pub fn request(&self, request: libc::c_uint, data: usize) {
        ptrace(request, self.pid, data as *mut libc::c_void).unwrap();
    }

    /// What the last event of ptrace was about: a thread that was made.
    pub fn message(&self) -> i32 {
        let mut message: libc::c_ulong = 0;
        self.request(libc::PTRACE_GETEVENTMSG, (&raw mut message) as usize);
        message as i32
    }

    /// Lets it run to its next `int3`, or the next stop that `request` asked for; the wait status.
    pub fn run(&mut self) -> i32 {
        self.request(libc::PTRACE_CONT, 0);
        let status = wait(self.pid);
        self.look();
        status
    }

    /// Takes the stack that it has now for the true one.
    pub fn believe(&mut self) {
        let user = self.user_walk();
        assert!(user.end.is_complete(), "{}", self.describe(&user));
        self.calls = user.frames[1..]
            .iter()
            .rev()
            .map(|frame| Call {
                slot: u64::MAX,
                return_address: frame.addr,
            })
            .collect();
    }

    /// Executes one instruction; `false` if the program has ended, or stopped for another reason (the wait status).
    pub fn step(&mut self) -> Result<(), i32> {
        let (pc, sp) = (self.regs.rip, self.regs.rsp);
        self.request(libc::PTRACE_SINGLESTEP, 0);
        let status = wait(self.pid);
        if !libc::WIFSTOPPED(status) {
            return Err(status);
        }
        self.look();
        if status >> 8 != libc::SIGTRAP {
            return Err(status);
        }
        let is_call = |return_address: &u64| (pc + 2..=pc + 8).contains(return_address);
        if self.regs.rsp == sp.wrapping_sub(8)
            && let Some(return_address) = self.word(self.regs.rsp).filter(is_call)
        {
            self.calls.push(Call {
                slot: self.regs.rsp,
                return_address,
            });
        }
        let sp = self.regs.rsp;
        while self.calls.last().is_some_and(|call| call.slot < sp) {
            self.calls.pop();
        }
        Ok(())
    }

    fn look(&mut self) {
        self.regs = registers(self.pid).unwrap();
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let local = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: into.len(),
        };
        // SAFETY: writes to `into` only.
        let read = unsafe { libc::process_vm_readv(self.pid, &local, 1, &remote, 1, 0) };
        read == into.len() as isize
    }

    /// The address where it is, and those to which its calls return.
    pub fn truth(&self) -> Vec<u64> {
        let callers = self.calls.iter().rev().map(|call| call.return_address);
        std::iter::once(self.regs.rip).chain(callers).collect()
    }

    /// What the walker of user space says.
    pub fn user_walk(&mut self) -> Walk {
        self.with_new_mappings(Stepper::walk_copy)
    }

    /// What the kernel's walker says.
    pub fn kernel_walk(&mut self) -> Walk {
        self.with_new_mappings(|this| {
            let memory = |address: u64, into: &mut [u8]| this.read(address, into);
            let registers = by_dwarf_number(&this.regs);
            host_walk(&this.maps, &this.files.rules, &registers, DEPTH as u32, memory)
        })
    }

    fn with_new_mappings(&mut self, walk: impl Fn(&Stepper) -> Walk) -> Walk {
        let known = walk(self);
        if known.end != WalkEnd::NoMapping {
            return known;
        }
        self.process = self.files.resolve(&Snapshot::read(self.pid, &self.regs));
        self.maps = self.process.maps();
        walk(self)
    }

    fn walk_copy(&self) -> Walk {
        let mut bytes = vec![0; 1 << 15];
        let start = self.regs.rsp - 128;
        // up to the end of the mapping
        while !bytes.is_empty() && !self.read(start, &mut bytes) {
            let page = (start + bytes.len() as u64 - 1) & !4095;
            bytes.truncate(page.saturating_sub(start) as usize);
        }
        let stack = StackCopy {
            sp: start,
            bytes: &bytes,
        };
        walk(&self.process, by_dwarf_number(&self.regs), &stack, DEPTH)
    }

    pub fn describe(&self, walk: &Walk) -> String {
        let name = |address: &u64| format!("  {address:#x} {}\n", self.process.name(*address));
        let walked: String = walk.frames.iter().map(|frame| name(&frame.addr)).collect();
        let truth: String = self.truth().iter().map(name).collect();
        format!("{:?}\n{walked}but it is\n{truth}", walk.end)
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        // SAFETY: ends and reaps a child of our own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child or a thread that this thread traces.
    let result = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    assert_eq!(result, pid, "{}", io::Error::last_os_error());
    status
}

fn registers(pid: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: the structure is plain numbers.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, (&raw mut regs).cast())?;
    Ok(regs)
}

fn by_dwarf_number(regs: &libc::user_regs_struct) -> Registers {
    Registers::new([
        regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
    ])
}
