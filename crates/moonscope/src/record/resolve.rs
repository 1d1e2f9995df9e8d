//! Raw stacks to a profile: names for every frame, then samples.

mod namer;
mod unfinished;
mod waker;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use moonscope_probe::{
    ExecutableId, LuaCode, LuaFunction, ProcessId, ProcessInfo, RawFrame, RawStackId, Recorded,
};
use moonscope_process::Executable;
use moonscope_profile::{
    Frame, FrameId, FrameKind, LabelValue, Module, ModuleId, Profile, StackId, ValueType,
};
use moonscope_symbols::{KernelSymbols, Symbol, Symbolizer};

use super::report::Recording;
pub use namer::Namer;
use waker::Wakers;

/// What a raw frame is called.
#[derive(Clone, Debug, Default)]
struct Named {
    /// Outermost first: more than one where functions were inlined.
    frames: Vec<FrameId>,
    /// Where the function starts in its file, if that is known.
    start: Option<(ExecutableId, u64)>,
    /// It has a name.
    has_name: bool,
}

impl From<Vec<FrameId>> for Named {
    fn from(frames: Vec<FrameId>) -> Self {
        Self {
            frames,
            start: None,
            has_name: false,
        }
    }
}

/// The profile of a finished recording.
pub fn resolve(recorded: &Recorded, namer: &mut Namer, recording: &Recording) -> Profile {
    let columns = recorded.measured().columns().iter();
    let mut profile = Profile::new(
        columns
            .map(|column| ValueType::new(column.kind, column.unit))
            .collect(),
    );
    let stacks = name_stacks(recorded, namer, &mut profile);
    for (RawStackId(stack), thread, what, sum) in recorded.stacks.sums() {
        let stack = stacks[stack as usize];
        let name = text(&thread.comm);
        let process = thread.process.and_then(|id| recorded.process(id));
        let comm = process.map_or(name.as_str(), |process| &process.comm);
        let mut labels = vec![
            ("comm", LabelValue::from(comm)),
            ("pid", LabelValue::from(thread.pid)),
            ("thread", LabelValue::from(name.as_str())),
            ("tid", LabelValue::from(thread.tid)),
        ];
        labels.extend(process.into_iter().flat_map(place));
        labels.extend(
            thread
                .lua
                .map(|state| ("lua-state", LabelValue::from(state.name()))),
        );
        let of_event = recorded.labels(what, &kernel_functions(&profile, stack));
        labels.extend(
            of_event
                .iter()
                .map(|(key, value)| (*key, LabelValue::from(value.as_str()))),
        );
        let labels = profile.labels(&labels);
        profile.add(stack, labels, &recorded.measured().row(what, sum));
    }
    for process in &recorded.unfinished {
        unfinished::add(process, recorded, namer, &mut profile);
    }
    recording.describe(&mut profile);
    profile.meta.comments.extend(recorded.summaries());
    let kernel_frames = recorded.stacks.frames().iter();
    if kernel_frames
        .clone()
        .any(|frame| matches!(frame, RawFrame::Kernel(_)))
    {
        profile.meta.comments.extend(no_kernel_names(&namer.symbolizer));
    }
    profile
}

/// Where a process is: its control group, and its pid in its own namespace if that is another one.
fn place(process: &ProcessInfo) -> Vec<(&'static str, LabelValue)> {
    let inside = process.pid_inside.filter(|inside| *inside != process.pid);
    let cgroup = Some(&process.cgroup).filter(|path| !path.is_empty());
    let cgroup = cgroup.map(|path| ("cgroup", LabelValue::from(Arc::clone(path))));
    let inside = inside.map(|pid| ("ns-pid", LabelValue::from(pid)));
    cgroup.into_iter().chain(inside).collect()
}

/// The kernel's functions at the end of a stack, leaf first.
fn kernel_functions(profile: &Profile, stack: Option<StackId>) -> Vec<&str> {
    waker::without(profile, stack)
        .take_while(|frame| frame.kind == FrameKind::Kernel)
        .filter_map(|frame| frame.function.as_deref())
        .collect()
}

/// Names all stacks: for each raw one its stack in the profile.
pub fn name_stacks(recorded: &Recorded, namer: &mut Namer, profile: &mut Profile) -> Vec<Option<StackId>> {
    let frames = name_frames(recorded, namer, profile);
    let has_kernel_names = matches!(namer.symbolizer.kernel_status(), KernelSymbols::Available);
    place_stacks(recorded, &frames, Wakers::new(has_kernel_names), profile)
}

/// The stack of each raw node.
///
/// A C function that Lua called is on the Lua stack and, as a rule, on the native stack too: the latter
/// stands for both.
fn place_stacks(
    recorded: &Recorded,
    frames: &[Named],
    mut wakers: Wakers,
    profile: &mut Profile,
) -> Vec<Option<StackId>> {
    let raw = recorded.stacks.frames();
    // a parent stands before its children
    let mut stacks: Vec<Option<StackId>> = Vec::with_capacity(recorded.stacks.nodes().len());
    for &(parent, frame) in recorded.stacks.nodes() {
        let named = &frames[frame as usize];
        let mut stack = parent.and_then(|RawStackId(id)| stacks[id as usize]);
        let shown = wakers.next(parent, &raw[frame as usize], &named.frames, profile);
        let mut is_shown = true;
        if let Some(RawStackId(id)) = parent
            && let (_, called) = recorded.stacks.nodes()[id as usize]
            && let RawFrame::LuaBuiltin(name) = &raw[called as usize]
        {
            is_shown = !is_code_of(profile, named, name);
        }
        if let Some(RawStackId(id)) = parent
            && let (grandparent, called) = recorded.stacks.nodes()[id as usize]
            && let RawFrame::LuaC { native, .. } = &raw[called as usize]
            && let RawFrame::File { executable, vaddr } = **native
            && named.start == Some((executable, vaddr))
        {
            // one of the two: by its symbol, and without one by what Lua calls it
            is_shown = named.has_name || !frames[called as usize].has_name;
            if is_shown {
                stack = grandparent.and_then(|RawStackId(id)| stacks[id as usize]);
            }
        }
        for frame in shown.frames(&named.frames).filter(|_| is_shown) {
            stack = Some(profile.child(stack, frame));
        }
        stacks.push(stack);
    }
    stacks
}

/// Is this native frame what LuaJIT's symbols call the code of a builtin: `lj_cf_string_gsub`, or `lj_ffh_` where the first part
/// of it is assembly (LJLIB_CF and LJLIB_ASM, lj_lib.h)? Both would say the same.
fn is_code_of(profile: &Profile, native: &Named, builtin: &str) -> bool {
    let [frame] = native.frames[..] else { return false };
    let name = profile.frame_of(frame).function.as_deref().unwrap_or_default();
    let code = ["lj_cf_", "lj_ffh_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    code.is_some_and(|code| code == builtin.replace('.', "_"))
}

fn name_frames(recorded: &Recorded, namer: &mut Namer, profile: &mut Profile) -> Vec<Named> {
    let raw = recorded.stacks.frames();
    let mut named: Vec<Named> = vec![Named::default(); raw.len()];
    let mut kernel = Vec::new();
    let mut files: BTreeMap<ExecutableId, Vec<(usize, u64)>> = BTreeMap::new();
    let mut generated: BTreeMap<ProcessId, Vec<(usize, u64)>> = BTreeMap::new();
    let mut lua_names: HashMap<usize, Arc<str>> = HashMap::new();
    for (index, frame) in raw.iter().enumerate() {
        if let RawFrame::LuaC { name: Some(name), .. } = frame {
            lua_names.insert(index, Arc::clone(name));
        }
        match frame {
            RawFrame::Kernel(addr) | RawFrame::KernelTracing(addr) => kernel.push((index, *addr)),
            RawFrame::Lua { function, line, code } => {
                if let Some(function) = recorded.lua_function(*function) {
                    named[index] = vec![profile.frame(lua(function, *line, *code))].into();
                }
            }
            RawFrame::LuaBuiltin(name) => {
                named[index] =
                    vec![profile.frame(Frame::named(FrameKind::LuaBuiltin, Arc::clone(name)))].into();
            }
            RawFrame::LuaUnknown => {
                named[index] = vec![profile.frame(Frame::unknown(FrameKind::LuaInterpreted))].into();
            }
            RawFrame::CoroutineParent => {
                named[index] = vec![profile.frame(Frame::marker("coroutine parent"))].into();
            }
            RawFrame::InlinedUnknown => {
                named[index] = vec![profile.frame(Frame::marker("inlined frames unknown"))].into();
            }
            RawFrame::LeafUncertain => {
                named[index] = vec![profile.frame(Frame::marker("innermost Lua frame uncertain"))].into();
            }
            RawFrame::Gap => named[index] = vec![profile.frame(Frame::marker("no unwind info"))].into(),
            RawFrame::LuaMissing => {
                named[index] = vec![profile.frame(Frame::marker("Lua frames missing"))].into();
            }
            RawFrame::Unknown => named[index] = vec![profile.frame(Frame::marker("unknown"))].into(),
            RawFrame::Cut(_) => named[index] = vec![profile.frame(Frame::marker("truncated"))].into(),
            RawFrame::WokenBy | RawFrame::Waker(_) | RawFrame::WakerUnknown => {
                named[index] = vec![profile.frame(waker::frame(frame))].into();
            }
            native => match native.of_lua() {
                RawFrame::File { executable, vaddr } => {
                    files.entry(*executable).or_default().push((index, *vaddr))
                }
                RawFrame::Memory { process, addr, .. } => {
                    generated.entry(*process).or_default().push((index, *addr));
                }
                _ => named[index] = vec![profile.frame(Frame::marker("unknown"))].into(),
            },
        }
    }
    name_kernel(&kernel, &mut namer.symbolizer, profile, &mut named);
    let has_names = matches!(namer.symbolizer.kernel_status(), KernelSymbols::Available);
    for (index, frame) in raw.iter().enumerate() {
        if matches!(frame, RawFrame::KernelTracing(_)) && has_names && is_tracing(profile, &named[index]) {
            named[index] = Named::default();
        }
    }
    for (id, places) in files {
        if let Some(file) = recorded.file(id) {
            name_file((id, file), &places, &lua_names, namer, profile, &mut named);
        }
    }
    for (process, places) in generated {
        let addrs: Vec<u64> = places.iter().map(|&(_, addr)| addr).collect();
        let symbols = match recorded.perf_map(process) {
            Some(map) => namer.symbolizer.perf_map(map, &addrs),
            None => vec![None; addrs.len()],
        };
        for (&(index, _), symbol) in places.iter().zip(symbols) {
            let frame = match (symbol, raw[index].of_lua()) {
                (Some(symbol), _) => native(&symbol, None),
                (None, RawFrame::Memory { name, offset, .. }) => unnamed_memory(name, *offset, profile),
                (None, _) => Frame::marker("unknown"),
            };
            named[index] = vec![profile.frame(frame)].into();
        }
    }
    named
}

/// Kernel code of which nothing is known.
const UNNAMED_KERNEL: &str = "[kernel]";

fn name_kernel(
    places: &[(usize, u64)],
    symbolizer: &mut Symbolizer,
    profile: &mut Profile,
    named: &mut [Named],
) {
    if places.is_empty() {
        return;
    }
    let addrs: Vec<u64> = places.iter().map(|&(_, addr)| addr).collect();
    for (&(index, _), symbol) in places.iter().zip(symbolizer.kernel(&addrs)) {
        let frame = match symbol {
            Some(symbol) => {
                let module = symbol
                    .module
                    .as_ref()
                    .map(|name| profile.module(Module::new(format!("[{name}]"))));
                Frame {
                    kind: FrameKind::Kernel,
                    module,
                    ..native(&symbol, None)
                }
            }
            None => Frame::named(FrameKind::Kernel, UNNAMED_KERNEL),
        };
        named[index] = vec![profile.frame(frame)].into();
    }
}

/// Is this frame one of the kernel's way from a tracepoint to our program? That has no name any more when it was
/// unloaded meanwhile, as only it can be.
fn is_tracing(profile: &Profile, named: &Named) -> bool {
    const TRACING: [&str; 5] = [
        "bpf_prog_",
        "bpf_trace_run",
        "__bpf_trace_",
        "__traceiter_",
        UNNAMED_KERNEL,
    ];
    named.frames.iter().any(|&frame| {
        let function = profile.frame_of(frame).function.as_deref().unwrap_or_default();
        TRACING.iter().any(|beginning| function.starts_with(beginning))
    })
}

/// Why all kernel frames are `[kernel]`, if they are.
fn no_kernel_names(symbolizer: &Symbolizer) -> Option<String> {
    match symbolizer.kernel_status() {
        KernelSymbols::Available => None,
        KernelSymbols::Restricted { reason, remedy } => {
            Some(format!("kernel functions have no names: {reason}; {remedy}"))
        }
        KernelSymbols::Missing => {
            Some("kernel functions have no names: /proc/kallsyms is not there or empty".to_owned())
        }
    }
}

fn name_file(
    (id, file): (ExecutableId, &Executable),
    places: &[(usize, u64)],
    lua_names: &HashMap<usize, Arc<str>>,
    namer: &mut Namer,
    profile: &mut Profile,
    named: &mut [Named],
) {
    let module = profile.module(Module {
        path: file.path().to_string_lossy().into_owned(),
        build_id: file.build_id().map(ToString::to_string),
    });
    let vaddrs: Vec<u64> = places.iter().map(|&(_, vaddr)| vaddr).collect();
    let symbols = namer.symbolizer.native(file, &vaddrs);
    let has_lines = namer.symbolizer.options().lines;
    for (&(index, vaddr), symbols) in places.iter().zip(symbols) {
        let mut starts_at = symbols.last().and_then(|symbol| symbol.start);
        let mut has_name = !symbols.is_empty();
        let frames = if symbols.is_empty() {
            let function = namer.without_symbol(file, vaddr);
            starts_at = function.as_ref().map(|function| function.start);
            let name = function.and_then(|function| function.name);
            has_name = name.is_some() || lua_names.contains_key(&index);
            let frame = Frame {
                module: Some(module),
                offset: Some(starts_at.unwrap_or(vaddr)),
                function: lua_names.get(&index).cloned().or(name.map(Arc::from)),
                ..Frame::unknown(FrameKind::Native)
            };
            vec![profile.frame(frame)]
        } else {
            symbols
                .iter()
                .map(|symbol| {
                    let frame = native(symbol, Some(module));
                    // where lines are told apart so are addresses
                    let exact = (has_lines && !symbol.inlined).then_some(vaddr);
                    profile.frame(Frame {
                        offset: exact.or(frame.offset),
                        ..frame
                    })
                })
                .collect()
        };
        named[index] = Named {
            frames,
            start: starts_at.map(|start| (id, start)),
            has_name,
        };
    }
}

fn lua(function: &LuaFunction, line: u32, code: LuaCode) -> Frame {
    let kind = match (function.is_builtin, code) {
        (true, _) => FrameKind::LuaBuiltin,
        (false, LuaCode::Interpreted) => FrameKind::LuaInterpreted,
        (false, LuaCode::Compiled) => FrameKind::LuaCompiled,
    };
    let known = |line: u32| (line > 0).then_some(line);
    Frame {
        function: function.name.clone(),
        file: (!function.is_builtin).then(|| Arc::clone(&function.file)),
        line: known(line),
        defined_at: known(function.line_defined),
        ..Frame::unknown(kind)
    }
}

fn native(symbol: &Symbol, module: Option<ModuleId>) -> Frame {
    Frame {
        function: Some(Arc::clone(&symbol.function)),
        file: symbol.file.clone(),
        line: symbol.line,
        module,
        offset: symbol.start,
        inlined: symbol.inlined,
        ..Frame::unknown(FrameKind::Native)
    }
}

/// Executable memory that no file and no perf map explains: `[anon]`, or `[name+0x1234]`. Of generated code an address says
/// nothing, and is another one in each process: all of it is one frame.
fn unnamed_memory(name: &str, offset: u64, profile: &mut Profile) -> Frame {
    if name.starts_with('[') {
        return Frame::named(FrameKind::Native, name);
    }
    if name.starts_with("memfd:") {
        return Frame::named(FrameKind::Native, format!("[{name}]"));
    }
    let module = profile.module(Module::new(name));
    Frame {
        module: Some(module),
        offset: Some(offset),
        ..Frame::unknown(FrameKind::Native)
    }
}

fn text(comm: &[u8; 16]) -> String {
    let len = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..len]).into_owned()
}
