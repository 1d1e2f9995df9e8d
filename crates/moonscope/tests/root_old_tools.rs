//! moonscope, called under the name of an old SystemTap tool, with that tool's options.
//!
//! The truth: what the same view shows under its own name, and the function that the program was written to spend its time in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::lua_nginx::LuaNginx;
use common::{Program, moonscope, program, root, wait_until};

/// Runs a link of this name to moonscope: exit code, stdout, stderr.
fn under_the_name(dir: &Path, name: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let link = dir.join(name);
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_moonscope"), &link).unwrap();
    }
    let output = Command::new(link).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn root_views_of_nginx_are_there_under_old_names() {
    let Some(nginx) = root().then(|| LuaNginx::start("inspect")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let master = nginx.master().to_string();
    assert!(nginx.answer("start-timers?pending=7&running=3").ends_with("ok\n"));
    // until the worker does nothing more that one view could see and another not
    let counted = || nginx.answer("timers").lines().last() == Some("7 3");
    wait_until("three timers run", counted);
    for (old, options, now) in [
        (
            "ngx-lua-count-timers.sxx",
            &["-x", &master, "-D", "MAXACTION=1"][..],
            "timers",
        ),
        ("ngx-shm", &["-p", &master, "-a", "-DMAXACTION=1"], "shm"),
        ("ngx-phase-handlers", &["-p", &master], "phases"),
        ("ngx-cycle-pool", &["-p", &master], "pool"),
    ] {
        let today = moonscope(&["nginx", now, "-p", &master, "--format", "orig"]);
        let options = [options, &["--format", "orig"]].concat();
        let (code, stdout, stderr) = under_the_name(dir.path(), old, &options);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(0), today.stdout.as_str()),
            "{old}: {stderr}"
        );
        assert!(!stdout.is_empty());
        let as_verb = moonscope(&[&[old][..], &options].concat());
        assert_eq!(as_verb.stdout, stdout, "{old}: {}", as_verb.stderr);
    }
    let asked = ["-p", &master, "-f", "--dict", "dogs", "--key", "k2", "--luajit20"];
    let (code, stdout, stderr) = under_the_name(dir.path(), "ngx-lua-shdict", &asked);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains("moonscope nginx shdict get dogs k2 --show-values"),
        "{stderr}"
    );
    assert!(nginx.answer("fill").ends_with("ok\n"));
    let asked = [&asked[..], &["--show-values", "--json"]].concat();
    let (_, stdout, stderr) = under_the_name(dir.path(), "ngx-lua-shdict", &asked);
    assert!(stdout.contains(&"x".repeat(36)), "{stdout} {stderr}");
}

#[test]
fn root_the_master_stands_for_its_workers() {
    let Some(nginx) = root().then(|| LuaNginx::start("inspect")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let master = nginx.master().to_string();
    let _waits = nginx.ask("wait");
    let asked = ["-p", &master, "--luajit20"];
    // the Lua stack of the request is the worker's
    let has_request = || {
        let (code, stdout, stderr) = under_the_name(dir.path(), "ngx-lua-bt", &asked);
        assert_eq!(code, Some(0), "{stderr}");
        stdout.contains("sleep") && stdout.contains("content_by_lua(nginx.conf:")
    };
    wait_until("the request waits", has_request);
    let (code, stdout, stderr) =
        under_the_name(dir.path(), "ngx-lj-gc", &["-x", &master, "--format", "orig"]);
    assert_eq!(code, Some(0), "{stderr}");
    // that of the master is a VM, too
    assert_eq!(stdout.matches("Total GC count: ").count(), 2, "{stdout}");
}

#[test]
fn root_sample_bt_writes_stacks_that_flamegraph_scripts_read() {
    let Some(shares) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // it ends when this test does
    let program = Program::start(&shares, &["600"]);
    let (code, stdout, stderr) = under_the_name(
        dir.path(),
        "sample-bt",
        &["-p", &program.pid_text(), "-t", "2", "-u", "-l", "10"],
    );
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("-d 2 --no-kernel"), "{stderr}");
    assert!(
        stdout.contains(";share_50 ") || stdout.contains(";share_50;"),
        "{stdout}"
    );
    for line in stdout.lines() {
        let (_, count) = line.rsplit_once(' ').unwrap();
        assert!(count.parse::<u64>().is_ok() && !line.contains("_[k]"), "{line}");
    }
}
