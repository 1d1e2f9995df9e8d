//! Names of kernel addresses, and why there may be none.

use crate::kallsyms::{self, KernelFunction};
use crate::kallsyms_list::{self, KernelList, comes_and_goes};
use crate::limits::{MAX_KERNEL_FUNCTION, MAX_KERNEL_FUNCTIONS, MAX_KERNEL_UNKNOWN};
use crate::{Symbol, demangle};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So often the list is read for what is asked for; then all of it is kept.
const FEW_READINGS: u32 = 3;

/// Modules and BPF programs come and go, so what is known of them is believed only this long (of modules: until others
/// are loaded, once the whole list is kept); functions of the kernel itself do not move.
const TRUSTED_FOR: Duration = Duration::from_secs(10);

/// `CAP_SYSLOG` of include/uapi/linux/capability.h.
const CAP_SYSLOG: u32 = 34;

/// Can kernel addresses be named?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSymbols {
    /// Yes.
    Available,
    /// The kernel hides its addresses from us.
    Restricted {
        /// Why, with the settings as they are.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// There is no list of symbols: a kernel built without `CONFIG_KALLSYMS`, or no `/proc`.
    Missing,
}

/// Functions that were asked for, by their start.
#[derive(Debug)]
pub(crate) struct Kernel {
    list: PathBuf,
    known: BTreeMap<u64, Known>,
    /// Addresses that were nothing, and when.
    unknown: FxHashMap<u64, Instant>,
    /// How often the list was read.
    readings: u32,
    /// All of it, and the modules that were loaded then.
    whole: Option<(KernelList, u64)>,
}

#[derive(Debug)]
struct Known {
    end: u64,
    name: Arc<str>,
    module: Option<Arc<str>>,
    read: Instant,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            list: "/proc/kallsyms".into(),
            known: BTreeMap::new(),
            unknown: FxHashMap::default(),
            readings: 0,
            whole: None,
        }
    }
}

impl Kernel {
    /// Names for addresses, in their order. Reads the list only if something is not known.
    pub(crate) fn resolve(&mut self, addrs: &[u64], demangle: bool) -> Vec<Option<Symbol>> {
        let now = Instant::now();
        let recently = |seen: &Instant| now.saturating_duration_since(*seen) <= TRUSTED_FOR;
        let is_new =
            |addr: &u64| self.lookup(*addr, now).is_none() && !self.unknown.get(addr).is_some_and(recently);
        let mut unknown: Vec<u64> = addrs.iter().copied().filter(is_new).collect();
        self.look_up_in_whole(&mut unknown, now, demangle);
        if !unknown.is_empty() {
            // so that these need no reading of their own a second later
            let old = self.known.iter().filter(|(_, known)| self.is_old(known, now));
            unknown.extend(old.map(|(&start, _)| start));
            unknown.sort_unstable();
            unknown.dedup();
            // Not readable: nothing has a name, and `status` says why.
            let functions = self
                .open()
                .and_then(|list| kallsyms::resolve(list, &unknown))
                .unwrap_or_default();
            self.remember(functions.into_iter().flatten(), now, demangle);
            self.readings += 1;
            if self.readings >= FEW_READINGS && self.whole.is_none() {
                self.keep_whole();
            }
            unknown.retain(|&addr| self.lookup(addr, now).is_none());
            if self.unknown.len() + unknown.len() > MAX_KERNEL_UNKNOWN {
                self.unknown.clear();
            }
            self.unknown.extend(
                unknown
                    .into_iter()
                    .take(MAX_KERNEL_UNKNOWN)
                    .map(|addr| (addr, now)),
            );
        }
        addrs.iter().map(|&addr| self.lookup(addr, now)).collect()
    }

    /// Names what the whole list has, if that is kept and still true; the others remain.
    fn look_up_in_whole(&mut self, unknown: &mut Vec<u64>, now: Instant, demangle: bool) {
        let loaded = self.whole.as_ref().map(|_| loaded_modules());
        let Some((list, of)) = self.whole.take_if(|(_, of)| Some(*of) == loaded) else {
            if self.whole.take().is_some() {
                self.known.retain(|_, known| known.module.is_none());
            }
            return;
        };
        let functions: Vec<_> = unknown.iter().filter_map(|&addr| list.function(addr)).collect();
        self.remember(functions.into_iter(), now, demangle);
        self.whole = Some((list, of));
        unknown.retain(|&addr| self.lookup(addr, now).is_none());
    }

    fn keep_whole(&mut self) {
        let loaded = loaded_modules();
        let list = self.open().and_then(KernelList::read);
        // a list that is too long is read again and again, as before
        self.whole = list.ok().flatten().map(|list| (list, loaded));
    }

    /// Is something else there by now, perhaps?
    fn is_old(&self, known: &Known, now: Instant) -> bool {
        known.module.as_deref().is_some_and(|module| {
            let lasts = self.whole.is_some() && !comes_and_goes(module.as_bytes());
            !lasts && now.saturating_duration_since(known.read) > TRUSTED_FOR
        })
    }

    /// Whether there is something to resolve with.
    pub(crate) fn status(&self) -> KernelSymbols {
        if !self.known.is_empty() {
            return KernelSymbols::Available;
        }
        match self.open().and_then(kallsyms::shows_addresses) {
            Ok(Some(true)) => KernelSymbols::Available,
            Ok(Some(false)) => restricted(&Settings::read()),
            Ok(None) => KernelSymbols::Missing,
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => KernelSymbols::Restricted {
                reason: format!("{}: {err}", self.list.display()),
                remedy: "use sudo".to_owned(),
            },
            Err(_) => KernelSymbols::Missing,
        }
    }

    fn open(&self) -> io::Result<BufReader<File>> {
        // The kernel formats as much as fits in one read.
        Ok(BufReader::with_capacity(64 << 10, File::open(&self.list)?))
    }

    fn lookup(&self, addr: u64, now: Instant) -> Option<Symbol> {
        let (&start, known) = self.known.range(..=addr).next_back()?;
        (addr < known.end && !self.is_old(known, now)).then(|| Symbol {
            function: Arc::clone(&known.name),
            start: Some(start),
            file: None,
            line: None,
            inlined: false,
            module: known.module.clone(),
        })
    }

    fn remember(&mut self, functions: impl Iterator<Item = KernelFunction>, now: Instant, demangle: bool) {
        if self.known.len() > MAX_KERNEL_FUNCTIONS {
            self.known.clear();
        }
        // Symbols at zero are per-CPU offsets, or all of them if addresses are hidden.
        for function in functions.filter(|function| function.start != 0) {
            let end = function
                .end
                .min(function.start.saturating_add(MAX_KERNEL_FUNCTION));
            let name = demangle::show(&function.name, demangle).into();
            let module = function
                .module
                .map(|module| demangle::show(&module, false).into());
            // What stood there before and reaches into it is not there any more.
            if let Some((_, before)) = self.known.range_mut(..function.start).next_back() {
                before.end = before.end.min(function.start);
            }
            self.known.insert(
                function.start,
                Known {
                    end,
                    name,
                    module,
                    read: now,
                },
            );
        }
    }
}

/// A number for the modules that are loaded.
fn loaded_modules() -> u64 {
    kallsyms_list::modules(&std::fs::read("/proc/modules").unwrap_or_default())
}

/// What decides who sees kernel addresses (kernel/kallsyms.c, kallsyms_show_value).
#[derive(Debug)]
struct Settings {
    kptr_restrict: Option<i64>,
    perf_event_paranoid: Option<i64>,
    syslog: bool,
}

impl Settings {
    fn read() -> Self {
        let number = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0);
        Self {
            kptr_restrict: number("/proc/sys/kernel/kptr_restrict"),
            perf_event_paranoid: number("/proc/sys/kernel/perf_event_paranoid"),
            syslog: effective >> CAP_SYSLOG & 1 == 1,
        }
    }
}

fn restricted(settings: &Settings) -> KernelSymbols {
    let shown =
        |value: Option<i64>| value.map_or_else(|| "not readable".to_owned(), |value| value.to_string());
    let kptr = shown(settings.kptr_restrict);
    let get_capability = "use sudo, or give moonscope CAP_SYSLOG";
    let (reason, remedy) = match (settings.kptr_restrict, settings.syslog) {
        (Some(value), syslog) if value >= 2 => {
            let more = if syslog {
                ""
            } else {
                ", and use sudo or give moonscope CAP_SYSLOG"
            };
            (
                format!("kernel.kptr_restrict is {kptr}, which hides kernel addresses from everybody"),
                format!("sudo sysctl kernel.kptr_restrict=1{more}"),
            )
        }
        (_, true) => (
            format!(
                "kernel addresses are hidden although moonscope has CAP_SYSLOG here (kernel.kptr_restrict is \
                 {kptr}): it runs in a user namespace"
            ),
            "run moonscope outside of the container or user namespace".to_owned(),
        ),
        (Some(0), false) => {
            let paranoid = shown(settings.perf_event_paranoid);
            (
                format!(
                    "moonscope lacks CAP_SYSLOG, and kernel.perf_event_paranoid is {paranoid} \
                     (kernel.kptr_restrict is 0)"
                ),
                format!("{get_capability}; or sudo sysctl kernel.perf_event_paranoid=1"),
            )
        }
        (_, false) => (
            format!("kernel.kptr_restrict is {kptr}, and moonscope lacks CAP_SYSLOG"),
            format!("{get_capability}; or sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1"),
        ),
    };
    KernelSymbols::Restricted { reason, remedy }
}

#[cfg(test)]
mod tests {
    use super::{Kernel, KernelSymbols, Settings, restricted};
    use std::io::Write;

    fn kernel(list: &str) -> (Kernel, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(list.as_bytes()).unwrap();
        (
            Kernel {
                list: file.path().to_owned(),
                ..Kernel::default()
            },
            file,
        )
    }

    #[test]
    fn a_function_does_not_reach_far_into_the_hole_after_it() {
        let (mut kernel, _file) = kernel("ffffffff81000000 T last\t[mod]\nffffffffa0000000 T far\n");
        let addrs = [
            0xffff_ffff_8100_1000,
            0xffff_ffff_8200_0000,
            0xffff_ffff_a000_0001,
        ];
        let names = kernel.resolve(&addrs, true);
        assert_eq!(&*names[0].as_ref().unwrap().function, "last");
        assert_eq!(names[0].as_ref().unwrap().module.as_deref(), Some("mod"));
        assert_eq!(names[1], None);
        assert_eq!(names[2].as_ref().unwrap().start, Some(0xffff_ffff_a000_0000));
    }

    #[test]
    fn what_is_asked_for_all_the_time_is_read_a_few_times() {
        let (mut kernel, file) = kernel(
            "ffffffff81000000 T one\nffffffff81000100 T two\nffffffff81000200 T three\nffffffff81000300 T four\n",
        );
        for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
            let names = kernel.resolve(&[0xffff_ffff_8100_0000 + 0x100 * number as u64], true);
            assert_eq!(&*names[0].as_ref().unwrap().function, name);
        }
        assert_eq!(kernel.readings, 3);
        // the list is at hand by now
        drop(file);
        let names = kernel.resolve(&[0xffff_ffff_8100_0310, 0x10], true);
        assert_eq!(&*names[0].as_ref().unwrap().function, "four");
        assert_eq!(names[1], None);
    }

    #[test]
    fn hidden_addresses_name_nothing_and_are_told_with_the_remedy() {
        let (mut kernel, _file) = kernel("0000000000000000 T _text\n0000000000000000 T vfs_read\n");
        assert_eq!(kernel.resolve(&[0xffff_ffff_8100_0000, 0x10], true), [None, None]);
        assert!(matches!(kernel.status(), KernelSymbols::Restricted { .. }));
        let text = |kptr_restrict, perf_event_paranoid, syslog| {
            let settings = Settings {
                kptr_restrict,
                perf_event_paranoid,
                syslog,
            };
            let KernelSymbols::Restricted { reason, remedy } = restricted(&settings) else {
                unreachable!()
            };
            (reason, remedy)
        };
        let (reason, remedy) = text(Some(2), Some(2), true);
        assert!(reason.contains("kptr_restrict is 2") && remedy == "sudo sysctl kernel.kptr_restrict=1");
        let (reason, remedy) = text(Some(1), Some(2), false);
        assert!(reason.contains("CAP_SYSLOG") && remedy.contains("kernel.kptr_restrict=0"));
        let (reason, remedy) = text(Some(0), Some(4), false);
        assert!(reason.contains("perf_event_paranoid is 4") && remedy.contains("perf_event_paranoid=1"));
    }

    #[test]
    fn a_missing_or_empty_list_is_missing() {
        let (kernel, file) = kernel("");
        assert_eq!(kernel.status(), KernelSymbols::Missing);
        drop(file);
        assert_eq!(kernel.status(), KernelSymbols::Missing);
    }
}
