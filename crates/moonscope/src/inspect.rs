//! What the inspectors (`nginx`, `lua`) have in common: looking once or again and again, and the document that `--json` writes.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use moonscope_process::{Pid, visible};
use serde_json::{Value, json};

use crate::exit::{Code, Failure, tell};
use crate::target::TargetArgs;

/// What all views have.
#[derive(Args)]
pub struct ViewArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// Writes JSON instead of a table
    #[arg(long, conflicts_with = "format")]
    pub json: bool,

    /// `orig`: the text of the old SystemTap tool, for scripts that read it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,

    /// Shows it again and again, each TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "2s",
          value_parser = crate::record::duration::parse)]
    pub watch: Option<Duration>,
}

/// What a view writes, if not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// The words of the old tools.
    Orig,
}

/// What one look has found.
pub struct Looked {
    /// To be written to stdout.
    pub text: String,
    /// Who could not be looked at, and why.
    pub failed: Vec<(Pid, String)>,
}

/// Looks once, or each `watch`, and writes what is found.
pub fn show(
    watch: Option<Duration>,
    mut look: impl FnMut() -> Result<Looked, Failure>,
) -> Result<Code, Failure> {
    let clear = match watch.is_some() && std::io::stdout().is_terminal() {
        true => "\x1b[H\x1b[2J",
        false => "",
    };
    loop {
        let Looked { text, failed } = look()?;
        let mut stdout = std::io::stdout().lock();
        match stdout
            .write_all(format!("{clear}{text}").as_bytes())
            .and_then(|()| stdout.flush())
        {
            // `moonscope nginx requests | head` is no failure
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Code::Done),
            written => written?,
        }
        drop(stdout);
        for (pid, why) in &failed {
            tell!("moonscope: process {pid} is left out: {}", visible(why));
        }
        match watch {
            Some(time) => std::thread::sleep(time),
            None if failed.is_empty() => return Ok(Code::Done),
            None => return Ok(Code::Partial),
        }
    }
}

/// The document of a look, whose `list` has one entry for each that was looked at.
pub fn document(
    kind: &str,
    list: &str,
    each: Vec<Value>,
    watch: Option<Duration>,
) -> Result<String, Failure> {
    let document = json!({
        "format": kind,
        "version": 1,
        "producer": concat!("moonscope ", env!("CARGO_PKG_VERSION")),
        list: each,
    });
    // one line for each look, so that a reader of --watch finds where one ends
    let text = match watch {
        Some(_) => serde_json::to_string(&document)?,
        None => serde_json::to_string_pretty(&document)?,
    };
    Ok(text + "\n")
}
