//! Finds every VM of a process: each has one `global_State`, and at a known distance behind it its dispatch
//! table, the only place in memory with more than a hundred addresses of VM code in a row.

use std::ops::Range;

use moonscope_process::{Mapping, ProcessError, RemoteMemory};

use crate::layout::{GcMode, Layout};

/// Words of VM code in a row that make a dispatch table. It has 243 in LuaJIT 2.1 (`GG_LEN_DISP`), fewer in
/// builds without parts.
const MIN_TABLE: usize = 150;
/// More is something else.
const MAX_TABLE: usize = 512;
const WORD: usize = 8;
/// One word of each such stretch is looked at: the smallest table is longer.
const STRIDE: usize = 1024;
const _: () = assert!(MIN_TABLE * WORD > STRIDE);
/// Memory that is read at once.
const CHUNK: usize = 1 << 20;
const PAGE: u64 = 4096;

/// `~LJ_TTHREAD`: the type byte of a coroutine.
const THREAD: u8 = 6;

/// How much a scan may read and find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanBudget {
    /// Bytes of memory read.
    pub bytes: u64,
    /// VMs found.
    pub vms: usize,
}

impl Default for ScanBudget {
    /// 8 GiB, which take about two seconds, and 64 VMs.
    fn default() -> Self {
        Self {
            bytes: 8 << 30,
            vms: 64,
        }
    }
}

/// One VM of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vm {
    /// Address of its `global_State`.
    pub g: u64,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanResult {
    /// VMs that [`verify`] accepts, in the order of their addresses.
    pub vms: Vec<Vm>,
    /// Dispatch tables that it does not accept: VMs that are being made or were closed, or another build.
    pub rejected: usize,
    /// All memory that can hold a VM was read.
    pub complete: bool,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes that could not be read.
    pub unreadable: u64,
}

/// Why something is not a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Its memory cannot be read.
    #[error("memory at {addr:#x} is not readable")]
    Unreadable {
        /// Where.
        addr: u64,
    },
    /// The main coroutine stands right before the `global_State`, and names it.
    #[error("no main coroutine before the global_State at {g:#x}")]
    NoMainThread {
        /// The `global_State`.
        g: u64,
    },
    /// All that it had is freed: `lua_close` is the last that used it.
    #[error("the VM at {g:#x} was closed: {left} bytes are left of it")]
    Closed {
        /// The `global_State`.
        g: u64,
        /// `gc.total`
        left: u64,
    },
    /// The dispatch table has other words than addresses of the VM's code.
    #[error("word {index} of the dispatch table is {word:#x}, which is not in the VM")]
    Dispatch {
        /// Which word.
        index: usize,
        /// Its value.
        word: u64,
    },
    /// `cur_L` names something that is not a coroutine of this VM.
    #[error("cur_L is {addr:#x}, which is not a coroutine of this VM")]
    NotACoroutine {
        /// What it names.
        addr: u64,
    },
}

/// Finds the VMs of a process that run the VM code at `vm_text`, in its private, writable memory; small
/// mappings first, so that a large heap does not hide the others from the budget.
///
/// An error is only what ends all reading: the process is gone, or its memory is not ours to read.
pub fn scan(
    memory: &impl RemoteMemory,
    maps: &[Mapping],
    vm_text: Range<u64>,
    layout: &Layout,
    budget: ScanBudget,
) -> Result<ScanResult, ProcessError> {
    let mut scan = Scan {
        memory,
        vm_text,
        layout,
        budget,
        buffer: vec![0; CHUNK],
        result: ScanResult {
            complete: true,
            ..ScanResult::default()
        },
    };
    let mut candidates: Vec<&Mapping> = maps.iter().filter(|map| can_hold_vm(map, layout.mode)).collect();
    candidates.sort_by_key(|map| map.len());
    for map in candidates {
        if !scan.mapping(map)? {
            scan.result.complete = false;
            break;
        }
    }
    scan.result.vms.sort_by_key(|vm| vm.g);
    scan.result.complete &= scan.result.unreadable == 0;
    Ok(scan.result)
}

fn can_hold_vm(map: &Mapping, mode: GcMode) -> bool {
    // 32-bit references reach no farther
    let in_reach = mode == GcMode::Gc64 || map.start < 1 << 32;
    map.readable && map.writable && !map.shared && in_reach
}

struct Scan<'a, M> {
    memory: &'a M,
    vm_text: Range<u64>,
    layout: &'a Layout,
    budget: ScanBudget,
    buffer: Vec<u8>,
    result: ScanResult,
}

impl<M: RemoteMemory> Scan<'_, M> {
    /// Reads one mapping; false when the budget is used up.
    fn mapping(&mut self, map: &Mapping) -> Result<bool, ProcessError> {
        let mut at = map.start;
        // how much is skipped where nothing can be read: doubled each time, for mappings without any memory
        let mut skip = PAGE;
        // end of the last table: it is looked at once
        let mut seen = 0;
        while at < map.end {
            let left = self.budget.bytes.saturating_sub(self.result.bytes);
            if left == 0 || self.result.vms.len() >= self.budget.vms {
                return Ok(false);
            }
            let next = map.end.min(at.saturating_add(CHUNK as u64));
            let content = self.memory.populated(at..next);
            if content.is_empty() {
                at = next;
                continue;
            }
            at = content.start.max(at);
            let want = (content.end.saturating_sub(at)).min(CHUNK as u64).min(left);
            let mut buffer = std::mem::take(&mut self.buffer);
            let chunk = buffer
                .get_mut(..usize::try_from(want).unwrap_or(CHUNK))
                .unwrap_or_default();
            let read = self.memory.read(at, chunk);
            if let Ok(read) = read {
                seen = self.chunk(map, at, chunk.get(..read).unwrap_or_default(), seen);
            }
            self.buffer = buffer;
            match read {
                Ok(read) if read > 0 => {
                    self.result.bytes += read as u64;
                    at += read as u64;
                    skip = PAGE;
                }
                Err(err) if err.is_gone() || matches!(err, ProcessError::NotPermitted { .. }) => {
                    return Err(err);
                }
                _ => {
                    let next = (at - at % PAGE).saturating_add(skip).min(map.end);
                    self.result.unreadable += next - at;
                    at = next;
                    skip = (skip * 2).min(CHUNK as u64);
                }
            }
        }
        Ok(true)
    }

    /// Looks at one word in each stretch of the chunk at `start`.
    fn chunk(&mut self, map: &Mapping, start: u64, chunk: &[u8], mut seen: u64) -> u64 {
        let first = start.next_multiple_of(STRIDE as u64) - start;
        let Ok(first) = usize::try_from(first) else {
            return seen;
        };
        for at in (first..chunk.len().saturating_sub(WORD - 1)).step_by(STRIDE) {
            let addr = start + at as u64;
            if !self.is_code(word(chunk, at)) || addr < seen || !self.may_be_table(chunk, at) {
                continue;
            }
            let Some(table) = self.table(map, addr) else {
                continue;
            };
            seen = table.end;
            let size = (table.end - table.start) / WORD as u64;
            if (MIN_TABLE as u64..=MAX_TABLE as u64).contains(&size) {
                self.found(table.start);
            }
        }
        seen
    }

    fn is_code(&self, word: Option<u64>) -> bool {
        word.is_some_and(|word| self.vm_text.contains(&word))
    }

    /// Most words that are addresses of the VM are alone: return addresses on a stack.
    fn may_be_table(&self, chunk: &[u8], at: usize) -> bool {
        const PROBE: usize = 16 * WORD;
        let is_or_unknown = |at: Option<usize>| {
            let word = at.and_then(|at| word(chunk, at));
            word.is_none() || self.is_code(word)
        };
        is_or_unknown(at.checked_sub(PROBE)) || is_or_unknown(at.checked_add(PROBE))
    }

    /// The words in a row around this address that are addresses of the VM, at most twice as many as can be.
    fn table(&self, map: &Mapping, addr: u64) -> Option<Range<u64>> {
        let reach = (MAX_TABLE * WORD) as u64;
        let from = addr.saturating_sub(reach).max(map.start);
        let to = addr.saturating_add(reach).min(map.end);
        let mut bytes = vec![0; usize::try_from(to.checked_sub(from)?).ok()?];
        self.memory.read_exact(from, &mut bytes).ok()?;
        let middle = usize::try_from(addr - from).ok()?;
        let ahead = (middle..bytes.len()).step_by(WORD);
        let after = ahead.take_while(|&at| self.is_code(word(&bytes, at))).count();
        let back = (1..=middle / WORD).map(|n| middle - n * WORD);
        let before = back.take_while(|&at| self.is_code(word(&bytes, at))).count();
        Some(addr - (before * WORD) as u64..addr + (after * WORD) as u64)
    }

    fn found(&mut self, table: u64) {
        let g = table.checked_sub(self.layout.build.g2disp.into());
        match g.map(|g| (g, verify(self.memory, g, self.layout, self.vm_text.clone()))) {
            Some((g, Ok(()))) => {
                if !self.result.vms.contains(&Vm { g }) {
                    self.result.vms.push(Vm { g });
                }
            }
            _ => self.result.rejected += 1,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<WORD>()?))
}

/// Is there a `global_State` at `g`, of a VM whose code is at `vm_text`? Its main coroutine, its dispatch table and
/// its running coroutine must be what they are in every VM.
pub fn verify(
    memory: &impl RemoteMemory,
    g: u64,
    layout: &Layout,
    vm_text: Range<u64>,
) -> Result<(), Reason> {
    main_thread(memory, g, layout)?;
    not_closed(memory, g, layout)?;
    let table = add(g, layout.build.g2disp.into())?;
    let mut bytes = [0; MIN_TABLE * WORD];
    memory
        .read_exact(table, &mut bytes)
        .map_err(|_| Reason::Unreadable { addr: table })?;
    for (index, word) in bytes.as_chunks::<WORD>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        if !vm_text.contains(&word) {
            return Err(Reason::Dispatch { index, word });
        }
    }
    let at = add(g, layout.build.cur_l.into())?;
    let addr = reference(memory, layout, at)?;
    // none before the VM is first entered
    if addr != 0 && !is_coroutine_of(memory, addr, g, layout) {
        return Err(Reason::NotACoroutine { addr });
    }
    Ok(())
}

/// Memory that a VM was in may look as if it still were, if it came from an allocator of the program. What `lua_close` leaves
/// of a VM are its `global_State` and what is beside it (lj_state.c, close_state: `gc.total == sizeof(GG_State)`).
fn not_closed(memory: &impl RemoteMemory, g: u64, layout: &Layout) -> Result<(), Reason> {
    /// The main coroutine before, the dispatch table and the counters and instructions behind it (lj_dispatch.h, GG_State) take
    /// less than this beside `g2disp`; the smallest VM that is there has its table of strings, its stack and the names of
    /// metamethods too, which take more.
    const BESIDE: u64 = 3 << 10;
    if layout.build.gc_total == 0 {
        return Ok(());
    }
    let left = reference(memory, layout, add(g, layout.build.gc_total.into())?)?;
    match left < u64::from(layout.build.g2disp) + BESIDE {
        true => Err(Reason::Closed { g, left }),
        false => Ok(()),
    }
}

/// The main coroutine of the VM: the `lua_State` right before the `global_State` (lj_dispatch.h, `GG_State`). How large
/// it is differs: luajit2 keeps two more words in it.
pub fn main_thread(memory: &impl RemoteMemory, g: u64, layout: &Layout) -> Result<u64, Reason> {
    // L->cframe and a word behind it, and up to six words more
    let smallest = u64::from(layout.fields().l_cframe) + 16;
    (0..8)
        .filter_map(|words| g.checked_sub(smallest + words * 8))
        .find(|&addr| is_coroutine_of(memory, addr, g, layout))
        .ok_or(Reason::NoMainThread { g })
}

fn is_coroutine_of(memory: &impl RemoteMemory, addr: u64, g: u64, layout: &Layout) -> bool {
    let fields = layout.fields();
    let mut gct = [0];
    let Ok(at) = add(addr, fields.gct.into()) else {
        return false;
    };
    memory.read_exact(at, &mut gct).is_ok()
        && gct == [THREAD]
        && add(addr, fields.l_glref.into())
            .and_then(|at| reference(memory, layout, at))
            .is_ok_and(|glref| glref == g)
}

fn add(addr: u64, offset: u64) -> Result<u64, Reason> {
    addr.checked_add(offset).ok_or(Reason::Unreadable { addr })
}

/// The reference at this address, 4 or 8 bytes.
fn reference(memory: &impl RemoteMemory, layout: &Layout, addr: u64) -> Result<u64, Reason> {
    match layout.mode {
        GcMode::Gc64 => memory.read_u64(addr),
        GcMode::Gc32 => memory.read_u32(addr).map(u64::from),
    }
    .map_err(|_| Reason::Unreadable { addr })
}
