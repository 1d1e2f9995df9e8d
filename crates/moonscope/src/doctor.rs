//! `moonscope doctor`: tries what moonscope needs, for real, and says what to do about the rest.

mod bpf;
mod check;
mod debug_file;
mod file;
mod files;
mod kernel;
mod lua;
mod perf;
mod privilege;
mod sysctl;
mod table;

use crate::exit::{Code, Failure};
use crate::target::{Scope, Target, TargetArgs};
use check::Check;
pub(crate) use file::code_bytes;
use files::TargetReport;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Shows whether this machine and a process can be profiled, and what is missing.
///
/// Everything is tried for real: BPF programs are loaded, perf events are opened. With a target it also
/// lists every executable file that the target has mapped: unwind tables, symbols, debug information; and LuaJIT: whether
/// it is understood, its VMs and its compiled code.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Writes JSON instead of tables
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  moonscope doctor                     can this machine be profiled?
  sudo moonscope doctor --nginx        and what is known of the code of nginx?
  moonscope doctor --json -p $$        the same of this shell, for scripts

Exit status: 0 if recording can work, 3 if something that it needs is missing, or the target may not
be looked at, 4 if there is no such target.";

/// All that the doctor found out.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    can_record: bool,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<TargetReport>,
}

/// Runs the verb.
pub fn run(args: DoctorArgs) -> Result<Code, Failure> {
    let target = match args.target.is_given() {
        true => Some(args.target.find()?),
        false => None,
    };
    let checks = check_machine();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        can_record: !checks.iter().any(Check::prevents_recording),
        checks,
        target: target.as_ref().map(examine).transpose()?,
    };
    let stdout = std::io::stdout();
    let text = match args.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => table::render(&report, stdout.is_terminal() && !no_color()),
    };
    match stdout.lock().write_all(text.as_bytes()) {
        // `moonscope doctor | head` is no failure.
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => return Err(err.into()),
        _ => {}
    }
    let is_refused = report.target.as_ref().is_some_and(|target| target.is_refused);
    Ok(if report.can_record && !is_refused {
        Code::Done
    } else {
        Code::NotPermitted
    })
}

/// All checks, in the order in which they are shown.
fn check_machine() -> Vec<Check> {
    // SAFETY: without a print function libbpf is silent; nothing else runs yet.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    let mut checks = kernel::checks();
    checks.extend(privilege::checks());
    checks.extend(bpf::checks());
    checks.extend(perf::checks());
    checks
}

fn examine(target: &Target) -> Result<TargetReport, Failure> {
    match &target.scope {
        Scope::Command { program, .. } => Ok(files::of_program(&target.what, program)),
        _ => Ok(files::of_processes(&target.what, &target.pids()?)),
    }
}

/// See <https://no-color.org>.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_comes_with_what_is_lost_and_a_remedy() {
        for check in check_machine() {
            if matches!(check.state, check::State::Limited | check::State::Missing) {
                assert!(!check.lost.is_empty(), "{check:?}");
                assert!(!check.remedy.is_empty(), "{check:?}");
            }
        }
    }

    #[test]
    fn a_process_is_examined_with_all_its_files() {
        let report = files::of_processes("us", &[std::process::id()].into());
        let exe = std::env::current_exe().unwrap();
        let ours = report
            .files
            .iter()
            .find(|file| file.path == exe.to_string_lossy())
            .unwrap();
        assert!(ours.unwind.functions > 100, "{ours:?}");
        assert!(ours.symbols.functions > 100, "{ours:?}");
        assert!(report.files.iter().any(|file| file.path == "[vdso]"));
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }

    #[test]
    fn the_report_is_json_that_can_be_read() {
        let target = Some(files::of_processes("us", &[std::process::id()].into()));
        let report = Report {
            version: "1",
            can_record: true,
            checks: check_machine(),
            target,
        };
        let text = serde_json::to_string(&report).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            value["checks"]
                .as_array()
                .unwrap()
                .iter()
                .all(|check| check["state"].is_string())
        );
        assert!(value["target"]["files"][0]["unwind"]["kind"].is_string());
    }
}
