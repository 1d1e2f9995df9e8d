//! Durations as people write them.

use std::time::Duration;

/// `10`, `10s`, `1.5s`, `500ms`, `2m`, `1h`; more than nothing and at most a week.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| "a time looks like 10, 10s, 500ms, 2m".to_owned())?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1000.0,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m or h")),
    };
    if !(0.001..=7.0 * 86400.0).contains(&seconds) {
        return Err("a time must be at least 1ms and at most a week".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_may_follow_the_number() {
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1.5m"), Ok(Duration::from_secs(90)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "s", "-1", "0", "1y", "1e9h", "nan", "inf", "1.2.3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
