//! What lasts when a recording ends: threads that are blocked still. Their stacks are read from outside, as
//! `moonscope stack` does it, because nothing in the kernel happens to them any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use moonscope_process::Pid;
use moonscope_process::thread::Place;
use moonscope_unwind::abi;

use crate::collector::{Collector, Unfinished};
use crate::live::{LiveFiles, LiveProcess, Running};
use crate::skeleton::MoonscopeSkel;
use crate::stacks::What;

/// How long processes are looked at, at the end; one takes about a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

/// A process with threads in which something had begun when the recording ended.
pub struct UnfinishedProcess {
    /// The process, as it was then.
    pub live: LiveProcess,
    /// Places of its threads in `live.threads`, what was measured and how much.
    pub threads: Vec<(usize, What, abi::ms_sum)>,
}

/// Looks at these processes. Those for which there is no time are counted. What was not seen counts in those that are known to
/// be wanted.
pub fn look(
    pids: &BTreeSet<Pid>,
    is_wanted: impl Fn(Pid) -> bool,
    unfinished: &[(u16, &dyn Collector, Unfinished)],
    skel: &MoonscopeSkel<'static>,
    max_depth: u32,
) -> (Vec<UnfinishedProcess>, u64) {
    let Ok(mut files) = LiveFiles::new() else {
        return (Vec::new(), pids.len() as u64);
    };
    let start = Instant::now();
    let mut found = Vec::new();
    let mut not_looked_at = 0;
    for &pid in pids {
        if start.elapsed() > PATIENCE {
            not_looked_at += 1;
            continue;
        }
        // one that has ended has nothing unfinished
        let Ok(live) = LiveProcess::look_at(pid, &mut files, max_depth, Running::LeftOut) else {
            continue;
        };
        let mut threads = Vec::new();
        for (place, thread) in live.threads.iter().enumerate() {
            let Place::Waiting { call, .. } = thread.place else {
                continue;
            };
            for (event, collector, unfinished) in unfinished {
                let known = unfinished.known.get(&thread.tid).copied();
                // who ran when measuring ended, and waits by now, is seen by now
                let unseen = unfinished.unseen.filter(|_| {
                    is_wanted(pid)
                        && !unfinished.seen.contains(&thread.tid)
                        && !collector.has_seen(thread.tid, skel)
                });
                if let Some((tag, sum)) = known.or(unseen)
                    && let Some(tag) = collector.tag_in_call(tag, call)
                {
                    let what = What { event: *event, tag };
                    threads.push((place, what, sum));
                }
            }
        }
        if !threads.is_empty() {
            found.push(UnfinishedProcess { live, threads });
        }
    }
    (found, not_looked_at)
}
