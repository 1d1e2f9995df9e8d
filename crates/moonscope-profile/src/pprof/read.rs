//! pprof of any producer as a profile.
//!
//! Two passes over the input: first strings, mappings, functions and locations, which may stand in any
//! order, then samples. Each message is decoded for itself, so memory is bounded by the limits and not
//! by what a hostile file makes a decoder build.

use std::borrow::Cow;
use std::collections::HashMap;

use flate2::read::MultiGzDecoder;
use prost::Message;

use super::message::{Function, Location, Mapping, Sample, ValueType};
use super::scan::{Field, Fields, Value};
use super::{KIND_SUFFIXES, comment};
use crate::accounting::Accounting;
use crate::error::ReadError;
use crate::format::read_bounded;
use crate::frame::{Frame, FrameId, FrameKind, Module, ModuleId};
use crate::labels::{LabelSet, LabelValue, LabelsId};
use crate::limits;
use crate::meta;
use crate::profile::Profile;

/// Whether uncompressed content begins like pprof: with a value type, the first field of all writers.
pub(crate) fn looks_raw(content: &[u8]) -> bool {
    let [0x0a, len, rest @ ..] = content else {
        return false;
    };
    // Two fields of a few bytes; the first is the number of a string.
    (2..=22).contains(len) && rest.first() == Some(&0x08)
}

/// Reads pprof, compressed or not.
pub(crate) fn read(content: &[u8]) -> Result<Profile, ReadError> {
    let content = if content.starts_with(&[0x1f, 0x8b]) {
        Cow::Owned(read_bounded(&mut MultiGzDecoder::new(content))?)
    } else {
        Cow::Borrowed(content)
    };
    let tables = Tables::read(&content)?;
    Reader::new(tables)?.samples(&content)
}

/// Everything but the samples, as it stands in the file.
#[derive(Default)]
struct Tables<'a> {
    strings: Vec<&'a [u8]>,
    value_types: Vec<ValueType>,
    mappings: HashMap<u64, Mapping>,
    functions: HashMap<u64, Function>,
    /// With their place in the file, for messages.
    locations: HashMap<u64, (Location, usize)>,
    time_nanos: i64,
    duration_nanos: i64,
    period_type: Option<ValueType>,
    period: i64,
    comments: Vec<i64>,
}

impl<'a> Tables<'a> {
    fn read(content: &'a [u8]) -> Result<Self, ReadError> {
        let mut tables = Self::default();
        for field in Fields::new(content) {
            let field = field?;
            match (field.number, &field.value) {
                (1, _) => tables.value_types.push(decode(&field)?),
                (3, _) => {
                    let mapping: Mapping = decode(&field)?;
                    tables.mappings.insert(mapping.id, mapping);
                }
                (4, _) => {
                    let location: Location = decode(&field)?;
                    tables.locations.insert(location.id, (location, field.offset));
                }
                (5, _) => {
                    let function: Function = decode(&field)?;
                    tables.functions.insert(function.id, function);
                }
                (6, Value::Bytes(text)) => tables.strings.push(text),
                (9, Value::Number(nanos)) => tables.time_nanos = *nanos as i64,
                (10, Value::Number(nanos)) => tables.duration_nanos = *nanos as i64,
                (11, _) => tables.period_type = Some(decode(&field)?),
                (12, Value::Number(period)) => tables.period = *period as i64,
                (13, Value::Number(nr)) => tables.comments.push(*nr as i64),
                (13, Value::Bytes(packed)) => tables.comments.extend(unpacked(packed, &field)?),
                _ => {}
            }
            tables.check()?;
        }
        if tables.strings.is_empty() || tables.value_types.is_empty() {
            let what = "not a pprof message: it has no strings or no value types".to_owned();
            return Err(ReadError::Pprof { offset: 0, what });
        }
        Ok(tables)
    }

    fn check(&self) -> Result<(), ReadError> {
        let lists = [
            (self.strings.len(), "strings", limits::MAX_STRINGS),
            (self.value_types.len(), "value types", limits::MAX_VALUES),
            (self.mappings.len(), "mappings", limits::MAX_MODULES),
            (self.functions.len(), "functions", limits::MAX_FRAMES),
            (self.locations.len(), "locations", limits::MAX_FRAMES),
            (self.comments.len(), "comments", limits::MAX_LIST),
        ];
        match lists.into_iter().find(|(len, _, limit)| len > limit) {
            Some((_, what, limit)) => Err(ReadError::too_large(what, limit)),
            None => Ok(()),
        }
    }

    /// The string with this number. One that does not exist reads as the empty one.
    fn string(&self, nr: i64) -> Cow<'a, str> {
        let bytes = usize::try_from(nr)
            .ok()
            .and_then(|nr| self.strings.get(nr))
            .copied();
        String::from_utf8_lossy(bytes.unwrap_or_default())
    }

    fn value_type(&self, value: ValueType) -> meta::ValueType {
        meta::ValueType::new(self.string(value.kind), self.string(value.unit))
    }
}

/// Decodes a message inside the outermost one.
fn decode<M: Message + Default>(field: &Field<'_>) -> Result<M, ReadError> {
    let Value::Bytes(bytes) = field.value else {
        return Err(field.error(format!("field {} is not a message", field.number)));
    };
    if bytes.len() > limits::MAX_MESSAGE {
        return Err(ReadError::too_large("bytes in one message", limits::MAX_MESSAGE));
    }
    M::decode(bytes).map_err(|err| field.error(err.to_string()))
}

/// Numbers written one after the other.
fn unpacked(bytes: &[u8], field: &Field<'_>) -> Result<Vec<i64>, ReadError> {
    let mut rest = bytes.get(..limits::MAX_LIST).unwrap_or(bytes);
    let mut numbers = Vec::new();
    while !rest.is_empty() {
        let number = prost::encoding::decode_varint(&mut rest).map_err(|err| field.error(err.to_string()))?;
        numbers.push(number as i64);
    }
    Ok(numbers)
}

struct Reader<'a> {
    tables: Tables<'a>,
    profile: Profile,
    modules: HashMap<u64, ModuleId>,
    /// The frames of each location, root first.
    locations: HashMap<u64, Vec<FrameId>>,
}

impl<'a> Reader<'a> {
    fn new(tables: Tables<'a>) -> Result<Self, ReadError> {
        let value_types = tables
            .value_types
            .iter()
            .map(|value| tables.value_type(*value))
            .collect();
        let mut reader = Self {
            tables,
            profile: Profile::new(value_types),
            modules: HashMap::new(),
            locations: HashMap::new(),
        };
        reader.circumstances();
        reader.read_modules();
        let locations = std::mem::take(&mut reader.tables.locations);
        let mut locations: Vec<_> = locations.into_values().collect();
        locations.sort_unstable_by_key(|(_, offset)| *offset);
        for (location, _) in locations {
            let id = location.id;
            let frames = reader.frames(location);
            reader.locations.insert(id, frames);
            if reader.profile.frames().len() > limits::MAX_FRAMES {
                return Err(ReadError::too_large("frames", limits::MAX_FRAMES));
            }
        }
        Ok(reader)
    }

    fn read_modules(&mut self) {
        let mut mappings: Vec<_> = self.tables.mappings.values().copied().collect();
        mappings.sort_unstable_by_key(|mapping| mapping.id);
        for mapping in mappings {
            let build_id = self.tables.string(mapping.build_id).into_owned();
            let path = self.tables.string(mapping.filename).into_owned();
            if path.is_empty() && build_id.is_empty() {
                continue;
            }
            let build_id = (!build_id.is_empty()).then_some(build_id);
            let module = self.profile.module(Module { path, build_id });
            self.modules.insert(mapping.id, module);
        }
    }

    /// The frames of a location, root first.
    fn frames(&mut self, location: Location) -> Vec<FrameId> {
        let module = self.modules.get(&location.mapping_id).copied();
        let mapping = self
            .tables
            .mappings
            .get(&location.mapping_id)
            .copied()
            .unwrap_or_default();
        let path = self.tables.string(mapping.filename);
        // So do perf's converter, Parca and others name the kernel.
        let kind = match path.starts_with("[kernel") || path.ends_with("/vmlinux") || path.ends_with(".ko") {
            true => FrameKind::Kernel,
            false => FrameKind::Native,
        };
        // Our own mappings start at 0. In those of others this is the offset in the file.
        let offset = location.address.checked_sub(mapping.memory_start);
        let offset = offset.map(|offset| offset.saturating_add(mapping.file_offset));
        let known = location.address != 0;
        let place = Frame {
            module,
            offset: offset.filter(|_| known),
            ..Frame::unknown(kind)
        };
        let outermost = location.line.len().saturating_sub(1);
        let mut frames: Vec<_> = location
            .line
            .iter()
            .enumerate()
            .map(|(nr, line)| {
                let frame = Frame {
                    inlined: nr < outermost,
                    ..place.clone()
                };
                let frame = self.named(frame, line.function_id, line.line);
                self.profile.frame(frame)
            })
            .collect();
        if frames.is_empty() {
            frames.push(self.profile.frame(place));
        }
        frames.reverse();
        frames
    }

    /// Adds what function and line say.
    fn named(&mut self, place: Frame, function: u64, line: i64) -> Frame {
        let function = self.tables.functions.get(&function).copied().unwrap_or_default();
        let name = self.tables.string(function.name);
        let system_name = self.tables.string(function.system_name);
        let file = self.tables.string(function.filename);
        let positive = |line: i64| u32::try_from(line).ok().filter(|line| *line > 0);
        let suffix = system_name.strip_prefix(&*name).unwrap_or_default();
        let kind = KIND_SUFFIXES
            .iter()
            .find(|(_, known)| *known == suffix)
            .map(|(kind, _)| *kind);
        let mut frame = Frame {
            kind: kind.unwrap_or(place.kind),
            file: (!file.is_empty()).then(|| self.profile.string(&file)),
            line: positive(line),
            defined_at: positive(function.start_line),
            ..place
        };
        // What the writer shows for a function without a name.
        let unnamed = super::write::name(
            &frame,
            crate::FrameText::new(&frame, frame.module.map(|module| self.profile.module_of(module))),
        );
        if name != unnamed && !name.is_empty() {
            let own = name
                .strip_suffix(&unnamed)
                .filter(|_| frame.kind.is_lua() && frame.file.is_some());
            frame.function = Some(self.profile.string(own.unwrap_or(&name)));
        } else if name.is_empty() && !system_name.is_empty() {
            frame.function = Some(self.profile.string(&system_name));
        }
        frame
    }

    fn circumstances(&mut self) {
        let tables = &self.tables;
        let meta = &mut self.profile.meta;
        meta.start = u64::try_from(tables.time_nanos).ok().filter(|nanos| *nanos > 0);
        meta.duration = u64::try_from(tables.duration_nanos)
            .ok()
            .filter(|nanos| *nanos > 0);
        meta.period = tables
            .period_type
            .map(|value| (tables.value_type(value), tables.period));
        let mut ours = false;
        for (nr, comment) in tables.comments.iter().enumerate() {
            let text = tables.string(*comment);
            let (key, value) = text.split_once(": ").unwrap_or((&text, ""));
            ours |= nr == 0 && key == comment::PRODUCER;
            match key {
                _ if !ours => meta.comments.push(text.into_owned()),
                comment::PRODUCER => meta.producer = value.to_owned(),
                comment::EVENT => meta.event = value.to_owned(),
                comment::FREQUENCY => meta.frequency_hz = value.parse().ok(),
                comment::TARGET => meta.target = value.to_owned(),
                comment::HOST => meta.host = value.to_owned(),
                comment::KERNEL => meta.kernel = value.to_owned(),
                comment::ACCOUNTING => match Accounting::from_line(value) {
                    Some(accounting) => self.profile.accounting = accounting,
                    None => meta.comments.push(text.into_owned()),
                },
                _ => meta.comments.push(text.into_owned()),
            }
        }
    }

    fn samples(mut self, content: &[u8]) -> Result<Profile, ReadError> {
        let mut spelled_out = 0;
        for field in Fields::new(content) {
            let field = field?;
            if field.number != 2 {
                continue;
            }
            let sample: Sample = decode(&field)?;
            let mut stack = None;
            let mut depth = 0;
            for location in sample.location_id.iter().rev() {
                let frames = self.locations.get(location);
                let frames = frames.ok_or_else(|| field.error(format!("there is no location {location}")))?;
                depth += frames.len();
                if depth > limits::MAX_DEPTH {
                    return Err(ReadError::too_large("frames in one stack", limits::MAX_DEPTH));
                }
                for frame in frames {
                    stack = Some(self.profile.child(stack, *frame));
                }
            }
            spelled_out += depth as u64;
            let labels = self.labels(&sample)?;
            self.profile.add(stack, labels, &sample.value);
            self.check(spelled_out)?;
        }
        Ok(self.profile)
    }

    fn labels(&mut self, sample: &Sample) -> Result<LabelsId, ReadError> {
        if sample.label.len() > limits::MAX_LABELS {
            return Err(ReadError::too_large("labels of one sample", limits::MAX_LABELS));
        }
        let labels = sample.label.iter().map(|label| {
            let key = self.profile.string(&self.tables.string(label.key));
            let value = match label.text {
                0 => LabelValue::Number(label.number),
                text => LabelValue::Text(self.profile.string(&self.tables.string(text))),
            };
            (key, value)
        });
        let labels = LabelSet::new(labels.collect());
        Ok(self.profile.label_set(labels))
    }

    fn check(&self, spelled_out: u64) -> Result<(), ReadError> {
        if spelled_out > limits::MAX_SPELLED_OUT {
            return Err(ReadError::TooLarge {
                what: "frames in all samples",
                limit: limits::MAX_SPELLED_OUT,
            });
        }
        let lists = [
            (self.profile.stacks().len(), "stack nodes", limits::MAX_STACKS),
            (
                self.profile.label_sets().len(),
                "sets of labels",
                limits::MAX_LABEL_SETS,
            ),
            (self.profile.samples().len(), "samples", limits::MAX_SAMPLES),
        ];
        match lists.into_iter().find(|(len, _, limit)| len > limit) {
            Some((_, what, limit)) => Err(ReadError::too_large(what, limit)),
            None => Ok(()),
        }
    }
}
