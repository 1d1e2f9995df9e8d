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
mod output;
mod record;
mod stack;
mod stack_analyzer;
mod table;
mod target;
mod top;
mod usage;

use clap::{CommandFactory, Parser, Subcommand};
use exit::Failure;

/// Shows where a Linux service spends its time: kernel and native code in one stack, without changing it.
#[derive(Parser)]
#[command(
    name = "moonscope",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return usage::report(&err, &Cli::command(), std::env::args_os().skip(1)),
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
