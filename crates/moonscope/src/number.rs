//! Whole numbers on the command line, and what is said about those that are none.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;

use moonscope_process::Pid;

/// Takes numbers of a range, and answers anything else with what is expected: `a whole number from 1 to 1024 is
/// expected, such as 127`. What the standard library says of it (`invalid digit found in string`) helps nobody.
pub fn whole<T>(
    range: impl RangeBounds<T> + Clone,
    example: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let limits = limits(&range);
            format!("a whole number{limits} is expected, such as {example}")
        })
    }
}

fn limits<T: Display>(range: &impl RangeBounds<T>) -> String {
    let end = match range.end_bound() {
        Bound::Included(end) => format!(" to {end}"),
        Bound::Excluded(end) => format!(" below {end}"),
        Bound::Unbounded => String::new(),
    };
    match range.start_bound() {
        Bound::Included(start) | Bound::Excluded(start) if end.is_empty() => format!(" of at least {start}"),
        Bound::Included(start) | Bound::Excluded(start) => format!(" from {start}{end}"),
        Bound::Unbounded => end,
    }
}

/// Takes the number of a process, or of a thread.
pub fn pid(text: &str) -> Result<Pid, String> {
    whole(.., "4321")(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory};

    #[test]
    fn what_is_no_number_of_the_range_is_answered_with_the_range_and_an_example() {
        let depth = whole(1_u32..=1024, "127");
        assert_eq!(depth("1024"), Ok(1024));
        for text in ["", "x", "3.5", "-1", "0", "1025", "99999999999999999999", "1e3"] {
            assert_eq!(
                depth(text),
                Err("a whole number from 1 to 1024 is expected, such as 127".into()),
                "{text}"
            );
        }
        assert_eq!(
            whole(1_u64.., "5")("0"),
            Err("a whole number of at least 1 is expected, such as 5".into())
        );
        assert_eq!(
            pid("nginx"),
            Err("a whole number is expected, such as 4321".into())
        );
    }

    /// What is said about an option with this value, for each option of each verb that refuses it.
    fn refusals(command: &Command, path: &[String], value: &str, all: &mut Vec<(String, String)>) {
        for option in command.get_opts().filter_map(clap::Arg::get_long) {
            let line = [path, &[format!("--{option}={value}")]].concat();
            let err = crate::Cli::command().try_get_matches_from(&line).err();
            let said = err.map(|err| crate::usage::said(&err)).unwrap_or_default();
            if said.starts_with("invalid value ") {
                all.push((line.join(" "), said));
            }
        }
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            refusals(inner, &path, value, all);
        }
    }

    #[test]
    fn no_option_answers_in_the_words_of_the_standard_library() {
        let mut all = Vec::new();
        for value in ["q", "3.5q", "99999999999999999999", ""] {
            refusals(&crate::Cli::command(), &["moonscope".to_owned()], value, &mut all);
        }
        let words = [
            "invalid digit",
            "cannot parse",
            "invalid float",
            "too large to fit",
            "would be zero",
            " is not in ",
        ];
        for (line, said) in &all {
            assert!(!words.iter().any(|words| said.contains(words)), "{line}: {said}");
        }
        for option in [
            "record --frequency",
            "record --pid",
            "record --duration",
            "record --keep",
            "top --max-depth",
        ] {
            let begin = format!("moonscope {option}=q");
            assert!(all.iter().any(|(line, _)| *line == begin), "{begin} is taken");
        }
    }
}
