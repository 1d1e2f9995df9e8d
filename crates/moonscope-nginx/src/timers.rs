//! Timers of ngx_lua: how many wait and run (`ngx_http_lua_main_conf_t`).
//!
//! ```text
//! ngx_int_t max_pending_timers, pending_timers, max_running_timers, running_timers;
//! ```
//!
//! Two witnesses must agree on where they are. The directives `lua_max_pending_timers` and `lua_max_running_timers` have the
//! offset of the field that they set; and the code of `ngx.timer.pending_count` and `ngx.timer.running_count`, which the exported
//! `ngx_http_lua_inject_timer_api` names beside their addresses, reads the other two.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register};
use moonscope_process::RemoteMemory;

use crate::block::{Block, string};
use crate::error::NginxError;
use crate::setup::Code;
use crate::worker::Worker;

const MODULE: &str = "ngx_http_lua_module";
const API: &str = "ngx_http_lua_inject_timer_api";
/// ngx_command_t: name, type, set, conf, offset, post
const COMMAND: u64 = 56;
const COMMAND_OFFSET: u64 = 40;
/// Directives of one module; ngx_lua has some eighty.
const MAX_COMMANDS: u64 = 1024;
/// No configuration of a module is larger.
const MAX_OFFSET: u64 = 1 << 16;
/// Instructions of a function that are looked at.
const MAX_INSTRUCTIONS: usize = 200;
const MAX_NAME: usize = 64;

/// Timers of a worker (`ngx.timer.at`, `ngx.timer.every`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Those that wait for their time.
    pub pending: u64,
    /// `lua_max_pending_timers`
    pub max_pending: u64,
    /// Those that run now, or wait for something while they run.
    pub running: u64,
    /// `lua_max_running_timers`
    pub max_running: u64,
}

/// Where the field is that a directive of the module with these directives sets.
fn offset_of(memory: &impl RemoteMemory, commands: u64, directive: &str) -> Option<u64> {
    for number in 0..MAX_COMMANDS {
        let at = commands.checked_add(number * COMMAND)?;
        let command = Block::read(memory, at, COMMAND).ok()?;
        // ngx_null_command
        if command.word(0) == 0 {
            return None;
        }
        let is_it = command.word(0) == directive.len() as u64
            && string(memory, command.word(0), command.word(8)) == directive.as_bytes();
        if is_it {
            return Some(command.word(COMMAND_OFFSET)).filter(|&offset| offset < MAX_OFFSET);
        }
    }
    None
}

/// The C function that code gives to Lua by this name: the last one whose address was taken before the name's.
fn given_to_lua(memory: &impl RemoteMemory, code: &impl Code, api: u64, name: &str) -> Option<u64> {
    let bytes = code.code(api)?;
    let mut function = None;
    for insn in Decoder::with_ip(64, bytes, api, DecoderOptions::NONE)
        .into_iter()
        .take(MAX_INSTRUCTIONS)
    {
        if insn.is_invalid() || insn.flow_control() == FlowControl::Return {
            return None;
        }
        let addr = match insn.mnemonic() {
            Mnemonic::Lea if insn.is_ip_rel_memory_operand() => insn.ip_rel_memory_address(),
            // through the linker's table
            Mnemonic::Mov
                if insn.is_ip_rel_memory_operand() && code.is_fixed(insn.ip_rel_memory_address()) =>
            {
                memory.read_u64(insn.ip_rel_memory_address()).unwrap_or(0)
            }
            // a program at a fixed address
            Mnemonic::Mov if insn.op1_kind() == OpKind::Immediate32 => insn.immediate(1),
            _ => continue,
        };
        if code.code(addr).is_some() {
            function = Some(addr);
        } else if memory
            .read_cstr(addr, MAX_NAME)
            .is_ok_and(|text| text == name.as_bytes())
        {
            return function;
        }
    }
    None
}

/// Distances from registers at which a function reads 8 bytes, up to its first way back.
fn reads(code: &impl Code, function: u64) -> BTreeSet<u64> {
    let bytes = code.code(function).unwrap_or_default();
    let mut found = BTreeSet::new();
    for insn in Decoder::with_ip(64, bytes, function, DecoderOptions::NONE)
        .into_iter()
        .take(MAX_INSTRUCTIONS)
    {
        if insn.is_invalid() || insn.flow_control() == FlowControl::Return {
            break;
        }
        let is_field = insn.op_count() == 2
            && insn.op1_kind() == OpKind::Memory
            && insn.mnemonic() != Mnemonic::Lea
            && insn.memory_size().size() == 8
            && insn.memory_index() == Register::None
            && ![Register::None, Register::RIP, Register::RSP, Register::RBP].contains(&insn.memory_base());
        if is_field {
            found.insert(insn.memory_displacement64());
        }
    }
    found
}

/// Where the first of the four is, if all witnesses agree.
fn find(
    memory: &impl RemoteMemory,
    code: &impl Code,
    commands: u64,
    api: Option<u64>,
) -> Result<u64, NginxError> {
    let setting = |field, directive| {
        offset_of(memory, commands, directive)
            .ok_or_else(|| NginxError::layout(field, format!("there is no directive {directive}")))
    };
    let pending = setting(
        "ngx_http_lua_main_conf_t.max_pending_timers",
        "lua_max_pending_timers",
    )?;
    let running = setting(
        "ngx_http_lua_main_conf_t.max_running_timers",
        "lua_max_running_timers",
    )?;
    if running != pending + 16 {
        return Err(NginxError::layout(
            "ngx_http_lua_main_conf_t.pending_timers",
            format!("the limit of those that wait is at {pending}, of those that run at {running}"),
        ));
    }
    for (field, name, at, other) in [
        (
            "ngx_http_lua_main_conf_t.pending_timers",
            "pending_count",
            pending + 8,
            running + 8,
        ),
        (
            "ngx_http_lua_main_conf_t.running_timers",
            "running_count",
            running + 8,
            pending + 8,
        ),
    ] {
        let function = api.and_then(|api| given_to_lua(memory, code, api, name));
        let function = function
            .ok_or_else(|| NginxError::layout(field, format!("ngx.timer.{name} cannot be found in {API}")))?;
        let read = reads(code, function);
        if !read.contains(&at) || read.contains(&other) {
            return Err(NginxError::layout(
                field,
                format!("it should be at {at}, and ngx.timer.{name} reads {read:?}"),
            ));
        }
    }
    Ok(pending)
}

impl<M: RemoteMemory> Worker<M> {
    /// Timers of Lua; `None` where there is no ngx_lua, or no configuration of HTTP.
    pub fn timers(&self) -> Result<Option<Timers>, NginxError> {
        let module = self.modules.iter().find(|module| module.name == MODULE);
        let Some((module, conf)) = module.zip(self.http_main_conf(MODULE)) else {
            return Ok(None);
        };
        let images = self.images()?;
        let image = images.iter().find(|image| image.holds(module.addr));
        let api = image.and_then(|image| image.symbol(API));
        let at = find(&self.memory, &images, module.commands, api)?;
        let fields = Block::read(&self.memory, conf.wrapping_add(at), 32)?;
        Ok(Some(Timers {
            max_pending: fields.word(0),
            pending: fields.word(8),
            max_running: fields.word(16),
            running: fields.word(24),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::BufferMemory;
    use proptest::prelude::*;

    const CODE: u64 = 0x5000;
    const NAMES: u64 = 0x7000;
    const COMMANDS: u64 = 0x9000;

    struct Program(Vec<u8>);

    impl Code for Program {
        fn code(&self, addr: u64) -> Option<&[u8]> {
            let from = usize::try_from(addr.checked_sub(CODE)?).ok()?;
            self.0.get(from..).filter(|rest| !rest.is_empty())
        }

        fn is_fixed(&self, _: u64) -> bool {
            false
        }
    }

    /// The API at the beginning, then pending_count and running_count, which read these fields.
    fn program(pending: u8, running: u8) -> Program {
        let mut code = Vec::new();
        let lea = |code: &mut Vec<u8>, opcode: [u8; 3], to: u64| {
            code.extend(opcode);
            let end = CODE + code.len() as u64 + 4;
            code.extend((to.wrapping_sub(end) as u32).to_le_bytes());
        };
        for (function, name) in [(CODE + 0x200, NAMES + 16), (CODE + 0x100, NAMES)] {
            lea(&mut code, [0x48, 0x8d, 0x35], function); // lea rsi, [rip+function]
            code.extend([0xe8, 0, 0, 0, 0]); // call
            lea(&mut code, [0x48, 0x8d, 0x15], name); // lea rdx, [rip+name]
            code.extend([0xe8, 0, 0, 0, 0]);
        }
        code.push(0xc3);
        for (at, field) in [(0x100, pending), (0x200, running)] {
            code.resize(at, 0xcc);
            code.extend([0x48, 0x8b, 0x40, 0x18]); // mov rax, [rax+0x18]
            code.extend([0x48, 0x8b, 0x04, 0xd0]); // mov rax, [rax+rdx*8]
            code.extend([0xf2, 0x48, 0x0f, 0x2a, 0x40, field]); // cvtsi2sd xmm0, qword [rax+field]
            code.push(0xc3);
        }
        code.resize(0x300, 0xcc);
        Program(code)
    }

    fn memory(directives: &[(&str, u64)]) -> BufferMemory {
        let mut names = b"pending_count\0\0\0running_count\0\0\0".to_vec();
        let mut commands = Vec::new();
        for &(directive, offset) in directives {
            let name = NAMES + names.len() as u64;
            names.extend(directive.as_bytes());
            for word in [directive.len() as u64, name, 0, 0, 0, offset, 0] {
                commands.extend(word.to_le_bytes());
            }
        }
        commands.extend([0; 56]);
        BufferMemory::new().with(NAMES, names).with(COMMANDS, commands)
    }

    fn found(directives: &[(&str, u64)], program: &Program) -> Result<u64, String> {
        find(&memory(directives), program, COMMANDS, Some(CODE)).map_err(|err| err.to_string())
    }

    const BOTH: [(&str, u64); 3] = [
        ("lua_other", 8),
        ("lua_max_running_timers", 0x50),
        ("lua_max_pending_timers", 0x40),
    ];

    #[test]
    fn directives_and_the_code_of_the_counts_agree_on_where_they_are() {
        assert_eq!(found(&BOTH, &program(0x48, 0x58)), Ok(0x40));
    }

    #[test]
    fn witnesses_that_disagree_are_refused_by_the_name_of_the_field() {
        let refused = |directives: &[(&str, u64)], program: &Program, words: &str| {
            let said = found(directives, program).unwrap_err();
            assert!(said.contains(words), "{said}");
        };
        refused(
            &BOTH[..2],
            &program(0x48, 0x58),
            "max_pending_timers: there is no directive",
        );
        let mut far = BOTH;
        far[1].1 = 0x60;
        refused(&far, &program(0x48, 0x58), "pending_timers: the limit");
        refused(&BOTH, &program(0x50, 0x58), "pending_timers: it should be at 72");
        refused(&BOTH, &program(0x48, 0x48), "running_timers: it should be at 88");
        refused(
            &BOTH,
            &Program(vec![0xc3]),
            "pending_timers: ngx.timer.pending_count cannot be found",
        );
        let err = find(&memory(&BOTH), &program(0x48, 0x58), COMMANDS, None).unwrap_err();
        assert!(err.to_string().contains("cannot be found"), "{err}");
        // a list of directives that never ends is read only so far
        assert_eq!(offset_of(&memory(&BOTH), 0x1234, "x"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_as_code_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
            let _ = found(&BOTH, &Program(bytes));
        }
    }
}
