//! LuaJIT in the files and processes of a target: is it understood, and what of it is found.

use std::ops::Range;
use std::time::Instant;

use moonscope_luajit::{
    GcMode, Layout, ScanBudget, TraceKeeper, coroutine_probes, decode_layout, find_vms, scan, traces,
};
use moonscope_process::{Executable, Mapping, Pid, ProcessMemory, visible};
use object::{Object, ObjectSymbol};
use serde::Serialize;

use super::files::TargetReport;

/// What is looked at of one process: a quarter of a second, and of many workers it is many of them.
const BUDGET: ScanBudget = ScanBudget {
    bytes: 1 << 30,
    vms: 64,
};

/// A VM in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LuaInFile {
    /// As the file says itself: `LuaJIT 2.1.1700008891`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// OpenResty's fork: it has the library `thread`.
    pub(super) is_openresty: bool,
    /// 64 (GC64) or 32 (GC32).
    pub(super) reference_bits: u32,
    /// Why it cannot be read; `None`: what is needed was found in its code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Why `-e lua-wait` does not see its coroutines; `None`: it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) no_waits: Option<String>,
    /// Virtual addresses of its code, and where it keeps things.
    #[serde(skip)]
    pub(super) found: Option<(Range<u64>, Layout)>,
}

/// What names of ngx_lua's functions tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct NgxLua {
    /// The function of timers is known: by its symbol, or by what is done with it.
    pub(super) names_timers: bool,
}

/// VMs of one LuaJIT in one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LuaInProcess {
    pub(super) pid: Pid,
    /// The file with the LuaJIT.
    pub(super) file: String,
    /// VMs whose memory proves what the code says.
    pub(super) vms: usize,
    /// What looks like a VM and does not.
    pub(super) rejected: usize,
    /// All memory that can hold one was looked at.
    pub(super) is_complete: bool,
    /// Traces of these VMs now.
    pub(super) traces: usize,
    /// What is inlined in traces is known: `None` before there is a trace to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) knows_inlined: Option<bool>,
    /// Executable areas without a file that hold their traces.
    pub(super) areas: usize,
    pub(super) area_kib: u64,
}

/// LuaJIT in a file.
pub(super) fn in_file(data: &[u8]) -> Vec<LuaInFile> {
    let vms = find_vms(data).unwrap_or_default();
    let in_vm = |vm: &moonscope_luajit::VmText| {
        let layout = decode_layout(data, vm);
        LuaInFile {
            version: version(data),
            is_openresty: contains(data, b"exdata"),
            reference_bits: match vm.mode {
                GcMode::Gc64 => 64,
                GcMode::Gc32 => 32,
            },
            refused: layout.as_ref().err().map(ToString::to_string),
            no_waits: coroutine_probes(data, vm).err().map(|err| err.to_string()),
            found: layout.ok().map(|layout| (vm.start..vm.end, layout)),
        }
    };
    vms.iter().map(in_vm).collect()
}

/// ngx_lua in a file, linked in or as a module.
pub(super) fn ngx_lua(elf: &object::File<'_>) -> Option<NgxLua> {
    let has = |name: &[u8]| {
        let symbols = elf.dynamic_symbols().chain(elf.symbols());
        symbols
            .filter(ObjectSymbol::is_definition)
            .any(|symbol| symbol.name_bytes() == Ok(name))
    };
    has(b"ngx_http_lua_run_thread").then(|| NgxLua {
        names_timers: has(b"ngx_http_lua_timer_handler"),
    })
}

/// `LUAJIT_VERSION` (luajit.h): in every file with LuaJIT, for `jit.version`.
fn version(data: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"LuaJIT ";
    const LONGEST: usize = 32;
    let at = find(data, b"LuaJIT 2.")?;
    let number = data.get(at + NAME.len()..)?;
    let number = number.get(..number.len().min(LONGEST))?;
    let end = number.iter().position(|byte| !byte.is_ascii_graphic())?;
    let number = std::str::from_utf8(number.get(..end)?).ok()?;
    Some(format!("LuaJIT {number}"))
}

fn contains(data: &[u8], what: &[u8]) -> bool {
    find(data, what).is_some()
}

fn find(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|window| window == what)
}

/// Looks for the VMs of a LuaJIT in a process that has it mapped.
pub(super) fn in_process(
    pid: Pid,
    maps: &[Mapping],
    (executable, mapping): (&Executable, &Mapping),
    lua: &LuaInFile,
) -> Option<LuaInProcess> {
    let (code, layout) = lua.found.as_ref()?;
    let bias = executable.bias(mapping)?;
    let code = code.start.wrapping_add(bias)..code.end.wrapping_add(bias);
    let is_inside = mapping.start <= code.start && code.end <= mapping.end;
    let memory = ProcessMemory::new(pid);
    let found = is_inside.then(|| scan(&memory, maps, code, layout, BUDGET))?;
    let mut report = LuaInProcess {
        pid,
        file: executable.path().to_string_lossy().into_owned(),
        vms: 0,
        rejected: 0,
        is_complete: false,
        traces: 0,
        knows_inlined: None,
        areas: 0,
        area_kib: 0,
    };
    let Ok(found) = found else {
        return Some(report);
    };
    report.vms = found.vms.len();
    report.rejected = found.rejected;
    report.is_complete = found.complete;
    let is_generated = |map: &&Mapping| map.executable && map.inode == 0;
    let generated = || maps.iter().filter(is_generated).map(|map| (map.start, map.end));
    let mut areas = Vec::new();
    for vm in &found.vms {
        let trace = layout.trace.or_else(|| traces::settle(&memory, vm.g, layout));
        let Some(trace) = trace else { continue };
        let layout = Layout {
            trace: Some(trace),
            ..*layout
        };
        let mut keeper = TraceKeeper::new(layout, vm.g);
        let polled = keeper.poll(&memory, Instant::now()).unwrap_or_default();
        report.traces += polled.live + polled.postponed;
        report.knows_inlined = Some(trace.snapshot_mcofs.is_some());
        areas.extend(keeper.areas(generated()));
    }
    areas.sort_unstable();
    areas.dedup();
    report.areas = areas.len();
    report.area_kib = areas.iter().map(|(start, end)| (end - start) >> 10).sum();
    Some(report)
}

/// What all that means, a sentence each.
pub(super) fn sentences(target: &TargetReport) -> Vec<String> {
    let mut all = Vec::new();
    for file in &target.files {
        let path = visible(&file.path);
        for lua in &file.lua {
            all.push(format!("{} in {path}: {}", lua.title(), lua.verdict()));
        }
        if let Some(ngx_lua) = file.ngx_lua {
            all.push(format!("ngx_lua in {path}: {}", ngx_lua.verdict()));
        }
    }
    all.extend(target.lua.iter().map(LuaInProcess::sentence));
    all
}

impl LuaInFile {
    fn title(&self) -> String {
        let version = self.version.as_deref().unwrap_or("LuaJIT");
        let fork = if self.is_openresty {
            "OpenResty's fork, "
        } else {
            ""
        };
        format!("{version} ({fork}GC{})", self.reference_bits)
    }

    fn verdict(&self) -> String {
        if let Some(reason) = &self.refused {
            return format!("no Lua frames: {reason}");
        }
        let waits = match &self.no_waits {
            Some(reason) => format!("; -e lua-wait cannot be had: {reason}"),
            None => String::new(),
        };
        format!("understood, what is needed was found in its code{waits}")
    }
}

impl NgxLua {
    fn verdict(self) -> &'static str {
        match self.names_timers {
            true => "phases are told by its functions and by the names of inline code",
            false => {
                "phases are told by the functions that it exports, by those of nginx and by the names of inline code; its \
                 timers have no phase, except those of APISIX: the function that tells them was not found"
            }
        }
    }
}

impl LuaInProcess {
    fn sentence(&self) -> String {
        let vms = match (self.vms, self.rejected, self.is_complete) {
            (0, 0, true) => "no VM yet".to_owned(),
            (vms, rejected, is_complete) => {
                let s = if vms == 1 { "" } else { "s" };
                let memory = if vms == 1 {
                    "its memory agrees"
                } else {
                    "their memory agrees"
                };
                let mut text = format!("{vms} VM{s}");
                if vms > 0 {
                    text += &format!(" ({memory} with the code)");
                }
                if rejected > 0 {
                    text += &format!(", {rejected} that do not agree");
                }
                if !is_complete {
                    text += "; not all memory could be looked at";
                }
                text
            }
        };
        let traces = match (self.traces, self.knows_inlined) {
            (0, _) | (_, None) => String::new(),
            (count, Some(knows_inlined)) => {
                let inlined = if knows_inlined { "with" } else { "without" };
                format!(
                    "; {count} traces in {} KiB of compiled code, walked and named, {inlined} what is inlined",
                    self.area_kib
                )
            }
        };
        format!("process {}: {vms} of {}{traces}", self.pid, visible(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_file_says() {
        let data = b"\0x LuaJIT 2.1.1700008891\0Copyright (C) 2005-2023 Mike Pall. http://x";
        assert_eq!(version(data).as_deref(), Some("LuaJIT 2.1.1700008891"));
        let data = b"LuaJIT 2.1.0-beta3 -- Copyright (C) 2005-2022 Mike Pall. https://luajit.org/";
        assert_eq!(version(data).as_deref(), Some("LuaJIT 2.1.0-beta3"));
        assert_eq!(version(b"LuaJIT 2.1"), None);
        assert_eq!(version(b"Lua 5.1"), None);
    }

    #[test]
    fn what_is_no_file_with_luajit_has_none() {
        assert_eq!(in_file(b"no ELF file"), []);
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(in_file(&own), []);
    }

    #[test]
    fn a_luajit_that_is_not_understood_is_told_with_the_reason() {
        let lua = LuaInFile {
            version: Some("LuaJIT 2.0.5".to_owned()),
            is_openresty: false,
            reference_bits: 32,
            refused: Some("2.1 is needed".to_owned()),
            no_waits: None,
            found: None,
        };
        let text = format!("{}: {}", lua.title(), lua.verdict());
        assert_eq!(text, "LuaJIT 2.0.5 (GC32): no Lua frames: 2.1 is needed");
    }
}
