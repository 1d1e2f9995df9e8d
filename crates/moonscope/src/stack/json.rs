//! The report as JSON: `docs/formats.md`, "moonscope stack --json".

use moonscope_luajit::GcMode;
use moonscope_luajit::coroutines::ListEnd;
use moonscope_probe::live::{LiveStack, LiveThread, LiveVm};
use moonscope_process::thread::Place;
use serde::Serialize;

use super::report::{Group, Report, status};
use super::system_call;

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    producer: String,
    processes: Vec<Process<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    comm: &'a str,
    took_ns: u64,
    threads: Vec<Thread<'a>>,
    more_threads: usize,
    vms: Vec<Vm<'a>>,
    more_vms: bool,
    unreadable_luajit: &'a [String],
}

#[derive(Serialize)]
struct Thread<'a> {
    tid: u32,
    comm: &'a str,
    state: char,
    /// `running`, `waiting`, `none`, `unknown`.
    place: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_call: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_call_name: Option<&'static str>,
    #[serde(flatten)]
    stack: Stack<'a>,
    coroutines: Vec<String>,
}

#[derive(Serialize)]
struct Stack<'a> {
    /// Innermost first.
    stack: Vec<Frame<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<&'static str>,
    changing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertain: Option<&'static str>,
}

#[derive(Serialize)]
struct Frame<'a> {
    kind: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    defined_at: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
}

#[derive(Serialize)]
struct Vm<'a> {
    address: String,
    file: &'a str,
    reference_bits: u32,
    running: bool,
    activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<u32>,
    coroutines: Vec<Coroutines<'a>>,
    more_coroutines: usize,
    gone_coroutines: usize,
    objects: u64,
    /// `complete`, `changed`, `budget`, `not-found`.
    list: &'static str,
}

#[derive(Serialize)]
struct Coroutines<'a> {
    count: usize,
    status: &'static str,
    main: bool,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_thread: Option<u32>,
    #[serde(flatten)]
    stack: Stack<'a>,
}

/// Makes the text.
pub fn render(reports: &[Report]) -> Result<String, serde_json::Error> {
    let document = Document {
        format: "moonscope-stack",
        version: 1,
        producer: format!("moonscope {}", env!("CARGO_PKG_VERSION")),
        processes: reports.iter().map(process).collect(),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn process(report: &Report) -> Process<'_> {
    let live = &report.live;
    Process {
        pid: live.process.pid,
        comm: &live.process.comm,
        took_ns: u64::try_from(live.took.as_nanos()).unwrap_or(u64::MAX),
        threads: live.threads.iter().map(|one| thread(report, one)).collect(),
        more_threads: live.more_threads,
        vms: live.vms.iter().map(|one| vm(report, one)).collect(),
        more_vms: live.more_vms,
        unreadable_luajit: &live.refused,
    }
}

fn thread<'a>(report: &'a Report, thread: &'a LiveThread) -> Thread<'a> {
    let (place, call) = match thread.place {
        Place::Running => ("running", None),
        Place::Waiting { call, .. } => ("waiting", call),
        Place::NoUserCode => ("none", None),
        Place::Unknown => ("unknown", None),
    };
    Thread {
        tid: thread.tid,
        comm: &thread.comm,
        state: thread.state,
        place,
        system_call: call,
        system_call_name: call.and_then(system_call::name),
        stack: stack(report, thread.stack),
        coroutines: thread.lua.iter().map(|l| format!("{l:#x}")).collect(),
    }
}

fn stack(report: &Report, stack: LiveStack) -> Stack<'_> {
    let frames = report.frames(stack).into_iter().map(|shown| Frame {
        kind: shown.frame.kind.name(),
        text: shown.text,
        function: shown.frame.name(),
        file: shown.frame.file.as_deref(),
        line: shown.frame.line,
        defined_at: shown.frame.defined_at,
        module: shown.module,
        offset: shown.frame.offset.map(|offset| format!("{offset:#x}")),
    });
    Stack {
        stack: frames.collect(),
        cut: stack.cut,
        changing: stack.changing,
        uncertain: stack.uncertain,
    }
}

fn vm<'a>(report: &'a Report, vm: &'a LiveVm) -> Vm<'a> {
    Vm {
        address: format!("{:#x}", vm.g),
        file: &vm.file,
        reference_bits: match vm.mode {
            GcMode::Gc64 => 64,
            GcMode::Gc32 => 32,
        },
        running: vm.is_running,
        activity: vm.activity.to_string(),
        thread: vm.thread,
        coroutines: Report::groups(&vm.coroutines)
            .iter()
            .filter_map(|group| coroutines(report, group))
            .collect(),
        more_coroutines: vm.more_coroutines,
        gone_coroutines: vm.gone_coroutines,
        objects: vm.objects,
        list: match vm.list {
            ListEnd::Complete => "complete",
            ListEnd::Changed => "changed",
            ListEnd::Budget => "budget",
            ListEnd::NoList => "not-found",
        },
    }
}

fn coroutines<'a>(report: &'a Report, group: &Group<'_>) -> Option<Coroutines<'a>> {
    let first = group.members.first()?;
    Some(Coroutines {
        count: group.members.len(),
        status: status(first.status),
        main: first.is_main,
        addresses: group.members.iter().map(|one| format!("{:#x}", one.l)).collect(),
        in_thread: first.in_thread,
        stack: stack(report, first.stack),
    })
}
