//! `moonscope diff`: what takes a larger share in the second profile, and what a smaller one.

use std::path::PathBuf;

use clap::Args;
use moonscope_profile::{Comparison, Format};

use crate::convert::{PartArgs, ShowArgs};
use crate::exit::{Code, Failure};
use crate::input;
use crate::output::{Outputs, with_causes};

const EXAMPLES: &str = "\
Examples:
  Two files to play with, then a flame graph in which red grew and blue shrank:
    printf 'main;a 60\\nmain;b 40\\n' > old.folded; printf 'main;a 30\\nmain;b 70\\n' > new.folded
    moonscope diff old.folded new.folded -o change.svg
  The functions that changed most, on the terminal:
    moonscope diff old.folded new.folded -o - --to txt
  Counts as recorded, for two runs of the same work:
    moonscope diff --raw old.folded new.folded -o change.folded";

/// Compare two recorded profiles: what takes more, what takes less
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct DiffArgs {
    /// The profile from before; `-` is stdin
    #[arg(value_name = "A")]
    before: PathBuf,

    /// The profile from after; `-` is stdin
    #[arg(value_name = "B")]
    after: PathBuf,

    /// File to write: .svg, .folded (two counts) or .txt; repeatable; `-` is stdout and needs --to
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Vec<PathBuf>,

    /// Compare counts as recorded, not shares of each profile's total
    #[arg(long)]
    raw: bool,

    /// Format of both inputs, where their endings and content do not tell
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,

    /// Format of outputs without a known ending
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,

    /// Replace files that exist
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    show: ShowArgs,

    #[command(flatten)]
    part: PartArgs,
}

/// Reads both, compares, writes.
pub fn run(args: DiffArgs) -> Result<Code, Failure> {
    if args.before.as_os_str() == "-" && args.after.as_os_str() == "-" {
        return Err(Failure::new(
            Code::Usage,
            "only one of the two profiles can come from stdin",
        ));
    }
    let outputs = Outputs::check_as(&args.output, args.to, args.force)?;
    if let Some(format) = outputs.formats().find(|format| !format.holds_diff()) {
        let what = format!("{format} cannot hold a comparison");
        return Err(Failure::new(Code::Usage, what).with_remedy("write .svg, .folded or .txt"));
    }
    let filter = args.part.filter();
    let read = |path| input::read(path, args.from).map(|profile| filter.apply(&profile));
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    for (path, profile) in [(&args.before, &before), (&args.after, &after)] {
        if profile.is_empty() {
            let what = format!("{}: no samples to compare; nothing is written", path.display());
            return Err(Failure::new(Code::NoSamples, what));
        }
    }
    let comparison = Comparison::new(&before, &after, &args.show.options(), args.raw)
        .map_err(|err| Failure::new(Code::Usage, with_causes(&err)))?;
    outputs
        .write_each(|format, out| comparison.write(format, out))
        .complete()?;
    Ok(Code::Done)
}
