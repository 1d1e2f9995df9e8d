//! Reads our JSON. Lists are bounded while they are read, and every reference is checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{FORMAT, VERSION};
use crate::accounting::Accounting;
use crate::error::ReadError;
use crate::frame::{Frame, FrameId, FrameKind, Module, ModuleId};
use crate::labels::{LabelSet, LabelValue, LabelsId};
use crate::limits;
use crate::meta::{Meta, ValueType};
use crate::profile::{Profile, StackId};

/// What every version has.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    format: Cow<'a, str>,
    #[serde(default)]
    version: u64,
}

#[derive(Deserialize)]
struct FileIn<'a> {
    #[serde(default)]
    meta: MetaIn,
    #[serde(default)]
    accounting: AccountingIn,
    value_types: List<ValueTypeIn, { limits::MAX_VALUES }>,
    #[serde(default)]
    modules: List<ModuleIn, { limits::MAX_MODULES }>,
    #[serde(borrow)]
    frames: List<FrameIn<'a>, { limits::MAX_FRAMES }>,
    stacks: List<(Option<u32>, u32), { limits::MAX_STACKS }>,
    #[serde(borrow, default)]
    labels: List<List<(Cow<'a, str>, LabelIn<'a>), { limits::MAX_LABELS }>, { limits::MAX_LABEL_SETS }>,
    samples: List<(Option<u32>, u32, List<i64, { limits::MAX_VALUES }>), { limits::MAX_SAMPLES }>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaIn {
    start_unix_ns: Option<u64>,
    duration_ns: Option<u64>,
    period: Option<PeriodIn>,
    event: String,
    frequency_hz: Option<u64>,
    target: String,
    host: String,
    kernel: String,
    producer: String,
    comments: List<String, { limits::MAX_LIST }>,
}

#[derive(Deserialize)]
struct PeriodIn {
    kind: String,
    unit: String,
    value: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AccountingIn {
    fired: u64,
    idle: u64,
    filtered: u64,
    complete: u64,
    truncated: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct ValueTypeIn {
    kind: String,
    unit: String,
}

#[derive(Deserialize)]
struct ModuleIn {
    path: String,
    #[serde(default)]
    build_id: Option<String>,
}

#[derive(Deserialize)]
struct FrameIn<'a> {
    #[serde(deserialize_with = "kind")]
    kind: FrameKind,
    #[serde(borrow, default)]
    function: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    file: Option<Cow<'a, str>>,
    #[serde(default)]
    line: Option<u32>,
    #[serde(default)]
    defined_at: Option<u32>,
    #[serde(default)]
    module: Option<u32>,
    #[serde(default, deserialize_with = "hexadecimal")]
    offset: Option<u64>,
    #[serde(default)]
    inlined: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LabelIn<'a> {
    Number(i64),
    Text(#[serde(borrow)] Cow<'a, str>),
}

fn kind<'de, D: Deserializer<'de>>(input: D) -> Result<FrameKind, D::Error> {
    let name = Cow::<str>::deserialize(input)?;
    FrameKind::from_name(&name)
        .ok_or_else(|| D::Error::custom(format_args!("unknown kind of frame {name:?}")))
}

fn hexadecimal<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let Some(text) = Option::<Cow<'_, str>>::deserialize(input)? else {
        return Ok(None);
    };
    text.strip_prefix("0x")
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .map(Some)
        .ok_or_else(|| D::Error::custom("an offset is text such as \"0x1f40\""))
}

/// A list that is refused when it gets longer than `MAX`.
struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(A::Error::custom(format_args!(
                            "a list with more than {MAX} items"
                        )));
                    }
                    items.push(item);
                }
                Ok(List(items))
            }
        }

        input.deserialize_seq(Items(PhantomData))
    }
}

/// Reads a profile.
pub(crate) fn read(content: &[u8]) -> Result<Profile, ReadError> {
    let head: Head<'_> = serde_json::from_slice(content).map_err(error)?;
    if head.format != FORMAT {
        let what = format!("not a moonscope profile: \"format\" is not \"{FORMAT}\"");
        return Err(ReadError::Json {
            line: 1,
            column: 1,
            what,
        });
    }
    if head.version != VERSION {
        return Err(ReadError::Version {
            found: head.version,
            known: VERSION,
        });
    }
    build(serde_json::from_slice(content).map_err(error)?)
}

fn error(err: serde_json::Error) -> ReadError {
    let what = err.to_string();
    // serde_json appends the place, which we keep apart.
    let what = what.split(" at line ").next().unwrap_or_default().to_owned();
    ReadError::Json {
        line: err.line(),
        column: err.column(),
        what,
    }
}

fn build(file: FileIn<'_>) -> Result<Profile, ReadError> {
    let value_types = file.value_types.0;
    let mut profile = Profile::new(
        value_types
            .into_iter()
            .map(|value| ValueType::new(value.kind, value.unit))
            .collect(),
    );
    profile.meta = meta(file.meta);
    let accounting = file.accounting;
    profile.accounting = Accounting {
        fired: accounting.fired,
        idle: accounting.idle,
        filtered: accounting.filtered,
        complete: accounting.complete,
        truncated: accounting.truncated,
        lost: accounting.lost,
    };
    let modules: Vec<ModuleId> = file
        .modules
        .0
        .into_iter()
        .map(|module| {
            profile.module(Module {
                path: module.path,
                build_id: module.build_id,
            })
        })
        .collect();
    let frames = frames(&mut profile, file.frames.0, &modules)?;
    let stacks = stacks(&mut profile, &file.stacks.0, &frames)?;
    let labels: Vec<LabelsId> = file
        .labels
        .0
        .into_iter()
        .map(|set| {
            let set = set.0.into_iter().map(|(key, value)| {
                let value = match value {
                    LabelIn::Number(number) => LabelValue::Number(number),
                    LabelIn::Text(text) => LabelValue::Text(profile.string(&text)),
                };
                (profile.string(&key), value)
            });
            let set = LabelSet::new(set.collect());
            profile.label_set(set)
        })
        .collect();
    for (index, (stack, label_set, values)) in file.samples.0.into_iter().enumerate() {
        let wrong = |what| ReadError::Inconsistent {
            list: "samples",
            index,
            what,
        };
        let stack = match stack {
            Some(nr) => Some(at(&stacks, nr).ok_or_else(|| wrong("there is no such stack"))?),
            None => None,
        };
        let label_set = at(&labels, label_set).ok_or_else(|| wrong("there is no such set of labels"))?;
        if values.0.len() != profile.value_types().len() {
            return Err(wrong("there is not one value for each of value_types"));
        }
        profile.add(stack, label_set, &values.0);
    }
    Ok(profile)
}

fn at<T: Copy>(items: &[T], nr: u32) -> Option<T> {
    items.get(nr as usize).copied()
}

fn meta(meta: MetaIn) -> Meta {
    Meta {
        start: meta.start_unix_ns,
        duration: meta.duration_ns,
        period: meta
            .period
            .map(|period| (ValueType::new(period.kind, period.unit), period.value)),
        event: meta.event,
        frequency_hz: meta.frequency_hz,
        target: meta.target,
        host: meta.host,
        kernel: meta.kernel,
        producer: meta.producer,
        comments: meta.comments.0,
    }
}

fn frames(
    profile: &mut Profile,
    frames: Vec<FrameIn<'_>>,
    modules: &[ModuleId],
) -> Result<Vec<FrameId>, ReadError> {
    let mut ids = Vec::with_capacity(frames.len());
    for (index, frame) in frames.into_iter().enumerate() {
        let wrong = |what| ReadError::Inconsistent {
            list: "frames",
            index,
            what,
        };
        let module = match frame.module {
            Some(nr) => Some(at(modules, nr).ok_or_else(|| wrong("there is no such module"))?),
            None => None,
        };
        let frame = Frame {
            kind: frame.kind,
            function: frame.function.map(|text| profile.string(&text)),
            file: frame.file.map(|text| profile.string(&text)),
            line: frame.line,
            defined_at: frame.defined_at,
            module,
            offset: frame.offset,
            inlined: frame.inlined,
        };
        ids.push(profile.frame(frame));
    }
    Ok(ids)
}

fn stacks(
    profile: &mut Profile,
    nodes: &[(Option<u32>, u32)],
    frames: &[FrameId],
) -> Result<Vec<StackId>, ReadError> {
    let mut ids: Vec<StackId> = Vec::with_capacity(nodes.len());
    for (index, &(parent, frame)) in nodes.iter().enumerate() {
        let wrong = |what| ReadError::Inconsistent {
            list: "stacks",
            index,
            what,
        };
        let parent = match parent {
            Some(nr) => Some(at(&ids, nr).ok_or_else(|| wrong("its parent does not stand before it"))?),
            None => None,
        };
        let frame = at(frames, frame).ok_or_else(|| wrong("there is no such frame"))?;
        let id = profile.child(parent, frame);
        if profile.node(id).depth as usize > limits::MAX_DEPTH {
            return Err(ReadError::too_large("frames in one stack", limits::MAX_DEPTH));
        }
        ids.push(id);
    }
    Ok(ids)
}
