//! What whoever asked is told before anything is attached.

use std::collections::BTreeMap;

use moonscope_process::counted;

use super::plan::{At, Plan, Returns, Site};
use crate::breakpoints::cost::{self, Cost};

/// Nanoseconds of our own programs for a call: what it takes to walk some ten frames and to add up.
const PROGRAMS: f64 = 2000.0;

/// What was found, what it will cost, and who else is concerned.
pub fn announcement(plan: &Plan, returns: Returns, is_by_process: bool) -> Vec<String> {
    const SHOWN: usize = 8;
    let mut lines = Vec::new();
    let names: Vec<String> = plan.sites.iter().take(SHOWN).map(describe).collect();
    let more = match plan.sites.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    lines.push(format!(
        "{}: {}{more}",
        counted(plan.sites.len(), "place"),
        names.join(", ")
    ));
    lines.extend(plan.remarks.iter().cloned());
    let users = plan
        .sites
        .iter()
        .filter(|site| matches!(site.at, At::User { .. }));
    if returns == Returns::Replaced && users.clone().any(|site| site.is_timed) {
        lines.push(
            "--replace-returns: an exception, pthread_exit, an error of Lua or a coroutine that leaves such a function ends the program"
                .to_owned(),
        );
    }
    lines.extend(estimate(users.clone()));
    let shared = users.filter_map(|site| match &site.at {
        At::User { file, others, .. } if *others > 0 => Some((file.name().to_owned(), *others)),
        _ => None,
    });
    for (file, others) in shared.collect::<BTreeMap<_, _>>() {
        if is_by_process {
            lines.push(format!(
                "{file} is mapped by {} too: only those asked for are probed, and their children from shortly after they begin",
                counted(others, "other process")
            ));
        }
    }
    lines
}

/// `malloc (libc.so.6+0x9d1e0)`
fn describe(site: &Site) -> String {
    let name = moonscope_process::visible(&site.name).to_string();
    match &site.at {
        At::User { file, offset, .. } => {
            format!("{name} ({}+{offset:#x})", moonscope_process::visible(file.name()))
        }
        _ => name,
    }
}

/// What a call costs, by the site where it costs most.
fn estimate<'a>(users: impl Iterator<Item = &'a Site>) -> Option<String> {
    const CALLS: f64 = 10_000.0;
    let mut sites = users.peekable();
    sites.peek()?;
    let Some(cost) = Cost::measure() else {
        return Some("what a breakpoint costs could not be measured here".to_owned());
    };
    let of_site = |site: &Site| match &site.at {
        At::User {
            file, offset, exits, ..
        } => {
            let entry = cost::is_emulated(file, *offset);
            // a call meets one of them; the return that the kernel awaits is a system call, about as much
            let exit = exits.first().map(|&exit| cost::is_emulated(file, exit));
            let awaited = (site.is_timed && exits.is_empty()).then_some(true);
            PROGRAMS + cost.of(std::iter::once(entry).chain(exit).chain(awaited))
        }
        _ => 0.0,
    };
    let most = sites.map(of_site).fold(0.0, f64::max);
    Some(format!(
        "each call takes about {:.1} µs longer, as breakpoints on moonscope itself just now: {:.0} % of a CPU at {CALLS} a second",
        most / 1000.0,
        most * CALLS / 1e9 * 100.0
    ))
}
