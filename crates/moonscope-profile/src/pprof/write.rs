//! A profile as pprof.

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::message::{Function, Label, Line, Location, Mapping, Sample, ValueType};
use super::{KIND_SUFFIXES, comment, message};
use crate::error::WriteError;
use crate::frame::{Frame, FrameId, FrameText};
use crate::labels::LabelValue;
use crate::meta;
use crate::profile::Profile;
use crate::view::check_spelled_out;

/// Writes the profile, compressed.
pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> Result<(), WriteError> {
    check_spelled_out(profile)?;
    let bytes = Builder::new(profile).build().encode_to_vec();
    // On stacks the best ratio is only a few percent better than the fast one, at ten times the cost.
    let mut gzip = GzEncoder::new(out, Compression::new(3));
    gzip.write_all(&bytes)?;
    gzip.finish()?;
    Ok(())
}

struct Builder<'a> {
    profile: &'a Profile,
    out: message::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<Function, u64>,
    /// Locations by the frames that share one address: inlined ones and the function that was called.
    locations: HashMap<Vec<FrameId>, u64>,
}

impl<'a> Builder<'a> {
    fn new(profile: &'a Profile) -> Self {
        Self {
            profile,
            out: message::Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        }
    }

    fn build(mut self) -> message::Profile {
        // By definition the first string is the empty one.
        self.string("");
        let types = self.profile.value_types();
        self.out.sample_type = types.iter().map(|value| self.value_type(value)).collect();
        if let Some(value) = types.get(self.profile.default_value()) {
            self.out.default_sample_type = self.string(&value.kind);
        }
        self.mappings();
        let labels: Vec<_> = self
            .profile
            .label_sets()
            .iter()
            .map(|set| self.labels(set.iter()))
            .collect();
        for sample in self.profile.samples() {
            let location_id = self.stack(self.profile.leaf_to_root(sample.stack));
            let label = labels[sample.labels.index()].clone();
            self.out.sample.push(Sample {
                location_id,
                value: sample.values.to_vec(),
                label,
            });
        }
        self.circumstances();
        self.out
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&nr) = self.strings.get(text) {
            return nr;
        }
        let nr = self.out.string_table.len() as i64;
        self.out.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), nr);
        nr
    }

    fn value_type(&mut self, value: &meta::ValueType) -> ValueType {
        ValueType {
            kind: self.string(&value.kind),
            unit: self.string(&value.unit),
        }
    }

    fn labels<'b>(&mut self, labels: impl Iterator<Item = (&'b str, &'b LabelValue)>) -> Vec<Label> {
        labels
            .map(|(key, value)| {
                let (text, number) = match value {
                    LabelValue::Text(text) => (self.string(text), 0),
                    LabelValue::Number(number) => (0, *number),
                };
                Label {
                    key: self.string(key),
                    text,
                    number,
                }
            })
            .collect()
    }

    /// One mapping for each module. Addresses are virtual addresses of the ELF file, so each mapping
    /// starts at 0; ids, not addresses, say which one a location belongs to.
    fn mappings(&mut self) {
        let profile = self.profile;
        for (id, module) in (1..).zip(profile.modules()) {
            let filename = self.string(&module.path);
            let build_id = self.string(module.build_id.as_deref().unwrap_or_default());
            // A reader must not look for names itself: what has none here has none there.
            let mapping = Mapping {
                id,
                filename,
                build_id,
                has_functions: true,
                ..Mapping::default()
            };
            self.out.mapping.push(mapping);
        }
        for frame in profile.frames() {
            let Some(module) = frame.module else { continue };
            let mapping = &mut self.out.mapping[module.index()];
            let after = frame.offset.unwrap_or(0).saturating_add(1);
            mapping.memory_limit = mapping.memory_limit.max(after);
            mapping.has_filenames |= frame.file.is_some();
            mapping.has_line_numbers |= frame.line.is_some();
            mapping.has_inline_frames |= frame.inlined;
        }
    }

    /// The locations of a stack, leaf first.
    fn stack(&mut self, leaf_to_root: impl Iterator<Item = FrameId>) -> Vec<u64> {
        let mut locations = Vec::new();
        let mut shared = Vec::new();
        for frame in leaf_to_root {
            shared.push(frame);
            if !self.profile.frame_of(frame).inlined {
                locations.push(self.location(&shared));
                shared.clear();
            }
        }
        if !shared.is_empty() {
            locations.push(self.location(&shared));
        }
        locations
    }

    /// The location of frames that share one address, the innermost first.
    fn location(&mut self, frames: &[FrameId]) -> u64 {
        if let Some(&id) = self.locations.get(frames) {
            return id;
        }
        let line = frames.iter().map(|frame| self.line(*frame)).collect();
        let called = frames.last().map(|frame| self.profile.frame_of(*frame));
        let id = self.out.location.len() as u64 + 1;
        self.out.location.push(Location {
            id,
            mapping_id: called
                .and_then(|frame| frame.module)
                .map_or(0, |module| u64::from(module.0) + 1),
            address: called.and_then(|frame| frame.offset).unwrap_or(0),
            line,
        });
        self.locations.insert(frames.to_vec(), id);
        id
    }

    fn line(&mut self, id: FrameId) -> Line {
        let profile = self.profile;
        let frame = profile.frame_of(id);
        let name = name(frame, profile.text_of(id));
        let suffix = KIND_SUFFIXES
            .iter()
            .find(|(kind, _)| *kind == frame.kind)
            .map_or("", |(_, suffix)| suffix);
        let function = Function {
            id: 0,
            name: self.string(&name),
            system_name: self.string(&format!("{name}{suffix}")),
            filename: self.string(frame.file.as_deref().unwrap_or_default()),
            start_line: frame.defined_at.map_or(0, i64::from),
        };
        let next = self.functions.len() as u64 + 1;
        let function_id = *self.functions.entry(function).or_insert(next);
        if function_id == next {
            self.out.function.push(Function { id: next, ..function });
        }
        Line {
            function_id,
            line: frame.line.map_or(0, i64::from),
        }
    }

    fn circumstances(&mut self) {
        let meta = &self.profile.meta;
        let signed = |nanos: Option<u64>| nanos.map_or(0, |nanos| i64::try_from(nanos).unwrap_or(i64::MAX));
        self.out.time_nanos = signed(meta.start);
        self.out.duration_nanos = signed(meta.duration);
        if let Some((value, period)) = &meta.period {
            self.out.period_type = Some(self.value_type(value));
            self.out.period = *period;
        }
        let mut comments = Vec::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                comments.push(format!("{key}: {value}"));
            }
        };
        add(comment::PRODUCER, &meta.producer);
        add(comment::EVENT, &meta.event);
        add(
            comment::FREQUENCY,
            &meta.frequency_hz.map(|hz| hz.to_string()).unwrap_or_default(),
        );
        add(comment::TARGET, &meta.target);
        add(comment::HOST, &meta.host);
        add(comment::KERNEL, &meta.kernel);
        if !self.profile.accounting.is_empty() {
            add(comment::ACCOUNTING, &self.profile.accounting.to_string());
        }
        comments.extend(meta.comments.iter().cloned());
        self.out.comment = comments.iter().map(|text| self.string(text)).collect();
    }
}

/// The name to show: pprof's readers often show nothing else, so a Lua function comes with its file and
/// the line of its definition, and a function without a name reads as in every other format.
pub(super) fn name(frame: &Frame, text: FrameText<'_>) -> String {
    match (frame.kind.is_lua(), frame.name(), frame.file.as_deref()) {
        (true, function, Some(file)) => {
            let defined_at = frame
                .defined_at
                .map(|line| format!(":{line}"))
                .unwrap_or_default();
            format!("{}@{file}{defined_at}", function.unwrap_or_default())
        }
        (_, Some(function), _) => function.to_owned(),
        (_, None, _) => FrameText::new(
            &Frame {
                kind: crate::FrameKind::Native,
                inlined: false,
                ..frame.clone()
            },
            text.module,
        )
        .to_string(),
    }
}
