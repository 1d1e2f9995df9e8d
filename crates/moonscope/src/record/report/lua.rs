//! What the last lines say of Lua.

use std::collections::{BTreeMap, BTreeSet};

use moonscope_probe::LuaCounts;
use moonscope_process::counted;
use moonscope_profile::Profile;

/// What was found of Lua, and what is missing.
pub(super) fn lines(lua: &LuaCounts, profile: &Profile) -> Vec<String> {
    let mut lines = Vec::new();
    if lua.vms > 0 || lua.samples > 0 {
        lines.push(format!(
            "Lua: {} of {}, in {}{}",
            counted(lua.vms, "VM"),
            counted(lua.processes, "process"),
            counted(lua.samples, "sample"),
            shares(profile)
        ));
    }
    for (count, one, what) in [
        (
            lua.gaps,
            "sample",
            "with a gap between Lua and code without unwind information: marked [no unwind info]",
        ),
        (
            lua.guessed,
            "sample",
            "of a VM between two states: marked [innermost Lua frame uncertain]",
        ),
        (
            lua.unknown_traces,
            "distinct stack",
            "of compiled code may lack inlined frames: marked [inlined frames unknown]",
        ),
        (lua.unknown_functions, "Lua function", "could not be read"),
        (
            lua.without_line,
            "Lua frame",
            "without a current line: the function was collected before it could be read",
        ),
        (
            lua.with_too_many_vms,
            "process",
            "with more Lua VMs than are looked for: stacks may end at generated code",
        ),
    ] {
        if count > 0 {
            lines.push(format!("{} {what}", counted(count, one)));
        }
    }
    if let Some(parents) = &lua.parents {
        lines.push(format!(
            "coroutine parents: above {}, {} without any, {} not found",
            counted(parents.found, "coroutine"),
            parents.without,
            parents.failed.values().sum::<u64>(),
        ));
        if parents.found == 0 && lua.samples > 0 {
            lines.push(
                "no coroutine parents: nothing proved that this is ngx_lua with OpenResty's LuaJIT (exdata2)"
                    .to_owned(),
            );
        }
        let failed = parents.failed.iter();
        lines.extend(
            failed.map(|(why, &count)| format!("{} without parents: {why}", counted(count, "coroutine"))),
        );
    }
    let refused: BTreeSet<&String> = lua.refused.iter().collect();
    lines.extend(refused.iter().map(|reason| {
        let reason = moonscope_profile::visible(reason);
        format!("no Lua frames for a LuaJIT: {reason}")
    }));
    lines
}

/// What the VMs were doing, by samples: ": 61 % compiled, 30 % interpreting".
fn shares(profile: &Profile) -> String {
    let mut by_state: BTreeMap<String, i64> = BTreeMap::new();
    for sample in profile.samples() {
        if let Some(state) = profile.labels_of(sample.labels).get("lua-state") {
            *by_state.entry(state.to_string()).or_default() += sample.values.first().copied().unwrap_or(0);
        }
    }
    let total: i64 = by_state.values().sum();
    let mut shares: Vec<_> = by_state.into_iter().collect();
    shares.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shares: Vec<String> = shares
        .iter()
        .map(|(state, count)| format!("{:.0} % {state}", 100.0 * *count as f64 / total.max(1) as f64))
        .collect();
    if shares.is_empty() {
        String::new()
    } else {
        format!(": {}", shares.join(", "))
    }
}
