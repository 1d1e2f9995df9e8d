//! Pressure: the kernel wakes us when tasks waited for a resource for so long in a window
//! (Documentation/accounting/psi.rst, kernel/sched/psi.c).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use moonscope_process::cgroup::{CgroupMounts, Hierarchy};
use rustix::event::PollFlags;

use super::spec::{Kind, PressureSpec, Resource};
use crate::exit::{Code, Failure};

/// WINDOW_MIN_US and WINDOW_MAX_US.
const WINDOWS: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(10);

/// Without CAP_SYS_RESOURCE windows are multiples of this, from Linux 6.5 on.
const UNPRIVILEGED: u64 = 2;

/// A trigger that the kernel watches.
pub struct Pressure {
    asked: PressureSpec,
    file: File,
    path: PathBuf,
    came: PollFlags,
}

impl Pressure {
    /// Asks the kernel for it.
    pub fn open(asked: &PressureSpec) -> Result<Self, Failure> {
        if !WINDOWS.contains(&asked.window) {
            let nearest = asked.window.clamp(*WINDOWS.start(), *WINDOWS.end());
            let what = format!("{asked}: the kernel takes windows of 500ms to 10s");
            return Err(
                Failure::new(Code::Usage, what).with_remedy(format!("use {}", with_window(asked, nearest)))
            );
        }
        let path = file_of(asked)?;
        if asked.cgroup.is_none() && (asked.resource, asked.kind) == (Resource::Cpu, Kind::Full) {
            let what =
                format!("{asked}: never happens: on the whole machine there is always a task that runs");
            let some = PressureSpec {
                kind: Kind::Some,
                ..asked.clone()
            };
            return Err(Failure::new(Code::Usage, what)
                .with_remedy(format!("use {some}, or the pressure of a control group")));
        }
        let order = format!(
            "{} {} {}\0",
            asked.kind.name(),
            asked.stall.as_micros(),
            asked.window.as_micros()
        );
        let open = || {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            file.write_all(order.as_bytes())?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self {
                asked: asked.clone(),
                file,
                path,
                came: PollFlags::empty(),
            }),
            Err(err) => Err(refused(asked, &path, &err)),
        }
    }

    /// What poll(2) said.
    pub fn note(&mut self, came: PollFlags) {
        self.came |= came;
    }

    /// Whether it happened, in words.
    pub fn take(&mut self) -> Result<Option<String>, Failure> {
        let came = std::mem::replace(&mut self.came, PollFlags::empty());
        if came.contains(PollFlags::ERR) {
            let what = format!("{}: the control group is gone", self.path.display());
            return Err(Failure::new(Code::NoTarget, what));
        }
        if !came.contains(PollFlags::PRI) {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(self.asked.kind.name()));
        let now = line.map(|line| format!(" ({line})")).unwrap_or_default();
        Ok(Some(format!("{}{now}", self.asked)))
    }
}

impl AsFd for Pressure {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The file that tells of it, and takes triggers.
fn file_of(asked: &PressureSpec) -> Result<PathBuf, Failure> {
    let Some(name) = &asked.cgroup else {
        return Ok(Path::new("/proc/pressure").join(asked.resource.name()));
    };
    let missing = |what: String| {
        Failure::new(Code::NoTarget, what)
            .with_remedy("give a directory of a cgroup2 file system, or a path as `cat /proc/PID/cgroup` shows it after 0::")
    };
    let group = CgroupMounts::find()?
        .lookup_in(name, &Hierarchy::V2)
        .ok_or_else(|| missing(format!("no control group {} of version 2", name.display())))?;
    let directory = group
        .directory
        .ok_or_else(|| missing(format!("control group {} is not mounted here", name.display())))?;
    Ok(directory.join(format!("{}.pressure", asked.resource.name())))
}

fn with_window(asked: &PressureSpec, window: Duration) -> PressureSpec {
    PressureSpec {
        stall: asked.stall.min(window),
        window,
        ..asked.clone()
    }
}

/// What the kernel's answer means, and what it would take.
fn refused(asked: &PressureSpec, path: &Path, err: &io::Error) -> Failure {
    let path = path.display();
    match err.raw_os_error() {
        Some(libc::ENOENT) => Failure::new(
            Code::NotPermitted,
            format!("{path}: this kernel does not measure pressure there"),
        )
        .with_remedy(
            "boot with psi=1 on the kernel command line, or use a kernel with CONFIG_PSI=y\n\
                      (a control group's cgroup.pressure file can hold 0, which switches it off)",
        ),
        Some(libc::EOPNOTSUPP) => Failure::new(
            Code::NotPermitted,
            format!("{path}: measuring pressure is switched off"),
        )
        .with_remedy(
            "boot with psi=1 on the kernel command line; for a control group, echo 1 > cgroup.pressure",
        ),
        Some(libc::EPERM | libc::EACCES) => {
            Failure::new(Code::NotPermitted, format!("{path}: triggers are not permitted"))
                .with_remedy("use sudo, or give moonscope CAP_SYS_RESOURCE")
        }
        // what else it can be was checked before
        Some(libc::EINVAL) => {
            let steps = asked.window.as_secs_f64() / UNPRIVILEGED as f64;
            let seconds = ((steps.ceil() as u64) * UNPRIVILEGED).clamp(UNPRIVILEGED, WINDOWS.end().as_secs());
            let nearest = with_window(asked, Duration::from_secs(seconds));
            Failure::new(
                Code::NotPermitted,
                format!("{asked}: without CAP_SYS_RESOURCE the kernel takes windows of 2s, 4s, 6s, 8s and 10s only"),
            )
            .with_remedy(format!("use {nearest}, or give moonscope that capability (sudo does, unless it is taken away)"))
        }
        _ => Failure::new(
            Code::Failed,
            format!("{path}: cannot set a trigger: {}", moonscope_process::reason(err)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::trigger::Spec;

    fn pressure(text: &str) -> PressureSpec {
        match text.parse() {
            Ok(Spec::Pressure(pressure)) => pressure,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_window_that_the_kernel_refuses_gets_the_nearest_one() {
        for (asked, nearest) in [
            ("psi:cpu:some:50ms/100ms", "psi:cpu:some:50ms/500ms"),
            ("psi:io:full:1s/60s", "psi:io:full:1s/10s"),
            ("psi:io:full:20s/60s", "psi:io:full:10s/10s"),
        ] {
            let refusal = Pressure::open(&pressure(asked)).map(|_| ()).unwrap_err();
            assert!(format!("{refusal:?}").contains(nearest), "{refusal:?}");
        }
    }

    #[test]
    fn without_privileges_windows_are_rounded_up_to_two_seconds() {
        let einval = io::Error::from_raw_os_error(libc::EINVAL);
        for (asked, nearest) in [
            ("psi:cpu:150ms/1s", "psi:cpu:some:150ms/2s"),
            ("psi:cpu:1s/3s", "psi:cpu:some:1s/4s"),
            ("psi:cpu:1s/9500ms", "psi:cpu:some:1s/10s"),
        ] {
            let refusal = refused(&pressure(asked), Path::new("/proc/pressure/cpu"), &einval);
            assert!(format!("{refusal:?}").contains(nearest), "{refusal:?}");
        }
    }

    #[test]
    fn that_no_task_runs_on_the_whole_machine_is_not_waited_for() {
        let refusal = Pressure::open(&pressure("psi:cpu:full")).map(|_| ()).unwrap_err();
        assert!(
            format!("{refusal:?}").contains("psi:cpu:some:300ms/2s"),
            "{refusal:?}"
        );
    }
}
