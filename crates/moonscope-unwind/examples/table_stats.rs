//! Builds the unwind tables of the files named on the command line and prints what they cost.
//!
//!     cargo run --release -p moonscope-unwind --example table_stats -- /lib/x86_64-linux-gnu/libc.so.6

use std::time::Instant;

use moonscope_unwind::{RuleSet, Table};

fn main() {
    println!(
        "{:<28} {:>9} {:>8} {:>7} {:>8} {:>6} {:>6} {:>8} {:>9}",
        "file", "rows", "entries", "rules", "unsupp.", "lost", "tramp.", "ms", "bytes"
    );
    let mut shared = RuleSet::new();
    for path in std::env::args().skip(1) {
        let name = path.rsplit('/').next().unwrap_or(&path);
        let data = match std::fs::read(&path) {
            Ok(data) => data,
            Err(error) => {
                println!("{name:<28} {error}");
                continue;
            }
        };
        let mut times = Vec::new();
        let mut result = Ok(None);
        let mut rules = RuleSet::new();
        for _ in 0..5 {
            rules = RuleSet::new();
            let start = Instant::now();
            result = Table::build(&data, &mut rules);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let _ = Table::build(&data, &mut shared);
        match result {
            Ok(Some(table)) => {
                let stats = table.stats;
                println!(
                    "{name:<28} {:>9} {:>8} {:>7} {:>8} {:>6} {:>6} {:>8.2} {:>9}",
                    table.rows.len(),
                    stats.eh_frame_entries + stats.debug_frame_entries,
                    rules.len(),
                    stats.unsupported.total(),
                    stats.rows_with_lost_registers,
                    stats.trampolines,
                    times[times.len() / 2],
                    table.kernel_bytes(),
                );
                if std::env::var_os("VERBOSE").is_some() {
                    println!("    {stats:?}");
                }
            }
            Ok(None) => println!("{name:<28} no unwind information"),
            Err(error) => println!("{name:<28} {error}"),
        }
    }
    println!("rules of all files together: {}", shared.len());
}
