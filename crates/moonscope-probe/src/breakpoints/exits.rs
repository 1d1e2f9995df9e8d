//! Where a function of a program returns to its caller, by its machine code.
//!
//! The kernel could tell of a return by itself (uretprobe), but it does so by putting another return address on the stack:
//! an exception that passes through there, `pthread_exit` or an error of LuaJIT ends the program, as no unwind information
//! covers that address. So there is a breakpoint on each `ret`, and on each jump that is a function's last act.
//!
//! Code is read from the beginning of a function to its end, with the parts that gcc puts elsewhere (`NAME.cold`). What
//! does not come out as code of a compiler is refused: a breakpoint that is not on the first byte of an instruction changes
//! what the program does.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use moonscope_process::Executable;

use super::functions::{Function, Functions};

/// Instructions of one function that are looked at.
const MAX_INSTRUCTIONS: usize = 1 << 18;
/// Bytes of one piece.
const MAX_BYTES: u64 = 1 << 20;
/// Bytes of a piece whose end no symbol tells.
const PIECE: u64 = 4096;
/// Breakpoints that one function may take.
const MAX_EXITS: usize = 64;

/// How a function is left at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By a return.
    Return,
    /// By a jump to this address of the file, as its last act.
    Jump(u64),
    /// By a jump to where the word at this address leads: a function of another file, as a rule.
    JumpThrough(u64),
    /// By a jump that may lead anywhere.
    JumpAnywhere,
}

/// Places in the file at which the function is left, so that its stack pointer is what it was at its first instruction; or
/// why they cannot be told.
pub fn exits(
    file: &Executable,
    all: &Functions,
    function: &Function,
) -> Result<BTreeMap<u64, Exit>, &'static str> {
    let start = file
        .vaddr_of_offset(function.offset)
        .ok_or("it is in no segment")?;
    if function.size == 0 {
        return Err("its symbol has no size");
    }
    let mut scan = Scan {
        file,
        all,
        pieces: Vec::new(),
        begins: BTreeSet::new(),
        targets: BTreeSet::new(),
        exits: BTreeMap::new(),
        read: 0,
    };
    scan.pieces.push((start, start + function.size));
    for cold in scan.cold_parts(function) {
        scan.pieces.push(cold);
    }
    for (start, end) in scan.pieces.clone() {
        scan.sweep(start, end)?;
    }
    if scan
        .targets
        .iter()
        .any(|&target| scan.is_inside(target) && !scan.begins.contains(&target))
    {
        return Err("it is not plain code");
    }
    let elsewhere: Vec<u64> = scan
        .targets
        .iter()
        .copied()
        .filter(|&target| !scan.is_inside(target))
        .collect();
    scan.follow(elsewhere)?;
    if scan.exits.len() > MAX_EXITS {
        return Err("it returns in too many places");
    }
    let places = scan.exits.iter();
    let places = places.map(|(&at, &exit)| Some((file.offset_of_vaddr(at)?, exit)));
    places.collect::<Option<_>>().ok_or("it is in no segment")
}

/// An entry of a PLT, `[endbr64;] jmp *word`: the address of the word.
pub fn stub(file: &Executable, vaddr: u64) -> Option<u64> {
    let mut code = [0; 16];
    file.read_exact_at(&mut code, file.offset_of_vaddr(vaddr)?).ok()?;
    let mut decoder = Decoder::with_ip(64, &code, vaddr, DecoderOptions::NONE);
    let mut first = decoder.decode();
    if first.code() == Code::Endbr64 {
        first = decoder.decode();
    }
    (first.code() == Code::Jmp_rm64 && first.is_ip_rel_memory_operand())
        .then(|| first.ip_rel_memory_address())
}

/// How a jump by a register or a word of memory leaves a function.
fn indirect(instruction: &Instruction) -> Exit {
    match instruction.is_ip_rel_memory_operand() {
        true => Exit::JumpThrough(instruction.ip_rel_memory_address()),
        false => Exit::JumpAnywhere,
    }
}

struct Scan<'a> {
    file: &'a Executable,
    all: &'a Functions,
    /// Address ranges that belong to the function.
    pieces: Vec<(u64, u64)>,
    /// First bytes of instructions.
    begins: BTreeSet<u64>,
    /// Where conditional jumps, and jumps inside, lead.
    targets: BTreeSet<u64>,
    /// By address.
    exits: BTreeMap<u64, Exit>,
    read: usize,
}

impl Scan<'_> {
    fn is_inside(&self, address: u64) -> bool {
        self.pieces
            .iter()
            .any(|&(start, end)| (start..end).contains(&address))
    }

    /// `NAME.cold`, `NAME.cold.1`
    fn cold_parts(&self, function: &Function) -> Vec<(u64, u64)> {
        let is_cold = |name: &str| {
            let rest = name
                .strip_prefix(&function.name)
                .and_then(|rest| rest.strip_prefix(".cold"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let parts = self
            .all
            .all
            .iter()
            .filter(|other| other.size > 0 && is_cold(&other.name));
        parts
            .filter_map(|part| {
                let start = self.file.vaddr_of_offset(part.offset)?;
                Some((start, start + part.size))
            })
            .collect()
    }

    fn code(&self, start: u64, len: u64) -> Option<Vec<u8>> {
        let mut code = vec![0; usize::try_from(len).ok()?];
        self.file
            .read_exact_at(&mut code, self.file.offset_of_vaddr(start)?)
            .ok()?;
        Some(code)
    }

    /// Reads a piece from its beginning to its end.
    fn sweep(&mut self, start: u64, end: u64) -> Result<(), &'static str> {
        if end - start > MAX_BYTES {
            return Err("it is too large");
        }
        let code = self.code(start, end - start).ok_or("it cannot be read")?;
        let mut decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
        let mut added = AddedTo::default();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            self.read += 1;
            if instruction.is_invalid() || self.read > MAX_INSTRUCTIONS {
                return Err("it is not plain code");
            }
            self.begins.insert(instruction.ip());
            self.note(&instruction, &added);
            added.next(&instruction);
        }
        Ok(())
    }

    /// What an instruction of the function's own pieces does to its end.
    fn note(&mut self, instruction: &Instruction, added: &AddedTo) {
        match instruction.flow_control() {
            FlowControl::Return => {
                self.exits.insert(instruction.ip(), Exit::Return);
            }
            FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if self.is_inside(target) {
                    self.targets.insert(target);
                } else {
                    self.exits.insert(instruction.ip(), Exit::Jump(target));
                }
            }
            FlowControl::ConditionalBranch => {
                self.targets.insert(instruction.near_branch_target());
            }
            FlowControl::IndirectBranch if !is_switch(instruction, added) => {
                self.exits.insert(instruction.ip(), indirect(instruction));
            }
            _ => {}
        }
    }

    /// Conditional jumps lead out of the function only to its cold part: compilers make no last call of them. Where no
    /// symbol tells how long that is, it is followed.
    fn follow(&mut self, mut open: Vec<u64>) -> Result<(), &'static str> {
        while let Some(start) = open.pop() {
            if self.is_inside(start) || self.begins.contains(&start) {
                continue;
            }
            let mut len = PIECE;
            let code = loop {
                match self.code(start, len) {
                    Some(code) => break code,
                    // the end of the file
                    None if len > 16 => len /= 2,
                    None => return Err("it is not plain code"),
                }
            };
            let mut decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
            let mut added = AddedTo::default();
            while decoder.can_decode() {
                let instruction = decoder.decode();
                self.read += 1;
                if self.read > MAX_INSTRUCTIONS {
                    return Err("it is not plain code");
                }
                // behind a call that does not return may be anything
                if instruction.is_invalid() || !self.begins.insert(instruction.ip()) {
                    break;
                }
                let ends = match instruction.flow_control() {
                    FlowControl::Return => {
                        self.exits.insert(instruction.ip(), Exit::Return);
                        true
                    }
                    FlowControl::UnconditionalBranch => {
                        let target = instruction.near_branch_target();
                        if self.all.begins_at(self.file, target) && !self.is_inside(target) {
                            self.exits.insert(instruction.ip(), Exit::Jump(target));
                        } else if let Some(word) = stub(self.file, target) {
                            self.exits.insert(instruction.ip(), Exit::JumpThrough(word));
                        } else {
                            open.push(target);
                        }
                        true
                    }
                    FlowControl::ConditionalBranch => {
                        open.push(instruction.near_branch_target());
                        false
                    }
                    FlowControl::IndirectBranch => {
                        if !is_switch(&instruction, &added) {
                            self.exits.insert(instruction.ip(), indirect(&instruction));
                        }
                        true
                    }
                    // a call may be the last thing that a cold part does, and what follows is another function's
                    FlowControl::Call | FlowControl::IndirectCall => {
                        let next = instruction.next_ip();
                        self.all.begins_at(self.file, next)
                    }
                    FlowControl::Exception | FlowControl::Interrupt => true,
                    _ => false,
                };
                added.next(&instruction);
                if ends {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Registers to which something was added in the last few instructions, as before the jump of a `switch`.
#[derive(Default)]
struct AddedTo([Register; 4]);

impl AddedTo {
    fn next(&mut self, instruction: &Instruction) {
        let register = match instruction.mnemonic() {
            Mnemonic::Add if instruction.op0_kind() == OpKind::Register => instruction.op0_register(),
            _ => Register::None,
        };
        self.0.rotate_right(1);
        self.0[0] = register;
    }
}

/// Does this jump lead to a case of a `switch`, and not to another function?
fn is_switch(instruction: &Instruction, added: &AddedTo) -> bool {
    // `notrack`: compilers put it before these jumps only
    if instruction.segment_prefix() == Register::DS {
        return true;
    }
    match instruction.op0_kind() {
        OpKind::Memory => instruction.memory_index() != Register::None,
        OpKind::Register => added.0.contains(&instruction.op0_register()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breakpoints::functions::functions;
    use std::path::Path;
    use std::process::Command;

    /// Exits by `objdump`: all returns, in the functions that have no jump by a register.
    fn returns_of_objdump(path: &str) -> Vec<(String, Vec<u64>)> {
        let output = Command::new("objdump")
            .args(["-d", "--no-show-raw-insn", "-j", ".text", path])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let mut found: Vec<(String, Vec<u64>)> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
                found.push((name.1.to_owned(), Vec::new()));
            } else if let Some((address, code)) = line.trim_start().split_once(":\t")
                && ["ret", "repz ret"].contains(&code.trim())
                && let Some((_, returns)) = found.last_mut()
            {
                returns.push(u64::from_str_radix(address, 16).unwrap());
            }
        }
        found
    }

    #[test]
    fn every_return_that_objdump_shows_is_an_exit() {
        let path = "/proc/self/exe";
        let file = Executable::open_path(Path::new(path)).unwrap();
        let all = functions(&file);
        let mut compared = 0;
        for (name, returns) in returns_of_objdump(&format!("/proc/{}/exe", std::process::id())) {
            let ours: Vec<&Function> = all.all.iter().filter(|function| function.name == name).collect();
            let [function] = ours[..] else { continue };
            let Ok(exits) = exits(&file, &all, function) else {
                continue;
            };
            let start = file.vaddr_of_offset(function.offset).unwrap();
            let exits: Vec<u64> = exits
                .keys()
                .map(|&exit| file.vaddr_of_offset(exit).unwrap())
                .collect();
            let within = |&&at: &&u64| (start..start + function.size).contains(&at);
            for at in returns.iter().filter(within) {
                assert!(exits.contains(at), "{name}: no exit at {at:#x}");
            }
            compared += 1;
            if compared > 2000 {
                break;
            }
        }
        assert!(compared > 100, "{compared} functions");
    }
}
