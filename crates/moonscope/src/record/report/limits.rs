//! What the last lines say of limits that were hit, of processes that may not be looked at, and of files that are damaged.

use std::collections::BTreeSet;

use moonscope_probe::Totals;
use moonscope_process::{Pid, counted};

use crate::target::access;

/// Files that are told of; `doctor` shows the others.
const MOST_FILES: usize = 5;

/// A line for each limit that was hit.
pub(super) fn hit(totals: &Totals) -> Vec<String> {
    let (tables, processes) = (&totals.tables, &totals.processes);
    let mut lines: Vec<String> = [
        (
            tables.no_room,
            "unwind table",
            "found no room: samples there were walked from stack copies",
        ),
        (tables.evicted, "unwind table", "evicted to make room"),
        (
            tables.too_many_rules,
            "file",
            "with too many unwind rules: samples there were walked from stack copies",
        ),
        (
            processes.no_room,
            "list",
            "of mappings found no room: samples there were walked from stack copies",
        ),
        (
            totals.received.values_without_stack,
            "stack",
            "not known any more, as there were too many: what is in use or left over there is missing",
        ),
        (
            processes.perf_maps_not_held,
            "stack",
            "with generated code of more processes than perf maps are held open of: it may have no name",
        ),
        (
            totals.received.not_looked_at,
            "process",
            "not looked at when the recording ended: what lasted in its threads is missing",
        ),
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, one, what)| format!("{} {what}", counted(count, one)))
    .collect();
    let failed = &totals.failed_reads;
    if failed.count > 0 {
        lines.push(format!(
            "{} of what the kernel side had summed up failed ({}): it came with a later one, or is lost (sums not read)",
            counted(failed.count, "read"),
            failed.reason
        ));
    }
    if processes.over_file_limit > 0 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        lines.push(format!(
            "{} could not be opened: only {} may be open at a time; raise ulimit -n",
            counted(processes.over_file_limit, "mapped file"),
            counted(limit.unwrap_or(0), "file"),
        ));
    }
    lines
}

/// Those of the sampled processes that we may not look at, and why not.
pub(super) fn refused(refused: &BTreeSet<Pid>, sampled: &BTreeSet<Pid>) -> Option<String> {
    let count = refused.intersection(sampled).count();
    (count > 0).then(|| {
        format!(
            "{} may not be looked at, stacks there are cut: {} (`moonscope doctor` says more)",
            counted(count, "process"),
            access::why_refused()
        )
    })
}

/// A line for each of the first files of which something could not be used. `problems` begin with the path, `more` are not
/// among them.
pub(super) fn files(problems: &BTreeSet<String>, more: u64) -> Vec<String> {
    let rest = problems.len().saturating_sub(MOST_FILES) as u64 + more;
    let mut lines: Vec<String> = problems
        .iter()
        .take(MOST_FILES)
        .map(|problem| format!("not used in full: {problem}"))
        .collect();
    if rest > 0 {
        lines.push(format!(
            "and {} with files (`moonscope doctor -p PID` shows those of a process)",
            counted(rest, "other problem")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_damaged_files_the_first_are_named_and_the_others_counted() {
        let problems: BTreeSet<String> = (0..7).map(|nr| format!("/lib/{nr}.so: damaged")).collect();
        let lines = files(&problems, 4);
        assert_eq!(lines.len(), MOST_FILES + 1);
        assert_eq!(lines[0], "not used in full: /lib/0.so: damaged");
        assert!(lines[5].starts_with("and 6 other problems"), "{lines:?}");
        assert_eq!(files(&BTreeSet::new(), 0), Vec::<String>::new());
    }

    #[test]
    fn only_processes_that_were_sampled_are_told_of() {
        let (refused_all, sampled) = ([1, 2, 3].into(), [3, 4].into());
        let line = refused(&refused_all, &sampled).unwrap();
        assert!(line.starts_with("1 process may not be looked at"), "{line}");
        assert_eq!(refused(&refused_all, &[4].into()), None);
    }
}
