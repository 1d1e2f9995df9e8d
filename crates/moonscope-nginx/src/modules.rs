//! `ngx_module_t` (src/core/ngx_module.h), the same since 1.9.11.

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::error::NginxError;
use crate::layout::CycleLayout;

/// ctx_index, index, name, two spares, version, signature, ctx, commands, type
const SIZE: u64 = 80;
const CTX_INDEX: u64 = 0;
const INDEX: u64 = 8;
const NAME: u64 = 16;
const VERSION: u64 = 40;
const CTX: u64 = 56;
const COMMANDS: u64 = 64;
const TYPE: u64 = 72;
/// No build has more (NGX_MAX_DYNAMIC_MODULES is 128).
const MAX_MODULES: u64 = 1024;
const MAX_NAME: usize = 128;

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Address of its `ngx_module_t`; zones of shared memory refer to it.
    pub addr: u64,
    /// Its name, of letters, digits and underscores.
    pub name: String,
    /// Its place among all modules.
    pub index: u64,
    /// Its place among those of its kind.
    pub ctx_index: u64,
    /// Version of nginx that it was built for: 1022001 is 1.22.1.
    pub version: u64,
    /// What kind of a module it is: `HTTP`, `CORE`, as four letters.
    pub(crate) kind: u64,
    /// The address of its context, as its kind has it.
    pub(crate) ctx: u64,
    /// The address of its directives.
    pub(crate) commands: u64,
}

/// All modules of a cycle.
pub(crate) fn modules(
    memory: &impl RemoteMemory,
    cycle: &Block,
    layout: &CycleLayout,
) -> Result<Vec<Module>, NginxError> {
    let count = cycle.word(layout.modules_n);
    if count == 0 || count > MAX_MODULES {
        return Err(NginxError::layout(
            "ngx_cycle_t.modules_n",
            format!("there are {count} modules"),
        ));
    }
    let array = Block::read(memory, cycle.word(layout.modules), 8 * count)?;
    (0..count)
        .map(|number| module(memory, array.word(8 * number)))
        .collect()
}

fn module(memory: &impl RemoteMemory, addr: u64) -> Result<Module, NginxError> {
    let block = Block::read(memory, addr, SIZE)?;
    let name = memory.read_cstr(block.word(NAME), MAX_NAME)?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if name.is_empty() || !name.iter().all(is_name) {
        return Err(NginxError::layout("ngx_module_t.name", "a module has no name"));
    }
    Ok(Module {
        addr,
        name: String::from_utf8_lossy(&name).into_owned(),
        index: block.word(INDEX),
        ctx_index: block.word(CTX_INDEX),
        version: block.word(VERSION),
        kind: block.word(TYPE),
        ctx: block.word(CTX),
        commands: block.word(COMMANDS),
    })
}
