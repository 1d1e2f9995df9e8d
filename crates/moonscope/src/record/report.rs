//! What a recording says of itself: in the profile, on the terminal, in the exit code.

mod limits;
mod lua;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moonscope_probe::{EventTotals, Recorded, Totals, WalkLoop};
use moonscope_process::{Pid, counted};
use moonscope_profile::{Accounting, LabelValue, Meta, Profile, Summary, ValueType};

use super::watch::EndedBy;
use super::{culprits, cut};
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
    /// The target is a control group in which nobody was.
    pub is_of_nobody: bool,
    /// What was wrong with files when names were looked for in them.
    pub symbol_problems: BTreeSet<String>,
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
            ("sums not read", received.unread.iter().sum()),
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
        profile.meta.comments.extend(self.refused(&sampled(profile)));
        profile.accounting = self.accounting();
    }

    /// The failure of a recording without a single sample: it says why there is none.
    pub fn no_samples(&self) -> Failure {
        let ticks = &self.totals.ticks;
        let seconds = self.recorded.as_secs_f64();
        let lost = self.accounting().lost;
        if self.ended_by == EndedBy::Target && lost.is_empty() {
            return Failure::new(
                Code::NoTarget,
                format!("{} ended before it was sampled", self.target),
            );
        }
        let what = format!("no samples of {} in {seconds:.1} s{}", self.target, self.end());
        if self.is_of_nobody {
            return Failure::new(Code::NoTarget, what)
                .with_remedy("no process was in it: start one there, or name the group that holds it");
        }
        let failure = Failure::new(Code::NoSamples, what);
        if ticks.fired == 0 {
            return failure.with_remedy(format!(
                "nothing happened ({}): was the time too short?",
                self.events()
            ));
        }
        if let Some(places) = lost_everything(&lost) {
            return failure.with_remedy(places);
        }
        if !self.has_clock() {
            return failure.with_remedy(format!(
                "nothing that happened is what was asked for ({})",
                counted(ticks.unwanted, "event")
            ));
        }
        failure.with_remedy(format!(
            "no tick found it on a CPU: of {}, {} found an idle CPU and {} another task\n\
             (a process that waits has no CPU profile; try a longer -d, or a higher -F)",
            counted(ticks.fired, "tick"),
            ticks.idle,
            ticks.filtered
        ))
    }

    /// Prints the last lines and says how it went.
    pub fn finish(
        &self,
        (recorded, profile): (&Recorded, &Profile),
        written: &[Written],
        summary: Option<&Summary>,
    ) -> Code {
        if !self.quiet {
            let table = summary.map(Summary::lines).unwrap_or_default();
            for (columns, name) in table {
                crate::exit::tell!("{columns}{name}");
            }
            for line in culprits::lines(profile) {
                crate::exit::tell!("{line}");
            }
            for line in self.lines(recorded, profile, written) {
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

    fn lines(&self, recorded: &Recorded, profile: &Profile, written: &[Written]) -> Vec<String> {
        let received = &self.totals.received;
        let mut lines = vec![format!(
            "recorded {} for {:.1} s{}: {} of {}, {}",
            self.target,
            self.recorded.as_secs_f64(),
            self.end(),
            counted(received.samples(), "sample"),
            counted(sampled(profile).len(), "process"),
            self.events(),
        )];
        lines.push(self.walked());
        lines.extend(lua::lines(&self.totals.lua, profile));
        lines.extend(self.of_events());
        lines.extend(profile.meta.comments.iter().cloned());
        lines.extend(self.limits_hit());
        lines.extend(cut::lines(
            recorded,
            profile.accounting.kept(),
            !self.totals.lua.refused.is_empty(),
        ));
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
            "stacks walked {}; {} walked from a stack copy, {} with a frame pointer; {}, {:.1} MiB",
            self.walk_loop.phrase(),
            received.walked_here,
            received.by_frame_pointer,
            counted(self.totals.tables.built, "unwind table"),
            self.totals.table_bytes as f64 / f64::from(1 << 20),
        )
    }

    /// What events cost, if that was measured; and what became of each, if there are several.
    pub fn of_events(&self) -> Vec<String> {
        let events = &self.totals.events;
        let became = events.iter().filter(|_| events.len() > 1).map(became);
        events.iter().filter_map(cost).chain(became).collect()
    }

    /// A line for each limit that was hit, and for each of the first files that are damaged.
    pub fn limits_hit(&self) -> Vec<String> {
        let mut problems = self.symbol_problems.clone();
        problems.extend(self.totals.problems.all().iter().cloned());
        let mut lines = limits::hit(&self.totals);
        lines.extend(limits::files(&problems, self.totals.problems.more));
        lines
    }

    /// A line about those of the sampled processes that we may not look at.
    pub fn refused(&self, sampled: &BTreeSet<Pid>) -> Option<String> {
        limits::refused(&self.totals.refused, sampled)
    }
}

/// Why nothing is left of samples that there were, if there were any.
fn lost_everything(lost: &BTreeMap<String, u64>) -> Option<String> {
    let places: Vec<String> = lost
        .iter()
        .map(|(place, count)| format!("{place} {count}"))
        .collect();
    (!places.is_empty()).then(|| format!("every sample was lost: {}", places.join(", ")))
}

/// The processes that a profile has samples of.
pub fn sampled(profile: &Profile) -> BTreeSet<Pid> {
    let pid = |labels: &moonscope_profile::LabelSet| match labels.get("pid") {
        Some(LabelValue::Number(pid)) => Pid::try_from(*pid).ok(),
        _ => None,
    };
    profile.label_sets().iter().filter_map(pid).collect()
}

fn phrase(event: &EventTotals) -> String {
    format!("{} {}", event.name, event.how)
}

/// What the programs of an event took, if that was measured.
fn cost(event: &EventTotals) -> Option<String> {
    let run_time = event.run_time;
    (run_time.runs > 0).then(|| {
        format!(
            "cost of {}: {:.2} µs per kept sample in the kernel ({}, {:.2} µs each)",
            event.name,
            run_time.nanoseconds as f64 / 1000.0 / event.ticks.kept().max(1) as f64,
            counted(run_time.runs, "run"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_that_lost_all_samples_says_where() {
        let lost = BTreeMap::from([("map full".to_owned(), 470), ("ring buffer full".to_owned(), 2)]);
        assert_eq!(
            lost_everything(&lost).unwrap(),
            "every sample was lost: map full 470, ring buffer full 2"
        );
        assert_eq!(lost_everything(&BTreeMap::new()), None);
    }
}
