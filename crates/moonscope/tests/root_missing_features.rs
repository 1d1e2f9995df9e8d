//! What the kernel does not offer, or hides, is told: taken away here in a mount namespace, or by dropping
//! capabilities. Other kernels and lockdown: `tests/kernels/run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Profile, Run, root, skip, tool};

const DONE: i32 = 0;
const NOT_PERMITTED: i32 = 3;

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
        check.contains("missing") && check.contains("no such file"),
        "{check}"
    );
    assert!(
        doctor.stdout.contains("CONFIG_DEBUG_INFO_BTF=y"),
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
