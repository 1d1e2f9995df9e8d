//! Writes our JSON: one item of a list on one line, so that `grep` and `diff` are of use on it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::{FORMAT, VERSION};
use crate::error::WriteError;
use crate::frame::Frame;
use crate::labels::LabelValue;
use crate::meta::ValueType;
use crate::profile::Profile;

#[derive(Serialize)]
struct MetaOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_unix_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<PeriodOut<'a>>,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_hz: Option<u64>,
    target: &'a str,
    host: &'a str,
    kernel: &'a str,
    producer: &'a str,
    comments: &'a [String],
}

#[derive(Serialize)]
struct ValueTypeOut<'a> {
    kind: &'a str,
    unit: &'a str,
}

impl<'a> From<&'a ValueType> for ValueTypeOut<'a> {
    fn from(value: &'a ValueType) -> Self {
        Self {
            kind: &value.kind,
            unit: &value.unit,
        }
    }
}

#[derive(Serialize)]
struct PeriodOut<'a> {
    kind: &'a str,
    unit: &'a str,
    value: i64,
}

#[derive(Serialize)]
struct AccountingOut<'a> {
    fired: u64,
    idle: u64,
    filtered: u64,
    complete: u64,
    truncated: &'a BTreeMap<String, u64>,
    lost: &'a BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct ModuleOut<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<&'a str>,
}

#[derive(Serialize)]
struct FrameOut<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    defined_at: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    inlined: bool,
}

impl<'a> From<&'a Frame> for FrameOut<'a> {
    fn from(frame: &'a Frame) -> Self {
        Self {
            kind: frame.kind.name(),
            function: frame.function.as_deref(),
            file: frame.file.as_deref(),
            line: frame.line,
            defined_at: frame.defined_at,
            module: frame.module.map(|module| module.0),
            // As text, because numbers beyond 2^53 do not survive JavaScript.
            offset: frame.offset.map(|offset| format!("{offset:#x}")),
            inlined: frame.inlined,
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum LabelOut<'a> {
    Text(&'a str),
    Number(i64),
}

impl<'a> From<&'a LabelValue> for LabelOut<'a> {
    fn from(value: &'a LabelValue) -> Self {
        match value {
            LabelValue::Text(text) => Self::Text(text),
            LabelValue::Number(number) => Self::Number(*number),
        }
    }
}

/// Writes the profile with nothing left out.
pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> Result<(), WriteError> {
    let out = &mut io::BufWriter::new(out);
    let meta = &profile.meta;
    let accounting = &profile.accounting;
    write!(
        out,
        "{{\n\"format\": \"{FORMAT}\",\n\"version\": {VERSION},\n\"meta\": "
    )?;
    put(
        out,
        &MetaOut {
            start_unix_ns: meta.start,
            duration_ns: meta.duration,
            period: meta.period.as_ref().map(|(value, period)| PeriodOut {
                kind: &value.kind,
                unit: &value.unit,
                value: *period,
            }),
            event: &meta.event,
            frequency_hz: meta.frequency_hz,
            target: &meta.target,
            host: &meta.host,
            kernel: &meta.kernel,
            producer: &meta.producer,
            comments: &meta.comments,
        },
    )?;
    write!(out, ",\n\"accounting\": ")?;
    put(
        out,
        &AccountingOut {
            fired: accounting.fired,
            idle: accounting.idle,
            filtered: accounting.filtered,
            complete: accounting.complete,
            truncated: &accounting.truncated,
            lost: &accounting.lost,
        },
    )?;
    list(
        out,
        "value_types",
        profile.value_types().iter().map(ValueTypeOut::from),
    )?;
    list(
        out,
        "modules",
        profile.modules().iter().map(|module| ModuleOut {
            path: &module.path,
            build_id: module.build_id.as_deref(),
        }),
    )?;
    list(out, "frames", profile.frames().iter().map(FrameOut::from))?;
    list(
        out,
        "stacks",
        profile
            .stacks()
            .iter()
            .map(|node| (node.parent.map(|parent| parent.0), node.frame.0)),
    )?;
    list(
        out,
        "labels",
        profile.label_sets().iter().map(|labels| {
            labels
                .iter()
                .map(|(key, value)| (key, LabelOut::from(value)))
                .collect::<Vec<_>>()
        }),
    )?;
    list(
        out,
        "samples",
        profile
            .samples()
            .map(|sample| (sample.stack.map(|stack| stack.0), sample.labels.0, sample.values)),
    )?;
    out.write_all(b"\n}\n")?;
    out.flush()?;
    Ok(())
}

fn put(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    super::to_writer(out, value)
}

fn list<T: Serialize>(out: &mut dyn Write, name: &str, items: impl Iterator<Item = T>) -> io::Result<()> {
    write!(out, ",\n\"{name}\": [")?;
    for (nr, item) in items.enumerate() {
        out.write_all(if nr == 0 { b"\n" } else { b",\n" })?;
        put(out, &item)?;
    }
    out.write_all(b"\n]")
}
