//! The executable files of a target: every one that its processes have mapped.

use super::file::{self, FileReport};
use super::lua::{self, LuaInProcess};
use crate::target::access;
use moonscope_process::{Executable, ExecutableKey, MappingName, PerfMap, Pid, ProcessError, read_maps};
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
    /// LuaJIT in these processes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) lua: Vec<LuaInProcess>,
    /// Code that no file holds, made at run time, but for LuaJIT's.
    pub(super) generated: Vec<GeneratedCode>,
    /// What could not be looked at, one sentence each.
    pub(super) problems: Vec<String>,
    /// We may look at none of the processes: it cannot be recorded.
    pub(super) is_refused: bool,
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
    /// We were refused something.
    refused: bool,
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
            Err(err) => known.problem(&err),
        }
    }
    report.is_refused = known.refused && !report.files.iter().any(|file| file.processes > 0);
    if report.is_refused {
        let why = access::why_refused();
        known.problems.insert(format!("it cannot be recorded: {why}"));
    }
    report.problems.extend(known.problems);
    report
}

impl Known {
    fn problem(&mut self, err: &ProcessError) {
        self.refused |= err.is_permission();
        self.problems.insert(err.to_string());
    }
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

impl TargetReport {
    fn add_process(&mut self, pid: Pid, known: &mut Known) -> Result<(), ProcessError> {
        let mut generated = GeneratedCode {
            pid,
            kib: 0,
            areas: 0,
            perf_map: false,
        };
        // A file may be mapped executable in several pieces.
        let mut seen = HashSet::new();
        let maps = read_maps(pid)?;
        let first_lua = self.lua.len();
        for mapping in maps.iter().filter(|mapping| mapping.executable) {
            match mapping.name {
                MappingName::File { .. } | MappingName::Vdso => {
                    match Executable::open(pid, mapping) {
                        Ok(executable) => {
                            let file = self.add_file(&executable, &mut seen, known);
                            let vms = file
                                .and_then(|at| self.files.get(at))
                                .map(|file| file.lua.clone());
                            let of_process = |lua| lua::in_process(pid, &maps, (&executable, mapping), lua);
                            self.lua.extend(vms.iter().flatten().filter_map(of_process));
                        }
                        Err(err) if err.is_gone() => return Err(err),
                        Err(err) => known.problem(&err),
                    };
                }
                MappingName::Vsyscall => {}
                _ => {
                    generated.kib += mapping.len() >> 10;
                    generated.areas += 1;
                }
            }
        }
        for lua in self.lua.get(first_lua..).unwrap_or_default() {
            generated.areas = generated.areas.saturating_sub(lua.areas);
            generated.kib = generated.kib.saturating_sub(lua.area_kib);
        }
        if generated.areas > 0 {
            generated.perf_map = PerfMap::of(pid).is_some_and(|map| map.file().is_some());
            self.generated.push(generated);
        }
        Ok(())
    }

    /// Counts a file for a process; gives its place in the report.
    fn add_file(
        &mut self,
        executable: &Executable,
        seen: &mut HashSet<usize>,
        known: &mut Known,
    ) -> Option<usize> {
        let at = match known.by_key.get(executable.key()) {
            Some(&at) => at,
            None if self.files.len() >= MAX_FILES => {
                known
                    .problems
                    .insert(format!("more than {MAX_FILES} files: the others were left out"));
                return None;
            }
            None => match file::examine(executable) {
                Ok(file) => {
                    self.files.push(file);
                    known
                        .by_key
                        .insert(executable.key().clone(), self.files.len() - 1);
                    self.files.len() - 1
                }
                Err(err) => {
                    known.problem(&err);
                    return None;
                }
            },
        };
        if seen.insert(at) {
            self.files[at].processes += 1;
        }
        Some(at)
    }
}
