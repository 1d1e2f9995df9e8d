//! Accounting: what became of every tick of the sampling clock.

use std::collections::BTreeMap;
use std::fmt;

use crate::text::Grouped;

/// Every tick that fired is exactly one of: idle, filtered, complete, truncated, lost. What is left over
/// is [unexplained](Accounting::unexplained), and that is a defect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Ticks that fired.
    pub fired: u64,
    /// Ticks on an idle processor.
    pub idle: u64,
    /// Ticks in tasks that were not asked for.
    pub filtered: u64,
    /// Samples whose stack reaches the outermost frame.
    pub complete: u64,
    /// Samples whose stack ends before the outermost frame, by reason.
    pub truncated: BTreeMap<String, u64>,
    /// Samples of which nothing came through, by place.
    pub lost: BTreeMap<String, u64>,
}

impl Accounting {
    /// Whether nothing was ever counted: the data came from elsewhere.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All samples with a truncated stack.
    pub fn truncated_total(&self) -> u64 {
        sum(&self.truncated)
    }

    /// All lost samples.
    pub fn lost_total(&self) -> u64 {
        sum(&self.lost)
    }

    /// Samples that are in the profile: complete and truncated ones.
    pub fn kept(&self) -> u64 {
        self.complete.saturating_add(self.truncated_total())
    }

    /// Ticks that fired minus all that are explained. Not 0 means that something is miscounted; less
    /// than 0, that something was counted twice.
    pub fn unexplained(&self) -> i64 {
        let explained = i128::from(self.idle)
            + i128::from(self.filtered)
            + i128::from(self.complete)
            + i128::from(self.truncated_total())
            + i128::from(self.lost_total());
        let rest = i128::from(self.fired) - explained;
        i64::try_from(rest).unwrap_or(if rest < 0 { i64::MIN } else { i64::MAX })
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.fired = self.fired.saturating_add(other.fired);
        self.idle = self.idle.saturating_add(other.idle);
        self.filtered = self.filtered.saturating_add(other.filtered);
        self.complete = self.complete.saturating_add(other.complete);
        for (mine, others) in [
            (&mut self.truncated, &other.truncated),
            (&mut self.lost, &other.lost),
        ] {
            for (reason, count) in others {
                let sum = mine.entry(reason.clone()).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
    }
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().fold(0, |sum, count| sum.saturating_add(*count))
}

/// The line that `record` ends with:
/// `1,980 ticks = 12 idle + 0 filtered + 1,960 complete + 8 truncated (no unwind row 6, …) + 0 lost; unexplained 0`.
impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ticks = {} idle + {} filtered + {} complete + {} truncated",
            Grouped(self.fired),
            Grouped(self.idle),
            Grouped(self.filtered),
            Grouped(self.complete),
            Grouped(self.truncated_total())
        )?;
        write_reasons(f, &self.truncated)?;
        write!(f, " + {} lost", Grouped(self.lost_total()))?;
        write_reasons(f, &self.lost)?;
        let unexplained = self.unexplained();
        let sign = if unexplained < 0 { "-" } else { "" };
        write!(f, "; unexplained {sign}{}", Grouped(unexplained.unsigned_abs()))
    }
}

/// ` (most frequent reason N, next M)`, or nothing when nothing was counted.
fn write_reasons(f: &mut fmt::Formatter<'_>, counts: &BTreeMap<String, u64>) -> fmt::Result {
    let mut reasons: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    for (nr, (name, count)) in reasons.iter().enumerate() {
        let before = if nr == 0 { " (" } else { ", " };
        write!(f, "{before}{} {}", crate::text::visible(name), Grouped(**count))?;
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        f.write_str(")")
    }
}

impl Accounting {
    /// Reads the line that [`Display`](fmt::Display) writes. `None` when it is not exactly such a line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let (fired, rest) = line.split_once(" ticks = ")?;
        let (idle, rest) = rest.split_once(" idle + ")?;
        let (filtered, rest) = rest.split_once(" filtered + ")?;
        let (complete, rest) = rest.split_once(" complete + ")?;
        let (_, rest) = rest.split_once(" truncated")?;
        let (truncated, rest) = reasons(rest)?;
        let (_, rest) = rest.strip_prefix(" + ")?.split_once(" lost")?;
        let (lost, _) = reasons(rest)?;
        let read = Self {
            fired: ungrouped(fired)?,
            idle: ungrouped(idle)?,
            filtered: ungrouped(filtered)?,
            complete: ungrouped(complete)?,
            truncated,
            lost,
        };
        (read.to_string() == line).then_some(read)
    }
}

fn ungrouped(number: &str) -> Option<u64> {
    number.replace(',', "").parse().ok()
}

/// The counts of ` (reason N, reason N)`, and what follows.
fn reasons(text: &str) -> Option<(BTreeMap<String, u64>, &str)> {
    let Some(text) = text.strip_prefix(" (") else {
        return Some((BTreeMap::new(), text));
    };
    let (list, rest) = text.split_once(')')?;
    let counts = list.split(", ").map(|item| {
        let (name, count) = item.rsplit_once(' ')?;
        Some((name.to_owned(), ungrouped(count)?))
    });
    Some((counts.collect::<Option<_>>()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Accounting {
        Accounting {
            fired: 1980,
            idle: 12,
            filtered: 0,
            complete: 1960,
            truncated: BTreeMap::from([
                ("unreadable stack".to_owned(), 2),
                ("no unwind row".to_owned(), 6),
                ("depth limit".to_owned(), 0),
            ]),
            lost: BTreeMap::new(),
        }
    }

    #[test]
    fn the_line_names_every_part_and_the_most_frequent_reason_first() {
        assert_eq!(
            example().to_string(),
            "1,980 ticks = 12 idle + 0 filtered + 1,960 complete + 8 truncated (no unwind row 6, \
             unreadable stack 2) + 0 lost; unexplained 0"
        );
    }

    #[test]
    fn the_line_is_read_back() {
        let mut all = example();
        all.truncated.retain(|_, count| *count > 0);
        all.lost.insert("ring buffer full".to_owned(), 1_234_567);
        assert_eq!(Accounting::from_line(&all.to_string()), Some(all));
        let none = Accounting::default();
        assert_eq!(Accounting::from_line(&none.to_string()), Some(none));
        for line in [
            "",
            "1 ticks = 2",
            "12 ticks = 1 idle + 0 filtered + 0 complete + 0 truncated + 0 lost",
        ] {
            assert_eq!(Accounting::from_line(line), None);
        }
    }

    #[test]
    fn what_is_counted_twice_shows_as_negative() {
        let twice = Accounting {
            complete: 2980,
            ..example()
        };
        assert_eq!(twice.unexplained(), -1020);
        assert!(twice.to_string().ends_with("unexplained -1,020"));
    }

    #[test]
    fn extreme_counts_do_not_overflow() {
        let mut big = Accounting {
            fired: u64::MAX,
            complete: u64::MAX,
            ..example()
        };
        big.merge(&big.clone());
        assert_eq!(big.fired, u64::MAX);
        let wrong = Accounting {
            fired: u64::MAX,
            ..Accounting::default()
        };
        assert_eq!(wrong.unexplained(), i64::MAX);
    }
}
