//! Samples processes and prints what came: `cargo run --example raw -- SECONDS HZ [PID...]`.
use std::time::{Duration, Instant};

use moonscope_probe::{Options, RawFrame, Scope, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<u64> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let pids = args[2..].iter().map(|&pid| pid as u32).collect();
    let options = Options {
        scope: if args.len() > 2 { Scope::Processes(pids) } else { Scope::All },
        hz: args[1],
        max_depth: 127,
        kernel_stacks: true,
        user_stacks: true,
        follow_forks: true,
        report_all_execs: false,
        measure_cost: true,
        always_copy_stack: false,
        force_loop: None,
    };
    let begin = Instant::now();
    let mut session = Session::prepare(&options)?;
    eprintln!("prepared in {:?}: {}, {}", begin.elapsed(), session.clock().name(), session.walk_loop().phrase());
    session.start()?;
    let end = Instant::now() + Duration::from_secs(args[0]);
    while Instant::now() < end {
        session.poll(Duration::from_millis(100))?;
    }
    let (totals, drain) = session.finish()?;
    eprintln!("{totals:#?}");
    eprintln!("{} ns per run", totals.run_time.nanoseconds / totals.run_time.runs.max(1));
    let mut counts: Vec<_> = drain.stacks.counts().collect();
    counts.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    for (mut stack, thread, count) in counts.into_iter().take(5).map(|(stack, thread, count)| (Some(stack), thread, count)) {
        println!("{count} pid {} tid {}", thread.pid, thread.tid);
        while let Some(id) = stack {
            let (parent, frame) = drain.stacks.nodes()[id.0 as usize];
            match &drain.stacks.frames()[frame as usize] {
                RawFrame::File { executable, vaddr } => println!("  {}+{vaddr:#x}", drain.executables.file(*executable).name()),
                other => println!("  {other:x?}"),
            }
            stack = parent;
        }
    }
    Ok(())
}
