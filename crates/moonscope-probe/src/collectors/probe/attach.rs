//! Breakpoints and hooks, each by a perf event (or a raw tracepoint) that the kernel takes away with whoever has it open:
//! nothing stays behind, however moonscope ends.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use libbpf_rs::{Link, RawTracepointOpts};
use moonscope_process::Pid;
use moonscope_unwind::abi;

use super::plan::{At, Site};
use crate::breakpoints::kind_of;
use crate::breakpoints::set::set;
use crate::collector::Programs;
use crate::error::ProbeError;
use crate::perf_event::{Attr, Whose};

/// Programs in `bpf/probe.bpf.h`.
pub const CALL: &str = "probe_call";
pub const RETURN: &str = "probe_return";
pub const EXIT: &str = "probe_exit";
pub const RAW: &str = "probe_raw";
pub const TRACEPOINT: &str = "probe_tracepoint";
pub const THREAD_ENDS: &str = "probe_thread_ends";
pub const PROGRAM_ENDS: &str = "probe_program_ends";

/// Attaches to a site: in all processes, or in this one.
pub fn attach(site: &Site, pid: Option<Pid>, programs: &mut Programs<'_>) -> Result<Vec<Link>, ProbeError> {
    let is_timed = site.is_timed;
    let cookie = cookie(site.spec, is_timed);
    match &site.at {
        At::Raw(name) => raw(name, cookie, programs).map(|link| vec![link]),
        At::Numbered(number) => {
            let attr = Attr::tracepoint(*number);
            set(&attr, TRACEPOINT, Whose::Everybody, cookie, programs).map(|link| vec![link])
        }
        At::User {
            file,
            offset,
            counter,
            exits,
            ..
        } => {
            let kind = kind_of("uprobe").ok_or(NO_UPROBES).map_err(refused(site))?;
            let path = file.fd_path().ok_or("it is no file").map_err(refused(site))?;
            let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| refused(site)("its path"))?;
            let attr = |is_return| Attr::probe(kind, is_return, &path, *offset, *counter);
            let whose = pid.map_or(Whose::Everybody, Whose::Process);
            let mut links = Vec::new();
            for &exit in exits {
                let attr = Attr::probe(kind, false, &path, exit, 0);
                links.push(set(&attr, EXIT, whose, cookie, programs).map_err(|err| at_site(site, err))?);
            }
            let is_replaced = is_timed && exits.is_empty();
            links
                .extend(pair(&attr, is_replaced, whose, cookie, programs).map_err(|err| at_site(site, err))?);
            Ok(links)
        }
        At::Kernel { function, offset } => {
            let kind = kind_of("kprobe").ok_or("no kprobes").map_err(refused(site))?;
            let name = CString::new(function.as_str()).map_err(|_| refused(site)("its name"))?;
            let attr = |is_return| Attr::probe(kind, is_return, &name, *offset, 0);
            pair(&attr, is_timed, Whose::Everybody, cookie, programs).map_err(|err| at_site(site, err))
        }
    }
}

const NO_UPROBES: &str = "this kernel has no uprobes (CONFIG_UPROBE_EVENTS)";

/// What the programs are told of a site.
pub fn cookie(spec: u8, is_timed: bool) -> u64 {
    u64::from(spec)
        | if is_timed {
            u64::from(abi::MS_PROBE_TIMED)
        } else {
            0
        }
}

fn refused(site: &Site) -> impl Fn(&'static str) -> ProbeError {
    |reason| ProbeError::ProbeRefused {
        name: site.name.clone(),
        reason: reason.to_owned(),
    }
}

/// What the kernel says to a probe there.
fn at_site(site: &Site, err: ProbeError) -> ProbeError {
    /// `ENOTSUPP` of include/linux/errno.h, which no C library knows.
    const NOT_SUPPORTED: i32 = 524;
    let reason = match &err {
        ProbeError::Io { source, .. } => match source.raw_os_error() {
            Some(NOT_SUPPORTED | libc::EOPNOTSUPP) => {
                "the kernel can put no breakpoint on the instruction there".to_owned()
            }
            Some(libc::EINVAL) => {
                "the kernel allows no probe there (a function that probes need themselves?)".to_owned()
            }
            // the process has ended
            Some(libc::ESRCH) => return err,
            Some(libc::EACCES | libc::EPERM) => {
                return ProbeError::NotPermitted {
                    what: "cannot set a probe",
                };
            }
            _ => source.to_string(),
        },
        _ => return err,
    };
    ProbeError::ProbeRefused {
        name: site.name.clone(),
        reason,
    }
}

/// The return first: a call that began before is none, and one whose return is not seen would last for ever.
fn pair(
    attr: &dyn Fn(bool) -> Attr,
    is_timed: bool,
    whose: Whose,
    cookie: u64,
    programs: &mut Programs<'_>,
) -> Result<Vec<Link>, ProbeError> {
    let mut links = Vec::new();
    if is_timed {
        links.push(set(&attr(true), RETURN, whose, cookie, programs)?);
    }
    links.push(set(&attr(false), CALL, whose, cookie, programs)?);
    Ok(links)
}

fn raw(name: &str, cookie: u64, programs: &mut Programs<'_>) -> Result<Link, ProbeError> {
    programs.with(RAW, |program| {
        let opts = RawTracepointOpts {
            cookie,
            ..RawTracepointOpts::default()
        };
        // cookies since 6.10; else the program has a constant
        program
            .attach_raw_tracepoint_with_opts(name, opts)
            .or_else(|_| program.attach_raw_tracepoint(name))
    })
}
