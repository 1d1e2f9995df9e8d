//! Files that a process runs and that are damaged where a profiler reads: they are named, with what is wrong with them, by
//! `record` and by `doctor`; a sound file is not.
//!
//! The truth is how they were made: by binutils, from a sound one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Program, moonscope, root, tool};

const SOURCE: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
static volatile unsigned long sink;
__attribute__((noinline)) static void work(void) { for (int i = 0; i < 300000; i++) sink += i; }
int main(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	puts("ready");
	fflush(stdout);
	for (;;)
		work();
}
"#;

fn run(dir: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Programs that run and are damaged, each with what is said of it.
fn damaged(dir: &Path) -> Option<Vec<(PathBuf, &'static str)>> {
    for program in ["gcc", "objcopy"] {
        tool(program)?;
    }
    std::fs::write(dir.join("p.c"), SOURCE).unwrap();
    // every word of it a length beyond the end
    std::fs::write(dir.join("noise"), [0x8b; 4096]).unwrap();
    run(dir, "gcc", &["-g", "-O1", "-o", "sound", "p.c"]);
    for (section, name) in [
        (".eh_frame", "no-unwind"),
        (".debug_info", "no-units"),
        (".debug_line", "no-lines"),
    ] {
        run(
            dir,
            "objcopy",
            &["--update-section", &format!("{section}=noise"), "sound", name],
        );
    }
    // the table of sections lies beyond the end of the file; whoever runs it does not look there
    let mut bytes = std::fs::read(dir.join("sound")).unwrap();
    bytes[40..48].copy_from_slice(&0x7fff_ffff_u64.to_le_bytes());
    std::fs::write(dir.join("no-sections"), bytes).unwrap();
    run(dir, "chmod", &["755", "no-sections"]);
    let named = [
        ("no-unwind", "its unwind information is damaged"),
        ("no-units", "DWARF"),
        ("no-lines", "DWARF"),
        ("no-sections", "damaged"),
    ];
    Some(named.map(|(name, words)| (dir.join(name), words)).into())
}

#[test]
fn root_damaged_files_are_named_with_what_is_wrong_and_sound_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let Some(damaged) = root().then(|| damaged(dir.path())).flatten() else {
        return;
    };
    let mut programs = vec![Program::start(&dir.path().join("sound"), &[])];
    programs.extend(damaged.iter().map(|(path, _)| Program::start(path, &[])));
    let out = dir.path().join("x.json");
    let mut args = vec![
        "record",
        "--lines",
        "-F",
        "499",
        "-d",
        "1s",
        "-o",
        out.to_str().unwrap(),
    ];
    let pids: Vec<String> = programs.iter().map(Program::pid_text).collect();
    args.extend(pids.iter().flat_map(|pid| ["-p", pid]));
    let recorded = moonscope(&args);
    assert_eq!(recorded.code, 0, "{}", recorded.stderr);
    let told: Vec<&str> = recorded
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("not used in full: "))
        .collect();
    for (path, words) in &damaged {
        let begin = format!("{}: ", path.display());
        assert!(
            told.iter()
                .any(|line| line.starts_with(&begin) && line.contains(words)),
            "{words:?} of {begin} in {}",
            recorded.stderr
        );
    }
    for line in &told {
        let path = line.split(": ").next().unwrap();
        assert_eq!(line.matches(path).count(), 1, "the path is said once: {line}");
    }
    let sound = format!("{}: ", dir.path().join("sound").display());
    assert!(!told.iter().any(|line| line.starts_with(&sound)), "{told:?}");
    // what became of each tick is the last line all the same
    common::Accounting::parse(recorded.stderr.lines().last().unwrap());

    for ((path, words), pid) in damaged.iter().zip(&pids[1..]) {
        let doctor = moonscope(&["doctor", "--json", "-p", pid]);
        assert_eq!(doctor.code, 0, "{}", doctor.stderr);
        let report: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
        let files = report["target"]["files"].as_array().unwrap();
        let with: Vec<_> = files.iter().filter(|file| file["problems"].is_array()).collect();
        assert_eq!(with.len(), 1, "{with:#?}");
        assert_eq!(with[0]["path"].as_str().unwrap(), path.to_str().unwrap());
        let problems = with[0]["problems"].to_string();
        assert!(problems.contains(words), "{problems}");
        let text = moonscope(&["doctor", "-p", pid]).stdout;
        assert!(
            text.lines()
                .any(|line| line.trim_start().starts_with("problem: ")),
            "{text}"
        );
    }
}
