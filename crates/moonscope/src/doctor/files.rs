//! The executable files of a target: every one that its processes have mapped.

use super::file::{self, FileReport};
use moonscope_process::{Executable, ExecutableKey, MappingName, Pid, ProcessError, open_in_root, read_maps};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Most files that are looked into, for a whole machine.
const MAX_FILES: usize = 4096;

/// What is known of the code of a target.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct TargetReport {
    /// What the target is called.
    pub(super) what: String,
    /// How many processes were looked at.
    pub(super) processes: usize,
    pub(super) files: Vec<FileReport>,
    /// Code that no file holds, made at run time.
    pub(super) generated: Vec<GeneratedCode>,
    /// What could not be looked at, one sentence each.
    pub(super) problems: Vec<String>,
}

/// Executable memory without a file in one process.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GeneratedCode {
    pub(super) pid: Pid,
    pub(super) kib: u64,
    pub(super) areas: usize,
    /// The process, or something in it, writes names of its code to `/tmp/perf-PID.map`.
    pub(super) perf_map: bool,
}

/// Files already looked at, by what they are; the value is the place in the report.
#[derive(Default)]
struct Known {
    by_key: HashMap<ExecutableKey, usize>,
    problems: BTreeSet<String>,
}

/// Looks into the files that these processes have mapped executable.
pub(super) fn of_processes(what: &str, pids: &BTreeSet<Pid>) -> TargetReport {
    let mut report = TargetReport {
        what: what.to_owned(),
        ..TargetReport::default()
    };
    let mut known = Known::default();
    for &pid in pids {
        match report.add_process(pid, &mut known) {
            Ok(()) => report.processes += 1,
            // Processes end; that is no problem unless all do.
            Err(err) if err.is_gone() && pids.len() > 1 => {}
            Err(err) => drop(known.problems.insert(err.to_string())),
        }
    }
    report.problems.extend(known.problems);
    report
}

/// Looks into one program that does not run.
pub(super) fn of_program(what: &str, program: &Path) -> TargetReport {
    let mut report = TargetReport {
        what: what.to_owned(),
        ..TargetReport::default()
    };
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    match Executable::open_path(&program).and_then(|executable| file::examine(&executable)) {
        Ok(file) => report.files.push(file),
        Err(err) => report.problems.push(err.to_string()),
    }
    report
}
