//! `moonscope convert`: recorded profiles to other formats, or to a part of themselves.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use moonscope_profile::{Filter, Format, Grouping, PluginPaths, Regex, WriteOptions};

use crate::exit::{Code, Failure};
use crate::input;
use crate::number;
use crate::output::Outputs;

const EXAMPLES: &str = "\
Examples:
  Folded stacks from any tool, as a flame graph and as a table:
    printf 'main;work 90\\nmain;idle 10\\n' | moonscope convert - -o work.svg -o work.json
  The table on the terminal:
    moonscope convert work.json -o - --to txt
  What each plugin of an APISIX costs, and a graph split by phase:
    moonscope convert apisix.json --by plugin -o - --to txt
    moonscope convert apisix.json --by phase -o phases.svg
  Only stacks that go through a function, for go tool pprof and speedscope:
    moonscope convert work.json --only '^work$' -o work.pb.gz -o work.speedscope.json";

/// Turn recorded profiles into other formats, or pick a part of them
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertArgs {
    /// Profiles to read (.json, .folded, .pb.gz, or whatever the content shows); `-` is stdin; several
    /// are added up
    #[arg(value_name = "IN", required = true)]
    inputs: Vec<PathBuf>,

    /// File to write, in the format of its ending; repeatable; `-` is stdout and needs --to
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Vec<PathBuf>,

    /// Format of the input, where its ending and content do not tell
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,

    /// Format of outputs without a known ending
    #[arg(long, visible_alias = "format", value_name = "FORMAT")]
    to: Option<Format>,

    /// Replace files that exist
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    show: ShowArgs,

    #[command(flatten)]
    part: PartArgs,
}

/// How graphs and tables show a profile.
#[derive(Args)]
#[command(next_help_heading = "What graphs show")]
pub struct ShowArgs {
    /// What makes the outermost frame: comm, pid, tid, thread, cgroup, lua-state, plugin, phase, any label,
    /// or none; tables have a summary by it
    #[arg(long, value_name = "LABEL", default_value = "comm")]
    by: String,

    /// Folder with plugins besides apisix/plugins: PATH/NAME.lua; repeatable
    #[arg(long, value_name = "PATH")]
    plugin_path: Vec<String>,

    /// Value to show, when a profile has several: samples, cpu, ...
    #[arg(long, value_name = "NAME")]
    value: Option<String>,

    /// Show source lines, where they are known
    #[arg(long)]
    lines: bool,

    /// Title of the graph
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

impl ShowArgs {
    /// The options for the writers.
    pub fn options(&self) -> WriteOptions {
        WriteOptions {
            group: Grouping::by(&self.by),
            plugins: PluginPaths::new(&self.plugin_path),
            value: self.value.clone(),
            lines: self.lines,
            width: columns(),
            title: self.title.clone(),
        }
    }
}

/// The width that the shell says the terminal has, when the output is one.
fn columns() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    std::env::var("COLUMNS")
        .ok()?
        .parse()
        .ok()
        .filter(|columns| *columns >= 40)
}

/// Which part of a profile is used.
#[derive(Args)]
#[command(next_help_heading = "Which samples")]
pub struct PartArgs {
    /// Keep stacks in which a frame matches; repeatable: any of them
    #[arg(long, value_name = "REGEX")]
    only: Vec<Regex>,

    /// Drop stacks in which a frame matches; repeatable
    #[arg(long, value_name = "REGEX")]
    without: Vec<Regex>,

    /// Keep samples of this process; repeatable
    #[arg(short, long, value_name = "PID", value_parser = number::pid)]
    pid: Vec<u32>,

    /// Keep samples of this thread; repeatable
    #[arg(long, value_name = "TID", value_parser = number::pid)]
    tid: Vec<u32>,

    /// Keep samples of commands with this name; repeatable
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,
}

impl PartArgs {
    /// The filter for the profile.
    pub fn filter(&self) -> Filter {
        let numbers = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect();
        let labels: [(&str, Vec<String>); 3] = [
            ("pid", numbers(&self.pid)),
            ("tid", numbers(&self.tid)),
            ("comm", self.comm.clone()),
        ];
        Filter {
            only: self.only.clone(),
            without: self.without.clone(),
            labels: labels
                .into_iter()
                .filter(|(_, values)| !values.is_empty())
                .map(|(key, values)| (key.to_owned(), values))
                .collect(),
        }
    }
}

/// Reads, filters, writes.
pub fn run(args: ConvertArgs) -> Result<Code, Failure> {
    let mut outputs = Outputs::check_as(&args.output, args.to, args.force)?;
    outputs.options = args.show.options();
    let mut profiles = args.inputs.iter().map(|path| input::read(path, args.from));
    let Some(first) = profiles.next() else {
        return Err(Failure::new(Code::Usage, "no profile to read"));
    };
    let mut profile = first?;
    for other in profiles {
        profile.merge(&other?);
    }
    if profile.is_empty() {
        return Err(Failure::new(
            Code::NoSamples,
            "there are no samples in the input; nothing is written",
        ));
    }
    let filter = args.part.filter();
    if !filter.is_empty() {
        profile = filter.apply(&profile);
    }
    if profile.is_empty() {
        return Err(Failure::new(
            Code::NoSamples,
            "no sample is left by the filters; nothing is written",
        )
        .with_remedy("moonscope convert IN -o - --to txt shows the names and what there is"));
    }
    let options = &outputs.options;
    if options.group.needs_lineage() || !options.plugins.is_empty() {
        profile = profile.with_lineage(&options.plugins);
    }
    outputs.write_all(&profile).complete()?;
    Ok(Code::Done)
}
