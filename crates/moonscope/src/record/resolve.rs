//! Raw stacks to a profile: names for every frame, then samples.

use std::collections::BTreeMap;
use std::sync::Arc;

use moonscope_probe::{ExecutableId, RawFrame, RawStackId, Recorded};
use moonscope_process::Executable;
use moonscope_profile::{
    Frame, FrameId, FrameKind, LabelValue, Module, ModuleId, Profile, StackId, ValueType,
};
use moonscope_symbols::{KernelSymbols, Symbol, Symbolizer};
use moonscope_unwind::{RuleSet, Table};

use super::report::Recording;

/// Frames that stand for one raw frame, outermost first: more than one where functions were inlined.
type Frames = Vec<FrameId>;

/// The profile of a finished recording.
pub fn resolve(recorded: &Recorded, symbolizer: &mut Symbolizer, recording: &Recording) -> Profile {
    let mut profile = Profile::new(vec![ValueType::samples(), ValueType::cpu()]);
    let frames = name_frames(recorded, symbolizer, &mut profile);

    // a parent stands before its children
    let mut stacks: Vec<Option<StackId>> = Vec::with_capacity(recorded.stacks.nodes().len());
    for &(parent, frame) in recorded.stacks.nodes() {
        let mut stack = parent.and_then(|RawStackId(id)| stacks[id as usize]);
        for &frame in &frames[frame as usize] {
            stack = Some(profile.child(stack, frame));
        }
        stacks.push(stack);
    }
    let period = recording.period();
    for (RawStackId(stack), thread, count) in recorded.stacks.counts() {
        let name = text(&thread.comm);
        let process = thread.process.and_then(|id| recorded.process(id));
        let comm = process.map_or(name.as_str(), |process| &process.comm);
        let labels = profile.labels(&[
            ("comm", LabelValue::from(comm)),
            ("pid", LabelValue::from(thread.pid)),
            ("thread", LabelValue::from(name.as_str())),
            ("tid", LabelValue::from(thread.tid)),
        ]);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        profile.add(
            stacks[stack as usize],
            labels,
            &[count, count.saturating_mul(period)],
        );
    }
    recording.describe(&mut profile);
    let kernel_frames = recorded.stacks.frames().iter();
    if kernel_frames
        .clone()
        .any(|frame| matches!(frame, RawFrame::Kernel(_)))
    {
        profile.meta.comments.extend(no_kernel_names(symbolizer));
    }
    profile
}

fn name_frames(recorded: &Recorded, symbolizer: &mut Symbolizer, profile: &mut Profile) -> Vec<Frames> {
    let raw = recorded.stacks.frames();
    let mut named: Vec<Frames> = vec![Vec::new(); raw.len()];
    let mut kernel = Vec::new();
    let mut files: BTreeMap<ExecutableId, Vec<(usize, u64)>> = BTreeMap::new();
    let mut generated: BTreeMap<u32, Vec<(usize, u64)>> = BTreeMap::new();
    for (index, frame) in raw.iter().enumerate() {
        match frame {
            RawFrame::Kernel(addr) => kernel.push((index, *addr)),
            RawFrame::File { executable, vaddr } => {
                files.entry(*executable).or_default().push((index, *vaddr))
            }
            RawFrame::Memory { process, addr, .. } => {
                if let Some(process) = recorded.process(*process) {
                    generated.entry(process.pid).or_default().push((index, *addr));
                }
            }
            RawFrame::Unknown => named[index] = vec![profile.frame(Frame::marker("unknown"))],
            RawFrame::Cut(_) => named[index] = vec![profile.frame(Frame::marker("truncated"))],
        }
    }
    name_kernel(&kernel, symbolizer, profile, &mut named);
    for (id, places) in files {
        if let Some(file) = recorded.file(id) {
            name_file(file, &places, symbolizer, profile, &mut named);
        }
    }
    for (pid, places) in generated {
        let addrs: Vec<u64> = places.iter().map(|&(_, addr)| addr).collect();
        let symbols = symbolizer.perf_map(pid, &addrs);
        for (&(index, _), symbol) in places.iter().zip(symbols) {
            let frame = match (symbol, &raw[index]) {
                (Some(symbol), _) => native(&symbol, None),
                (None, RawFrame::Memory { name, offset, .. }) => unnamed_memory(name, *offset, profile),
                (None, _) => Frame::marker("unknown"),
            };
            named[index] = vec![profile.frame(frame)];
        }
    }
    named
}

fn name_kernel(
    places: &[(usize, u64)],
    symbolizer: &mut Symbolizer,
    profile: &mut Profile,
    named: &mut [Frames],
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
            None => Frame::named(FrameKind::Kernel, "[kernel]"),
        };
        named[index] = vec![profile.frame(frame)];
    }
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
    file: &Executable,
    places: &[(usize, u64)],
    symbolizer: &mut Symbolizer,
    profile: &mut Profile,
    named: &mut [Frames],
) {
    let module = profile.module(Module {
        path: file.path().to_string_lossy().into_owned(),
        build_id: file.build_id().map(ToString::to_string),
    });
    let vaddrs: Vec<u64> = places.iter().map(|&(_, vaddr)| vaddr).collect();
    let symbols = symbolizer.native(file, &vaddrs);
    // only where names are missing: it reads the unwind information once more
    let mut functions = None;
    for (&(index, vaddr), symbols) in places.iter().zip(symbols) {
        named[index] = if symbols.is_empty() {
            let functions = functions.get_or_insert_with(|| unwind_functions(file));
            let start = functions
                .as_ref()
                .and_then(|table| table.function_at(vaddr))
                .map(|range| range.start);
            let frame = Frame {
                module: Some(module),
                offset: Some(start.unwrap_or(vaddr)),
                ..Frame::unknown(FrameKind::Native)
            };
            vec![profile.frame(frame)]
        } else {
            symbols
                .iter()
                .map(|symbol| profile.frame(native(symbol, Some(module))))
                .collect()
        };
    }
}

/// Functions without a symbol are told apart by their unwind information.
fn unwind_functions(file: &Executable) -> Option<Table> {
    let data = file.data().ok()?;
    Table::build(&data, &mut RuleSet::new()).ok().flatten()
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

/// Executable memory that no file and no perf map explains: `[anon]`, or `[name+0x1234]`.
fn unnamed_memory(name: &str, offset: u64, profile: &mut Profile) -> Frame {
    if name.starts_with('[') {
        return Frame::named(FrameKind::Native, name);
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
