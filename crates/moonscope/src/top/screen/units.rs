//! Numbers as people read them.

use std::time::Duration;

use moonscope_profile::ValueType;

/// What a value is in a second.
pub fn rate(value: i64, unit: &ValueType, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return String::new();
    }
    let rate = value as f64 / seconds;
    match (unit.kind.as_str(), unit.unit.as_str()) {
        ("cpu", "nanoseconds") => format!("{:.2} CPUs", rate / 1e9),
        (_, "nanoseconds") => format!("{} per second", nanoseconds(rate)),
        (_, "bytes") => format!("{}/s", bytes(rate)),
        (kind, _) => format!("{} {kind}/s", number(rate)),
    }
}

/// A value with its unit.
pub fn amount(value: u64, unit: &ValueType) -> String {
    match unit.unit.as_str() {
        "nanoseconds" => nanoseconds(value as f64),
        "bytes" => bytes(value as f64),
        _ => number(value as f64),
    }
}

fn nanoseconds(value: f64) -> String {
    scaled(value, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")])
}

fn bytes(value: f64) -> String {
    let units = [
        (1024.0 * 1024.0 * 1024.0, "GiB"),
        (1024.0 * 1024.0, "MiB"),
        (1024.0, "KiB"),
        (1.0, "B"),
    ];
    scaled(value, &units)
}

fn number(value: f64) -> String {
    let text = scaled(value, &[(1e9, "G"), (1e6, "M"), (1e4, "k"), (1.0, "")]);
    text.trim_end().to_owned()
}

/// Three digits that matter, and a unit.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let unit = units
        .iter()
        .find(|(factor, _)| value.abs() >= *factor)
        .or(units.last());
    let (factor, name) = unit.copied().unwrap_or((1.0, ""));
    // 10,000 is 10.0 k
    let factor = if factor == 1e4 { 1e3 } else { factor };
    let value = value / factor;
    let decimals = match value.abs() {
        value if factor == 1.0 && value.fract() == 0.0 => 0,
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {name}")
}

/// A time that passed: `0:07`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A part of something, in per cent: ` 50.1 %`.
pub fn share(part: u64, whole: u64) -> String {
    format!("{:>5.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_the_unit_that_people_think_in() {
        let rate = |value, kind, unit| rate(value, &ValueType::new(kind, unit), Duration::from_secs(10));
        assert_eq!(rate(9_800_000_000, "cpu", "nanoseconds"), "0.98 CPUs");
        assert_eq!(rate(15_000_000, "offcpu", "nanoseconds"), "1.50 ms per second");
        assert_eq!(rate(123 << 20, "io_bytes", "bytes"), "12.3 MiB/s");
        assert_eq!(rate(990, "samples", "count"), "99 samples/s");
        assert_eq!(rate(1_234_560, "page-faults", "count"), "123 k page-faults/s");
        assert_eq!(rate(0, "samples", "count"), "0 samples/s");
    }

    #[test]
    fn times_and_shares() {
        assert_eq!(clock(Duration::from_secs(67)), "1:07");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(share(1, 3), " 33.3 %");
        assert_eq!(share(0, 0), "  0.0 %");
    }
}
