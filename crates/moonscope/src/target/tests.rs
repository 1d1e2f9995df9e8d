use super::*;
use clap::Parser;
use std::process::{Child, Command};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    target: TargetArgs,
}

fn args(words: &[&str]) -> TargetArgs {
    Cli::try_parse_from(std::iter::once(&"test").chain(words))
        .unwrap_or_else(|err| panic!("{err}"))
        .target
}

fn resolve(words: &[&str]) -> Result<Target, String> {
    args(words).resolve().map_err(|failure| format!("{failure:?}"))
}

struct Running(Child);

impl Running {
    fn sleep() -> Self {
        Self(Command::new("/bin/sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_kind_of_target_is_needed() {
    assert!(!args(&[]).is_given());
    assert!(resolve(&[]).unwrap_err().contains("Usage"));
    let both = resolve(&["-p", "1", "-a"]).unwrap_err();
    assert!(both.contains("--pid and --all cannot be used together"), "{both}");
    assert!(matches!(resolve(&["-a"]).unwrap().scope, Scope::All));
}

#[test]
fn the_pid_file_of_nginx_is_optional_and_a_command_comes_last() {
    assert_eq!(args(&["--nginx"]).nginx, Some(None));
    assert_eq!(
        args(&["--nginx=/run/x.pid"]).nginx,
        Some(Some("/run/x.pid".into()))
    );
    assert_eq!(args(&["--", "sleep", "-p", "1"]).command, ["sleep", "-p", "1"]);
    assert_eq!(args(&["-p", "1,2", "-p", "3"]).pid, [1, 2, 3]);
}

#[test]
fn processes_that_cannot_be_are_refused_in_words() {
    let message = resolve(&["-p", "4200000"]).unwrap_err();
    assert!(
        message.contains("NoTarget") && message.contains("no process 4200000"),
        "{message}"
    );
    if Process::find(2).is_ok_and(|process| process.is_kernel_thread) {
        let message = resolve(&["-p", "2"]).unwrap_err();
        assert!(
            message.contains("is a kernel thread") && message.contains("use -a"),
            "{message}"
        );
    }
}

#[test]
fn a_process_is_found_by_pid_name_and_program() {
    let child = Running::sleep();
    let pid = child.0.id();
    let by_pid = resolve(&["-p", &pid.to_string()]).unwrap();
    // The child becomes `sleep` a moment after it was started.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while Process::find(pid).unwrap().comm != "sleep" {
        assert!(std::time::Instant::now() < until);
        std::thread::yield_now();
    }
    assert_eq!(by_pid.pids().unwrap_or_default(), BTreeSet::from([pid]));
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    for words in [
        ["--comm", "sleep"],
        ["--exe", "/bin/sleep"],
        ["--exe", sleep.to_str().unwrap()],
        ["--exe", "sleep"],
    ] {
        let target = resolve(&words).unwrap();
        assert!(target.pids().unwrap_or_default().contains(&pid), "{words:?}");
        assert!(target.matches(pid), "{words:?}");
        assert!(!target.matches(std::process::id()), "{words:?}");
    }
    assert!(!by_pid.matches(pid), "only its children follow, in the kernel");
    let message = resolve(&["--comm", "slep"]).unwrap_err();
    assert!(
        message.contains("no process named slep") && message.contains("there are: sleep"),
        "{message}"
    );
}

#[test]
fn a_thread_stands_for_its_process() {
    let target = std::thread::spawn(|| {
        // SAFETY: gettid has no arguments and cannot fail.
        let tid = unsafe { libc::gettid() };
        resolve(&["-p", &tid.to_string()]).unwrap()
    });
    let target = target.join().unwrap();
    assert_eq!(
        target.pids().unwrap_or_default(),
        BTreeSet::from([std::process::id()])
    );
}

#[test]
fn a_long_name_is_cut_as_the_kernel_cuts_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a-name-of-more-than-15-bytes");
    fs::copy("/bin/sleep", &path).unwrap();
    let child = Running(Command::new(&path).arg("60").spawn().unwrap());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while Process::find(child.0.id()).unwrap().comm != "a-name-of-more-" {
        assert!(std::time::Instant::now() < until);
        std::thread::yield_now();
    }
    let target = resolve(&["--comm", "a-name-of-more-than-15-bytes"]).unwrap();
    assert_eq!(target.pids().unwrap_or_default(), BTreeSet::from([child.0.id()]));
}

#[test]
fn a_container_that_is_not_there_is_no_target() {
    let message = resolve(&["--container", "no-such\x1b[2Jcontainer"]).unwrap_err();
    assert!(
        message.contains("no running container is called no-such"),
        "{message}"
    );
    assert!(!message.contains('\x1b'));
}

#[test]
fn our_own_control_group_holds_us() {
    let places = cgroup::memberships(std::process::id()).unwrap();
    let mounts = moonscope_process::CgroupMounts::find().unwrap();
    let mounted = places
        .iter()
        .find_map(|place| mounts.cgroup(place).directory.filter(|dir| dir.is_dir()));
    let Some(directory) = mounted else {
        return eprintln!("SKIPPED: no control groups are mounted here");
    };
    let target = resolve(&["--cgroup", directory.to_str().unwrap()]).unwrap();
    assert!(
        target.pids().unwrap_or_default().contains(&std::process::id()),
        "{target:?}"
    );
    assert!(target.matches(std::process::id()));
}

#[test]
fn a_command_is_looked_up_but_not_started() {
    let target = resolve(&["--", "sleep", "60"]).unwrap();
    assert_eq!(target.what, "command sleep 60");
    let Scope::Command { program, argv } = target.scope else {
        panic!("{target:?}")
    };
    assert!(program.is_absolute());
    assert_eq!(argv, ["sleep", "60"]);
    let message = resolve(&["--", "no-such-command-here"]).unwrap_err();
    assert!(
        message.contains("no-such-command-here: command not found"),
        "{message}"
    );
}
