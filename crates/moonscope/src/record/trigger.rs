//! What a recording waits for: pressure, a level of the target, or a signal.

mod level;
mod psi;
mod spec;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::exit::{Code, Failure};
use crate::target::Target;
pub use level::Members;
use level::{CpuShare, Resident};
use psi::Pressure;
pub use spec::Spec;

/// Something that is waited for, and what is needed for it.
enum Armed {
    Pressure(Pressure),
    Cpu(CpuShare),
    Resident(Resident),
    Signal {
        name: &'static str,
        came: Arc<AtomicBool>,
        id: signal_hook::SigId,
    },
}

/// Everything that is waited for. The first that happens counts.
pub struct Triggers(Vec<Armed>);

impl Triggers {
    /// Begins to watch; what the kernel refuses, or the target cannot have, is told.
    pub fn arm(specs: &[Spec], target: &Target) -> Result<Self, Failure> {
        specs
            .iter()
            .map(|spec| arm(spec, target))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Waits for this time at most, or until a signal comes; says what happened, if something did.
    pub fn wait(&mut self, members: &mut Members<'_>, timeout: Duration) -> Result<Option<String>, Failure> {
        let now = Instant::now();
        let next = self.0.iter().filter_map(|armed| match armed {
            Armed::Cpu(share) => Some(share.next()),
            Armed::Resident(resident) => Some(resident.next()),
            _ => None,
        });
        let until = next.fold(now + timeout, Instant::min);
        self.wait_for_pressure(until.saturating_duration_since(now))?;
        for armed in &mut self.0 {
            let what = match armed {
                Armed::Pressure(pressure) => pressure.take()?,
                Armed::Cpu(share) => share.look(members),
                Armed::Resident(resident) => resident.look(members),
                Armed::Signal { name, came, .. } => came
                    .swap(false, Ordering::Relaxed)
                    .then(|| format!("signal {name}")),
            };
            if what.is_some() {
                return Ok(what);
            }
        }
        Ok(None)
    }

    fn wait_for_pressure(&mut self, timeout: Duration) -> Result<(), Failure> {
        let mut pressures: Vec<&mut Pressure> = self
            .0
            .iter_mut()
            .filter_map(|armed| match armed {
                Armed::Pressure(pressure) => Some(pressure),
                _ => None,
            })
            .collect();
        let timeout = Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut events: Vec<_> = pressures
            .iter()
            .map(|pressure| PollFd::from_borrowed_fd(pressure.as_fd(), PollFlags::PRI))
            .collect();
        match rustix::event::poll(&mut events, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(std::io::Error::from(err).into()),
        }
        let came: Vec<_> = events.iter().map(PollFd::revents).collect();
        for (pressure, came) in pressures.iter_mut().zip(came) {
            pressure.note(came);
        }
        Ok(())
    }
}

impl Drop for Triggers {
    fn drop(&mut self) {
        for armed in &self.0 {
            if let Armed::Signal { id, .. } = armed {
                signal_hook::low_level::unregister(*id);
            }
        }
    }
}

fn arm(spec: &Spec, target: &Target) -> Result<Armed, Failure> {
    if spec.is_of_processes() && target.is_machine() {
        let what = format!("--trigger {spec}: the whole machine is no process");
        return Err(Failure::new(Code::Usage, what).with_remedy(
            "name processes, or wait for pressure on the machine: --trigger psi:cpu, psi:memory",
        ));
    }
    Ok(match spec {
        Spec::Pressure(asked) => Armed::Pressure(Pressure::open(asked)?),
        Spec::Cpu { percent, over } => Armed::Cpu(CpuShare::new(spec.to_string(), *percent, *over)),
        Spec::Resident { bytes } => Armed::Resident(Resident::new(spec.to_string(), *bytes)),
        Spec::Signal { number, name } => {
            let came = Arc::new(AtomicBool::new(false));
            let id = signal_hook::flag::register(*number, Arc::clone(&came))?;
            Armed::Signal { name, came, id }
        }
    })
}
