//! How long calls took, in steps of powers of two.

use std::collections::BTreeMap;
use std::fmt;

use moonscope_process::counted;
use moonscope_unwind::abi;

/// How long, or why that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Latency {
    /// So many nanoseconds, and less than twice that.
    From(u64),
    /// It lasts.
    Unfinished,
    /// It ended without a return.
    Left,
    /// The kernel had no room to await its return.
    NotSeen,
    /// Inside of so many that its return was not awaited.
    TooDeep,
}

/// What a tag says of a function of a program, or of the kernel (whose functions always return); `None`: nothing of time.
pub fn of_tag(tag: u32, is_kernel: bool) -> Option<Latency> {
    if tag & abi::MS_PROBE_LEFT != 0 {
        return Some(if is_kernel {
            Latency::NotSeen
        } else {
            Latency::Left
        });
    }
    if tag & abi::MS_PROBE_TOO_DEEP != 0 {
        return Some(Latency::TooDeep);
    }
    if tag & abi::MS_PROBE_UNFINISHED != 0 {
        return Some(Latency::Unfinished);
    }
    let step = (tag & abi::MS_PROBE_TIME_MASK) >> abi::MS_PROBE_TIME_SHIFT;
    step.checked_sub(1).map(|bit| Latency::From(1 << bit.min(63)))
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(least) => write!(f, "{} to {}", text(*least), text(least.saturating_mul(2))),
            Self::Unfinished => f.write_str("unfinished"),
            Self::Left => f.write_str("left without return"),
            Self::NotSeen => f.write_str("return not seen"),
            Self::TooDeep => f.write_str("too deep"),
        }
    }
}

/// A time with three digits: `1.02 us`.
pub fn text(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        1_000..1_000_000 => (nanoseconds as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanoseconds as f64 / 1e6, "ms"),
        _ => (nanoseconds as f64 / 1e9, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// Characters of the longest bar.
const BAR: usize = 40;

/// Lines with a bar for each step from the shortest to the longest; none if nothing has a time.
pub fn histogram(title: &str, is_kernel: bool, calls: impl Iterator<Item = (u32, u64)>) -> Vec<String> {
    let mut counts: BTreeMap<Latency, u64> = BTreeMap::new();
    for (tag, count) in calls {
        if let Some(latency) = of_tag(tag, is_kernel) {
            *counts.entry(latency).or_default() += count;
        }
    }
    let steps: Vec<u64> = counts
        .keys()
        .filter_map(|latency| match latency {
            Latency::From(least) => Some(*least),
            _ => None,
        })
        .collect();
    let (Some(&first), Some(&last)) = (steps.first(), steps.last()) else {
        return others(title, &counts);
    };
    let most = counts.values().copied().max().unwrap_or(1).max(1);
    let mut lines = vec![format!("latency of {title}:")];
    let mut least = first;
    loop {
        let latency = Latency::From(least);
        let count = counts.get(&latency).copied().unwrap_or(0);
        let bar = (u128::from(count) * BAR as u128).div_ceil(u128::from(most)) as usize;
        let line = format!("{:>22} {count:>12} {}", latency.to_string(), "#".repeat(bar));
        lines.push(line.trim_end().to_owned());
        if least >= last {
            break;
        }
        least *= 2;
    }
    lines.extend(others(title, &counts));
    lines
}

/// Calls without a time.
fn others(title: &str, counts: &BTreeMap<Latency, u64>) -> Vec<String> {
    let untimed = counts
        .iter()
        .filter(|(latency, _)| !matches!(latency, Latency::From(_)));
    untimed
        .map(|(latency, &count)| {
            let calls = counted(count, "call");
            match latency {
                Latency::NotSeen => format!(
                    "the return of {calls} of {title} was not seen: this kernel has no room for more at a time (kretprobe)"
                ),
                Latency::Left => {
                    format!("{calls} of {title} did not return: the time of it is in that of its caller")
                }
                Latency::TooDeep => {
                    format!("{calls} of {title} inside of too many others: the time of it is in that of its caller")
                }
                _ => format!("{calls} of {title} not over yet"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(least: u64) -> u32 {
        (least.ilog2() + 1) << abi::MS_PROBE_TIME_SHIFT
    }

    #[test]
    fn a_tag_says_between_which_powers_of_two_it_took() {
        assert_eq!(of_tag(5, false), None);
        assert_eq!(of_tag(tag(1024) | 5, false), Some(Latency::From(1024)));
        assert_eq!(of_tag(tag(1), false).unwrap().to_string(), "1 ns to 2 ns");
        assert_eq!(
            of_tag(tag(1 << 20), false).unwrap().to_string(),
            "1.05 ms to 2.10 ms"
        );
        assert_eq!(
            of_tag(tag(1 << 63), false).unwrap().to_string(),
            "9223372037 s to 18446744074 s"
        );
        assert_eq!(
            of_tag(abi::MS_PROBE_LEFT | 3, false).unwrap().to_string(),
            "left without return"
        );
    }

    #[test]
    fn steps_between_have_a_line_too() {
        let lines = histogram(
            "f",
            false,
            [(tag(1024), 4), (tag(4096), 8), (abi::MS_PROBE_LEFT, 1)].into_iter(),
        );
        assert_eq!(lines.len(), 5);
        assert!(lines[1].ends_with(&"#".repeat(20)), "{lines:?}");
        assert!(lines[2].trim_end().ends_with(" 0"), "{lines:?}");
        assert!(lines[4].starts_with("1 call of f did not return"));
        assert!(histogram("f", false, std::iter::empty()).is_empty());
    }
}
