//! The garbage collector.

use moonscope_luajit::heap::Collector;
use serde_json::{Value, json};

use super::Show;
use super::vms::OneVm;
use crate::exit::Failure;
use crate::table::{Table, size};

/// The garbage collector.
pub struct GcView;

/// Bits of `hookmask` (`LUA_MASK*` in lua.h, `HOOK_*` in lj_obj.h).
const HOOKS: [(u8, &str); 8] = [
    (0x01, "call"),
    (0x02, "return"),
    (0x04, "line"),
    (0x08, "count"),
    (0x10, "active"),
    (0x20, "vmevent"),
    (0x40, "gc"),
    (0x80, "profile"),
];

fn hooks(found: &Collector) -> Vec<&'static str> {
    let set = HOOKS.iter().filter(|(bit, _)| found.hookmask & bit != 0);
    set.map(|&(_, name)| name).collect()
}

/// What the VM does, or that it does nothing.
fn activity(found: &Collector) -> String {
    match found.is_running {
        true => found.vm.activity.to_string(),
        false => "idle".to_owned(),
    }
}

fn threshold(found: &Collector) -> String {
    match found.is_stopped {
        true => "stopped".to_owned(),
        false => size(found.threshold),
    }
}

impl Show for GcView {
    const KIND: &'static str = "moonscope-lua-gc";
    type Found = Collector;

    fn look(&self, vm: &OneVm) -> Result<Collector, Failure> {
        Ok(Collector::read(vm.memory(), &vm.heap)?)
    }

    fn json(&self, _: &OneVm, found: &Collector) -> Value {
        json!({
            "total_bytes": found.total,
            "threshold_bytes": (!found.is_stopped).then_some(found.threshold),
            "debt_bytes": found.debt,
            "estimate_bytes": found.estimate,
            "pause_percent": found.pause,
            "stepmul_percent": found.stepmul,
            "phase": found.phase.as_str(),
            "is_stopped": found.is_stopped,
            "strings": { "count": found.strings, "buckets": found.buckets },
            "traces": found.traces.map(|traces| json!({
                "count": traces.count, "machine_code_bytes": traces.machine_code, "capacity": traces.capacity,
                "torn": traces.torn,
            })),
            "hooks": hooks(found),
            "is_running": found.is_running,
            "vmstate": found.vm.activity.number(),
            "activity": activity(found),
        })
    }

    fn table(&self, all: &[(OneVm, Collector)]) -> String {
        let mut table = Table::new(&[
            "PID",
            "USED",
            "THRESHOLD",
            "ESTIMATE",
            "DEBT",
            "PAUSE%",
            "STEPMUL%",
            "GC",
            "STRINGS",
            "LOAD",
            "TRACES",
            "MCODE",
            "HOOKS",
            "VM",
        ]);
        for (vm, found) in all {
            let hooks = hooks(found).join(",");
            let traces = |text: &dyn Fn(&moonscope_luajit::heap::Traces) -> String| {
                found.traces.as_ref().map_or("-".to_owned(), text)
            };
            table.row([
                vm.name(),
                size(found.total),
                threshold(found),
                size(found.estimate),
                size(found.debt),
                found.pause.to_string(),
                found.stepmul.to_string(),
                found.phase.as_str().to_owned(),
                found.strings.to_string(),
                format!("{:.2}", found.strings as f64 / found.buckets.max(1) as f64),
                traces(&|traces| traces.count.to_string()),
                traces(&|traces| size(traces.machine_code)),
                if hooks.is_empty() { "-".to_owned() } else { hooks },
                activity(found),
            ]);
        }
        table.to_string()
    }

    fn orig(&self, _: &OneVm, found: &Collector) -> String {
        format!("Total GC count: {} bytes\n", found.total)
    }
}
