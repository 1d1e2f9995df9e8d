//! The memory of a VM: what its garbage collector knows, and every object that it has.
//!
//! The way: [`layout`] (where the `global_State` keeps it, proved) → [`state`] (counters) → [`strings`] (the table of strings) and
//! [`objects`] (all other objects), which know `sizes`; [`holders`] (who refers to them).
//!
//! The VM goes on while it is read. What does not look like an object (its type byte is none, a size is beyond every bound) is
//! counted and left out; a list that leads nowhere is read again, a few times. Nothing is read without end ([`HeapBudget`]).

pub mod holders;
pub mod layout;
pub mod objects;
mod own;
mod sizes;
pub mod state;
pub mod strings;

use std::time::{Duration, Instant};

pub use holders::{Holder, Holders, Names};
pub use layout::{HeapError, HeapLayout};
pub use objects::{Census, Kind, Objects, OfKind};
pub use own::Own;
pub use state::{Collector, Phase, Traces};
pub use strings::Strings;

/// How much of a heap may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapBudget {
    /// Objects looked at.
    pub objects: u64,
    /// Time.
    pub time: Duration,
    /// How long a list that changes each time is read more often than a few times.
    pub patience: Duration,
}

impl Default for HeapBudget {
    /// 400 million objects, half a minute: more than 4 GiB; 200 milliseconds.
    fn default() -> Self {
        Self {
            objects: 400_000_000,
            time: Duration::from_secs(30),
            patience: Duration::from_millis(200),
        }
    }
}

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapEnd {
    /// Nothing is missing.
    Complete,
    /// A list changed while it was read, each time.
    Changed,
    /// The budget was used up.
    Budget,
}

impl HeapEnd {
    /// For JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Changed => "changed",
            Self::Budget => "budget",
        }
    }

    /// The worse of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Budget, _) | (_, Self::Budget) => Self::Budget,
            (Self::Changed, _) | (_, Self::Changed) => Self::Changed,
            _ => Self::Complete,
        }
    }
}

/// Objects between two looks at the clock.
const CLOCK_STEP: u64 = 1 << 14;

/// What is spent of a budget; says how far it is.
pub struct Spending<'a> {
    budget: HeapBudget,
    deadline: Option<Instant>,
    objects: u64,
    /// Told how many objects were looked at, now and then.
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Spending<'a> {
    /// Begins now.
    pub fn new(budget: HeapBudget, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self {
            budget,
            deadline: Instant::now().checked_add(budget.time),
            objects: 0,
            progress,
        }
    }

    /// One more object; false: no more of them.
    fn one_more(&mut self) -> bool {
        self.objects += 1;
        if !self.objects.is_multiple_of(CLOCK_STEP) {
            return self.objects <= self.budget.objects;
        }
        (self.progress)(self.objects);
        self.objects <= self.budget.objects && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }
}
