//! The code of the made-up process and its unwind table.

use moonscope_luajit::{GcMode, Layout};
use moonscope_unwind::walk_host::Maps;
use moonscope_unwind::{RuleSet, abi};

/// Where code is. A page of the table (1 KiB) has one rule.
pub const VM: u64 = 0x4000_0000;
pub const HANDLER: u64 = VM;
pub const INNER: u64 = VM + 0x400;
pub const DISPATCH: u64 = VM + 0x800;
pub const HELPER: u64 = VM + 0xc00;
pub const LEAVING: u64 = VM + 0x1000;
pub const ENTERING: u64 = VM + 0x1400;
/// C functions, each with a frame of two words.
pub const C: u64 = VM + 0x1800;
pub const ROOT: u64 = VM + 0x1c00;
const END: u64 = VM + 0x2000;
/// Compiled code.
pub const TRACE: u64 = 0x6000_0000;
/// Where nothing is mapped.
pub const NOWHERE: u64 = 0x7000_0000;

/// rbx, rbp, r12 to r15 in the VM's frame: words below its CFA.
const RULES_OF_CFRAME: [i8; 6] = [3, 2, 0, 0, 5, 4];

/// What the kernel side knows of the code.
pub struct Code {
    pub maps: Maps,
    pub rules: RuleSet,
}

impl Code {
    pub fn new(layout: &Layout) -> Self {
        let mut rules = RuleSet::new();
        let by_sp = |kind: u32, off: i32, saved: [i8; 6]| abi::ms_rule {
            cfa: kind as u8,
            reg: abi::MS_REG_RSP as u8,
            window: saved.into_iter().max().unwrap_or(0).max(1) as u8,
            off,
            saved,
            ..Default::default()
        };
        let vm = |kind| by_sp(kind, layout.cframe.size.into(), RULES_OF_CFRAME);
        // in the order of the addresses above
        let numbers = [
            vm(abi::MS_CFA_LUA_VM),
            vm(abi::MS_CFA_LUA_VM_INNER),
            vm(abi::MS_CFA_LUA_DISPATCH),
            by_sp(abi::MS_CFA_LUA_HELPER, 8, [0; 6]),
            by_sp(abi::MS_CFA_LUA_LEAVING, 8, [0; 6]),
            by_sp(abi::MS_CFA_REG, 8, [0; 6]),
            by_sp(abi::MS_CFA_REG, 16, [0; 6]),
            abi::ms_rule {
                cfa: abi::MS_CFA_ROOT as u8,
                ..Default::default()
            },
        ]
        .map(|rule| u32::from(rules.intern(rule)));
        let mut words: Vec<u32> = (0..=numbers.len() as u32).collect();
        let rows = words.len() as u32;
        words.extend((0..).zip(numbers).map(|(page, rule)| page << (10 + 16) | rule));
        let mapping = |start, end, kind| abi::ms_mapping {
            start,
            end,
            bias: 0,
            table: 0,
            kind,
        };
        let maps = Maps {
            tables: vec![abi::ms_table {
                base: VM,
                nr_pages: numbers.len() as u32,
                pages: 0,
                rows,
                nr_rows: numbers.len() as u32,
                state: abi::MS_TABLE_ROWS,
                unused: 0,
            }],
            words,
            mappings: vec![
                mapping(VM, END, abi::MS_MAPPING_FILE),
                mapping(TRACE, TRACE + 0x1000, abi::MS_MAPPING_ANON),
            ],
            layouts: vec![abi::ms_lua_layout {
                state: match layout.mode {
                    GcMode::Gc64 => abi::MS_LUA_GC64,
                    GcMode::Gc32 => abi::MS_LUA_GC32,
                },
                rule: numbers[0],
                g2disp: layout.build.g2disp,
                vmstate: layout.build.vmstate as u16,
                cur_l: layout.build.cur_l as u16,
                jit_base: layout.build.jit_base as u16,
                cframe_size: layout.cframe.size,
                cf_l: layout.cframe.l,
                cf_pc: layout.cframe.pc,
                cf_prev: layout.cframe.prev,
                cf_nres: layout.cframe.nres,
                trace: layout.build.trace,
                gc_total: layout.build.gc_total,
            }],
            lua: None,
            coroutine_parents: false,
        };
        Self { maps, rules }
    }
}
