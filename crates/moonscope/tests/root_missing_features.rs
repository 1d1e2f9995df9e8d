//! What the kernel does not offer, or hides, is told: taken away here in a mount namespace, or by dropping
//! capabilities. Other kernels and lockdown: `tests/kernels/run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Profile, Program, Run, program, root, skip, tool};

const DONE: i32 = 0;
const NOT_PERMITTED: i32 = 3;
const NO_SAMPLES: i32 = 5;

/// The script's own code for "cannot be arranged here".
const CANNOT: i32 = 99;

/// Runs a shell script in a mount namespace of its own; `$1` is the command, `$2` a directory for its files.
/// The script arranges what is missing, `|| exit 99` where that may fail. Skips the test if it does.
fn in_mount_namespace(dir: &Path, script: &str) -> Option<Run> {
    if !root() {
        return None;
    }
    let mut command = Command::new(tool("unshare")?);
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .args([Path::new(env!("CARGO_BIN_EXE_moonscope")), dir])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    let run: Run = command.output().unwrap().into();
    if run.code == CANNOT {
        skip(&format!("cannot arrange it here: {}", run.stderr));
        return None;
    }
    Some(run)
}

/// One line that says what happened, and after it indented lines that say what to do; no file was made.
#[track_caller]
fn assert_refused(run: &Run, what: &str, remedy: &str, dir: &Path) {
    assert_eq!(run.code, NOT_PERMITTED, "{}", run.stderr);
    let mut lines = run.stderr.lines();
    let first = lines.next().unwrap_or_default();
    assert!(
        first.starts_with("moonscope: ") && first.contains(what),
        "{}",
        run.stderr
    );
    let advice: Vec<&str> = lines.collect();
    assert!(advice.iter().all(|line| line.starts_with("  ")), "{}", run.stderr);
    assert!(advice.join("\n").contains(remedy), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

/// The line of `doctor` with this name, and those that belong to it.
#[track_caller]
fn check<'a>(doctor: &'a str, name: &str) -> &'a str {
    let at = doctor
        .find(&format!(" {name} "))
        .unwrap_or_else(|| panic!("no {name} in {doctor}"));
    let start = doctor[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let rest = &doctor[start..];
    let end = rest
        .match_indices('\n')
        .map(|(at, _)| at)
        .find(|at| !rest[at + 1..].starts_with("     "));
    &rest[..end.unwrap_or(rest.len())]
}

/// Where libbpf looks for type information: the kernel's own, then files with it in these two places.
const HIDE_BTF: &str = "
    mount -t tmpfs none /sys/kernel/btf && mount -t tmpfs none /boot || exit 99
    [ ! -d /usr/lib/debug ] || mount -t tmpfs none /usr/lib/debug || exit 99
    [ ! -d /lib/modules ] || mount -t tmpfs none /lib/modules || exit 99
";

/// The command that was to be recorded has not run either.
#[test]
fn root_without_type_information_nothing_is_recorded_and_the_remedy_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{HIDE_BTF} exec \"$1\" record -o \"$2/x.svg\" -- touch \"$2/has-run\"");
    let Some(run) = in_mount_namespace(dir.path(), &script) else {
        return;
    };
    assert_refused(
        &run,
        "no type information (BTF) in /sys/kernel/btf/vmlinux: no such file",
        "CONFIG_DEBUG_INFO_BTF=y",
        dir.path(),
    );
    let Some(doctor) = in_mount_namespace(dir.path(), &format!("{HIDE_BTF} exec \"$1\" doctor")) else {
        return;
    };
    assert_eq!(doctor.code, NOT_PERMITTED, "{}", doctor.stdout);
    let check = check(&doctor.stdout, "type information (BTF)");
    assert!(
        check.contains("missing")
            && check.contains("no such file")
            && check.contains("nothing can be recorded"),
        "{check}"
    );
    // what else needs it says so, and has the same remedy
    let tracepoint = self::check(&doctor.stdout, "BTF tracepoint");
    assert!(
        tracepoint.contains("limited") && tracepoint.contains("type information (BTF)"),
        "{tracepoint}"
    );
    assert_eq!(
        doctor
            .stdout
            .matches("boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")
            .count(),
        1,
        "{}",
        doctor.stdout
    );
    assert!(
        !doctor.stdout.contains("boot a newer kernel"),
        "{}",
        doctor.stdout
    );
    assert_eq!(doctor.stderr, "");
}

#[test]
fn root_damaged_type_information_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs none /sys/kernel/btf || exit 99
        echo 'no BTF' > /sys/kernel/btf/vmlinux
        exec \"$1\" record -d 1 -o \"$2/x.svg\" -a";
    let Some(run) = in_mount_namespace(dir.path(), script) else {
        return;
    };
    assert_refused(
        &run,
        "/sys/kernel/btf/vmlinux: libbpf cannot read it",
        "BTF=y",
        dir.path(),
    );
}

/// Kernels without the file in `/sys`, whose distribution has a vmlinux with type information in `/boot`.
#[test]
fn root_type_information_in_boot_serves_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let arrange = "mount -t tmpfs none /boot || exit 99
        cat /sys/kernel/btf/vmlinux > /boot/vmlinux-$(uname -r) || exit 99
        mount -t tmpfs none /sys/kernel/btf || exit 99";
    let script = format!("{arrange}; exec \"$1\" record -F 999 -o \"$2/x.json\" -- {BUSY_KERNEL}");
    let Some(run) = in_mount_namespace(dir.path(), &script) else {
        return;
    };
    assert_eq!(run.code, DONE, "{}", run.stderr);
    assert!(Profile::read(&dir.path().join("x.json")).total() > 0);
    let Some(doctor) = in_mount_namespace(dir.path(), &format!("{arrange}; exec \"$1\" doctor")) else {
        return;
    };
    assert_eq!(doctor.code, DONE, "{}", doctor.stdout);
    let check = check(&doctor.stdout, "type information (BTF)");
    assert!(check.contains("ok") && check.contains("/boot"), "{check}");
}

#[test]
fn root_without_sysfs_the_remedy_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs none /sys || exit 99; exec \"$1\" record -d 1 -o \"$2/x.svg\" -a";
    let Some(run) = in_mount_namespace(dir.path(), script) else {
        return;
    };
    assert_refused(
        &run,
        "cannot read /sys/devices/system/cpu/online",
        "mount -t sysfs",
        dir.path(),
    );
}

/// Tracepoints are attached by the bpf system call: no file of tracefs is needed.
#[test]
fn root_tracefs_may_be_mounted_anywhere_or_nowhere() {
    // afterwards it is nowhere
    let unmount = "for type in tracefs debugfs; do
            while read -r _ point kind _; do
                [ \"$kind\" != $type ] || umount -l \"$point\" || exit 99
            done < /proc/self/mounts
        done";
    for (mount, place) in [
        ("", "not mounted"),
        ("mount -t tracefs none /mnt || exit 99", "/mnt"),
        (
            "mount -t debugfs none /sys/kernel/debug || exit 99
             mountpoint -q /sys/kernel/debug/tracing || mount -t tracefs none /sys/kernel/debug/tracing || exit 99",
            "/sys/kernel/debug/tracing",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let arrange = format!("{unmount}\n{mount}\n");
        let script = format!("{arrange} exec \"$1\" record -F 999 -o \"$2/x.json\" -- {BUSY_KERNEL}");
        let Some(run) = in_mount_namespace(dir.path(), &script) else {
            return;
        };
        assert_eq!(run.code, DONE, "{place}: {}", run.stderr);
        assert!(Profile::read(&dir.path().join("x.json")).total() > 0);
        let Some(doctor) = in_mount_namespace(dir.path(), &format!("{arrange} exec \"$1\" doctor")) else {
            return;
        };
        assert_eq!(doctor.code, DONE, "{}", doctor.stdout);
        let check = check(&doctor.stdout, "tracefs");
        assert!(check.contains(place) && check.contains("does not need it"), "{check}");
    }
}

/// Most of its time is in the kernel. It ends by itself: a recording that ends before leaves its command running.
const BUSY_KERNEL: &str = "timeout 1 dd if=/dev/zero of=/dev/null bs=1M";

/// All that `doctor` asks for, but CAP_SYSLOG.
const ALL_BUT_SYSLOG: &str = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search,+checkpoint_restore";

/// `nobody`, with these capabilities, in a directory that it may write to.
fn with_capabilities(capabilities: &str, dir: &Path, program: &Path, args: &[&str]) -> Option<Run> {
    let mut command = Command::new(tool("setpriv")?);
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(format!("--inh-caps={capabilities}"))
        .arg(format!("--ambient-caps={capabilities}"))
        .arg(program)
        .args(args)
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    Some(command.output().unwrap().into())
}

/// What hides the kernel's addresses depends on three settings; the remedy must not name one that is right already.
#[test]
fn root_without_cap_syslog_kernel_frames_have_no_names_and_all_outputs_say_why() {
    use std::os::unix::fs::PermissionsExt;
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // nobody may not look into the build directory
    let binary = dir.path().join("moonscope");
    std::fs::copy(env!("CARGO_BIN_EXE_moonscope"), &binary).unwrap();
    let run = |program: &Path, args: &[&str]| with_capabilities(ALL_BUT_SYSLOG, dir.path(), program, args);
    let setting = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    let Some(list) = run(Path::new("/bin/grep"), &["-m1", " vfs_read$", "/proc/kallsyms"]) else {
        return;
    };
    if !list.stdout.starts_with("0000000000000000 ") {
        return skip("this kernel shows its addresses without CAP_SYSLOG");
    }
    if setting("perf_event_paranoid") > 2 {
        return skip(
            "kernel.perf_event_paranoid is above 2, which may refuse everything: tests/kernels/run looks at that",
        );
    }

    let args: Vec<&str> = "record -F 999 -o x.json -o x.svg -o x.txt --"
        .split(' ')
        .chain(BUSY_KERNEL.split(' '))
        .collect();
    let recorded = run(&binary, &args).unwrap();
    assert_eq!(recorded.code, DONE, "{}", recorded.stderr);
    let profile = Profile::read(&dir.path().join("x.json"));
    let kernel: Vec<_> = profile
        .samples
        .iter()
        .flat_map(|sample| sample.kernel())
        .collect();
    assert!(kernel.len() > 5);
    assert!(
        kernel.iter().all(|frame| frame.name() == "[kernel]"),
        "{kernel:?}"
    );
    let why = "kernel functions have no names: ";
    let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for output in [&recorded.stderr, &text("x.json"), &text("x.svg"), &text("x.txt")] {
        let line = output.lines().find(|line| line.contains(why));
        let line = line.unwrap_or_else(|| panic!("no {why:?} in {output}"));
        assert!(line.contains("CAP_SYSLOG"), "{line}");
    }

    let doctor = run(&binary, &["doctor"]).unwrap();
    assert_eq!(doctor.code, DONE, "{}", doctor.stdout);
    let found = check(&doctor.stdout, "kernel symbols");
    assert!(
        found.contains("limited") && found.contains("CAP_SYSLOG"),
        "{found}"
    );
    let (_, to_do) = doctor.stdout.split_once("\nto do\n").unwrap();
    assert!(to_do.contains("CAP_SYSLOG"), "{to_do}");
    if setting("kptr_restrict") == 0 {
        assert!(!to_do.contains("kptr_restrict"), "{to_do}");
        assert!(to_do.contains("kernel.perf_event_paranoid=1"), "{to_do}");
    }
}

/// Root with all capabilities but this one, as in a container or under systemd's CapabilityBoundingSet.
fn root_without(capability: &str, program: &Path, args: &[&str]) -> Option<Run> {
    let mut command = Command::new(tool("setpriv")?);
    command
        .arg(format!("--bounding-set=-{capability}"))
        .arg(format!("--inh-caps=-{capability}"))
        .arg(program)
        .args(args)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    Some(command.output().unwrap().into())
}

/// May such a root look at this process? The kernel says it by the link to its program, which needs what its files need
/// (PTRACE_MODE_READ_FSCREDS, proc(5)).
fn is_hidden_without_ptrace(pid: &str) -> Option<bool> {
    let run = root_without(
        "sys_ptrace",
        Path::new("/bin/readlink"),
        &[&format!("/proc/{pid}/exe")],
    )?;
    Some(run.code != 0)
}

/// Before anything is recorded where nothing of value could be; else in the last lines, in the file, and by `doctor`.
#[test]
fn root_without_cap_sys_ptrace_all_say_so_and_nothing_is_cut_in_silence() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // no other test has one of this name
    let hidden = dir.path().join(format!("hidden-{}", std::process::id()));
    std::fs::copy(&path, &hidden).unwrap();
    let program = Program::start(&hidden, &["60"]);
    let pid = program.pid_text();
    match is_hidden_without_ptrace(&pid) {
        Some(true) => {}
        Some(false) => return skip("root may look at every process here without CAP_SYS_PTRACE"),
        None => return,
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_moonscope"));
    let run = |args: &[&str]| root_without("sys_ptrace", binary, args).unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x.json");
    let file = file.to_str().unwrap();
    let name = hidden.file_name().unwrap().to_str().unwrap();
    for target in [["-p", &pid], ["--comm", name]] {
        let refused = run(&[&["record", "-d", "60s", "-o", file][..], &target].concat());
        assert_refused(
            &refused,
            &format!("cannot look at the code of process {pid} (hidden-"),
            "CAP_SYS_PTRACE was taken away",
            out.path(),
        );
    }

    // whatever runs it is hidden too
    let nobody = run(&[
        "record",
        "-d",
        "60s",
        "-o",
        file,
        "--exe",
        hidden.to_str().unwrap(),
    ]);
    assert_eq!(nobody.code, 4, "{}", nobody.stderr);
    assert!(
        nobody.stderr.contains("no process running")
            && nobody.stderr.contains("CAP_SYS_PTRACE was taken away"),
        "{}",
        nobody.stderr
    );

    let machine = run(&["record", "-a", "-F", "499", "-d", "1s", "-o", file]);
    assert_eq!(machine.code, DONE, "{}", machine.stderr);
    let written = std::fs::read_to_string(file).unwrap();
    for output in [&machine.stderr, &written] {
        let line = output.lines().find(|line| line.contains("may not be looked at"));
        let line = line.unwrap_or_else(|| panic!("{output}"));
        assert!(line.contains("CAP_SYS_PTRACE was taken away"), "{line}");
    }

    let doctor = run(&["doctor", "-p", &pid]);
    assert_eq!(doctor.code, NOT_PERMITTED, "{}", doctor.stdout);
    let found = check(&doctor.stdout, "CAP_SYS_PTRACE");
    assert!(
        found.contains("limited") && found.contains("stacks are cut"),
        "{found}"
    );
    assert!(
        doctor.stdout.contains("it cannot be recorded: CAP_SYS_PTRACE"),
        "{}",
        doctor.stdout
    );
}

/// At whatever file the limit is reached: that is told, and never a missing feature of the kernel.
#[test]
fn root_too_few_open_files_are_told_with_the_limit() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let program = Program::start(&path, &["60"]);
    let mut refused = 0;
    for limit in [6, 12, 20, 40, 60, 80, 95, 110, 125] {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("ulimit -n {limit} || exit {CANNOT}; exec \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, "sh"])
            .arg(env!("CARGO_BIN_EXE_moonscope"))
            .args([
                "record",
                "-d",
                "20ms",
                "-F",
                "999",
                "-p",
                &program.pid_text(),
                "-o",
            ])
            .arg(dir.path().join("x.json"))
            .stdin(Stdio::null());
        let run: Run = command.output().unwrap().into();
        assert!(!run.stderr.contains("panicked"), "{limit}: {}", run.stderr);
        if run.code == NOT_PERMITTED {
            refused += 1;
            assert_refused(
                &run,
                &format!("too few files may be open at a time: {limit}"),
                "ulimit -n 4096",
                dir.path(),
            );
        } else {
            // enough to record; of what could not be opened then the last lines tell
            assert!([DONE, NO_SAMPLES].contains(&run.code), "{limit}: {}", run.stderr);
        }
    }
    assert!(refused > 3, "only {refused} limits were too low");
}
