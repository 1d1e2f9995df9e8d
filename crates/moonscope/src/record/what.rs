//! What is measured, of whom, and how: the options that `record` and `top` have in common.

use std::path::PathBuf;

use clap::Args;
use moonscope_process::is_dir_in_root;
use moonscope_unwind::abi;

use super::events::EventArgs;
use crate::exit::{Code, Failure};
use crate::number;
use crate::target::{Target, TargetArgs};

/// What is measured, of whom, and how.
#[derive(Clone, Args)]
pub struct WhatArgs {
    #[command(flatten)]
    pub target: TargetArgs,

    /// What to measure; `moonscope list events` shows what there is
    #[arg(short, long, value_name = "EVENT", default_value = "cpu")]
    pub event: Vec<String>,

    #[command(flatten)]
    pub events: EventArgs,

    /// The value that graphs and tables show, such as `cpu` or `offcpu` [default: the first that is not a count]
    #[arg(long, value_name = "NAME", help_heading = "What graphs show")]
    pub value: Option<String>,

    /// Samples per second and CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = number::whole(1..=1_000_000_u64, "99"))]
    pub frequency: u64,

    #[command(flatten)]
    pub stacks: StackArgs,

    /// Folder with plugins besides apisix/plugins, as the gateway names its files: PATH/NAME.lua;
    /// repeatable
    #[arg(long, value_name = "PATH", help_heading = "What graphs show")]
    pub plugin_path: Vec<String>,
}

/// What stacks hold.
#[derive(Clone, Args)]
#[command(next_help_heading = "Stacks")]
pub struct StackArgs {
    /// User frames of a stack at most, up to 1024; the outermost are left out
    #[arg(long, value_name = "N", default_value_t = abi::MS_DEFAULT_DEPTH,
          value_parser = number::whole(1..=abi::MS_MAX_DEPTH, "127"))]
    pub max_depth: u32,

    /// Leave kernel frames out
    #[arg(long)]
    pub no_kernel: bool,

    /// Leave children out that processes start later
    #[arg(long)]
    pub no_inherit: bool,

    /// Show functions that the compiler inlined; needs debug information
    #[arg(long)]
    pub inline: bool,

    /// Show source lines; needs debug information
    #[arg(long)]
    pub lines: bool,

    /// Put above a coroutine of ngx_lua what resumed or spawned it (ngx.thread.spawn, coroutine.resume)
    #[arg(long)]
    pub coroutine_parents: bool,

    /// Another directory with separate debug files; repeatable
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,

    /// Use this loop in the kernel, and no other
    #[arg(long, value_name = "LOOP", hide = true)]
    pub walk_loop: Option<LoopArg>,
}

impl StackArgs {
    /// Debug files are looked for in the root of each process and here, so one of them has to have each directory.
    pub fn check_debug_dirs(&self, target: &Target) -> Result<(), Failure> {
        for dir in &self.debug_dir {
            if dir.is_dir() || target.pids()?.iter().any(|&pid| is_dir_in_root(pid, dir)) {
                continue;
            }
            let what = match dir.exists() {
                true => "is not a directory",
                false => "there is no such directory",
            };
            let failure = Failure::new(Code::Usage, format_args!("--debug-dir {}: {what}", dir.display()));
            return Err(failure.with_remedy(
                "give a directory that has debug files in it, such as /usr/lib/debug, here or in the root of the target",
            ));
        }
        Ok(())
    }
}

/// Which loop walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LoopArg {
    BpfLoop,
    PlainLoop,
}
