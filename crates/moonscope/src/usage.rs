//! What the argument parser objects to, in one line: `moonscope record: unexpected argument '--foo' found; see moonscope
//! record --help`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Command;
use clap::error::ErrorKind;
use moonscope_profile::visible;

use crate::exit::{Code, tell};

/// Prints help to stdout with success, and what is wrong to stderr with code 2. `words` are those behind our own name.
pub fn report(err: &clap::Error, command: &Command, words: impl Iterator<Item = OsString>) -> ExitCode {
    if !err.use_stderr() {
        // A closed pipe (`moonscope --help | head`) is no failure of ours.
        let _ = err.print();
        return Code::Done.into();
    }
    if err.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = err.print();
        return Code::Usage.into();
    }
    let verb = verb(command, words);
    tell!("{verb}: {}; see {verb} --help", said(err));
    Code::Usage.into()
}

/// The name of the command that the first words pick: `moonscope nginx requests`.
fn verb(command: &Command, words: impl Iterator<Item = OsString>) -> String {
    let mut names = vec![command.get_name()];
    let mut command = command;
    for word in words {
        let Some(inner) = command.find_subcommand(word) else {
            break;
        };
        names.push(inner.get_name());
        command = inner;
    }
    names.join(" ")
}

/// What is wrong and what was meant perhaps, without how the command is used.
pub fn said(err: &clap::Error) -> String {
    let text = err.render().to_string();
    let ends = ["\n\nUsage:", "\n\nFor more information"];
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    let (mut line, mut is_left_out) = (String::new(), false);
    for part in text[..end.unwrap_or(text.len())].lines() {
        // lists and hints of clap are indented; what is not is a line break in a word that was typed
        let is_typed = !part.is_empty() && !part.starts_with(' ') && !line.is_empty();
        is_left_out &= is_typed;
        let part = part.trim();
        if is_typed {
            if !is_left_out {
                line.push('\n');
                line.push_str(part);
            }
        } else if let Some(hint) = part.strip_prefix("tip: ") {
            // `-- --foo` would be a command of that name
            is_left_out = hint.starts_with("to pass '");
            if !is_left_out {
                line.push_str("; ");
                line.push_str(hint);
            }
        } else if let Some(list) = part.strip_prefix('[').and_then(|part| part.strip_suffix(']')) {
            line.push_str("; ");
            line.push_str(list);
        } else if line.is_empty() {
            line.push_str(part.strip_prefix("error: ").unwrap_or(part));
        } else if !part.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { ", " });
            line.push_str(part);
        }
    }
    visible(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction};

    fn command() -> Command {
        let record = Command::new("record")
            .arg(Arg::new("force").long("force").action(ArgAction::SetTrue))
            .arg(
                Arg::new("all")
                    .long("all")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("force"),
            )
            .arg(Arg::new("color").long("color").value_parser(["red", "green"]))
            .arg(
                Arg::new("rate")
                    .short('F')
                    .value_parser(clap::value_parser!(u64).range(1..=9)),
            )
            .arg(Arg::new("command").last(true));
        let convert = Command::new("convert")
            .arg(Arg::new("IN").required(true))
            .arg(Arg::new("output").short('o').required(true));
        Command::new("moonscope")
            .subcommand(record)
            .subcommand(convert)
            .subcommand(Command::new("nginx").subcommand(Command::new("requests").alias("ngx-active-reqs")))
    }

    fn line(words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        let err = command()
            .try_get_matches_from(std::iter::once("moonscope").chain(words.iter().copied()))
            .unwrap_err();
        format!(
            "{}: {}",
            verb(&command(), words.iter().map(OsString::from)),
            said(&err)
        )
    }

    #[test]
    fn each_mistake_is_one_line_with_what_was_meant() {
        for (words, expected) in [
            (
                "record --foo",
                "moonscope record: unexpected argument '--foo' found",
            ),
            (
                "record --forse",
                "moonscope record: unexpected argument '--forse' found; a similar argument exists: '--force'",
            ),
            (
                "record --force --all",
                "moonscope record: the argument '--force' cannot be used with '--all'",
            ),
            (
                "record --color blue",
                "moonscope record: invalid value 'blue' for '--color <color>'; possible values: red, green",
            ),
            (
                "record -F 10",
                "moonscope record: invalid value '10' for '-F <rate>': 10 is not in 1..=9",
            ),
            (
                "convert",
                "moonscope convert: the following required arguments were not provided: -o <output>, <IN>",
            ),
            (
                "recrod",
                "moonscope: unrecognized subcommand 'recrod'; a similar subcommand exists: 'record'",
            ),
            (
                "nginx ngx-active-reqs -x",
                "moonscope nginx requests: unexpected argument '-x' found",
            ),
        ] {
            assert_eq!(line(words), expected, "{words}");
        }
    }

    #[test]
    fn what_was_typed_cannot_break_the_line_or_steer_the_terminal() {
        assert_eq!(
            // clap leaves out what the terminal would obey
            line("record --a\nb\x1b[31m"),
            "moonscope record: unexpected argument '--a\\nb' found"
        );
    }
}
