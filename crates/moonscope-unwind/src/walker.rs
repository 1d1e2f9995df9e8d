//! Walks a stack in user space, on a copy of it, straight from DWARF (and from the function table of Go).
//!
//! It knows nothing of rows and rules, so that it can judge the walker that does (`bpf/walk.h`), and it follows
//! what rules cannot express. Conventions are those of `enum ms_end` in `bpf/abi.h`. Semantics: DWARF 5,
//! section 6.4, and the x86-64 psABI, section 3.7.

use gimli::UnwindContext;

use crate::abi;
use crate::end::WalkEnd;
use crate::frame_pointer;
use crate::frame_step::{self, Caller};
use crate::gopclntab::GoFrame;
use crate::stack_end;
use crate::unwind_data::UnwindData;

pub(crate) const RAX: usize = abi::MS_REG_RAX as usize;
pub(crate) const RBP: usize = abi::MS_REG_RBP as usize;
pub(crate) const RSP: usize = abi::MS_REG_RSP as usize;
pub(crate) const RIP: usize = abi::MS_REG_RIP as usize;

/// The registers of a frame, by DWARF number (`enum ms_reg` in `bpf/abi.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The values; what is not valid is garbage.
    pub regs: [u64; abi::MS_NR_REGS as usize],
    /// Bit n: `regs[n]` is known.
    pub valid: u32,
}

impl Registers {
    /// All seventeen registers known.
    pub fn new(regs: [u64; abi::MS_NR_REGS as usize]) -> Self {
        Registers {
            regs,
            valid: (1 << abi::MS_NR_REGS) - 1,
        }
    }

    /// The register with this DWARF number, if it is known.
    pub fn get(&self, register: usize) -> Option<u64> {
        let value = *self.regs.get(register)?;
        (self.valid & (1 << register) != 0).then_some(value)
    }

    /// Sets a register, or forgets it.
    pub fn set(&mut self, register: usize, value: Option<u64>) {
        if let Some(place) = self.regs.get_mut(register) {
            match value {
                Some(value) => {
                    *place = value;
                    self.valid |= 1 << register;
                }
                None => self.valid &= !(1 << register),
            }
        }
    }
}

/// A copy of a thread's stack memory: `[sp, sp + bytes.len())`.
#[derive(Clone, Copy, Debug)]
pub struct StackCopy<'a> {
    /// The address of the first byte.
    pub sp: u64,
    /// The memory from there on.
    pub bytes: &'a [u8],
}

impl StackCopy<'_> {
    /// `N` bytes at an address; `None` outside of the copy.
    pub(crate) fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let start = usize::try_from(address.checked_sub(self.sp)?).ok()?;
        self.bytes.get(start..)?.first_chunk().copied()
    }

    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        self.read(address).map(u64::from_le_bytes)
    }
}

/// What is mapped at an address.
#[derive(Clone, Copy, Debug)]
pub enum ModuleAt<'a> {
    /// Code of a file.
    File {
        /// Address in the process minus file virtual address.
        bias: u64,
        /// The file's unwind information.
        data: &'a UnwindData,
    },
    /// Code without a file, or of a file that cannot be read: frame pointers.
    Anonymous,
}

/// The executable mappings of a process.
pub trait Modules {
    /// The executable mapping at an address.
    fn find(&self, address: u64) -> Option<ModuleAt<'_>>;

    /// Copies code at an address of the process. The default knows the code of files; return `false` where
    /// it cannot be had.
    fn code(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(ModuleAt::File { bias, data }) = self.find(address) else {
            return false;
        };
        match data.code_at(address.wrapping_sub(bias), into.len()) {
            Some(bytes) if bytes.len() == into.len() => {
                into.copy_from_slice(bytes);
                true
            }
            _ => false,
        }
    }
}

/// One frame of a walk, leaf first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkFrame {
    /// Where the thread is (`exact`), or a return address.
    pub addr: u64,
    /// The address itself was executing: the leaf, and what a signal interrupted.
    pub exact: bool,
    /// Reached by a frame pointer, not by unwind information.
    pub fp: bool,
}

/// The result of [`walk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Leaf first; never longer than `max_depth`.
    pub frames: Vec<WalkFrame>,
    /// Why there are no more.
    pub end: WalkEnd,
}

/// Walks from `registers` to the root, or to where it cannot go on.
///
/// Return addresses are looked up one byte lower, so that a call at the very end of a function finds that
/// function. The end of the stack copy is [`WalkEnd::Unreadable`].
pub fn walk(modules: &impl Modules, registers: Registers, stack: &StackCopy<'_>, max_depth: usize) -> Walk {
    let mut walker = Walker {
        modules,
        stack,
        registers,
        context: UnwindContext::new(),
        leaf: true,
        exact: true,
        fp: false,
    };
    let mut frames = Vec::new();
    loop {
        if frames.len() >= max_depth {
            return Walk {
                frames,
                end: WalkEnd::Depth,
            };
        }
        let Some(addr) = walker.registers.get(RIP) else {
            return Walk {
                frames,
                end: WalkEnd::NoRegisters,
            };
        };
        let lookup = if walker.exact { addr } else { addr.wrapping_sub(1) };
        let module = modules.find(lookup);
        // where the thread is now is true whatever is known of it; a caller is not
        if module.is_some() || frames.is_empty() {
            frames.push(WalkFrame {
                addr,
                exact: walker.exact,
                fp: walker.fp,
            });
        }
        let Some(module) = module else {
            let end = if walker.fp {
                WalkEnd::NoRow
            } else {
                WalkEnd::NoMapping
            };
            return Walk { frames, end };
        };
        match walker.step(module, lookup) {
            Ok(()) => walker.leaf = false,
            Err(end) => return Walk { frames, end },
        }
    }
}

struct Walker<'a, M> {
    modules: &'a M,
    stack: &'a StackCopy<'a>,
    registers: Registers,
    context: UnwindContext<usize>,
    leaf: bool,
    exact: bool,
    fp: bool,
}

impl<M: Modules> Walker<'_, M> {
    /// From the registers of this frame to those of its caller.
    fn step(&mut self, module: ModuleAt<'_>, lookup: u64) -> Result<(), WalkEnd> {
        let ModuleAt::File { bias, data } = module else {
            return self.by_frame_pointer();
        };
        let here = self.registers.get(RIP).map(|rip| rip.wrapping_sub(bias));
        if here.is_some_and(|vaddr| frame_step::is_trampoline(data, vaddr, self.exact)) {
            let caller = frame_step::from_kernel_signal_frame(&self.registers, self.stack)?;
            return self.accept(caller);
        }
        let vaddr = lookup.wrapping_sub(bias);
        // whatever .debug_frame says of functions that switch stacks
        if matches!(data.go_frame_at(vaddr), Some(GoFrame::Root)) {
            return Err(WalkEnd::Root);
        }
        match data.rules_at(vaddr, &mut self.context) {
            Ok(Some(rules)) => {
                let caller = frame_step::by_rules(&rules, &self.registers, self.stack)?;
                self.accept(caller)
            }
            Ok(None) => match data.go_frame_at(vaddr) {
                Some(frame) => {
                    let caller = frame_step::by_go_frame(frame, &self.registers, self.stack)?;
                    self.accept(caller)
                }
                None if data.is_entry(vaddr) || self.starts_a_stack(data, here) => Err(WalkEnd::Root),
                None if data.is_clone_gap(vaddr) => {
                    let caller = frame_step::by_clone_gap(&self.registers, self.stack, self.exact)?;
                    self.accept(caller)
                }
                None => match data.pushed_by_stub(vaddr) {
                    Some(words) => {
                        let caller = frame_step::by_pushed(words, &self.registers, self.stack)?;
                        self.accept(caller)
                    }
                    None => self.by_frame_pointer(),
                },
            },
            Err(_) => Err(WalkEnd::Unsupported),
        }
    }

    /// Is this a made-up return address, the first byte of code that ends a stack (Boost.Context), or of any function behind
    /// padding (makecontext)?
    fn starts_a_stack(&mut self, data: &UnwindData, here: Option<u64>) -> bool {
        let Some(here) = here.filter(|_| !self.exact) else {
            return false;
        };
        if data
            .code_at(here, stack_end::length())
            .is_some_and(stack_end::is_end)
        {
            return true;
        }
        let rules = data.rules_at(here, &mut self.context);
        rules.ok().flatten().is_some_and(|rules| {
            here % u64::from(abi::MS_FUNCTION_ALIGNMENT) == 0
                || matches!(
                    frame_step::by_rules(&rules, &self.registers, self.stack),
                    Err(WalkEnd::Root)
                )
        })
    }

    fn accept(&mut self, caller: Caller) -> Result<(), WalkEnd> {
        let sp = |registers: &Registers| registers.get(RSP).ok_or(WalkEnd::LostRegister);
        let (old, new) = (sp(&self.registers)?, sp(&caller.registers)?);
        // only a leaf may have popped its return address already (vfork keeps it in a register)
        let moved = new > old || (new == old && caller.address_in_register && self.exact);
        if !caller.signal && (!moved || new % 8 != 0) {
            return Err(WalkEnd::NotIncreasing);
        }
        self.registers = caller.registers;
        self.exact = caller.signal;
        self.fp = false;
        match self.registers.get(RIP) {
            Some(0) if !caller.signal => Err(WalkEnd::RootZero),
            Some(_) => Ok(()),
            None => Err(WalkEnd::LostRegister),
        }
    }

    fn by_frame_pointer(&mut self) -> Result<(), WalkEnd> {
        self.registers =
            frame_pointer::caller(&self.registers, self.stack, self.modules, self.exact, self.fp)?;
        self.exact = false;
        self.fp = true;
        Ok(())
    }
}
