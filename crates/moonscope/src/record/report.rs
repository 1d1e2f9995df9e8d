//! What a recording says of itself: in the profile, on the terminal, in the exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moonscope_probe::{EventTotals, LuaCounts, Totals, WalkLoop};
use moonscope_profile::{Accounting, Meta, Profile, Summary, ValueType};

use super::culprits;
use super::watch::EndedBy;
use crate::exit::{Code, Failure};
use crate::output::Written;

/// A finished recording, apart from its stacks.
pub struct Recording {
    /// What was recorded, in words.
    pub target: String,
    /// Who walked the stacks.
    pub walk_loop: WalkLoop,
    /// Ticks per second and CPU that were asked for.
    pub hz: u64,
    /// When, since 1970.
    pub began: Duration,
    /// How long.
    pub recorded: Duration,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// Ticks and samples.
    pub totals: Totals,
    /// Print nothing but errors.
    pub quiet: bool,
    /// What else a reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// More than this part of the wanted ticks lost: the exit code says partial.
pub const TOLERATED_LOSS: f64 = 0.01;

impl Recording {
    /// Nanoseconds between two ticks of a CPU.
    fn period(&self) -> i64 {
        1_000_000_000 / self.hz.max(1).cast_signed()
    }

    /// Whether a clock ticked.
    fn has_clock(&self) -> bool {
        self.totals.events.iter().any(|event| event.name == "cpu")
    }

    /// What was measured and how: `cpu at 99 Hz by cpu-clock`.
    pub fn events(&self) -> String {
        let events: Vec<String> = self.totals.events.iter().map(phrase).collect();
        events.join("; ")
    }

    /// What was measured, in a word for each: `cpu-clock, offcpu`.
    fn measured(&self) -> String {
        let events: Vec<&str> = self.totals.events.iter().map(|event| event.measures).collect();
        events.join(", ")
    }

    fn accounting(&self) -> Accounting {
        let ticks = &self.totals.ticks;
        let received = &self.totals.received;
        let mut lost = BTreeMap::new();
        for (place, count) in [
            ("ring buffer full", ticks.lost_ring),
            ("CPU added later", ticks.lost_cpu),
            ("CPU busy with another stack", ticks.lost_busy),
            ("map full", ticks.lost_map),
            ("end not seen", ticks.lost_end),
            ("stack not received", received.without_stack.iter().sum()),
            ("malformed record", received.malformed),
        ] {
            if count > 0 {
                lost.insert(place.to_owned(), count);
            }
        }
        Accounting {
            fired: ticks.fired,
            idle: ticks.idle,
            filtered: ticks.filtered + ticks.unwanted,
            complete: received.complete,
            truncated: received
                .truncated
                .iter()
                .map(|(&reason, &count)| (reason.to_owned(), count))
                .collect(),
            lost,
        }
    }

    /// Writes into the profile when, where and how it was recorded, and what became of each tick.
    pub fn describe(&self, profile: &mut Profile) {
        let uname = rustix::system::uname();
        profile.meta = Meta {
            start: u64::try_from(self.began.as_nanos()).ok(),
            duration: u64::try_from(self.recorded.as_nanos()).ok(),
            period: self.has_clock().then(|| (ValueType::cpu(), self.period())),
            event: self.measured(),
            frequency_hz: self.has_clock().then_some(self.hz),
            target: self.target.clone(),
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            producer: concat!("moonscope ", env!("CARGO_PKG_VERSION")).to_owned(),
            comments: self.notes.clone(),
        };
        profile.accounting = self.accounting();
    }

    /// The failure of a recording without a single sample: it says why there is none.
    pub fn no_samples(&self) -> Failure {
        let ticks = &self.totals.ticks;
        let seconds = self.recorded.as_secs_f64();
        if self.ended_by == EndedBy::Target {
            return Failure::new(
                Code::NoTarget,
                format!("{} ended before it was sampled", self.target),
            );
        }
        let what = format!("no samples of {} in {seconds:.1} s{}", self.target, self.end());
        let failure = Failure::new(Code::NoSamples, what);
        if ticks.fired == 0 {
            return failure.with_remedy(format!(
                "nothing happened ({}): was the time too short?",
                self.events()
            ));
        }
        if ticks.lost_ring > 0 {
            return failure.with_remedy(format!(
                "{} samples were lost: the ring buffer was full",
                ticks.lost_ring
            ));
        }
        if !self.has_clock() {
            return failure.with_remedy(format!("{} events were not what was asked for", ticks.unwanted));
        }
        failure.with_remedy(format!(
            "no tick found it on a CPU: of {} ticks, {} found an idle CPU and {} another task\n\
             (a process that waits has no CPU profile; try a longer -d, or a higher -F)",
            ticks.fired, ticks.idle, ticks.filtered
        ))
    }

    /// Prints the last lines and says how it went.
    pub fn finish(&self, profile: &Profile, written: &[Written], summary: Option<&Summary>) -> Code {
        if !self.quiet {
            let table = summary.map(Summary::lines).unwrap_or_default();
            for (columns, name) in table {
                crate::exit::tell!("{columns}{name}");
            }
            for line in culprits::lines(profile) {
                crate::exit::tell!("{line}");
            }
            for line in self.lines(profile, written) {
                crate::exit::tell!("{line}");
            }
        }
        let wanted = profile.accounting.kept() + profile.accounting.lost_total();
        let lost = profile.accounting.lost_total() as f64;
        if lost > TOLERATED_LOSS * wanted as f64 {
            Code::Partial
        } else {
            Code::Done
        }
    }

    fn lines(&self, profile: &Profile, written: &[Written]) -> Vec<String> {
        let received = &self.totals.received;
        let pids: BTreeSet<_> = profile
            .label_sets()
            .iter()
            .filter_map(|labels| labels.get("pid"))
            .collect();
        let processes = pids.len();
        let mut lines = vec![format!(
            "recorded {} for {:.1} s{}: {} samples of {processes} process{}, {}",
            self.target,
            self.recorded.as_secs_f64(),
            self.end(),
            received.samples(),
            if processes == 1 { "" } else { "es" },
            self.events(),
        )];
        lines.push(self.walked());
        lines.extend(lua_lines(&self.totals.lua, profile));
        lines.extend(self.of_events());
        lines.extend(profile.meta.comments.iter().cloned());
        lines.extend(self.limits_hit());
        for file in written {
            if let Some(path) = &file.path {
                let name = path.to_string_lossy();
                lines.push(format!(
                    "wrote {} ({} KiB)",
                    moonscope_profile::visible(&name),
                    file.bytes.div_ceil(1024)
                ));
            }
        }
        lines.push(profile.accounting.to_string());
        lines
    }

    /// Why it ended, and what became of the command, in brackets.
    fn end(&self) -> String {
        let fate = self.ended_by.command().map(moonscope_profile::visible);
        match (&self.ended_by, fate) {
            (EndedBy::Target, _) => " (until it ended)".to_owned(),
            (EndedBy::Signal(_), Some(fate)) => format!(" (interrupted; {fate})"),
            (_, Some(fate)) => format!(" ({fate})"),
            (_, None) => String::new(),
        }
    }

    /// Where and how stacks were walked.
    pub fn walked(&self) -> String {
        let received = &self.totals.received;
        format!(
            "stacks walked {}; {} walked from a stack copy, {} with a frame pointer; {} unwind tables, {:.1} MiB",
            self.walk_loop.phrase(),
            received.walked_here,
            received.by_frame_pointer,
            self.totals.tables.built,
            self.totals.table_bytes as f64 / f64::from(1 << 20),
        )
    }

    /// What events cost, if that was measured; and what became of each, if there are several.
    pub fn of_events(&self) -> Vec<String> {
        let events = &self.totals.events;
        let became = events.iter().filter(|_| events.len() > 1).map(became);
        events.iter().filter_map(cost).chain(became).collect()
    }

    /// A line for each limit that was hit and each thing that could not be read.
    pub fn limits_hit(&self) -> Vec<String> {
        let (tables, processes) = (&self.totals.tables, &self.totals.processes);
        [
            (
                tables.no_room,
                "unwind tables found no room: their samples were walked from stack copies",
            ),
            (tables.evicted, "unwind tables were evicted to make room"),
            (tables.unusable, "files have unreadable unwind information"),
            (
                tables.too_many_rules,
                "files have too many unwind rules: their samples were walked from stack copies",
            ),
            (
                processes.not_permitted,
                "looks at mappings were not permitted: use sudo",
            ),
            (
                processes.no_room,
                "mapping lists found no room: their samples were walked from stack copies",
            ),
            (processes.files_not_opened, "mapped files could not be opened"),
            (
                self.totals.received.values_without_stack,
                "stacks are not known any more, as there were too many: what is in use or left over of them is missing",
            ),
            (
                processes.perf_maps_not_held,
                "stacks with generated code of more processes than perf maps are held open of: it may have no name",
            ),
            (
                self.totals.received.not_looked_at,
                "processes were not looked at when the recording ended: what lasted in their threads is missing",
            ),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

fn phrase(event: &EventTotals) -> String {
    format!("{} {}", event.name, event.how)
}

/// What the programs of an event took, if that was measured.
fn cost(event: &EventTotals) -> Option<String> {
    let run_time = event.run_time;
    (run_time.runs > 0).then(|| {
        format!(
            "cost of {}: {:.2} µs per kept sample in the kernel ({} runs, {:.2} µs each)",
            event.name,
            run_time.nanoseconds as f64 / 1000.0 / event.ticks.kept().max(1) as f64,
            run_time.runs,
            run_time.nanoseconds as f64 / 1000.0 / run_time.runs as f64,
        )
    })
}

/// What became of one of several events.
fn became(event: &EventTotals) -> String {
    let ticks = &event.ticks;
    format!(
        "{}: {} = {} idle + {} filtered + {} kept + {} lost",
        event.name,
        ticks.fired,
        ticks.idle,
        ticks.filtered + ticks.unwanted,
        ticks.kept(),
        ticks.lost()
    )
}

/// What was found of Lua, and what is missing.
fn lua_lines(lua: &LuaCounts, profile: &Profile) -> Vec<String> {
    let mut lines = Vec::new();
    if lua.vms > 0 || lua.samples > 0 {
        lines.push(format!(
            "Lua: {} of {}, in {} samples{}",
            count_of(lua.vms, "VM"),
            count_of(lua.processes, "process"),
            lua.samples,
            shares(profile)
        ));
    }
    for (count, what) in [
        (
            lua.gaps,
            "samples have a gap between Lua and code without unwind information: marked [no unwind info]",
        ),
        (
            lua.guessed,
            "samples of a VM between two states: marked [innermost Lua frame uncertain]",
        ),
        (
            lua.unknown_traces,
            "distinct stacks of compiled code may lack inlined frames: marked [inlined frames unknown]",
        ),
        (lua.unknown_functions, "Lua functions could not be read"),
        (
            lua.without_line,
            "Lua frames have no current line: their functions were collected before it could be read",
        ),
        (
            lua.with_too_many_vms,
            "processes have more Lua VMs than are looked for: their stacks may end at generated code",
        ),
    ] {
        if count > 0 {
            lines.push(format!("{count} {what}"));
        }
    }
    if let Some(parents) = &lua.parents {
        lines.push(format!(
            "coroutine parents: above {} coroutines, {} have none, {} not found",
            parents.found,
            parents.without,
            parents.failed.values().sum::<u64>(),
        ));
        if parents.found == 0 && lua.samples > 0 {
            lines.push(
                "no coroutine parents: nothing proved that this is ngx_lua with OpenResty's LuaJIT (exdata2)"
                    .to_owned(),
            );
        }
        let failed = parents.failed.iter();
        lines.extend(failed.map(|(why, count)| format!("{count} coroutines without parents: {why}")));
    }
    let refused: BTreeSet<&String> = lua.refused.iter().collect();
    lines.extend(refused.iter().map(|reason| {
        let reason = moonscope_profile::visible(reason);
        format!("no Lua frames for a LuaJIT: {reason}")
    }));
    lines
}

fn count_of(count: u64, what: &str) -> String {
    let ending = match (count, what.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {what}{ending}")
}

/// What the VMs were doing, by samples: ": 61 % compiled, 30 % interpreting".
fn shares(profile: &Profile) -> String {
    let mut by_state: BTreeMap<String, i64> = BTreeMap::new();
    for sample in profile.samples() {
        if let Some(state) = profile.labels_of(sample.labels).get("lua-state") {
            *by_state.entry(state.to_string()).or_default() += sample.values.first().copied().unwrap_or(0);
        }
    }
    let total: i64 = by_state.values().sum();
    let mut shares: Vec<_> = by_state.into_iter().collect();
    shares.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shares: Vec<String> = shares
        .iter()
        .map(|(state, count)| format!("{:.0} % {state}", 100.0 * *count as f64 / total.max(1) as f64))
        .collect();
    if shares.is_empty() {
        String::new()
    } else {
        format!(": {}", shares.join(", "))
    }
}
