//! The event `probe`: calls of any function and how long they take, tracepoints and USDT probes (`bpf/probe.bpf.h`).

mod announcement;
mod attach;
mod in_files;
mod in_kernel;
mod kernel;
mod latency;
mod names;
mod open_calls;
mod plan;
mod spec;
mod tracefs;
mod usdt;

use std::collections::{BTreeMap, BTreeSet};

use libbpf_rs::{Link, MapCore, MapFlags};
use moonscope_process::{Pid, counted};
use moonscope_unwind::abi;

use crate::breakpoints::files::TargetFiles;
use crate::collector::{AnyCollector, Collector, Column, Context, EventSpec, Programs, missed_runs};
use crate::error::ProbeError;
use crate::kernel_types::{is_kernel_at_least, tells_events_apart};
use crate::limits::Limits;
use crate::object::add_spare_scratches;
use crate::processes::monotonic_now;
use crate::session::Scope;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};
use announcement::announcement;
use attach::{CALL, EXIT, PROGRAM_ENDS, RAW, RETURN, THREAD_ENDS, TRACEPOINT};
use open_calls::OpenCall;
use plan::{Asked, At, Plan, Returns, Site};
use spec::Spec;

/// Calls of functions, and what else can be probed.
#[derive(Default)]
pub struct Probe {
    asked: Vec<Asked>,
    plan: Plan,
    /// Shorter calls are left out, nanoseconds.
    slower: u64,
    returns: Returns,
    /// The processes that are asked for; `None`: not by process.
    targets: Option<BTreeSet<Pid>>,
    links: Vec<Link>,
    /// Of files that others map too.
    of_process: BTreeMap<Pid, Vec<Link>>,
    /// Processes that came and could not be probed.
    not_followed: u64,
    /// When measuring ended (CLOCK_MONOTONIC, nanoseconds).
    stopped: u64,
    number: u32,
}

/// The setting for the shortest call, nanoseconds.
pub const SLOWER: &str = "slower";
/// The setting to count calls and not wait for their return.
pub const CALLS_ONLY: &str = "calls-only";
/// The setting to have the kernel replace return addresses (uretprobe).
pub const REPLACE_RETURNS: &str = "replace-returns";

/// The label with what was asked for.
const PROBE: &str = "probe";
/// The label with how long a call took.
const LATENCY: &str = "probe-latency";

/// Probes of processes one by one, at a time: each has two file descriptors.
const MAX_OF_PROCESSES: usize = 16 << 10;

/// The collector of `probe:SPEC`.
pub fn create(spec: &EventSpec) -> Result<Vec<AnyCollector>, ProbeError> {
    let mut probe = Probe::default();
    if spec.argument.is_some() {
        probe.add(spec)?;
    }
    Ok(vec![Box::new(probe)])
}

impl Probe {
    fn add(&mut self, spec: &EventSpec) -> Result<(), ProbeError> {
        let text = spec.argument.clone().unwrap_or_default();
        let expected = |expected| ProbeError::EventArgument {
            event: spec.name.clone(),
            argument: text.clone(),
            expected,
        };
        let parsed = Spec::parse(&text).ok_or_else(|| expected(spec::EXPECTED))?;
        if self.asked.len() > abi::MS_PROBE_SPEC_MASK as usize {
            return Err(expected("fewer probes in one recording"));
        }
        self.asked.push((text, parsed));
        Ok(())
    }

    fn is_timed(&self) -> bool {
        self.returns != Returns::NotAwaited && self.asked.iter().any(|(_, spec)| spec.is_timed())
    }

    /// Can the programs of this kernel be told which of several probes they run for?
    fn check_cookies(&mut self) -> Result<(), ProbeError> {
        if let [(first, _), (second, _), ..] = self.asked.as_slice()
            && !tells_events_apart()
        {
            return Err(ProbeError::NotToldApart {
                first: format!("probe:{first}"),
                second: format!("probe:{second}"),
            });
        }
        let raw: BTreeSet<u8> = self.raw_sites().map(|site| site.spec).collect();
        if raw.len() > 1 && !is_kernel_at_least(6, 10) {
            let tracefs = tracefs::Tracefs::open();
            for site in &mut self.plan.sites {
                let number = || {
                    let (group, name) = site.name.split_once(':')?;
                    let tracepoint = tracefs::Tracepoint {
                        group: group.to_owned(),
                        name: name.to_owned(),
                    };
                    tracefs.as_ref()?.number(&tracepoint)
                };
                if matches!(site.at, At::Raw(_))
                    && let Some(number) = number()
                {
                    site.at = At::Numbered(number);
                }
            }
        }
        Ok(())
    }

    /// Are these functions of the kernel?
    fn is_kernel(&self, number: u32) -> bool {
        let is_one = |site: &Site| u32::from(site.spec) == number && matches!(site.at, At::Kernel { .. });
        self.plan.sites.iter().any(is_one)
    }

    fn raw_sites(&self) -> impl Iterator<Item = &Site> {
        self.plan
            .sites
            .iter()
            .filter(|site| matches!(site.at, At::Raw(_)))
    }

    /// What the programs take where the kernel tells them nothing.
    fn only_cookie(&self) -> u64 {
        let site = self.raw_sites().next().or(self.plan.sites.first());
        site.map_or(0, |site| attach::cookie(site.spec, site.is_timed))
    }

    /// Is this site probed process by process? Whoever else maps the file shall not pay for it.
    fn is_by_process(&self, site: &Site) -> bool {
        matches!(site.at, At::User { others: 1.., .. }) && self.targets.is_some()
    }

    /// Probes a process where that is done one by one.
    fn attach_process(&self, pid: Pid, programs: &mut Programs<'_>) -> Result<Vec<Link>, ProbeError> {
        let mut links = Vec::new();
        for site in self.plan.sites.iter().filter(|site| self.is_by_process(site)) {
            links.extend(attach::attach(site, Some(pid), programs)?);
        }
        Ok(links)
    }
}

impl Collector for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn columns(&self) -> &'static [Column] {
        const TIMED: [Column; 2] = [
            Column::new("probe_calls", "count"),
            Column::new("probe_time", "nanoseconds"),
        ];
        const COUNTED: [Column; 1] = [Column::new("probe_calls", "count")];
        if self.is_timed() { &TIMED } else { &COUNTED }
    }

    fn add_argument(&mut self, spec: &EventSpec) -> Result<bool, ProbeError> {
        self.add(spec).map(|()| true)
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        if self.asked.is_empty() {
            return Err(ProbeError::EventArgument {
                event: "probe".to_owned(),
                argument: String::new(),
                expected: spec::EXPECTED,
            });
        }
        self.slower = context.settings.get(SLOWER).unwrap_or(0);
        let is_set = |name| context.settings.get(name).is_some();
        self.returns = match (is_set(CALLS_ONLY), is_set(REPLACE_RETURNS)) {
            (true, _) => Returns::NotAwaited,
            (false, true) => Returns::Replaced,
            (false, false) => Returns::Found,
        };
        self.targets = match context.scope {
            Scope::Processes(pids) => Some(pids.clone()),
            _ => None,
        };
        let files = TargetFiles::look(context.scope, context.program);
        self.plan = plan::plan(&self.asked, &files, self.returns)?;
        self.check_cookies()
    }

    fn announcement(&self) -> Vec<String> {
        announcement(&self.plan, self.returns, self.targets.is_some())
    }

    fn programs(&self) -> &'static [&'static str] {
        let has = |is_one: fn(&Site) -> bool| self.plan.sites.iter().any(is_one);
        let functions = has(|site| site.is_timed);
        let sites = has(|site| matches!(site.at, At::User { .. } | At::Kernel { .. }));
        let tracepoints = has(|site| matches!(site.at, At::Raw(_) | At::Numbered(_)));
        match (functions, sites, tracepoints) {
            // nothing is planned yet: whoever asks wants to know of all
            (_, false, false) => &[CALL, RETURN, EXIT, THREAD_ENDS, PROGRAM_ENDS, RAW, TRACEPOINT],
            (true, _, true) => &[CALL, RETURN, EXIT, THREAD_ENDS, PROGRAM_ENDS, RAW, TRACEPOINT],
            (true, _, false) => &[CALL, RETURN, EXIT, THREAD_ENDS, PROGRAM_ENDS],
            (false, true, true) => &[CALL, RAW, TRACEPOINT],
            (false, true, false) => &[CALL],
            (false, false, true) => &[RAW, TRACEPOINT],
        }
    }

    fn sums_up(&self) -> bool {
        true
    }

    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        limits: &Limits,
    ) -> Result<(), libbpf_rs::Error> {
        self.number = number;
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.probe_event = number;
            constants.probe_slower_ns = self.slower;
            constants.probe_cookie = self.only_cookie();
        }
        add_spare_scratches(open)?;
        // 3 KiB each
        let threads = if self.plan.sites.iter().any(|site| site.is_timed) {
            limits.threads as u32 / 8
        } else {
            1
        };
        open.maps.probe_threads.set_max_entries(threads.max(1))
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        for program in [THREAD_ENDS, PROGRAM_ENDS] {
            if self.programs().contains(&program) {
                programs.attach(program)?;
            }
        }
        let mut links = Vec::new();
        for site in self.plan.sites.iter().filter(|site| !self.is_by_process(site)) {
            links.extend(attach::attach(site, None, programs)?);
        }
        self.links = links;
        for pid in self.targets.clone().unwrap_or_default() {
            match self.attach_process(pid, programs) {
                Ok(links) => {
                    self.of_process.insert(pid, links);
                }
                // it has ended meanwhile, which the recording will tell
                Err(ProbeError::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn process_came(&mut self, pid: Pid, programs: &mut Programs<'_>) {
        if self.of_process.contains_key(&pid) || !self.plan.sites.iter().any(|site| self.is_by_process(site))
        {
            return;
        }
        let has_room = self.of_process.values().map(Vec::len).sum::<usize>() < MAX_OF_PROCESSES;
        match self.attach_process(pid, programs) {
            Ok(links) if has_room => {
                self.of_process.insert(pid, links);
            }
            _ => self.not_followed += 1,
        }
    }

    fn process_went(&mut self, pid: Pid) {
        self.of_process.remove(&pid);
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 1);
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 0);
        self.stopped = monotonic_now();
        self.links.clear();
        self.of_process.clear();
        Ok(())
    }

    /// Those of calls that have not returned.
    fn held(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<abi::ms_stack_id> {
        let map = &skel.maps.probe_threads;
        let threads = map
            .keys()
            .filter_map(|key| map.lookup(&key, MapFlags::ANY).ok().flatten());
        let calls = threads.flat_map(|bytes| OpenCall::all(&bytes));
        calls.map(|call| call.stack).collect()
    }

    /// Calls that have not returned: how long they have lasted, less what lasts inside of them.
    fn lasting(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<(abi::ms_sum_key, abi::ms_sum)> {
        let map = &skel.maps.probe_threads;
        let mut sums = Vec::new();
        for key in map.keys() {
            let Ok(Some(bytes)) = map.lookup(&key, MapFlags::ANY) else {
                continue;
            };
            let calls = OpenCall::all(&bytes);
            let mut inside = 0;
            for call in calls.iter().rev() {
                let lasted = self.stopped.saturating_sub(call.since);
                if lasted < self.slower {
                    continue;
                }
                let mut sum = abi::ms_sum {
                    count: 1,
                    ..Default::default()
                };
                sum.value[0] = lasted.saturating_sub(call.inner).saturating_sub(inside);
                inside = lasted;
                let key = abi::ms_sum_key {
                    stack: call.stack,
                    event: self.number,
                    tag: call.spec | abi::MS_PROBE_UNFINISHED,
                };
                sums.push((key, sum));
            }
        }
        sums
    }

    fn missed(&self, skel: &MoonscopeSkel<'static>) -> u64 {
        // a call whose return was missed is told as one without
        missed_runs(skel, &[CALL, RAW, TRACEPOINT])
    }

    fn how(&self) -> String {
        let mut ways = Vec::new();
        let count = |is_one: fn(&Site) -> bool| self.plan.sites.iter().filter(|site| is_one(site)).count();
        for (sites, what) in [
            (count(|site| matches!(site.at, At::User { .. })), "uprobe"),
            (count(|site| matches!(site.at, At::Kernel { .. })), "kprobe"),
            (count(|site| matches!(site.at, At::Raw(_))), "raw tracepoint"),
            (count(|site| matches!(site.at, At::Numbered(_))), "tracepoint"),
        ] {
            if sites > 0 {
                ways.push(counted(sites, what));
            }
        }
        let mut how = format!("by {}", ways.join(" and "));
        if self.is_timed() && self.slower > 0 {
            how.push_str(&format!(", calls of {} and more", latency::text(self.slower)));
        }
        if self.not_followed > 0 {
            how.push_str(&format!(
                "; {} came later and could not be probed",
                counted(self.not_followed, "process")
            ));
        }
        how
    }

    fn row(&self, tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let _ = tag;
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        match self.columns().len() {
            1 => vec![clamp(sum.count)],
            _ => vec![clamp(sum.count), clamp(sum.value[0])],
        }
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[PROBE, LATENCY]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let number = tag & abi::MS_PROBE_SPEC_MASK;
        let spec = self.asked.get(number as usize);
        let text = spec.map(|(text, _)| text.clone()).unwrap_or_default();
        let latency =
            latency::of_tag(tag, self.is_kernel(number)).map(|latency| (LATENCY, latency.to_string()));
        std::iter::once((PROBE, text)).chain(latency).collect()
    }

    fn summary(&self, sums: &BTreeMap<u32, abi::ms_sum>) -> Vec<String> {
        let histogram = |(number, (text, _)): (usize, &Asked)| {
            let of_spec = |tag: &u32| (tag & abi::MS_PROBE_SPEC_MASK) as usize == number;
            let ours = sums.iter().filter(|(tag, _)| of_spec(tag));
            latency::histogram(
                text,
                self.is_kernel(number as u32),
                ours.map(|(&tag, sum)| (tag, sum.count)),
            )
        };
        self.asked.iter().enumerate().flat_map(histogram).collect()
    }
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_probe_data.as_deref_mut() {
        state.probe_is_on = is_on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_specs_are_one_collector() {
        let mut collectors = create(&EventSpec::parse("probe:malloc")).unwrap();
        let added = collectors[0].add_argument(&EventSpec::parse("probe:t:sched:sched_switch"));
        assert!(added.unwrap());
        assert!(matches!(
            collectors[0].add_argument(&EventSpec::parse("probe:p:")),
            Err(ProbeError::EventArgument { .. })
        ));
        let labels = collectors[0].labels(1, &[]);
        assert_eq!(labels, [(PROBE, "t:sched:sched_switch".to_owned())]);
    }
}
