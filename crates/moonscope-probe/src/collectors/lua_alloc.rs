//! The event `lua-alloc`: what Lua allocates, and what its garbage collector costs (`bpf/lua_alloc.bpf.h`).

use std::collections::BTreeMap;
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags};
use moonscope_process::counted;
use moonscope_unwind::abi;

use crate::clock::{Clock, max_rate, possible_cpus};
use crate::collector::{AnyCollector, Collector, Column, Context, EventSpec, Programs};
use crate::error::ProbeError;
use crate::limits::Limits;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};
use crate::sums::plain;

/// Looks at the counters of VMs.
#[derive(Debug)]
struct LuaAlloc {
    /// Pairs of ticks per second and CPU.
    hz: u64,
    cpus: Vec<u32>,
    /// The two timers.
    clocks: Option<(Clock, Clock)>,
    /// What all ticks of a VM say, by its number.
    heaps: BTreeMap<u32, Heap>,
}

const FIRST: &str = "lua_alloc_first";
const SECOND: &str = "lua_alloc_second";

/// The label with what the collector does.
const PHASE: &str = "gc-phase";

/// Not a round number, so that it does not beat with what programs do.
const HZ: u64 = 997;
/// Ticks of a pair must not be farther apart than half of the time between pairs.
const RATES: std::ops::RangeInclusive<u64> = 10..=5000;
/// The ticks of a pair: shorter than what functions take that are worth a look, and longer than a tick itself takes.
const APART: Duration = Duration::from_micros(20);

/// If marking ended between more than this part of the ticks, it may have done so twice.
const FAST_CYCLES: f64 = 0.5;

/// GCS* of lj_gc.h.
const STATES: [&str; 6] = [
    "pause",
    "propagate",
    "atomic",
    "sweep strings",
    "sweep",
    "finalize",
];

/// The collector; an argument is how often VMs are looked at: `lua-alloc:2000`.
pub fn create(spec: &EventSpec) -> Result<Vec<AnyCollector>, ProbeError> {
    let hz = match &spec.argument {
        None => HZ,
        Some(text) => match text.parse() {
            Ok(hz) if RATES.contains(&hz) => hz,
            _ => {
                return Err(ProbeError::EventArgument {
                    event: spec.name.clone(),
                    argument: text.clone(),
                    expected: "looks per second and CPU, from 10 to 5000, as in lua-alloc:2000",
                });
            }
        },
    };
    Ok(vec![Box::new(LuaAlloc {
        hz,
        cpus: Vec::new(),
        clocks: None,
        heaps: BTreeMap::new(),
    })])
}

/// What all ticks of VMs with one number say; as a rule there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Heap {
    ticks: u64,
    turns: u64,
    bytes: i64,
    by_pairs: u64,
}

impl Heap {
    fn add(&mut self, sum: &abi::ms_lua_heap_sum) {
        self.ticks += sum.ticks;
        self.turns += sum.turns;
        self.bytes += sum.bytes;
        self.by_pairs += sum.by_pairs;
    }

    /// May ticks have missed cycles of the collector?
    fn is_too_fast(&self) -> bool {
        self.turns as f64 > FAST_CYCLES * self.ticks as f64
    }

    /// Bytes that were allocated in all.
    fn allocated(&self) -> i64 {
        self.bytes.max(0)
    }

    /// What the bytes of pairs are to be multiplied with.
    fn factor(&self) -> f64 {
        if self.by_pairs == 0 {
            return 0.0;
        }
        self.allocated() as f64 / self.by_pairs as f64
    }

    /// Bytes that have no stack: no pair of ticks saw any of them.
    fn unseen(&self) -> i64 {
        if self.by_pairs == 0 { self.allocated() } else { 0 }
    }
}

impl LuaAlloc {
    /// Nanoseconds between two pairs.
    fn period(&self) -> u64 {
        1_000_000_000 / self.hz
    }

    fn read_heaps(&mut self, skel: &MoonscopeSkel<'static>) {
        let map = &skel.maps.lua_alloc_vms;
        for key in map.keys() {
            let value = map.lookup(&key, MapFlags::ANY).ok().flatten();
            if let Some(sum) = value.and_then(|value| plain::<abi::ms_lua_heap_sum>(&value)) {
                self.heaps.entry(sum.number).or_default().add(&sum);
            }
        }
    }
}

impl Collector for LuaAlloc {
    fn name(&self) -> &'static str {
        "lua-alloc"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 2] = [
            Column::new("lua_alloc", "bytes"),
            Column::new("lua_gc", "nanoseconds"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        self.hz = self.hz.min(max_rate().max(1));
        self.cpus = context.cpus.to_vec();
        self.clocks = Some((
            Clock::open_timer(self.hz, context.cpus)?,
            Clock::open_timer(self.hz, context.cpus)?,
        ));
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        &[FIRST, SECOND]
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
            constants.lua_alloc_event = number;
            constants.lua_alloc_period = self.period();
        }
        // a CPU that comes later has no place, and its ticks are counted as lost
        let cpus = possible_cpus().unwrap_or(self.cpus.len());
        open.maps.lua_alloc_cpus.set_max_entries(cpus as u32)?;
        open.maps.lua_alloc_vms.set_max_entries(limits.processes as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        let Some((first, second)) = &self.clocks else {
            return Ok(());
        };
        programs.attach_perf_events(FIRST, first.events())?;
        programs.attach_perf_events(SECOND, second.events())
    }

    fn start(&mut self, _skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        match &self.clocks {
            Some((first, second)) => Clock::start_pair(first, second, &self.cpus, APART),
            None => Ok(()),
        }
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        if let Some((first, second)) = &self.clocks {
            second.stop()?;
            first.stop()?;
        }
        self.read_heaps(skel);
        Ok(())
    }

    fn how(&self) -> String {
        let mut how = format!("by gc.total, {} a second by cpu-clock", counted(self.hz, "look"));
        if !self.heaps.is_empty() {
            let bytes: i64 = self.heaps.values().map(Heap::allocated).sum();
            let mebibytes = bytes as f64 / f64::from(1 << 20);
            let vms = counted(self.heaps.len(), "VM");
            let is_too_fast = self.heaps.values().any(Heap::is_too_fast);
            let least = if is_too_fast { "at least " } else { "" };
            how += &format!(": {least}{mebibytes:.1} MiB in {vms}");
            let unseen: i64 = self.heaps.values().map(Heap::unseen).sum();
            if unseen > 0 {
                let unseen = unseen as f64 / f64::from(1 << 20);
                how += &format!(" ({unseen:.1} MiB of it in no stack: no pair of looks saw any)");
            }
            if is_too_fast {
                how += ", as one collects its garbage more often than every second look (lua-alloc:HZ)";
            }
        }
        how
    }

    fn row(&self, tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let heap = self.heaps.get(&(tag & abi::MS_LUA_ALLOC_VM_MASK));
        let factor = heap.map_or(0.0, Heap::factor);
        let bytes = sum.value[abi::MS_LUA_ALLOC_BYTES as usize];
        let gc = sum.value[abi::MS_LUA_ALLOC_GC as usize];
        vec![
            (bytes as f64 * factor).round() as i64,
            i64::try_from(gc).unwrap_or(i64::MAX),
        ]
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[PHASE]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let state = (tag >> abi::MS_LUA_ALLOC_STATE_SHIFT).checked_sub(1);
        let name = state.and_then(|state| STATES.get(state as usize));
        name.map(|name| (PHASE, (*name).to_owned())).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pairs_saw_is_scaled_to_what_all_ticks_saw() {
        let heap = Heap {
            ticks: 100,
            turns: 2,
            bytes: 3000,
            by_pairs: 2000,
        };
        assert_eq!((heap.allocated(), heap.factor()), (3000, 1.5));
        assert!(!heap.is_too_fast() && Heap { turns: 60, ..heap }.is_too_fast());
        assert_eq!((heap.unseen(), Heap { by_pairs: 0, ..heap }.unseen()), (0, 3000));
        let freed = Heap { bytes: -5, ..heap };
        assert_eq!((freed.allocated(), freed.factor()), (0, 0.0));
    }

    #[test]
    fn an_argument_is_a_rate() {
        assert!(create(&EventSpec::parse("lua-alloc:2000")).is_ok());
        for text in ["lua-alloc:9", "lua-alloc:1e3", "lua-alloc:", "lua-alloc:100000"] {
            let refused = create(&EventSpec::parse(text));
            assert!(matches!(refused, Err(ProbeError::EventArgument { .. })), "{text}");
        }
    }
}
