//! All collectors. A new one is a file in `bpf/`, a file in this folder, its module and an entry of [`ALL`] here.

pub mod alloc;
mod block;
mod counter;
mod cpu;
pub mod io;
mod lua_alloc;
pub mod lua_loop;
pub mod lua_wait;
pub mod memory;
pub mod offcpu;
pub mod probe;
mod readahead;

use std::collections::{BTreeMap, BTreeSet};

use moonscope_unwind::abi;

use crate::collector::{AnyCollector, EventSpec};
use crate::error::ProbeError;
use crate::kernel_types::tells_events_apart;

/// An event that can be recorded.
pub struct Event {
    /// Its name; one that takes an argument has it behind a colon.
    pub name: &'static str,
    /// What a sample of it means, in a line.
    pub what: &'static str,
    make: fn(&EventSpec) -> Result<Vec<AnyCollector>, ProbeError>,
}

/// Every event, in the order in which `moonscope list events` shows them.
pub const ALL: &[Event] = &[
    Event {
        name: "cpu",
        what: "time on a processor: hardware cycles where there is a counter, else the cpu clock",
        make: |_| Ok(vec![Box::new(cpu::Cpu::default())]),
    },
    Event {
        name: "offcpu",
        what: "time blocked or waiting for a processor, with the reason; no probe in the program",
        make: |_| Ok(vec![Box::new(offcpu::OffCpu::default())]),
    },
    Event {
        name: "wall",
        what: "time on a processor and off it, in one graph",
        make: |_| {
            Ok(vec![
                Box::new(cpu::Cpu::default()),
                Box::new(offcpu::OffCpu::default()),
            ])
        },
    },
    Event {
        name: "io",
        what: "bytes and time of calls that read, write, send, receive, copy and sync, by kind of file",
        make: |_| Ok(vec![Box::new(io::Io::default())]),
    },
    Event {
        name: "block",
        what: "requests to block devices: who makes them, bytes, time at the device and in the queue, failures",
        make: |_| Ok(vec![Box::new(block::Block::default())]),
    },
    Event {
        name: "readahead",
        what: "pages of files that are read before they are asked for: used, evicted unused, or waiting",
        make: |_| Ok(vec![Box::new(readahead::Readahead::default())]),
    },
    Event {
        name: "memory",
        what: "where resident memory comes from, and where it is given back; `memory:BYTES` for each stack",
        make: memory::create,
    },
    Event {
        name: "alloc",
        what: "what malloc gives out and what is in use; sets probes in the program; `alloc:BYTES` for each stack",
        make: alloc::create,
    },
    Event {
        name: lua_loop::NAME,
        what: "turns of an event loop that take too long, with what ran; `lua-loop:TIME` for the shortest, else 20ms",
        make: lua_loop::create,
    },
    Event {
        name: "lua-alloc",
        what: "what Lua allocates, and the time of its garbage collector; `lua-alloc:HZ` looks, else 997 a second",
        make: lua_alloc::create,
    },
    Event {
        name: lua_wait::NAME,
        what: "where requests wait: coroutines that C resumes, from yield to resume; sets probes in LuaJIT",
        make: |_| Ok(vec![Box::new(lua_wait::LuaWait::default())]),
    },
    Event {
        name: "page-faults",
        what: "page faults of either kind",
        make: counter::create,
    },
    Event {
        name: "minor-faults",
        what: "page faults without disk",
        make: counter::create,
    },
    Event {
        name: "major-faults",
        what: "page faults that read from disk",
        make: counter::create,
    },
    Event {
        name: "context-switches",
        what: "switches to another thread",
        make: counter::create,
    },
    Event {
        name: "cpu-migrations",
        what: "moves to another processor",
        make: counter::create,
    },
    Event {
        name: "cycles",
        what: "processor cycles; as the others below only where the machine has performance counters; `NAME:PERIOD`",
        make: counter::create,
    },
    Event {
        name: "instructions",
        what: "instructions",
        make: counter::create,
    },
    Event {
        name: "cache-references",
        what: "accesses of the last-level cache",
        make: counter::create,
    },
    Event {
        name: "cache-misses",
        what: "those that miss",
        make: counter::create,
    },
    Event {
        name: "branches",
        what: "branches",
        make: counter::create,
    },
    Event {
        name: "branch-misses",
        what: "those that were predicted wrongly",
        make: counter::create,
    },
    Event {
        name: "stalled-cycles-frontend",
        what: "cycles without instructions to issue",
        make: counter::create,
    },
    Event {
        name: "stalled-cycles-backend",
        what: "cycles without resources to issue them",
        make: counter::create,
    },
    Event {
        name: "probe",
        what: "calls of any function and how long they take, tracepoints, USDT: `probe:FUNCTION`, `probe:p:FILE:FUNCTION`, `probe:p::KERNEL_FUNCTION`, `probe:t:GROUP:EVENT`, `probe:u:FILE:PROVIDER:PROBE`; repeatable",
        make: probe::create,
    },
];

/// The event whose columns are sums of those of others.
pub const WALL: &str = "wall";

/// All events that need no argument.
pub(crate) fn all() -> Vec<EventSpec> {
    ALL.iter().map(|event| EventSpec::parse(event.name)).collect()
}

/// Names of the labels that events give their samples.
pub fn labels() -> BTreeSet<&'static str> {
    let collectors = all().into_iter().filter_map(|event| create(&[event]).ok());
    let names = collectors.flatten().flat_map(|collector| collector.label_names());
    names.copied().collect()
}

/// The collectors of these events, each once.
pub(crate) fn create(events: &[EventSpec]) -> Result<Vec<AnyCollector>, ProbeError> {
    let mut all: Vec<AnyCollector> = Vec::new();
    for (place, spec) in events.iter().enumerate() {
        if events[..place].contains(spec) {
            continue;
        }
        // most programs cannot measure two things
        if events[..place].iter().any(|earlier| earlier.name == spec.name) {
            let earlier = all.iter_mut().find(|collector| collector.name() == spec.name);
            if let Some(collector) = earlier
                && collector.add_argument(spec)?
            {
                continue;
            }
            return Err(ProbeError::EventArgument {
                event: spec.name.clone(),
                argument: spec.argument.clone().unwrap_or_default(),
                expected: "the same as before: an event can be measured in one way only",
            });
        }
        let event = ALL.iter().find(|event| event.name == spec.name);
        let Some(event) = event else {
            return Err(ProbeError::UnknownEvent {
                name: spec.name.clone(),
            });
        };
        for collector in (event.make)(spec)? {
            if all.iter().all(|other| other.name() != collector.name()) {
                all.push(collector);
            }
        }
    }
    if all.len() > abi::MS_MAX_EVENTS as usize {
        return Err(ProbeError::TooManyEvents { asked: all.len() });
    }
    Ok(all)
}

/// Two that have a program in common, such as counters, need a kernel that tells it which one it runs for.
pub(crate) fn check_told_apart(collectors: &[AnyCollector]) -> Result<(), ProbeError> {
    match sharing(collectors) {
        Some((first, second)) if !tells_events_apart() => Err(ProbeError::NotToldApart {
            first: first.to_owned(),
            second: second.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The first two that have a program in common.
fn sharing(collectors: &[AnyCollector]) -> Option<(&'static str, &'static str)> {
    let mut owners = BTreeMap::new();
    collectors.iter().find_map(|collector| {
        collector.programs().iter().find_map(|program| {
            let first = owners.insert(*program, collector.name())?;
            Some((first, collector.name()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_events_need_is_there_once() {
        let events = ["cpu", "wall", "offcpu"].map(EventSpec::parse);
        let names: Vec<_> = create(&events).unwrap().iter().map(|one| one.name()).collect();
        assert_eq!(names, ["cpu", "offcpu"]);
    }

    #[test]
    fn an_event_has_one_argument() {
        let events = ["page-faults:10", "cpu", "page-faults:20"].map(EventSpec::parse);
        assert!(
            matches!(create(&events), Err(ProbeError::EventArgument { event, .. }) if event == "page-faults")
        );
        let events = ["page-faults:10", "page-faults:10"].map(EventSpec::parse);
        assert_eq!(create(&events).unwrap().len(), 1);
    }

    #[test]
    fn only_counters_have_a_program_in_common() {
        let shared_by = |names: &[&str]| {
            let events: Vec<_> = names.iter().copied().map(EventSpec::parse).collect();
            sharing(&create(&events).unwrap())
        };
        assert_eq!(
            shared_by(&["cpu", "page-faults", "offcpu", "cycles"]),
            Some(("page-faults", "cycles"))
        );
        let others = ["cpu", "offcpu", "io", "block", "readahead", "memory", "lua-loop"];
        assert_eq!(shared_by(&others), None);
        assert_eq!(
            shared_by(&["lua-alloc", "lua-wait", "probe:malloc", "page-faults"]),
            None
        );
    }

    #[test]
    fn an_event_that_is_not_there_is_named() {
        assert!(matches!(
            create(&[EventSpec::parse("cups")]),
            Err(ProbeError::UnknownEvent { name }) if name == "cups"
        ));
    }
}
