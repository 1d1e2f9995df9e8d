//! The text form of Stack_Analyzer, for its exporter and for scripts that read it.
//!
//! One block for each thing that was measured: `time:`, then tables of counts, traces and threads, then
//! `OK`. The sources of the form: `StackCollector::operator std::string` (eBPFStackCollector.cpp) and
//! `CollectProfiles` (exporter/main.go) of lmp's Stack_Analyser 2.0, which finds a block by the colour of
//! its first line and cuts names at the first blank.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use crate::error::WriteError;
use crate::folded::escape;
use crate::frame::{FrameId, FrameKind};
use crate::labels::{LabelSet, LabelValue};
use crate::meta::ValueType;
use crate::profile::{Profile, Sample, StackId};
use crate::time::Utc;

const RED: &str = "\x1b[1;35m";
const BLUE: &str = "\x1b[1;34m";
const GREEN: &str = "\x1b[1;32m";
const PLAIN: &str = "\x1b[0m";

/// What stands for a stack that is not there: `EFAULT`, as `bpf_get_stackid` gives it.
const NO_STACK: i64 = -14;

/// What Stack_Analyzer calls the values that it has too, those of one block together.
const BLOCKS: [&[(&str, &str)]; 8] = [
    &[("cpu", "OnCPUTime")],
    &[("offcpu", "OffCPUTime")],
    &[("inuse_space", "LeakedSize"), ("inuse_objects", "LeakedCount")],
    // it has none of this
    &[("alloc_space", "alloc_space"), ("alloc_objects", "alloc_objects")],
    &[("io_bytes", "IOSize"), ("io_ops", "IOCount")],
    &[
        ("readahead_evicted", "UnusedReadaheadBytes"),
        ("readahead_used", "UsedReadaheadBytes"),
    ],
    &[
        ("cache-misses", "LLCMisses"),
        ("cache-references", "LLCReferences"),
    ],
    &[("probe_time", "ProbeTime"), ("probe_calls", "ProbeCount")],
];

/// Values that say only how often a stack was taken, where another one says what was measured.
const NUMBERS_OF_SAMPLES: [&str; 2] = ["samples", "switches"];

/// A value of the profile under a name of Stack_Analyzer's kind: letters, digits, `_`.
struct Scale {
    value: usize,
    name: String,
    unit: String,
}

/// Writes one block for each thing that was measured.
pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> Result<(), WriteError> {
    for block in blocks(profile.value_types()) {
        write_block(profile, &block, out)?;
    }
    Ok(())
}

fn blocks(values: &[ValueType]) -> Vec<Vec<Scale>> {
    let mut blocks = Vec::new();
    let mut is_known = vec![false; values.len()];
    for names in BLOCKS {
        let mut block = Vec::new();
        for (kind, name) in names {
            if let Some(value) = values.iter().position(|value| value.kind == *kind) {
                is_known[value] = true;
                block.push(scale(value, name, &values[value]));
            }
        }
        if !block.is_empty() {
            blocks.push(block);
        }
    }
    let are_more = values.len() > 1;
    for (value, of) in values.iter().enumerate() {
        let says_nothing = are_more && NUMBERS_OF_SAMPLES.contains(&of.kind.as_str());
        if !is_known[value] && !says_nothing {
            blocks.push(vec![scale(value, &of.kind, of)]);
        }
    }
    blocks
}

fn scale(value: usize, name: &str, of: &ValueType) -> Scale {
    let only = |text: &str, digits: bool| -> String {
        let keep = |c: char| c.is_ascii_alphabetic() || (digits && (c.is_ascii_digit() || c == '_'));
        text.chars().map(|c| if keep(c) { c } else { '_' }).collect()
    };
    Scale {
        value,
        name: only(name, true),
        unit: only(&of.unit, false).replace('_', ""),
    }
}

/// Who a sample is of, and its two stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    tid: i64,
    user: i64,
    kernel: i64,
}

fn write_block(profile: &Profile, scales: &[Scale], out: &mut dyn Write) -> Result<(), WriteError> {
    let mut traces = Traces::new(profile);
    let mut sums: HashMap<Key, Vec<i64>> = HashMap::new();
    let mut threads: BTreeMap<i64, &LabelSet> = BTreeMap::new();
    for sample in profile.samples() {
        let values: Vec<i64> = scales.iter().map(|scale| value_of(&sample, scale)).collect();
        if values.iter().all(|value| *value == 0) {
            continue;
        }
        let labels = profile.labels_of(sample.labels);
        let (user, kernel) = traces.of(profile, sample.stack);
        let tid = number(labels, "tid").unwrap_or(0);
        threads.entry(tid).or_insert(labels);
        let sum = sums
            .entry(Key { tid, user, kernel })
            .or_insert_with(|| vec![0; scales.len()]);
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum = sum.saturating_add(value);
        }
    }
    writeln!(out, "{RED}time:{}{PLAIN}", time(profile))?;
    writeln!(out, "{BLUE}counts:{PLAIN}")?;
    write!(out, "{GREEN}pid\tusid\tksid")?;
    for Scale { name, unit, .. } in scales {
        write!(out, "\t{name}/1{unit}")?;
    }
    writeln!(out, "{PLAIN}")?;
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(a, av), (b, bv)| (av.first(), a).cmp(&(bv.first(), b)));
    for (key, values) in sums {
        write!(out, "{}\t{}\t{}", key.tid, key.user, key.kernel)?;
        for value in values {
            write!(out, "\t{value}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{BLUE}traces:{PLAIN}")?;
    writeln!(out, "{GREEN}sid\ttrace{PLAIN}")?;
    traces.write(out)?;
    writeln!(out, "{BLUE}info:{PLAIN}")?;
    writeln!(out, "{GREEN}pid\tNSpid\tcomm\ttgid\tcgroup\t{PLAIN}")?;
    for (tid, labels) in threads {
        let pid = number(labels, "pid").unwrap_or(tid);
        let inside = number(labels, "ns-pid").unwrap_or(pid);
        let comm = if labels.get("thread").is_some() {
            "thread"
        } else {
            "comm"
        };
        let (comm, cgroup) = (word(labels, comm), word(labels, "cgroup"));
        writeln!(out, "{tid}\t{inside}\t{comm}\t{pid}\t{cgroup}")?;
    }
    writeln!(out, "{BLUE}OK{PLAIN}")?;
    Ok(())
}

/// Its exporter reads numbers without a sign; only differences are below 0.
fn value_of(sample: &Sample<'_>, scale: &Scale) -> i64 {
    sample.values.get(scale.value).copied().unwrap_or(0).max(0)
}

fn number(labels: &LabelSet, key: &str) -> Option<i64> {
    match labels.get(key)? {
        LabelValue::Number(number) => Some(*number),
        LabelValue::Text(text) => text.parse().ok(),
    }
}

/// A label as one field of a line.
fn word(labels: &LabelSet, key: &str) -> String {
    let text = labels.get(key).map(ToString::to_string).unwrap_or_default();
    if text.is_empty() {
        return "-".to_owned();
    }
    without_blanks(&text)
}

/// No character that ends a field, a line or a frame.
fn without_blanks(text: &str) -> String {
    escape(text).replace(' ', "")
}

/// The end of the recording, as its blocks have the time at which they were made; in UTC, as machines differ.
fn time(profile: &Profile) -> String {
    let end = profile.meta.start.unwrap_or(0) + profile.meta.duration.unwrap_or(0);
    let Utc {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Utc::from_nanos(end);
    format!("{year:04}{month:02}{day:02}_{hour:02}_{minute:02}_{second:02}")
}

/// Traces that were met, each once. Their numbers count from 1.
struct Traces {
    /// Frames with the same text have the same name.
    names: Vec<String>,
    of_frames: Vec<usize>,
    traces: Vec<Vec<usize>>,
    numbers: HashMap<Vec<usize>, i64>,
    of_stacks: HashMap<StackId, (i64, i64)>,
}

impl Traces {
    fn new(profile: &Profile) -> Self {
        let mut names = Vec::new();
        let mut known = HashMap::new();
        let frames = (0..profile.frames().len()).map(|nr| profile.text_of(FrameId(nr as u32)).to_string());
        let of_frames = frames
            .map(|text| {
                let name = without_blanks(text.strip_suffix("_[k]").unwrap_or(&text));
                *known.entry(name).or_insert_with_key(|name| {
                    names.push(name.clone());
                    names.len() - 1
                })
            })
            .collect();
        Self {
            names,
            of_frames,
            traces: Vec::new(),
            numbers: HashMap::new(),
            of_stacks: HashMap::new(),
        }
    }

    /// The numbers of the user's and the kernel's part.
    fn of(&mut self, profile: &Profile, stack: Option<StackId>) -> (i64, i64) {
        let Some(stack) = stack else {
            return (NO_STACK, NO_STACK);
        };
        if let Some(&numbers) = self.of_stacks.get(&stack) {
            return numbers;
        }
        let frames = profile.root_to_leaf(Some(stack));
        let is_kernel = |frame: &FrameId| profile.frame_of(*frame).kind == FrameKind::Kernel;
        let (kernel, user): (Vec<_>, Vec<_>) = frames.into_iter().partition(is_kernel);
        let numbers = (self.number(&user), self.number(&kernel));
        self.of_stacks.insert(stack, numbers);
        numbers
    }

    fn number(&mut self, frames: &[FrameId]) -> i64 {
        if frames.is_empty() {
            return NO_STACK;
        }
        let trace: Vec<_> = frames.iter().map(|frame| self.of_frames[frame.index()]).collect();
        if let Some(&number) = self.numbers.get(&trace) {
            return number;
        }
        self.traces.push(trace.clone());
        let number = i64::try_from(self.traces.len()).unwrap_or(i64::MAX);
        self.numbers.insert(trace, number);
        number
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut line = String::new();
        for (number, trace) in self.traces.iter().enumerate() {
            line.clear();
            for name in trace {
                line.push_str(&self.names[*name]);
                line.push(';');
            }
            writeln!(out, "{}\t{line}", number + 1)?;
        }
        Ok(())
    }
}
