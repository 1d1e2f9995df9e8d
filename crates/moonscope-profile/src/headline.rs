//! What a profile is about, in a line or two, for titles and table heads.

use crate::options::readable_unit;
use crate::profile::Profile;
use crate::text::{Grouped, visible};
use crate::time::Utc;

/// What was sampled: `cpu-clock of process 4321 (nginx)`.
pub(crate) fn subject(profile: &Profile) -> String {
    let meta = &profile.meta;
    let event = if meta.event.is_empty() {
        "profile"
    } else {
        &meta.event
    };
    let text = if meta.target.is_empty() {
        event.to_owned()
    } else {
        format!("{event} of {}", meta.target)
    };
    visible(&text).into_owned()
}

/// Values of which a line has room for the sums.
const SHOWN_VALUES: usize = 4;

/// How much, when, where: `1,968 samples, 99 Hz, 10.0 s from 2026-01-31 12:00:00 UTC on web1 (Linux 6.1.0)`.
pub(crate) fn circumstances(profile: &Profile) -> String {
    let meta = &profile.meta;
    let mut parts = Vec::new();
    let totals = profile.value_types().iter().enumerate().map(|(nr, value)| {
        let total = u64::try_from(profile.total(nr)).unwrap_or(0);
        (value, total)
    });
    // of many values the first that are there at all
    let many = totals.len() > SHOWN_VALUES;
    let totals = totals.filter(|(_, total)| !many || *total > 0).take(SHOWN_VALUES);
    let totals = totals.map(|(value, total)| {
        let (unit, factor) = readable_unit(value, total);
        let of = if value.unit == "count" {
            String::new()
        } else {
            format!(" {}", value.kind)
        };
        format!("{} {unit}{of}", Grouped((total as f64 * factor).round() as u64))
    });
    parts.extend(totals);
    if let Some(frequency) = meta.frequency_hz {
        parts.push(format!("{frequency} Hz"));
    }
    let mut when = Vec::new();
    if let Some(duration) = meta.duration {
        when.push(format!("{:.1} s", duration as f64 / 1e9));
    }
    if let Some(start) = meta.start {
        when.push(format!("from {} UTC", Utc::from_nanos(start)));
    }
    if !meta.host.is_empty() {
        when.push(format!("on {}", meta.host));
    }
    if !meta.kernel.is_empty() {
        when.push(format!("(Linux {})", meta.kernel));
    }
    if !when.is_empty() {
        parts.push(when.join(" "));
    }
    visible(&parts.join(", ")).into_owned()
}
