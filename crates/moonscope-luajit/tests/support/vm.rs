//! Where the VM of a live LuaJIT is, from its memory alone.

use moonscope_luajit::{BuildOffsets, CFrame, GcMode, Layout, TraceFields};
use moonscope_process::{ProcessMemory, RemoteMemory};

const GC64_TRACE: TraceFields = TraceFields {
    nsnap: 0xa,
    nins: 0xc,
    ir: 0x20,
    nk: 0x28,
    snap: 0x30,
    snapmap: 0x38,
    startpt: 0x40,
    startpc: 0x48,
    startins: 0x50,
    szmcode: 0x54,
    mcode: 0x58,
    traceno: 0x68,
    link: 0x6a,
    root: 0x6c,
    snapshot_size: 12,
    snapshot_mcofs: Some(6),
    snapshot_nslots: 8,
};
const GC32_TRACE: TraceFields = TraceFields {
    nsnap: 0x6,
    nins: 0x8,
    ir: 0x10,
    nk: 0x18,
    snap: 0x20,
    snapmap: 0x28,
    startpt: 0x30,
    startpc: 0x34,
    startins: 0x38,
    szmcode: 0x3c,
    mcode: 0x40,
    traceno: 0x50,
    link: 0x52,
    root: 0x54,
    snapshot_size: 12,
    snapshot_mcofs: Some(6),
    snapshot_nslots: 8,
};

/// The VM of a process.
pub struct Vm {
    pub layout: Layout,
    pub g: u64,
    /// First and last handler of a bytecode instruction.
    pub handlers: (u64, u64),
    /// The executable part of the file that LuaJIT is in.
    pub text: (u64, u64),
}

struct Mapping {
    start: u64,
    end: u64,
    perms: String,
    path: String,
}

fn mappings(pid: i32) -> Vec<Mapping> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            Mapping {
                start: u64::from_str_radix(start, 16).unwrap(),
                end: u64::from_str_radix(end, 16).unwrap(),
                perms: words.next().unwrap().to_owned(),
                path: words.nth(3).unwrap_or("").to_owned(),
            }
        })
        .collect()
}

/// The executable anonymous mappings: areas of machine code.
pub fn anonymous_code(pid: i32) -> Vec<(u64, u64)> {
    let maps = mappings(pid).into_iter();
    maps.filter(|map| map.path.is_empty() && map.perms.contains('x'))
        .map(|map| (map.start, map.end))
        .collect()
}

impl Vm {
    /// Finds the only VM of this process. A trace must exist in it if `with_traces`.
    pub fn find(pid: i32, memory: &ProcessMemory, with_traces: bool) -> Option<Self> {
        let maps = mappings(pid);
        let is_luajit = |map: &&Mapping| map.perms.starts_with("r-x") && map.path.contains("luajit");
        let text: Vec<_> = maps
            .iter()
            .filter(is_luajit)
            .map(|map| (map.start, map.end))
            .collect();
        maps.iter()
            .filter(|map| map.perms.starts_with("rw"))
            .find_map(|map| {
                let bytes = contents(memory, map.start, map.end)?;
                let words: Vec<u64> = bytes
                    .chunks_exact(8)
                    .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
                    .collect();
                text.iter().find_map(|&text| {
                    let at = long_run(&words, text)?;
                    Self::at(memory, map.start, &bytes, at * 8, text, with_traces)
                })
            })
    }

    fn at(
        memory: &ProcessMemory,
        start: u64,
        bytes: &[u8],
        table: usize,
        text: (u64, u64),
        with_traces: bool,
    ) -> Option<Self> {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        // The main thread is right before G, and says where G is.
        let (mode, g) = (0..table).rev().step_by(8).map(|at| at / 8 * 8).find_map(|at| {
            let own = start + at as u64;
            let is_g = |g: u64, mode| {
                let is_near = (0x40..=0x90).contains(&g.wrapping_sub(own));
                is_near.then_some((mode, g))
            };
            if bytes[at + 9] == 6 {
                is_g(u64_at(at + 0x10), GcMode::Gc64)
            } else if bytes[at + 5] == 6 {
                is_g(u64::from(u32_at(at + 8)), GcMode::Gc32)
            } else {
                None
            }
        })?;
        let fields = mode.fields();
        let offset = (g - start) as usize;
        let g2disp = table - offset;
        // bc_cfunc_int and bc_cfunc_ext: the same opcode, A is LUA_MINSTACK; cur_L is next.
        let pair = (offset..table).step_by(4).find(|&at| {
            let (a, b) = (u32_at(at), u32_at(at + 4));
            a >> 8 == 0x14 && b >> 8 == 0x14 && a == b
        })?;
        let size = usize::from(fields.ref_size);
        let cur_l = (pair + 8).next_multiple_of(size) - offset;
        let trace = (offset..table).step_by(8).find(|&at| {
            let (array, count) = (u64_at(at), u32_at(at + 12));
            let free = u32_at(at + 8);
            free <= count && count <= 65536 && count > 1 && has_traces(memory, mode, array, count)
        });
        let trace = match (trace, with_traces) {
            (Some(at), _) => at - offset,
            (None, true) => return None,
            (None, false) => 0,
        };
        let handlers = (0..97).map(|at| u64_at(table + 8 * at));
        let layout = Layout {
            mode,
            cframe: match mode {
                GcMode::Gc64 => CFrame {
                    size: 80,
                    l: 16,
                    pc: 24,
                    prev: 32,
                    nres: 8,
                },
                GcMode::Gc32 => CFrame {
                    size: 80,
                    l: 24,
                    pc: 28,
                    prev: 32,
                    nres: 16,
                },
            },
            build: BuildOffsets {
                g2disp: g2disp as u32,
                vmstate: 0,
                cur_l: cur_l as u32,
                jit_base: (cur_l + size) as u32,
                trace: trace as u32,
                sizetrace: trace as u32 + 12,
                gc_total: 0x10,
            },
            trace: Some(match mode {
                GcMode::Gc64 => GC64_TRACE,
                GcMode::Gc32 => GC32_TRACE,
            }),
        };
        Some(Self {
            layout,
            g,
            handlers: (handlers.clone().min()?, handlers.max()?),
            text,
        })
    }

    /// `GCtrace.spadjust`, which stands before the number.
    pub fn spadjust(&self, memory: &ProcessMemory, traceno: u16) -> u64 {
        let array = memory
            .read_u64(self.g + u64::from(self.layout.build.trace))
            .unwrap();
        let (trace, offset) = match self.layout.mode {
            GcMode::Gc64 => (memory.read_u64(array + 8 * u64::from(traceno)).unwrap(), 0x66),
            GcMode::Gc32 => {
                let trace = memory.read_u32(array + 4 * u64::from(traceno)).unwrap();
                (u64::from(trace), 0x4e)
            }
        };
        u64::from(memory.read_u32(trace + offset).unwrap() as u16)
    }

    /// A field of G that is a reference.
    pub fn reference(&self, memory: &ProcessMemory, offset: u32) -> u64 {
        let addr = self.g + u64::from(offset);
        match self.layout.mode {
            GcMode::Gc64 => memory.read_u64(addr).unwrap(),
            GcMode::Gc32 => u64::from(memory.read_u32(addr).unwrap()),
        }
    }
}

fn contents(memory: &ProcessMemory, start: u64, end: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
    memory.read_exact(start, &mut bytes).ok()?;
    Some(bytes)
}

/// At least 150 words in a row that point into the text: the dispatch table.
fn long_run(words: &[u64], (start, end): (u64, u64)) -> Option<usize> {
    let mut run = 0;
    for (at, &word) in words.iter().enumerate() {
        run = if word >= start && word < end { run + 1 } else { 0 };
        if run == 150 {
            return Some(at - 149);
        }
    }
    None
}

fn has_traces(memory: &ProcessMemory, mode: GcMode, array: u64, count: u32) -> bool {
    let read = |index: u32| match mode {
        GcMode::Gc64 => memory.read_u64(array + 8 * u64::from(index)).ok(),
        GcMode::Gc32 => memory.read_u32(array + 4 * u64::from(index)).ok().map(u64::from),
    };
    let (gct, traceno) = match mode {
        GcMode::Gc64 => (9, 0x68),
        GcMode::Gc32 => (5, 0x50),
    };
    let is_trace = |index| {
        read(index).filter(|&at| at != 0).is_some_and(|at| {
            let (mut kind, mut number) = ([0], [0; 2]);
            memory.read_exact(at + gct, &mut kind).is_ok()
                && memory.read_exact(at + traceno, &mut number).is_ok()
                && kind == [9]
                && u32::from(u16::from_le_bytes(number)) == index
        })
    };
    array != 0 && read(0) == Some(0) && (1..count.min(64)).any(is_trace)
}
