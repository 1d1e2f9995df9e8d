//! Durations as people write them.

use std::time::Duration;

/// `10`, `10s`, `1.5s`, `500ms`, `2m`, `1h`; more than nothing and at most a week.
pub fn parse(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    if !(0.001..=WEEK).contains(&seconds) {
        return Err("a time must be at least 1ms and at most a week".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The same for a limit, which may be much shorter: `0`, `50us`, `1.5ms`.
pub fn parse_limit(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    if !(0.0..=WEEK).contains(&seconds) {
        return Err("a limit must be at most a week".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

const WEEK: f64 = 7.0 * 86400.0;

fn seconds(text: &str) -> Result<f64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| "a time looks like 10, 10s, 500ms, 2m".to_owned())?;
    match unit {
        "" | "s" => Ok(number),
        "us" | "µs" => Ok(number / 1_000_000.0),
        "ms" => Ok(number / 1000.0),
        "m" | "min" => Ok(number * 60.0),
        "h" => Ok(number * 3600.0),
        _ => Err(format!(
            "{unit:?} is no unit of time: use us, ms, s, m or h, such as 500ms"
        )),
    }
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
    fn a_limit_may_be_nothing_or_microseconds() {
        assert_eq!(parse_limit("0"), Ok(Duration::ZERO));
        assert_eq!(parse_limit("50us"), Ok(Duration::from_micros(50)));
        assert!(parse_limit("-1us").is_err() && parse_limit("9999h").is_err());
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "s", "-1", "0", "1y", "1e9h", "nan", "inf", "1.2.3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
