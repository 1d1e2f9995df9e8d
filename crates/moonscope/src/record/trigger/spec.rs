//! What `--trigger` takes.
//!
//! ```text
//! SPEC     = psi:RESOURCE[:KIND][:TIME/WINDOW][@CGROUP]    RESOURCE: cpu, memory, io; KIND: some, full
//!          | cpu>PERCENT%[/WINDOW]
//!          | rss>SIZE                                      SIZE: bytes, or with K, M, G, T
//!          | signal:USR1 | signal:USR2
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use signal_hook::consts::{SIGUSR1, SIGUSR2};

use crate::record::duration;

/// Something to wait for.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Tasks wait for a resource for some time of a window.
    Pressure(PressureSpec),
    /// The target uses more than this much of one CPU.
    Cpu {
        /// 100 is all of one.
        percent: f64,
        /// On average of this time.
        over: Duration,
    },
    /// The target has more than this much memory resident.
    Resident {
        /// So many.
        bytes: u64,
    },
    /// We get a signal.
    Signal {
        /// Its number.
        number: i32,
        /// Its name, without `SIG`.
        name: &'static str,
    },
}

/// A trigger of PSI (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PressureSpec {
    /// What is short.
    pub resource: Resource,
    /// Who waits for it.
    pub kind: Kind,
    /// For how long in each window.
    pub stall: Duration,
    /// How long that is.
    pub window: Duration,
    /// In this control group, and not the machine.
    pub cgroup: Option<PathBuf>,
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// CPUs.
    Cpu,
    /// Memory.
    Memory,
    /// Block devices.
    Io,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At least one task.
    Some,
    /// All that are not idle.
    Full,
}

/// What is taken if nothing is said: a window that the kernel takes from everybody.
const STALL: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_secs(2);
/// The same for the share of a CPU.
const SHARE_WINDOW: Duration = Duration::from_secs(1);

const EXPECTED: &str =
    "expected is psi:cpu:some:300ms/2s (or memory, io, full, @CGROUP), cpu>80%, rss>2G or signal:USR1";

impl Spec {
    /// Is it about the processes of a target?
    pub fn is_of_processes(&self) -> bool {
        matches!(self, Self::Cpu { .. } | Self::Resident { .. })
    }
}

impl Resource {
    /// As the kernel names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

impl Kind {
    /// As the kernel names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Some => "some",
            Self::Full => "full",
        }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("psi:") {
            return pressure(rest).map(Self::Pressure);
        }
        if let Some(rest) = text.strip_prefix("cpu>") {
            let (share, over) = match rest.split_once('/') {
                Some((share, over)) => (share, duration::parse(over)?),
                None => (rest, SHARE_WINDOW),
            };
            let percent = share
                .strip_suffix('%')
                .and_then(|number| number.parse::<f64>().ok());
            return match percent {
                Some(percent)
                    if percent > 0.0 && percent.is_finite() && over >= Duration::from_millis(100) =>
                {
                    Ok(Self::Cpu { percent, over })
                }
                Some(_) if over < Duration::from_millis(100) => Err(
                    "the kernel counts CPU time in steps of 10 ms: use 100ms or more, cpu>80%/100ms".into(),
                ),
                _ => Err("a share of one CPU looks like cpu>80% or cpu>250%/5s".into()),
            };
        }
        if let Some(size) = text.strip_prefix("rss>") {
            let bytes = bytes(size).ok_or("a size looks like rss>800M or rss>2G")?;
            return Ok(Self::Resident { bytes });
        }
        if let Some(name) = text.strip_prefix("signal:") {
            return match name.strip_prefix("SIG").unwrap_or(name) {
                "USR1" => Ok(Self::Signal {
                    number: SIGUSR1,
                    name: "USR1",
                }),
                "USR2" => Ok(Self::Signal {
                    number: SIGUSR2,
                    name: "USR2",
                }),
                _ => Err("use signal:USR1 or signal:USR2: the others have a meaning of their own".into()),
            };
        }
        Err(EXPECTED.into())
    }
}

fn pressure(text: &str) -> Result<PressureSpec, String> {
    let (text, cgroup) = match text.split_once('@') {
        Some((_, "")) => return Err("a control group is missing behind @".into()),
        Some((text, cgroup)) => (text, Some(PathBuf::from(cgroup))),
        None => (text, None),
    };
    let mut parts = text.split(':').peekable();
    let resource = match parts.next() {
        Some("cpu") => Resource::Cpu,
        Some("memory") => Resource::Memory,
        Some("io") => Resource::Io,
        _ => return Err("there is pressure on cpu, memory and io: psi:memory".into()),
    };
    let kind = match parts.peek() {
        Some(&"some") => Some(Kind::Some),
        Some(&"full") => Some(Kind::Full),
        _ => None,
    };
    if kind.is_some() {
        parts.next();
    }
    let (stall, window) = match parts.next().map(|times| times.split_once('/')) {
        None => (STALL, WINDOW),
        Some(Some((stall, window))) => (duration::parse(stall)?, duration::parse(window)?),
        Some(None) => return Err("time and window look like psi:cpu:some:300ms/2s".into()),
    };
    if parts.next().is_some() {
        return Err(EXPECTED.into());
    }
    if stall > window {
        return Err("nobody can wait for longer than the window lasts: psi:cpu:some:300ms/2s".into());
    }
    Ok(PressureSpec {
        resource,
        kind: kind.unwrap_or(Kind::Some),
        stall,
        window,
        cgroup,
    })
}

/// `4096`, `800M`, `2G`, `1.5G`.
fn bytes(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => 0,
    };
    let number = if shift > 0 { &text[..text.len() - 1] } else { text };
    let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: f64 = number.parse().ok().filter(|_| is_plain)?;
    let bytes = number * (1u64 << shift) as f64;
    (1.0..1e18).contains(&bytes).then_some(bytes as u64)
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pressure(pressure) => pressure.fmt(f),
            Self::Cpu { percent, over } => write!(f, "cpu>{percent}%/{}", short(*over)),
            Self::Resident { bytes } => write!(f, "rss>{bytes}"),
            Self::Signal { name, .. } => write!(f, "signal:{name}"),
        }
    }
}

impl fmt::Display for PressureSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, kind) = (self.resource.name(), self.kind.name());
        write!(
            f,
            "psi:{resource}:{kind}:{}/{}",
            short(self.stall),
            short(self.window)
        )?;
        match &self.cgroup {
            Some(cgroup) => write!(f, "@{}", cgroup.display()),
            None => Ok(()),
        }
    }
}

fn short(time: Duration) -> String {
    match time.as_millis() {
        millis if millis > 0 && millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_shown_in_full() {
        for (text, full) in [
            ("psi:cpu", "psi:cpu:some:300ms/2s"),
            ("psi:memory:full", "psi:memory:full:300ms/2s"),
            ("psi:io:100ms/2s", "psi:io:some:100ms/2s"),
            (
                "psi:memory:full:1s/10s@/a:b.slice",
                "psi:memory:full:1s/10s@/a:b.slice",
            ),
            ("cpu>80%", "cpu>80%/1s"),
            ("cpu>250.5%/500ms", "cpu>250.5%/500ms"),
            ("rss>1.5K", "rss>1536"),
            ("rss>2G", "rss>2147483648"),
            ("signal:SIGUSR2", "signal:USR2"),
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_is_no_trigger_is_refused_with_an_example() {
        for text in [
            "",
            "psi",
            "psi:",
            "psi:disk",
            "psi:cpu:all",
            "psi:cpu:some:150ms",
            "psi:cpu:2s/1s",
            "psi:cpu:some:1s/2s:x",
            "psi:cpu@",
            "cpu>80",
            "cpu>-1%",
            "cpu>nan%",
            "cpu>80%/1ms",
            "rss>",
            "rss>2X",
            "rss>0",
            "rss>inf",
            "rss>-1G",
            "signal:HUP",
            "cpu",
            "load>3",
        ] {
            let refusal = text.parse::<Spec>().unwrap_err();
            assert!(refusal.len() > 20, "{text}: {refusal}");
        }
    }
}
