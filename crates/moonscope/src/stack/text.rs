//! The report as plain text: for a terminal, a ticket, `grep`. No colour, nothing wrapped.

use std::fmt::Write;
use std::path::Path;

use moonscope_luajit::GcMode;
use moonscope_luajit::coroutines::{CoroutineStatus, ListEnd};
use moonscope_probe::live::{LiveStack, LiveThread, LiveVm};
use moonscope_process::thread::Place;
use moonscope_process::{counted, visible};
use moonscope_profile::FrameKind;

use super::report::{Group, Report, ShownFrame};
use super::system_call;

/// Addresses of coroutines that are named when many have the same stack.
const NAMED: usize = 3;

/// All processes; writing to a String cannot fail, so its results are not looked at.
pub fn render(reports: &[Report]) -> String {
    let mut out = String::new();
    for (index, report) in reports.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        process(&mut out, report);
    }
    out
}

fn process(out: &mut String, report: &Report) {
    let live = &report.live;
    let _ = writeln!(
        out,
        "process {} ({}): {}, {}; looked at for {:.1} ms, not stopped",
        live.process.pid,
        visible(&live.process.comm),
        counted(live.threads.len() + live.more_threads, "thread"),
        counted(live.vms.len(), "Lua VM"),
        live.took.as_secs_f64() * 1e3,
    );
    for reason in &live.refused {
        let _ = writeln!(out, "  a LuaJIT that cannot be read: {}", visible(reason));
    }
    if live.more_vms {
        out.push_str("  not all memory could be looked at: there may be more Lua VMs\n");
    }
    for one in &live.threads {
        thread(out, report, one);
    }
    if live.more_threads > 0 {
        let _ = writeln!(
            out,
            "\n{} more are not shown",
            counted(live.more_threads, "thread")
        );
    }
    for one in &live.vms {
        vm(out, report, one);
    }
}

fn thread(out: &mut String, report: &Report, thread: &LiveThread) {
    let what = match thread.place {
        Place::Running => "running".to_owned(),
        Place::NoUserCode => "no user code".to_owned(),
        Place::Unknown => state(thread.state).to_owned(),
        Place::Waiting { call: Some(call), .. } => {
            let name = system_call::name(call)
                .map_or_else(|| format!("system call {call}"), |name| format!("{name}()"));
            format!("{} in {name}", state(thread.state))
        }
        Place::Waiting { call: None, .. } => {
            format!("{}, not in a system call", state(thread.state))
        }
    };
    let _ = writeln!(out, "\nthread {} ({}): {what}", thread.tid, visible(&thread.comm));
    stack(out, report, thread.stack);
    if thread.place == Place::Running && thread.stack.id.is_none() {
        let pid = report.live.process.pid;
        let _ = writeln!(out, "      to see it: moonscope record -p {pid} -d 1 -o now.txt");
    }
}

fn state(letter: char) -> &'static str {
    match letter {
        'R' => "about to run",
        'S' => "waits",
        'D' => "waits (uninterruptible)",
        'T' => "stopped",
        't' => "stopped by a debugger",
        'I' => "idle",
        'Z' | 'X' => "ended",
        _ => "in an unknown state",
    }
}

fn stack(out: &mut String, report: &Report, stack: LiveStack) {
    if stack.changing {
        out.push_str("  (changing) it ran while it was read; this is what was seen last\n");
    }
    if let Some(why) = stack.uncertain {
        let _ = writeln!(out, "  (not certain) {why}");
    }
    for (number, frame) in report.frames(stack).iter().enumerate() {
        let _ = writeln!(out, "  #{number:<3} {}", line(frame));
    }
    if let Some(reason) = stack.cut {
        let _ = writeln!(out, "  ...  {reason}");
    }
}

/// A frame: `name (file)`, or what stands for a name.
fn line(frame: &ShownFrame<'_>) -> String {
    let text = visible(&frame.text).to_string();
    let is_named = frame.frame.kind == FrameKind::Native && frame.frame.name().is_some();
    match frame.module {
        Some(path) if is_named => {
            let name = Path::new(path).file_name().unwrap_or(path.as_ref());
            format!("{text} ({})", visible(name))
        }
        _ => text,
    }
}

fn vm(out: &mut String, report: &Report, vm: &LiveVm) {
    let mode = match vm.mode {
        GcMode::Gc64 => "64-bit references",
        GcMode::Gc32 => "32-bit references",
    };
    let _ = write!(out, "\nLua VM {:#x} ({}, {mode}): ", vm.g, visible(&vm.file));
    let _ = match (vm.is_running, vm.thread) {
        (false, _) => writeln!(out, "idle"),
        (true, Some(tid)) => writeln!(out, "in thread {tid}, {}", vm.activity),
        (true, None) => writeln!(out, "{}", vm.activity),
    };
    let _ = writeln!(out, "  {}", census(vm));
    if let Some(what) = missing(vm) {
        let _ = writeln!(out, "  {what}");
    }
    if vm.gone_coroutines > 0 {
        let gone = counted(vm.gone_coroutines, "coroutine");
        let _ = writeln!(
            out,
            "  {gone} collected as garbage before they could be looked at"
        );
    }
    for group in Report::groups(&vm.coroutines) {
        coroutines(out, report, &group);
    }
}

/// How many coroutines do what; the main one counts when it runs.
fn census(vm: &LiveVm) -> String {
    let is_counted = |status: CoroutineStatus, is_main: bool| !is_main || status != CoroutineStatus::Ended;
    let all: Vec<CoroutineStatus> = vm
        .coroutines
        .iter()
        .filter(|one| is_counted(one.status, one.is_main))
        .map(|one| one.status)
        .collect();
    let mut kinds: Vec<CoroutineStatus> = all.clone();
    kinds.sort_unstable();
    kinds.dedup();
    let parts: Vec<String> = kinds
        .iter()
        .map(|kind| {
            let count = all.iter().filter(|status| *status == kind).count();
            format!("{count} {}", words(*kind))
        })
        .collect();
    match parts.is_empty() {
        true => "no coroutines".to_owned(),
        false => format!("{}: {}", counted(all.len(), "coroutine"), parts.join(", ")),
    }
}

fn missing(vm: &LiveVm) -> Option<String> {
    let objects = vm.objects;
    Some(match (vm.list, vm.more_coroutines) {
        (ListEnd::Complete, 0) => return None,
        (ListEnd::Complete, more) => format!(
            "not all looked at: {} beyond the limit",
            counted(more, "coroutine")
        ),
        (ListEnd::Changed, _) => {
            format!("not all looked at: the list of objects changed after {objects} of them; try again")
        }
        (ListEnd::Budget, _) => format!("not all looked at: the limit was reached after {objects} objects"),
        (ListEnd::NoList, _) => {
            "not all looked at: the list of objects of this LuaJIT was not found".to_owned()
        }
    })
}

fn words(status: CoroutineStatus) -> &'static str {
    match status {
        CoroutineStatus::Running => "running",
        CoroutineStatus::Normal => "waiting for another that it resumed",
        CoroutineStatus::Suspended => "suspended",
        CoroutineStatus::NotStarted => "not started",
        CoroutineStatus::Failed => "ended with an error",
        CoroutineStatus::Ended => "ended",
    }
}

fn coroutines(out: &mut String, report: &Report, group: &Group<'_>) {
    let Some(first) = group.members.first() else {
        return;
    };
    if first.status == CoroutineStatus::Ended {
        return; // counted, and there is nothing to see
    }
    let named: Vec<String> = group
        .members
        .iter()
        .take(NAMED)
        .map(|one| format!("{:#x}", one.l))
        .collect();
    let more = if group.members.len() > NAMED { ", ..." } else { "" };
    let what = words(first.status);
    let _ = match (group.members.len(), first.is_main) {
        (1, true) => writeln!(out, "\n  main coroutine {}: {what}", named.join(", ")),
        (1, false) => writeln!(out, "\n  coroutine {}: {what}", named.join(", ")),
        (count, _) => writeln!(out, "\n  {count} coroutines: {what} ({}{more})", named.join(", ")),
    };
    match first.in_thread {
        Some(tid) => {
            let _ = writeln!(out, "  its frames are in the stack of thread {tid} above");
        }
        None => stack(out, report, first.stack),
    }
}
