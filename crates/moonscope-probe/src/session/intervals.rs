//! A recording in intervals: one ends at the moment at which the next begins, and the kernel side never stops.
//!
//! A sample belongs to the interval that its own time stamp lies in. What the kernel side sums up belongs to the interval in
//! which it was added: the two maps of sums change turns at the moment of the end. So everything is in exactly one interval;
//! what is under way at that moment, in one or the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use libbpf_rs::MapHandle;
use moonscope_unwind::abi;
use rustc_hash::FxHashSet;

use super::Session;
use crate::collector::Leftover;
use crate::drain::{Gathered, Interval as Which};
use crate::error::ProbeError;
use crate::files::FileNames;
use crate::processes::monotonic_now;
use crate::received::Received;
use crate::recorded::{Collectors, Measured, Recorded};
use crate::skeleton::MoonscopeSkel;
use crate::sums::GRACE;
use crate::totals::{EventTotals, Ticks, Totals};
use crate::unfinished::UnfinishedProcess;

/// What was recorded in a part of the time. Times are CLOCK_MONOTONIC, in nanoseconds.
pub struct Interval {
    /// When it began.
    pub began: u64,
    /// When it ended, and the next one began.
    pub ended: u64,
    /// What became of everything.
    pub totals: Totals,
    /// Stacks, and what they refer to.
    pub recorded: Recorded,
}

/// An interval that has ended, while something of it may be on its way.
struct Ending {
    at: u64,
    since: Instant,
    /// The map of its sums was read.
    is_emptied: bool,
    /// What was counted since measuring began.
    events: Vec<EventTotals>,
}

/// Where the intervals of a session stand.
pub(super) struct Intervals {
    /// When the one at hand began.
    began: u64,
    is_end_wanted: bool,
    ending: Option<Ending>,
    finished: VecDeque<Interval>,
    /// What had been counted of each event when the one at hand began.
    before: Vec<Ticks>,
    /// Things that were counted as fired in intervals that are over, and not yet as anything else.
    under_way: i64,
    /// Samples in intervals that are over.
    samples: u64,
    /// The kernel side's list of the stacks that we have.
    shipped: MapHandle,
}

impl Intervals {
    pub(super) fn new(shipped: MapHandle) -> Self {
        Self {
            began: 0,
            is_end_wanted: false,
            ending: None,
            finished: VecDeque::new(),
            before: Vec::new(),
            under_way: 0,
            samples: 0,
            shipped,
        }
    }

    /// Samples in intervals that are over.
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Measuring begins.
    pub(super) fn begin(&mut self) {
        self.began = monotonic_now();
    }

    /// Which interval the sums belong to that were just read.
    pub(super) fn of_sums(&mut self) -> Which {
        match &mut self.ending {
            Some(ending) if !ending.is_emptied => {
                ending.is_emptied = true;
                Which::Ended
            }
            _ => Which::AtHand,
        }
    }

    /// What is past the time at which records of the ending interval may come?
    pub(super) fn has_rested(&self) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.since.elapsed() >= GRACE)
    }

    /// Leaves of what was counted since measuring began the part of the interval at hand.
    pub(super) fn part(&mut self, events: &mut [EventTotals]) {
        let now: Vec<Ticks> = events.iter().map(|event| event.ticks).collect();
        for (event, before) in events.iter_mut().zip(&self.before) {
            event.ticks -= *before;
        }
        self.before = now;
    }

    /// The sum of what was counted. Something that is under way when an interval ends has fired in that one and becomes
    /// something else in the next one: it counts as fired where its end is counted. What then remains after the last
    /// interval (`is_last`) is unexplained.
    pub(super) fn balance(&mut self, events: &[EventTotals], received: &Received, is_last: bool) -> Ticks {
        let mut ticks = Ticks::default();
        events.iter().for_each(|event| ticks += event.ticks);
        let explained = ticks.idle
            + ticks.filtered
            + ticks.unwanted
            + ticks.lost()
            + received.samples()
            + received.malformed
            + received.without_stack.iter().sum::<u64>()
            + received.unread.iter().sum::<u64>();
        self.under_way += ticks.fired.wrapping_sub(explained).cast_signed();
        let left = if is_last { self.under_way } else { 0 };
        ticks.fired = explained.saturating_add_signed(left);
        ticks
    }
}

/// Stacks that something has begun with that lasts.
fn held(collectors: &Collectors, skel: &mut MoonscopeSkel<'static>) -> FxHashSet<abi::ms_stack_id> {
    let mut collectors = collectors.write();
    let held = collectors.iter_mut().flat_map(|collector| collector.held(skel));
    held.collect()
}

impl Session {
    /// Ends the interval at hand, and begins the next one, now or as soon as the kernel side is ready for it: within
    /// 20 milliseconds, if [`Session::poll`] is called. [`Session::take_interval`] then has it some 20 milliseconds later.
    pub fn end_interval(&mut self) {
        self.intervals.is_end_wanted = true;
        self.end_wanted_interval();
    }

    /// Measures no more, and gives out the last interval.
    pub fn finish_interval(self) -> Result<Interval, ProbeError> {
        let (began, ended) = (self.intervals.began, monotonic_now());
        let (totals, recorded) = self.finish()?;
        Ok(Interval {
            began,
            ended,
            totals,
            recorded,
        })
    }

    /// Is an interval about to end, or ended and not complete?
    pub fn is_ending_interval(&self) -> bool {
        self.intervals.is_end_wanted || self.intervals.ending.is_some()
    }

    /// The oldest interval that is complete.
    pub fn take_interval(&mut self) -> Option<Interval> {
        self.intervals.finished.pop_front()
    }

    /// Ends an interval if that is wanted and possible.
    pub(super) fn end_wanted_interval(&mut self) {
        let is_ready = self.sums.as_ref().is_none_or(|sums| sums.can_turn());
        if !self.intervals.is_end_wanted || self.intervals.ending.is_some() || !is_ready {
            return;
        }
        self.intervals.is_end_wanted = false;
        let at = monotonic_now();
        if let Some(sums) = &mut self.sums {
            sums.turn();
        }
        self.drain.borrow_mut().end_interval(at);
        self.intervals.ending = Some(Ending {
            at,
            since: Instant::now(),
            is_emptied: self.sums.is_none(),
            events: self.event_totals(),
        });
    }

    /// Takes what the kernel side has summed up, if it is time for that.
    pub(super) fn take_sums(&mut self) {
        let batch = match &mut self.sums {
            Some(sums) => sums.take_turn(),
            None => None,
        };
        let Some(batch) = batch else {
            return;
        };
        let which = self.intervals.of_sums();
        let ended = self.intervals.ending.as_ref().map(|ending| ending.at);
        let standing = self.standing(&batch, ended.filter(|_| which == Which::Ended));
        let mut drain = self.drain.borrow_mut();
        drain.take_sums(&batch, which);
        drain.take_uncounted(&standing, which);
        if drain.has_too_many_stacks()
            && let Some(sums) = &mut self.sums
        {
            drain.forget_stacks(&held(&self.collectors, &mut self.object.skel));
            sums.forget_stacks();
        }
    }

    /// Tells collectors of sums; if they are the last of an interval that has ended, gives how it stands then.
    pub(super) fn standing(&mut self, sums: &[Leftover], ended: Option<u64>) -> Vec<Leftover> {
        let skel = &mut self.object.skel;
        let mut all = Vec::new();
        for (number, collector) in self.collectors.write().iter_mut().enumerate() {
            collector.summed(sums);
            let standing = ended.map(|ended| collector.standing(ended, skel));
            all.extend(standing.into_iter().flatten().map(|(mut key, sum)| {
                key.event = number as u32;
                (key, sum)
            }));
        }
        all
    }

    /// Completes an interval that ended, if all of it has come.
    pub(super) fn complete_interval(&mut self) {
        let Some(ending) = self.intervals.ending.take_if(|ending| ending.is_emptied) else {
            return;
        };
        let gathered = self.drain.borrow_mut().take_ended();
        let mut events = ending.events;
        self.intervals.part(&mut events);
        let ticks = self.intervals.balance(&events, &gathered.received, false);
        self.intervals.samples += gathered.received.samples();
        let (totals, recorded) = self.give_out((events, ticks), gathered, Vec::new());
        self.intervals.finished.push_back(Interval {
            began: self.intervals.began,
            ended: ending.at,
            totals,
            recorded,
        });
        self.intervals.began = ending.at;
        let (collectors, skel) = (&self.collectors, &mut self.object.skel);
        let mut drain = self.drain.borrow_mut();
        drain.forget_unused(|| held(collectors, skel), &self.intervals.shipped);
    }

    pub(super) fn give_out(
        &self,
        (events, ticks): (Vec<EventTotals>, Ticks),
        gathered: Gathered,
        unfinished: Vec<UnfinishedProcess>,
    ) -> (Totals, Recorded) {
        let drain = self.drain.borrow();
        self.tell_files(&drain.files);
        let totals = Totals {
            events,
            ticks,
            received: gathered.received,
            tables: drain.executables.counts,
            table_bytes: drain.tables.used_bytes(),
            processes: drain.processes.counts,
            refused: drain.processes.refused.clone(),
            problems: drain.executables.problems.clone(),
            mapping_records_lost: drain.watch.lost,
            lua: drain.lua_counts(),
            failed_reads: self
                .sums
                .as_ref()
                .map(|sums| sums.failed.clone())
                .unwrap_or_default(),
        };
        let recorded = Recorded {
            stacks: gathered.stacks,
            files: gathered.files,
            processes: gathered.processes,
            perf_maps: gathered.perf_maps,
            lua: gathered.lua,
            sites: drain.sites.names(),
            measured: Measured::new(self.collectors.clone(), self.has_wall),
            unfinished,
        };
        (totals, recorded)
    }

    /// Tells collectors what the files of their tags are called.
    fn tell_files(&self, files: &FileNames) {
        if files.is_empty() {
            return;
        }
        let mut files = files.clone();
        files.find_mounts();
        let files = Arc::new(files);
        for collector in self.collectors.write().iter_mut() {
            collector.learn_files(&files);
        }
    }

    /// When the interval at hand began (CLOCK_MONOTONIC, nanoseconds).
    pub fn interval_began(&self) -> u64 {
        self.intervals.began
    }
}
