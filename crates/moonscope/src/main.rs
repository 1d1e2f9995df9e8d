//! The `moonscope` command: arguments, one module per verb, exit codes.

mod capabilities;
mod convert;
mod diff;
mod doctor;
mod exit;
mod input;
mod inspect;
mod list;
mod lua;
mod nginx;
mod number;
mod old_tools;
mod output;
mod record;
mod shell;
mod stack;
mod stack_analyzer;
mod table;
mod target;
mod top;
mod usage;

use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};
use exit::{Code, Failure};
use old_tools::Meant;

/// Shows where a Linux service spends its time: kernel and native code in one stack, without changing it.
#[derive(Parser)]
#[command(
    name = "moonscope",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = OLD_NAMES
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const OLD_NAMES: &str = "\
The names of openresty-systemtap-toolkit and stapxx are understood too, such as
`moonscope ngx-shm -p PID`; `moonscope list tools` has them all.";

#[derive(Subcommand)]
enum Verb {
    Record(Box<record::RecordArgs>),
    Top(Box<top::TopArgs>),
    Stack(stack::StackArgs),
    Nginx(Box<nginx::NginxArgs>),
    Lua(Box<lua::LuaArgs>),
    Diff(diff::DiffArgs),
    Convert(convert::ConvertArgs),
    Doctor(doctor::DoctorArgs),
    List(list::ListArgs),
    StackAnalyzer(stack_analyzer::StackAnalyzerArgs),
}

fn main() -> std::process::ExitCode {
    // a limit on file sizes (ulimit -f) becomes an error of the write, which is told, and not our end
    // SAFETY: no handler of ours is involved.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let line = match old_tools::meant(std::env::args_os()) {
        Ok(Meant::Line(line)) => line,
        Ok(Meant::Help(text)) => {
            // a closed pipe is no failure of ours
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Code::Done.into();
        }
        Err(failure) => return Failure::report(&failure),
    };
    let cli = match Cli::try_parse_from(std::iter::once("moonscope".into()).chain(line.iter().cloned())) {
        Ok(cli) => cli,
        Err(err) => return usage::report(&err, &Cli::command(), line.into_iter()),
    };
    let outcome = match cli.verb {
        Verb::Record(args) => record::run(*args),
        Verb::Top(args) => top::run(*args),
        Verb::Stack(args) => stack::run(args),
        Verb::Nginx(args) => nginx::run(&args),
        Verb::Lua(args) => lua::run(&args),
        Verb::Diff(args) => diff::run(args),
        Verb::Convert(args) => convert::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::List(args) => list::run(args),
        Verb::StackAnalyzer(args) => stack_analyzer::run(args),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => Failure::report(&failure),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use old_tools::{Now, TOOLS};

    #[test]
    fn old_names_of_views_are_in_the_table_of_old_tools() {
        for verb in ["nginx", "lua"] {
            let command = Cli::command();
            let verb_command = command.find_subcommand(verb).unwrap();
            for view in verb_command.get_subcommands() {
                let names = view.get_all_aliases().chain([view.get_name()]);
                for name in names.filter(|name| name.starts_with("ngx-") || name.starts_with("lj-")) {
                    let tool = TOOLS.iter().find(|tool| tool.name == name);
                    let Some(Now::Is { command, .. }) = tool.map(|tool| &tool.now) else {
                        panic!("{name} is not in the table");
                    };
                    // some have a name of their own for one of several parts
                    if view.get_name() != name {
                        assert_eq!(*command, format!("{verb} {}", view.get_name()), "{name}");
                    }
                }
            }
        }
    }

    /// A line without our name and without blanks in words; `PID` stands for one.
    #[track_caller]
    pub fn assert_parses(line: &str) {
        let line = line.replace("PID", "4321");
        let words = std::iter::once("moonscope").chain(line.split(' '));
        if let Err(err) = Cli::try_parse_from(words) {
            assert!(!err.use_stderr(), "{line}: {err}");
        }
    }

    #[test]
    fn each_old_tool_is_a_command_that_there_is() {
        let mut names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
        for tool in TOOLS {
            match tool.now {
                Now::Is { command, .. } | Now::Instead(command, _) | Now::NotYet(Some(command)) => {
                    assert_parses(command)
                }
                Now::NotYet(None) | Now::Never(_) => (),
            }
        }
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "a name is there twice");
        // none hides a verb
        assert!(
            !names
                .iter()
                .any(|name| Cli::command().find_subcommand(name).is_some())
        );
    }
}
