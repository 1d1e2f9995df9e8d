//! Sets breakpoints: each by a perf event, or all of a file by one link. The kernel takes them away with whoever has them
//! open: nothing stays behind, however moonscope ends.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libbpf_rs::{Link, PerfEventOpts, UprobeMultiOpts};

use super::kind_of;
use crate::collector::Programs;
use crate::error::ProbeError;
use crate::perf_event::{self, Attr, Whose};

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Offset in the file.
    pub offset: u64,
    /// The program to run there.
    pub program: &'static str,
    /// What the program is told.
    pub cookie: u64,
}

/// How several are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Each by itself. To take one away the kernel waits for grace periods, some 10 milliseconds and more: to begin and end a
    /// recording with 40 of them took 8 s on a busy machine with Linux 6.18, and 4 s together.
    #[default]
    Singly,
    /// All of a file at once, with a program whose attach type says so (`BPF_TRACE_UPROBE_MULTI`).
    Together,
}

impl Way {
    /// The way of this kernel. Such links are there from Linux 6.6 on, but for one process only from 6.10 on: before, its
    /// other threads were left out (46ba0e49b642, "bpf: fix multi-uprobe PID filtering logic").
    pub fn best() -> Self {
        if crate::kernel_types::is_kernel_at_least(6, 10) {
            Self::Together
        } else {
            Self::Singly
        }
    }
}

/// What became of breakpoints that were to be set.
#[derive(Default)]
pub struct Set {
    /// Those that are. They go when their links are dropped.
    pub links: Vec<Link>,
    /// Those that are not, and why.
    pub failed: Vec<(Place, ProbeError)>,
}

/// Sets one, or a hook of the kernel, with a program.
pub fn set(
    attr: &Attr,
    program: &'static str,
    whose: Whose,
    cookie: u64,
    programs: &mut Programs<'_>,
) -> Result<Link, ProbeError> {
    let event: OwnedFd = perf_event::open_for(attr, whose).map_err(|source| ProbeError::Io {
        what: "cannot set a probe",
        source,
    })?;
    let link = programs.with(program, |program| {
        let opts = PerfEventOpts {
            cookie,
            ..PerfEventOpts::default()
        };
        // before 5.15 there are no cookies, and the program has a constant
        program
            .attach_perf_event_with_opts(event.as_raw_fd(), opts)
            .or_else(|_| program.attach_perf_event(event.as_raw_fd()))
    })?;
    // libbpf has taken it over
    std::mem::forget(event);
    Ok(link)
}

/// Sets these, in their order.
pub fn set_all(places: &[Place], file: &Path, whose: Whose, way: Way, programs: &mut Programs<'_>) -> Set {
    let mut done = Set::default();
    for same in places.chunk_by(|one, next| one.program == next.program) {
        if way == Way::Together
            && let Ok(link) = together(same, file, whose, programs)
        {
            done.links.push(link);
            continue;
        }
        for place in same {
            let link = match way {
                Way::Singly => singly(*place, file, whose, programs),
                // one that the kernel refuses is no reason to leave out the others
                Way::Together => together(std::slice::from_ref(place), file, whose, programs),
            };
            match link {
                Ok(link) => done.links.push(link),
                Err(err) => done.failed.push((*place, err)),
            }
        }
    }
    done
}

fn together(
    places: &[Place],
    file: &Path,
    whose: Whose,
    programs: &mut Programs<'_>,
) -> Result<Link, ProbeError> {
    let program = places.first().map_or("", |place| place.program);
    let options = UprobeMultiOpts {
        offsets: places.iter().map(|place| place.offset as usize).collect(),
        cookies: places.iter().map(|place| place.cookie).collect(),
        ..UprobeMultiOpts::default()
    };
    let pid = match whose {
        Whose::Process(pid) => pid.cast_signed(),
        Whose::Everybody | Whose::Cpu(_) => -1,
    };
    programs.with(program, |program| {
        program.attach_uprobe_multi_with_opts(pid, file, "", options)
    })
}

fn singly(place: Place, file: &Path, whose: Whose, programs: &mut Programs<'_>) -> Result<Link, ProbeError> {
    let cannot = |source| ProbeError::Io {
        what: "cannot set a probe",
        source,
    };
    // this kernel has no uprobes (CONFIG_UPROBE_EVENTS)
    let kind = kind_of("uprobe").ok_or_else(|| cannot(io::ErrorKind::Unsupported.into()))?;
    let path = CString::new(file.as_os_str().as_bytes()).map_err(|err| cannot(err.into()))?;
    let attr = Attr::probe(kind, false, &path, place.offset, 0);
    set(&attr, place.program, whose, place.cookie, programs)
}
