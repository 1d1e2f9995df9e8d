//! Functions and tracepoints of the kernel.

use super::kernel;
use super::names::{Pattern, alike, nearest};
use super::plan::{At, MAX_SITES, Plan, Returns, Search, Site};
use super::spec::Place;
use super::tracefs::{Tracefs, Tracepoint};
use crate::breakpoints::kind_of;
use crate::error::ProbeError;
use crate::kernel_types::has_tracepoint;

impl Search<'_> {
    pub(super) fn add_kernel(&self, place: &Place, plan: &mut Plan) -> Result<(), ProbeError> {
        let all = kernel::functions();
        let mut names: Vec<&String> = all.iter().filter(|name| place.name.matches(name)).collect();
        names.dedup();
        if names.is_empty() {
            let near = nearest(place.name.text(), all.iter().map(String::as_str));
            let remedy = match near[..] {
                [] => "/proc/kallsyms has their names".to_owned(),
                ref near => format!("there is {}", near.join(", ")),
            };
            return Err(self.refused(
                format!("the kernel has no function `{}`", place.name.text()),
                remedy,
            ));
        }
        if kind_of("kprobe").is_none() {
            return Err(no_kprobes(self.text, place.name.text()));
        }
        plan.sites.extend(names.into_iter().map(|name| Site {
            spec: self.number,
            name: format!("{name}_[k]"),
            is_timed: place.offset == 0 && self.returns != Returns::NotAwaited,
            at: At::Kernel {
                function: name.clone(),
                offset: place.offset,
            },
        }));
        Ok(())
    }

    pub(super) fn add_tracepoints(
        &self,
        group: &Pattern,
        name: &Pattern,
        plan: &mut Plan,
    ) -> Result<(), ProbeError> {
        let Some(tracefs) = Tracefs::open() else {
            return self.add_raw_tracepoint(group, name, plan);
        };
        let all = tracefs.all();
        let matching = all
            .iter()
            .filter(|tracepoint| group.matches(&tracepoint.group) && name.matches(&tracepoint.name));
        let found: Vec<&Tracepoint> = matching.collect();
        if found.is_empty() {
            let names: Vec<String> = all.iter().map(Tracepoint::full_name).collect();
            let asked = format!("{}:{}", group.text(), name.text());
            let mut near = nearest(&asked, names.iter().map(String::as_str));
            if near.is_empty() {
                near = alike(name.text(), names.iter().map(String::as_str));
            }
            let remedy = match near[..] {
                [] => "/sys/kernel/tracing/available_events has them".to_owned(),
                ref near => format!("there is {}", near.join(", ")),
            };
            return Err(self.refused(format!("this kernel has no tracepoint `{asked}`"), remedy));
        }
        if found.len() > MAX_SITES {
            plan.sites.extend(
                found
                    .iter()
                    .map(|tracepoint| self.site_of_tracepoint(tracepoint, At::Numbered(0))),
            );
            return Ok(());
        }
        for tracepoint in found {
            let at = match has_tracepoint(&tracepoint.name) {
                true => At::Raw(tracepoint.name.clone()),
                false => match tracefs.number(tracepoint) {
                    Some(number) => At::Numbered(number),
                    // of ftrace itself, which nothing can be attached to
                    None => continue,
                },
            };
            plan.sites.push(self.site_of_tracepoint(tracepoint, at));
        }
        Ok(())
    }

    fn site_of_tracepoint(&self, tracepoint: &Tracepoint, at: At) -> Site {
        Site {
            spec: self.number,
            name: tracepoint.full_name(),
            is_timed: false,
            at,
        }
    }

    /// Without tracefs the kernel's type information still has their names, but no groups.
    fn add_raw_tracepoint(&self, group: &Pattern, name: &Pattern, plan: &mut Plan) -> Result<(), ProbeError> {
        if name.is_open() || !has_tracepoint(name.text()) {
            return Err(self.refused(
                format!(
                    "`{}:{}` cannot be looked up without tracefs",
                    group.text(),
                    name.text()
                ),
                "mount -t tracefs tracefs /sys/kernel/tracing".to_owned(),
            ));
        }
        plan.sites.push(Site {
            spec: self.number,
            name: name.text().to_owned(),
            is_timed: false,
            at: At::Raw(name.text().to_owned()),
        });
        Ok(())
    }
}

/// Why no function of the kernel can be probed here, and which tracepoints tell of something like it.
fn no_kprobes(text: &str, function: &str) -> ProbeError {
    let names: Vec<String> = Tracefs::open()
        .map(|tracefs| tracefs.all().iter().map(Tracepoint::full_name).collect())
        .unwrap_or_default();
    let near = alike(function, names.iter().map(String::as_str));
    let instead = match near[..] {
        [] => "tracepoints work: t:GROUP:EVENT".to_owned(),
        ref near => {
            let near: Vec<String> = near.iter().map(|name| format!("t:{name}")).collect();
            format!(
                "tracepoints work, and these are about something alike: {}",
                near.join(", ")
            )
        }
    };
    ProbeError::NoKprobes {
        spec: text.to_owned(),
        instead,
    }
}
