//! Where coroutines begin and cease to run, in a file with LuaJIT: the entries of `lua_resume` and `lua_yield`, by their
//! symbols, and in the VM's code what gives control away in its own `coroutine.yield`.

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol};

use crate::elf_code::ElfCode;
use crate::vm_text::{self, VmText};
use crate::x86;

/// Offsets in the file of instructions for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoroutineProbes {
    /// `lua_resume(L, …)`: the first instruction.
    pub resume: u64,
    /// `lua_yield(L, …)`: the first instruction.
    pub c_yield: u64,
    /// `coroutine.yield`: where it is certain that it yields, and the `lua_State` is in rbp.
    pub builtin_yield: u64,
}

/// Why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoProbes {
    /// They are part of Lua's interface for C, but a file that holds LuaJIT and is stripped need not name them.
    #[error("it has no symbol {0}")]
    NoSymbol(&'static str),
    /// The VM's code is not as expected.
    #[error("its coroutine.yield is not understood")]
    NoYield,
}

/// Where the coroutines of this VM are resumed and yield.
pub fn coroutine_probes(file: &[u8], vm: &VmText) -> Result<CoroutineProbes, NoProbes> {
    let function = |name| {
        let address = address_of(file, name).ok_or(NoProbes::NoSymbol(name))?;
        offset_of(file, address).ok_or(NoProbes::NoSymbol(name))
    };
    let builtin_yield = vm_text::code_of(file, vm)
        .and_then(|code| x86::yields::builtin_yield(code, vm))
        .and_then(|address| offset_of(file, address));
    Ok(CoroutineProbes {
        resume: function("lua_resume")?,
        c_yield: function("lua_yield")?,
        builtin_yield: builtin_yield.ok_or(NoProbes::NoYield)?,
    })
}

/// The address of a function that the file defines.
fn address_of(file: &[u8], name: &str) -> Option<u64> {
    let elf = ElfFile64::<Endianness>::parse(file).ok()?;
    let symbols = elf.dynamic_symbols().chain(elf.symbols());
    let is_it = |symbol: &object::read::elf::ElfSymbol64<'_, '_, Endianness>| {
        symbol.is_definition() && symbol.name_bytes().is_ok_and(|other| other == name.as_bytes())
    };
    symbols.into_iter().find(is_it).map(|symbol| symbol.address())
}

/// Where in the file the byte at this address is.
fn offset_of(file: &[u8], address: u64) -> Option<u64> {
    let bytes = ElfCode::parse(file).ok()?.at(address)?;
    let offset = (bytes.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
    u64::try_from(offset).ok()
}
