//! The kernel's walker, `bpf/walk.h`, compiled for the host: for looking at a process without BPF, and so that tests
//! and fuzzers reach every line of it.
//!
//! Only with the feature `host-walker`.

use std::ffi::c_void;

use crate::abi;
use crate::end::WalkEnd;
use crate::rules::RuleSet;
use crate::table::Table;
use crate::walker::{Registers, Walk, WalkFrame};

/// What the walker in the kernel finds in its maps.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    /// Words of all tables.
    pub words: Vec<u32>,
    /// The tables in them.
    pub tables: Vec<abi::ms_table>,
    /// Executable mappings of the process, sorted.
    pub mappings: Vec<abi::ms_mapping>,
    /// Builds of LuaJIT.
    pub layouts: Vec<abi::ms_lua_layout>,
    /// The Lua VMs of the process.
    pub lua: Option<abi::ms_lua_process>,
    /// Whether the parents of coroutines are to be shown.
    pub coroutine_parents: bool,
}

impl Maps {
    /// Adds a table, or one that says that the file has no unwind information; returns its index.
    pub fn add_table(&mut self, table: Option<&Table>) -> u32 {
        let entry = match table {
            None => abi::ms_table {
                state: abi::MS_TABLE_NO_INFO,
                ..Default::default()
            },
            Some(table) => {
                let pages = self.words.len() as u32;
                self.words.extend(&table.pages);
                let rows = self.words.len() as u32;
                self.words.extend(&table.rows);
                abi::ms_table {
                    base: table.base,
                    nr_pages: table.nr_pages(),
                    pages,
                    rows,
                    nr_rows: table.rows.len() as u32,
                    state: abi::MS_TABLE_ROWS,
                    unused: 0,
                }
            }
        };
        self.tables.push(entry);
        self.tables.len() as u32 - 1
    }
}

type Read<'a> = dyn FnMut(u64, &mut [u8]) -> bool + 'a;

#[repr(C)]
struct Surroundings {
    words: *const u32,
    rules: *const abi::ms_rule,
    tables: *const abi::ms_table,
    mappings: *const abi::ms_mapping,
    layouts: *const abi::ms_lua_layout,
    lua: *const abi::ms_lua_process,
    nr_words: u64,
    nr_rules: u64,
    nr_tables: u64,
    nr_mappings: u64,
    nr_layouts: u64,
    words_out: *mut u64,
    max_words: u64,
    nr_words_out: u64,
    wants_parents: u64,
    read: unsafe extern "C" fn(*mut c_void, *mut c_void, u64, u64) -> i32,
    context: *mut c_void,
    reg: [u64; abi::MS_NR_REGS as usize],
    valid: u32,
}

unsafe extern "C" {
    fn ms_walk_on_host(surroundings: *mut Surroundings, max_depth: u32) -> u32;
}

/// `ms_read_user`: 0 on success.
unsafe extern "C" fn read(context: *mut c_void, dst: *mut c_void, len: u64, address: u64) -> i32 {
    // SAFETY: `context` is the `context` of the `Surroundings` that `host_walk` made and still holds, and the
    // walker passes a buffer of its own that has `len` bytes.
    let (read, into) = unsafe {
        let read = &mut *context.cast::<&mut Read<'_>>();
        (
            read,
            std::slice::from_raw_parts_mut(dst.cast::<u8>(), len as usize),
        )
    };
    if read(address, into) { 0 } else { -14 }
}

/// Walks as the kernel would, with `memory` in place of the process: it fills the buffer and returns `true`,
/// or returns `false` where there is nothing. Native frames only.
pub fn host_walk(
    maps: &Maps,
    rules: &RuleSet,
    registers: &Registers,
    max_depth: u32,
    memory: impl FnMut(u64, &mut [u8]) -> bool,
) -> Walk {
    let (words, end) = host_walk_words(maps, rules, registers, max_depth, memory);
    let mut frames = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word & abi::MS_FRAME_LUA != 0 {
            words.next();
            continue;
        }
        frames.push(WalkFrame {
            addr: word & abi::MS_FRAME_ADDR_MASK,
            exact: word & abi::MS_FRAME_EXACT != 0,
            fp: word & abi::MS_FRAME_FP != 0,
        });
    }
    Walk { frames, end }
}

/// The same with all words that the kernel would ship (`MS_FRAME_*`, Lua frames too).
pub fn host_walk_words(
    maps: &Maps,
    rules: &RuleSet,
    registers: &Registers,
    max_depth: u32,
    memory: impl FnMut(u64, &mut [u8]) -> bool,
) -> (Vec<u64>, WalkEnd) {
    let (words, end, _) = host_walk_to_end(maps, rules, registers, max_depth, memory);
    (words, end)
}

/// The same with the registers of the frame that the walk ended in.
pub fn host_walk_to_end(
    maps: &Maps,
    rules: &RuleSet,
    registers: &Registers,
    max_depth: u32,
    mut memory: impl FnMut(u64, &mut [u8]) -> bool,
) -> (Vec<u64>, WalkEnd, Registers) {
    let mut words = vec![0u64; (abi::MS_SAMPLE_FRAMES - abi::MS_MAX_KERNEL) as usize];
    let mut memory: &mut Read<'_> = &mut memory;
    let no_layout = [abi::ms_lua_layout::default()];
    let layouts = if maps.layouts.is_empty() {
        &no_layout[..]
    } else {
        &maps.layouts
    };
    // C never looks at element 0 of an empty array: tables and mappings are asked for by mappings only
    let mut surroundings = Surroundings {
        words: maps.words.as_ptr(),
        rules: rules.as_slice().as_ptr(),
        tables: maps.tables.as_ptr(),
        mappings: maps.mappings.as_ptr(),
        layouts: layouts.as_ptr(),
        lua: maps.lua.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
        nr_words: maps.words.len() as u64,
        nr_rules: rules.len() as u64,
        nr_tables: maps.tables.len() as u64,
        nr_mappings: maps.mappings.len() as u64,
        nr_layouts: layouts.len() as u64,
        words_out: words.as_mut_ptr(),
        max_words: words.len() as u64,
        nr_words_out: 0,
        wants_parents: maps.coroutine_parents.into(),
        read,
        context: (&raw mut memory).cast(),
        reg: registers.regs,
        valid: registers.valid,
    };
    // SAFETY: all pointers are to vectors that outlive the call, with their lengths beside them, and the C
    // side checks every index against these.
    let end = unsafe { ms_walk_on_host(&mut surroundings, max_depth) };
    words.truncate(surroundings.nr_words_out as usize);
    let registers = Registers {
        regs: surroundings.reg,
        valid: surroundings.valid,
    };
    (
        words,
        WalkEnd::from_number(end).unwrap_or(WalkEnd::None),
        registers,
    )
}
