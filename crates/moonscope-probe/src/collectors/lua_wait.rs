//! The event `lua-wait`: how long coroutines wait that C resumes (`bpf/lua_wait.bpf.h`).

use std::collections::BTreeSet;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags};
use moonscope_luajit::{GcMode, LuaState};
use moonscope_process::{ProcessMemory, counted};
use moonscope_unwind::abi;

use crate::collector::{Collector, Column, Programs, stacks_in};
use crate::error::ProbeError;
use crate::executables::{ExecutableId, LuaFile};
use crate::limits::Limits;
use crate::object::add_spare_scratches;
use crate::processes::monotonic_now;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};
use crate::sums::plain;

/// Waits of coroutines.
#[derive(Debug, Default)]
pub struct LuaWait {
    /// Files with LuaJIT that were looked at.
    seen: BTreeSet<ExecutableId>,
    /// How many of them have probes.
    probed: usize,
    /// Why others have none.
    refused: BTreeSet<String>,
    /// When measuring ended (CLOCK_MONOTONIC, nanoseconds).
    stopped: u64,
}

const RESUME: &str = "lua_wait_resume";
const YIELD: &str = "lua_wait_yield";
const BUILTIN: &str = "lua_wait_builtin";

/// Its name on the command line.
pub const NAME: &str = "lua-wait";

/// What is said before the probes are set.
const COST: &str = "probes are set in LuaJIT: each wait of a coroutine costs the program some 10 µs of CPU time while the recording lasts";

/// The label with what a coroutine called to wait.
const CALL: &str = "lua-wait";

impl LuaWait {
    fn attach_to(&mut self, file: &LuaFile<'_>, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        let Some(path) = file.file.fd_path() else {
            return Ok(());
        };
        for build in file.builds {
            match &build.probes {
                Ok(probes) => {
                    for (program, offset) in [
                        (RESUME, probes.resume),
                        (YIELD, probes.c_yield),
                        (BUILTIN, probes.builtin_yield),
                    ] {
                        probe(programs, program, &path, offset)?;
                    }
                    self.probed += 1;
                }
                Err(why) => {
                    self.refused.insert(why.to_string());
                }
            }
        }
        Ok(())
    }
}

/// Sets a probe in all processes that have the file mapped, now or later.
fn probe(
    programs: &mut Programs<'_>,
    program: &'static str,
    path: &Path,
    offset: u64,
) -> Result<(), ProbeError> {
    const ANY_PROCESS: i32 = -1;
    let link = programs.with(program, |program| {
        program.attach_uprobe(false, ANY_PROCESS, path, offset as usize)
    })?;
    programs.links.push(link);
    Ok(())
}

impl Collector for LuaWait {
    fn name(&self) -> &'static str {
        NAME
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 2] = [
            Column::new("lua_wait", "nanoseconds"),
            Column::new("lua_waits", "count"),
        ];
        &COLUMNS
    }

    fn announcement(&self) -> Vec<String> {
        vec![COST.to_owned()]
    }

    fn programs(&self) -> &'static [&'static str] {
        &[RESUME, YIELD, BUILTIN]
    }

    fn sums_up(&self) -> bool {
        true
    }

    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        limits: &Limits,
    ) -> Result<(), libbpf_rs::Error> {
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.lua_wait_event = number;
        }
        add_spare_scratches(open)?;
        open.maps.lua_resumed.set_max_entries(limits.coroutines as u32)?;
        open.maps.lua_waits.set_max_entries(limits.coroutines as u32)
    }

    /// There is nothing to attach to until LuaJIT is found.
    fn attach(&mut self, _programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn attach_to_lua(
        &mut self,
        files: &[LuaFile<'_>],
        programs: &mut Programs<'_>,
    ) -> Result<(), ProbeError> {
        for file in files {
            if !self.seen.insert(file.id) {
                continue;
            }
            match self.attach_to(file, programs) {
                // the recording of others goes on
                Err(err) if self.probed > 0 => {
                    self.refused.insert(err.to_string());
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 1);
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 0);
        self.stopped = monotonic_now();
        Ok(())
    }

    /// Where coroutines wait.
    fn held(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<abi::ms_stack_id> {
        stacks_in(
            &skel.maps.lua_waits,
            std::mem::offset_of!(abi::ms_lua_wait, stack),
        )
    }

    /// Coroutines that wait still. What was given up meanwhile is not there, or not in a yield.
    fn lasting(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<(abi::ms_sum_key, abi::ms_sum)> {
        let map = &skel.maps.lua_waits;
        let mut lasting = Vec::new();
        for key in map.keys() {
            let value = map.lookup(&key, MapFlags::ANY).ok().flatten();
            let (Some(coroutine), Some(wait)) = (
                plain::<abi::ms_coroutine>(&key),
                value.and_then(|value| plain::<abi::ms_lua_wait>(&value)),
            ) else {
                continue;
            };
            if waits_still(&coroutine, &wait) {
                let key = abi::ms_sum_key {
                    stack: wait.stack,
                    ..Default::default()
                };
                let mut sum = abi::ms_sum {
                    count: 1,
                    ..Default::default()
                };
                sum.value[0] = self.stopped.saturating_sub(wait.since);
                lasting.push((key, sum));
            }
        }
        lasting
    }

    fn how(&self) -> String {
        let mut how = format!("by probes in {}", counted(self.probed, "LuaJIT"));
        for why in &self.refused {
            how += &format!("; not in one, as {why}");
        }
        how
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        vec![clamp(sum.value[0]), clamp(sum.count)]
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[CALL]
    }

    fn site_label(&self) -> Option<&'static str> {
        Some(CALL)
    }
}

fn waits_still(coroutine: &abi::ms_coroutine, wait: &abi::ms_lua_wait) -> bool {
    const LUA_YIELD: u8 = 1;
    let mode = match wait.mode {
        abi::MS_LUA_GC32 => GcMode::Gc32,
        _ => GcMode::Gc64,
    };
    LuaState::read(&ProcessMemory::new(coroutine.pid), mode, coroutine.l)
        .is_ok_and(|state| state.status == LUA_YIELD && state.cframe == 0)
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_lua_wait_data.as_deref_mut() {
        state.lua_wait_is_on = is_on;
    }
}
