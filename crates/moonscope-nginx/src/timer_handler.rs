//! The function of ngx_lua that runs what `ngx.timer.at` was given, in a file that has no symbol for it.
//!
//! `ngx_http_lua_timer_handler` is static, but it can be reached from functions that are exported (ngx_http_lua_timer.c):
//! `ngx_http_lua_inject_timer_api` takes the addresses of the functions of `ngx.timer`, these put the address of the handler into
//! an event, and the handler is the one among all these that calls `ngx_http_lua_run_thread`. No other function does all that:
//! what ends timers early (`ngx_http_lua_abort_pending_timers`) calls the handler through its event.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use object::read::{Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget};

/// Who is asked, who is called, and what is looked for: in lua-nginx-module and in stream-lua-nginx-module.
const NAMES: [[&str; 3]; 2] = [
    [
        "ngx_http_lua_inject_timer_api",
        "ngx_http_lua_run_thread",
        "ngx_http_lua_timer_handler",
    ],
    [
        "ngx_stream_lua_inject_timer_api",
        "ngx_stream_lua_run_thread",
        "ngx_stream_lua_timer_handler",
    ],
];

/// From the exported function to those of `ngx.timer`, to what these share, to the handler.
const STEPS: usize = 3;
/// Functions that are looked at: there are some ten.
const MAX_FUNCTIONS: usize = 64;
/// Bytes of one of them: they have some 3 KiB.
const MAX_SIZE: u64 = 32 << 10;
/// `[endbr64;] [bnd] jmp *slot`.
const STUB_SIZE: u64 = 16;

/// Where such functions begin, with their names, by addresses of the file. `function_at` tells where the function is that has
/// an address in it. Empty: there is no ngx_lua in the file, or it was compiled in a way that does not tell.
pub fn timer_handlers(
    data: &[u8],
    function_at: &dyn Fn(u64) -> Option<Range<u64>>,
) -> Vec<(u64, &'static str)> {
    let Ok(elf) = object::File::parse(data) else {
        return Vec::new();
    };
    let address_of = |name: &str| {
        let mut symbols = elf.dynamic_symbols().chain(elf.symbols());
        let symbol =
            symbols.find(|symbol| symbol.name_bytes() == Ok(name.as_bytes()) && symbol.is_definition());
        symbol.map(|symbol| symbol.address())
    };
    let search = |[begin, called, wanted]: [&'static str; 3]| {
        let (begin, called_at) = (address_of(begin)?, address_of(called)?);
        let file = File {
            elf: &elf,
            function_at,
            called: called_at,
            slots: slots(&elf, called),
        };
        Some((file.handler_from(begin)?, wanted))
    };
    NAMES.into_iter().filter_map(search).collect()
}

/// Words of the file that hold the address of this function.
fn slots(elf: &object::File<'_>, name: &str) -> BTreeSet<u64> {
    let symbols = elf.dynamic_symbol_table();
    let is_it = |target| {
        let RelocationTarget::Symbol(index) = target else {
            return false;
        };
        let symbol = symbols
            .as_ref()
            .and_then(|symbols| symbols.symbol_by_index(index).ok());
        symbol.is_some_and(|symbol| symbol.name_bytes() == Ok(name.as_bytes()))
    };
    let relocations = elf.dynamic_relocations().into_iter().flatten();
    relocations
        .filter(|(_, relocation)| is_it(relocation.target()))
        .map(|(slot, _)| slot)
        .collect()
}

struct File<'a> {
    elf: &'a object::File<'a>,
    function_at: &'a dyn Fn(u64) -> Option<Range<u64>>,
    /// The function that the handler calls.
    called: u64,
    /// Words through which it is called.
    slots: BTreeSet<u64>,
}

impl File<'_> {
    /// The only function around this one that calls what the handler calls.
    fn handler_from(&self, begin: u64) -> Option<u64> {
        let mut seen = BTreeSet::from([begin]);
        let mut at_hand = vec![begin];
        let mut found = Vec::new();
        for _ in 0..=STEPS {
            for start in std::mem::take(&mut at_hand) {
                let instructions = self.function(start);
                if instructions.iter().any(|insn| self.calls_it(insn)) {
                    // what that calls in turn has nothing to do with `ngx.timer`
                    found.push(start);
                    continue;
                }
                let functions = instructions.iter().filter_map(|insn| self.function_in(insn));
                at_hand.extend(functions.filter(|start| seen.len() < MAX_FUNCTIONS && seen.insert(*start)));
            }
        }
        match found.as_slice() {
            [handler] => Some(*handler),
            _ => None,
        }
    }

    /// The instructions of the function that begins here.
    fn function(&self, start: u64) -> Vec<Instruction> {
        let size = (self.function_at)(start).map_or(0, |range| range.end - start);
        self.decode(start, size.min(MAX_SIZE))
    }

    fn decode(&self, start: u64, size: u64) -> Vec<Instruction> {
        let section = self
            .elf
            .sections()
            .find(|section| start >= section.address() && start - section.address() < section.size());
        let bytes = section.and_then(|section| {
            let size = size.min(section.address() + section.size() - start);
            section.data_range(start, size).ok().flatten()
        });
        Decoder::with_ip(64, bytes.unwrap_or_default(), start, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    /// The function whose address this instruction takes, or to which it goes.
    fn function_in(&self, insn: &Instruction) -> Option<u64> {
        let target = match insn.mnemonic() {
            Mnemonic::Lea if insn.is_ip_rel_memory_operand() => insn.ip_rel_memory_address(),
            // without position-independent code
            Mnemonic::Mov if insn.op1_kind() == OpKind::Immediate32 => insn.immediate(1),
            Mnemonic::Mov if insn.op1_kind() == OpKind::Immediate32to64 => insn.immediate(1),
            _ if insn.op0_kind() == OpKind::NearBranch64 => insn.near_branch64(),
            _ => return None,
        };
        (self.function_at)(target)
            .filter(|range| range.start == target)
            .map(|range| range.start)
    }

    fn calls_it(&self, insn: &Instruction) -> bool {
        match insn.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch
                if insn.op0_kind() == OpKind::NearBranch64 =>
            {
                let target = insn.near_branch64();
                target == self.called || self.is_stub(target)
            }
            FlowControl::IndirectCall => self.is_through_slot(insn),
            _ => false,
        }
    }

    fn is_stub(&self, target: u64) -> bool {
        let stub = self.decode(target, STUB_SIZE);
        let mut stub = stub.iter().skip_while(|insn| insn.code() == Code::Endbr64);
        stub.next().is_some_and(|insn| {
            insn.flow_control() == FlowControl::IndirectBranch && self.is_through_slot(insn)
        })
    }

    fn is_through_slot(&self, insn: &Instruction) -> bool {
        insn.is_ip_rel_memory_operand() && self.slots.contains(&insn.ip_rel_memory_address())
    }
}
