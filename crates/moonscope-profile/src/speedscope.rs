//! For <https://www.speedscope.app>: one profile for each thread, and one of everything first.
//!
//! The form is speedscope's file-format-schema.json, "sampled" profiles. The order of the samples is
//! that of their names, since a [`Profile`] holds sums and not moments.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};

use serde::Serialize;

use crate::error::WriteError;
use crate::frame::FrameId;
use crate::headline::subject;
use crate::json::to_writer;
use crate::labels::LabelSet;
use crate::meta::ValueType;
use crate::options::{Grouping, WriteOptions};
use crate::profile::{Profile, Sample};
use crate::text::visible;
use crate::view::{check_spelled_out, frame_name};

/// With more threads than this the profiles are of processes, then of commands: a menu has to stay
/// readable, and each stack is written once more.
const MAX_PROFILES: usize = 200;

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: String,
    exporter: &'a str,
    #[serde(rename = "activeProfileIndex")]
    active: usize,
    shared: Shared<'a>,
    profiles: Vec<Sampled>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<FrameOut<'a>>,
}

/// The viewer takes two entries for two functions, also when they read the same.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
struct FrameOut<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
struct Sampled {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    #[serde(rename = "startValue")]
    start: u64,
    #[serde(rename = "endValue")]
    end: u64,
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

/// Writes the profile.
pub(crate) fn write(
    profile: &Profile,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    let value = options.value_of(profile)?;
    check_spelled_out(profile)?;
    let unit = profile.value_types().get(value).map_or("none", unit);
    let mut frames: Vec<FrameOut<'_>> = Vec::new();
    let mut places = HashMap::new();
    let place: Vec<usize> = (0..profile.frames().len())
        .map(|nr| {
            let id = FrameId(nr as u32);
            let frame = profile.frame_of(id);
            let name = frame_name(profile, id, false).text;
            let shown = FrameOut {
                name: visible(&name).into_owned(),
                file: frame.file.as_deref(),
                line: frame.shown_line(),
            };
            *places.entry(shown).or_insert_with_key(|shown| {
                frames.push(shown.clone());
                frames.len() - 1
            })
        })
        .collect();
    let roots = roots(profile, &options.group, &mut frames);

    let mut everything = Vec::new();
    for sample in profile.samples() {
        if let Some(weight @ 1..) = sample
            .values
            .get(value)
            .and_then(|value| u64::try_from(*value).ok())
        {
            everything.push((sample, weight));
        }
    }
    let stack = |sample: &Sample<'_>, root: Option<usize>| -> Vec<usize> {
        let frames = profile.root_to_leaf(sample.stack);
        root.into_iter()
            .chain(frames.into_iter().map(|frame| place[frame.index()]))
            .collect()
    };
    let with_roots = everything
        .iter()
        .map(|(sample, weight)| (stack(sample, roots[sample.labels.index()]), *weight));
    let mut profiles = vec![sampled("everything".to_owned(), unit, with_roots.collect())];
    let threads = threads(profile, &everything);
    if threads.len() > 1 {
        let mut each: Vec<_> = threads
            .into_iter()
            .map(|(name, samples)| {
                let samples = samples
                    .into_iter()
                    .map(|(sample, weight)| (stack(&sample, None), weight));
                sampled(name, unit, samples.collect())
            })
            .collect();
        each.sort_by_key(|thread| std::cmp::Reverse(thread.end));
        profiles.extend(each);
    }
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        name: options.title.clone().unwrap_or_else(|| subject(profile)),
        exporter: &profile.meta.producer,
        active: 0,
        shared: Shared { frames },
        profiles,
    };
    let mut out = BufWriter::new(out);
    to_writer(&mut out, &file)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// The units that speedscope knows.
fn unit(value: &ValueType) -> &'static str {
    match value.unit.as_str() {
        "nanoseconds" => "nanoseconds",
        "microseconds" => "microseconds",
        "milliseconds" => "milliseconds",
        "seconds" => "seconds",
        "bytes" => "bytes",
        _ => "none",
    }
}

/// The outermost frame of each label set, as a place in `frames`.
fn roots(profile: &Profile, group: &Grouping, frames: &mut Vec<FrameOut<'_>>) -> Vec<Option<usize>> {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let root = |labels| {
        let name = group.root(labels)?;
        let next = frames.len();
        Some(*known.entry(name).or_insert_with_key(|name| {
            frames.push(FrameOut {
                name: visible(name).into_owned(),
                file: None,
                line: None,
            });
            next
        }))
    };
    profile.label_sets().iter().map(root).collect()
}

type Weighted<'a> = Vec<(Sample<'a>, u64)>;

/// Samples by thread, or by something coarser when there are too many threads.
fn threads<'a>(profile: &Profile, samples: &Weighted<'a>) -> BTreeMap<String, Weighted<'a>> {
    let mut by_name = BTreeMap::new();
    for keys in [&["comm", "pid", "tid"][..], &["comm", "pid"], &["comm"]] {
        by_name = BTreeMap::new();
        let names: Vec<_> = profile
            .label_sets()
            .iter()
            .map(|labels| thread_name(labels, keys))
            .collect();
        for sample in samples {
            let name = names[sample.0.labels.index()].clone();
            by_name.entry(name).or_insert_with(Vec::new).push(*sample);
        }
        if by_name.len() <= MAX_PROFILES {
            return by_name;
        }
    }
    let mut largest: Vec<_> = by_name.into_iter().collect();
    largest.sort_by_key(|(_, samples)| {
        std::cmp::Reverse(
            samples
                .iter()
                .map(|(_, weight)| u128::from(*weight))
                .sum::<u128>(),
        )
    });
    largest.truncate(MAX_PROFILES);
    largest.into_iter().collect()
}

/// `nginx, pid 4321, tid 4325`.
fn thread_name(labels: &LabelSet, keys: &[&str]) -> String {
    let parts: Vec<_> = keys
        .iter()
        .filter_map(|key| {
            let value = labels.get(key)?;
            Some(if *key == "comm" {
                value.to_string()
            } else {
                format!("{key} {value}")
            })
        })
        .collect();
    if parts.is_empty() {
        "unknown".to_owned()
    } else {
        visible(&parts.join(", ")).into_owned()
    }
}

fn sampled(name: String, unit: &'static str, mut stacks: Vec<(Vec<usize>, u64)>) -> Sampled {
    stacks.sort_unstable();
    stacks.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        same
    });
    let end = stacks
        .iter()
        .fold(0u64, |sum, (_, weight)| sum.saturating_add(*weight));
    let (samples, weights) = stacks.into_iter().unzip();
    Sampled {
        kind: "sampled",
        name,
        unit,
        start: 0,
        end,
        samples,
        weights,
    }
}
